"""Tasks from elsewhere: one function per statement of `sql/imports.sql`, and the COPY between them.

All in one transaction: `lock` the user's revision, `add` tasks that bring the next ones, `stamp` it at the end.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import NamedTuple

import msgspec

from db import statements
from db.pool import Database
from db.transaction import Transaction
from db.types import Instant

_SQL = statements.load("imports")
OWNER = _SQL["owner"]
LOCK = _SQL["lock"]
KNOWN = _SQL["known"]
STAMP = _SQL["stamp"]

COLUMNS = ("user_id", "import_key", "title", "description", "status", "completed_at", "revision")


class Held(msgspec.Struct):
    """The user's revision at the start of the import, and its time."""

    revision: int
    now: Instant


class Import(NamedTuple):
    """A task as it comes from elsewhere; `key` is its name there. What else a task has is the default."""

    key: str
    title: str
    description: str | None
    completed: bool


async def owner(db: Database, who: str) -> str | None:
    """The id of the user who has this id or e-mail address."""
    row = await db.one(OWNER, who)
    return None if row is None else row[0]


async def lock(whole: Transaction, user_id: str) -> Held | None:
    """Hold the user's revision until the transaction ends; None where the user is gone."""
    row = await whole.one(LOCK, user_id)
    return None if row is None else Held(*row)


async def known(whole: Transaction, user_id: str, keys: Sequence[str]) -> set[str]:
    """Those of the keys that the user has a task of."""
    return {row[0] for row in await whole.all(KNOWN, user_id, msgspec.json.encode(keys).decode())}


async def add(
    whole: Transaction, user_id: str, imports: Sequence[Import], revision: int, now: datetime
) -> None:
    """New tasks, with the revisions after `revision` in their order."""
    pending, completed = ("pending", None), ("completed", now)
    rows = (
        (user_id, key, title, description, *(completed if done else pending), number)
        for number, (key, title, description, done) in enumerate(imports, start=revision + 1)
    )
    await whole.copy("tasks", COLUMNS, rows)


async def stamp(whole: Transaction, user_id: str, count: int) -> None:
    """Move the user's revision by as many as there are new tasks."""
    await whole.one(STAMP, user_id, count)
