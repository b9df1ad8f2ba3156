"""What measurements leave behind, taken away again: one function per statement of `sql/sweep.sql`."""

from collections.abc import Sequence

import msgspec

from db import statements
from db.pool import Database

_SQL = statements.load("sweep")
MARK = _SQL["mark"]
TASKS = _SQL["tasks"]
TOMBSTONES = _SQL["tombstones"]
VACUUM = _SQL["vacuum"]


async def mark(db: Database) -> int:
    """The last task there is, 0 where there is none."""
    row = await db.one(MARK)
    return (row and row[0]) or 0


async def tasks(db: Database, last: int, users: Sequence[str]) -> int:
    """Delete what those users were given since the mark `last`; how many."""
    row = await db.one(TASKS, last, _json(users))
    assert row is not None
    return int(row[0])


async def tombstones(db: Database, last: int, users: Sequence[str]) -> int:
    """Delete what tells of them; how many."""
    row = await db.one(TOMBSTONES, last, _json(users))
    assert row is not None
    return int(row[0])


async def vacuum(db: Database) -> None:
    """Clear the indexes of them."""
    await db.one(VACUUM)


def _json(users: Sequence[str]) -> str:
    return msgspec.json.encode(users).decode()
