"""Demo data for development: one function per statement of `sql/seed.sql`."""

from db import statements
from db.pool import Database

_SQL = statements.load("seed")
USER = _SQL["user"]
TASK = _SQL["task"]
SESSION = _SQL["session"]


async def user(db: Database, id: str, email: str, name: str, password_hash: str, is_admin: bool) -> bool:
    """Make a demo user; False where there is one already."""
    return await db.one(USER, id, email, name, password_hash, is_admin) is not None


async def task(
    db: Database,
    user_id: str,
    title: str,
    description: str,
    completed: bool,
    priority: int,
    due_in_days: int | None,
) -> None:
    """Make a demo task."""
    await db.one(TASK, user_id, title, description, completed, priority, due_in_days)


async def session(db: Database, sid: str, user_id: str, refresh_hash: bytes) -> None:
    """Open the session of the token that `serve` prints."""
    await db.one(SESSION, sid, user_id, refresh_hash)
