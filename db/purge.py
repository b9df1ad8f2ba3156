"""Retention in the database: one function per statement of `sql/purge.sql`."""

from datetime import datetime
from typing import Literal, TypeAlias

import msgspec

from db import statements
from db.pool import Database

_SQL = statements.load("purge")
COUNT = _SQL["count"]
TASKS = statements.family("purge", "tasks")
TOMBSTONES = statements.family("purge", "tombstones")
SESSIONS = _SQL["sessions"]
KEYS = _SQL["keys"]

Lock: TypeAlias = Literal["free", "busy"]


class Due(msgspec.Struct):
    """How many rows are older than the moments that retention reaches back to."""

    before: datetime
    keys_before: datetime
    tasks: int
    tombstones: int
    sessions: int
    keys: int


class Batch(msgspec.Struct):
    """What became of a batch: `removed` of the rows `found`, the last of them at `place`.

    Where the turn is not `mine`, another purge is at work, and nothing was looked for.
    """

    mine: bool
    found: int
    removed: int
    place: str | None


async def count(db: Database, age: int) -> Due:
    """What is older than `age` seconds."""
    row = await db.one(COUNT, age)
    assert row is not None
    return Due(*row)


async def tasks(db: Database, shape: Lock, before: datetime, place: str) -> Batch:
    """Erase tasks from the trash."""
    row = await db.one(TASKS[shape,], before, place)
    assert row is not None
    return Batch(*row)


async def tombstones(db: Database, shape: Lock, before: datetime, place: str) -> Batch:
    """Drop tombstones, and mark how far sync can no longer reach back."""
    row = await db.one(TOMBSTONES[shape,], before, place)
    assert row is not None
    return Batch(*row)


async def sessions(db: Database, before: datetime, place: str) -> Batch:
    """Drop sessions that are over."""
    row = await db.one(SESSIONS, before, place)
    assert row is not None
    return Batch(*row)


async def keys(db: Database, before: datetime, place: str) -> Batch:
    """Drop idempotency keys."""
    row = await db.one(KEYS, before, place)
    assert row is not None
    return Batch(*row)
