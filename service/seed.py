"""The requirement documents' demo users and tasks, for development only."""

from db import seed
from db.pool import Database
from service.passwords import Passwords

DEMO = "test-user-123"
USERS = (
    ("test-user", "test@example.com", "Test User", "Test123!", False),
    ("admin-user", "admin@example.com", "Admin", "Admin123!", True),
    (DEMO, "demo@example.com", "Demo User", "Test123!", False),
)
TASKS = (
    ("Buy groceries", "Milk, bread, eggs", False, 3, 1),
    ("Finish project", "Complete Phase II", False, 5, 7),
    ("Call dentist", "Schedule appointment", True, 3, None),
    ("Read book", "Atomic Habits", False, 2, None),
    ("Exercise", "30 min cardio", True, 4, None),
)


async def demo(db: Database, passwords: Passwords) -> None:
    """Make the demo users that are missing, and the five tasks of the one who has them."""
    for id, email, name, password, is_admin in USERS:
        made = await seed.user(db, id, email, name, await passwords.hash(password), is_admin)
        if made and id == DEMO:
            for title, description, completed, priority, due_in_days in TASKS:
                await seed.task(db, id, title, description, completed, priority, due_in_days)
