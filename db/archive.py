"""The archive in the database: one function per statement of `sql/archive.sql`."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from db import statements
from db.pool import Database
from db.transaction import Transaction
from db.types import Instant

_SQL = statements.load("archive")
FIND_USER = _SQL["find_user"]
COUNT = _SQL["count"]
LIST = _SQL["list"]
ERASE = statements.family("archive", "erase")
LOOK = _SQL["look"]
RESTORE = statements.family("archive", "restore")
ADVANCE = _SQL["advance"]

PAGE = 500  # rows in memory at a time, each of 20,000 characters at most
Lock: TypeAlias = Literal["free", "busy"]
Verdicts: TypeAlias = dict[int, str]  # what became of each task, by its id in the archive


class Task(msgspec.Struct, forbid_unknown_fields=True):
    """A task in an archive; times in UTC."""

    id: int
    user_id: str
    title: str
    description: str | None
    status: Literal["completed"]
    priority: int
    due_date: Instant | None
    created_at: Instant
    updated_at: Instant
    completed_at: Instant
    revision: int
    import_key: str | None


class Due(msgspec.Struct):
    """How much was completed before `before`."""

    before: datetime
    tasks: int
    users: int


async def find_user(db: Database, word: str) -> tuple[str, str] | None:
    """The id and the e-mail address of a user, by either."""
    row = await db.one(FIND_USER, word)
    return None if row is None else (row[0], row[1])


async def count(db: Database, age: int, user_id: str | None) -> Due:
    """How much was completed more than `age` seconds ago."""
    row = await db.one(COUNT, age, user_id)
    assert row is not None
    return Due(*row)


async def list(tx: Transaction, before: datetime, user_id: str | None) -> AsyncIterator[tuple[str, Task]]:
    """Tasks that were completed before a moment, each with its user's e-mail address; user by user."""
    async for page in tx.pages(LIST, before, user_id, size=PAGE):
        for row in page:
            yield row[0], Task(*row[1:])


async def erase(db: Database, shape: Lock, tasks: str) -> Verdicts:
    """Erase archived tasks (JSON): `done`, `moved`, `absent` or `busy`."""
    return {row[0]: row[1] for row in await db.all(ERASE[shape,], tasks)}


async def look(db: Database, tasks: str) -> Verdicts:
    """What `restore` would do."""
    return {row[0]: row[1] for row in await db.all(LOOK, tasks)}


async def restore(db: Database, shape: Lock, tasks: str) -> Verdicts:
    """Bring archived tasks (JSON) back: `done`, `same`, `absent` or `busy`."""
    return {row[0]: row[1] for row in await db.all(RESTORE[shape,], tasks)}


async def advance(db: Database, id: int) -> int:
    """Draw ids up to one, 100,000 at a time; how many."""
    row = await db.one(ADVANCE, id)
    assert row is not None
    return int(row[0])
