"""The requirement documents' demo users and tasks, for development only."""

from db import seed
from db.pool import Database

DEMO = "test-user-123"
# Test123! and Admin123!, as service.passwords hashes them: no secrets, and no half second at every start.
TEST = "$argon2id$v=19$m=19456,t=2,p=1$t7g31Vqy2NGE0+u7YPuU0Q$BwDlAEbIIxYVbEDq2AD/zxXR60phjMGaTrq5IAp1lfg"
ADMIN = "$argon2id$v=19$m=19456,t=2,p=1$Ca1KfgTayv9R2cxIrJWopQ$+Qy5iY0pDScOIgUMVhPHGHQRRrZ4iASP648SozznAPE"
USERS = (
    ("test-user", "test@example.com", "Test User", TEST, False),
    ("admin-user", "admin@example.com", "Admin", ADMIN, True),
    (DEMO, "demo@example.com", "Demo User", TEST, False),
)
TASKS = (
    ("Buy groceries", "Milk, bread, eggs", False, 3, 1),
    ("Finish project", "Complete Phase II", False, 5, 7),
    ("Call dentist", "Schedule appointment", True, 3, None),
    ("Read book", "Atomic Habits", False, 2, None),
    ("Exercise", "30 min cardio", True, 4, None),
)


async def demo(db: Database) -> None:
    """Make the demo users that are missing, and the five tasks of the one who has them."""
    for id, email, name, password_hash, is_admin in USERS:
        made = await seed.user(db, id, email, name, password_hash, is_admin)
        if made and id == DEMO:
            for title, description, completed, priority, due_in_days in TASKS:
                await seed.task(db, id, title, description, completed, priority, due_in_days)
