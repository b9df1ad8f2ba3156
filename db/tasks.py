"""Tasks in the database: one function per statement of `sql/tasks.sql`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import astuple

from db import statements
from db.caller import Caller
from db.pool import Database
from db.types import Instant

_SQL = statements.load("tasks")
LIST = _SQL["list"]
GET = _SQL["get"]
CREATE = _SQL["create"]
UPDATE = _SQL["update"]
TOGGLE = _SQL["toggle"]
DELETE = _SQL["delete"]
RESTORE = _SQL["restore"]
ERASE = _SQL["erase"]

# Above every task: where the first page begins. asyncpg sends this time as infinity.
TOP = (datetime.max, 2**63 - 1)  # noqa: DTZ901

Status: TypeAlias = Literal["pending", "in_progress", "completed"]
Label: TypeAlias = Literal["lowest", "low", "medium", "high", "highest"]
Verdict: TypeAlias = Literal["absent", "moved", "same", "done"]
IfMatch: TypeAlias = Sequence[int] | None  # revisions that a task may have, None for any


class Task(msgspec.Struct, gc=False):
    """A task as its statements give it and as the API shows it; times in UTC."""

    id: int
    user_id: str
    title: str
    description: str | None
    status: Status
    completed: bool
    priority: int
    priority_label: Label
    due_date: Instant | None
    created_at: Instant
    updated_at: Instant
    completed_at: Instant | None
    deleted_at: Instant | None
    revision: int


class Draft(msgspec.Struct):
    """What a new task is made of."""

    title: str
    description: str | None
    status: Status
    priority: int
    due_date: datetime | None


class Changes(msgspec.Struct):
    """A merge patch: what is unset stays. `reopen` makes a completed task pending and leaves another as it is."""

    title: str | UnsetType = UNSET
    description: str | UnsetType | None = UNSET
    status: Status | UnsetType = UNSET
    priority: int | UnsetType = UNSET
    due_date: datetime | UnsetType | None = UNSET
    reopen: bool = False


class Window(msgspec.Struct):
    """Which rows of the list: below (`before`, `before_id`), then past `skip`, `size` at most."""

    before: datetime
    before_id: int
    skip: int
    size: int


class Outcome(msgspec.Struct):
    """What became of a write; `task` as it is now, None where it is absent or has moved on."""

    verdict: Verdict
    task: Task | None


class Listed(msgspec.Struct):
    """Tasks and the revision of their user that they were read at; `tasks` is None where that was known."""

    revision: int
    tasks: Sequence[Task] | None


async def list(db: Database, caller: Caller, known: int | None, window: Window) -> Listed | None:
    """Live tasks, newest first; no task is read where the revision is still `known`."""
    rows = await db.all(LIST, caller.user_id, caller.sid, known, *astuple(window))
    if not rows:
        return None
    revision = rows[0][0]
    if revision == known:
        return Listed(revision, None)
    return Listed(revision, [Task(*row[1:]) for row in rows if row[1] is not None])


async def get(db: Database, caller: Caller, task_id: int) -> Outcome | None:
    """One live task, `same` or `absent`."""
    row = await db.one(GET, caller.user_id, caller.sid, task_id)
    if row is None:
        return None
    return Outcome("absent", None) if row[0] is None else Outcome("same", Task(*row))


async def create(db: Database, caller: Caller, draft: Draft) -> Task | None:
    """A new task, with the next revision."""
    row = await db.one(CREATE, caller.user_id, caller.sid, *astuple(draft))
    return None if row is None else Task(*row)


async def update(
    db: Database, caller: Caller, task_id: int, if_match: IfMatch, changes: Changes
) -> Outcome | None:
    """Change what is set; `same` where nothing differs, and no revision is taken."""
    *fields, reopen = astuple(changes)
    pairs = (part for value in fields for part in ((False, None) if value is UNSET else (True, value)))
    return _outcome(
        await db.one(UPDATE, caller.user_id, caller.sid, task_id, _text(if_match), *pairs, reopen)
    )


async def toggle(db: Database, caller: Caller, task_id: int, if_match: IfMatch) -> Outcome | None:
    """Completed to pending, anything else to completed."""
    return _outcome(await db.one(TOGGLE, caller.user_id, caller.sid, task_id, _text(if_match)))


async def delete(db: Database, caller: Caller, task_id: int, if_match: IfMatch) -> Outcome | None:
    """A live task into the trash."""
    return _outcome(await db.one(DELETE, caller.user_id, caller.sid, task_id, _text(if_match)))


async def restore(db: Database, caller: Caller, task_id: int, if_match: IfMatch) -> Outcome | None:
    """Back from the trash; `same` for a live task."""
    return _outcome(await db.one(RESTORE, caller.user_id, caller.sid, task_id, _text(if_match)))


async def erase(db: Database, caller: Caller, task_id: int, if_match: IfMatch) -> Verdict | None:
    """Gone for good, live or in the trash."""
    row = await db.one(ERASE, caller.user_id, caller.sid, task_id, _text(if_match))
    return None if row is None else row[0]


def _text(if_match: IfMatch) -> str | None:
    return None if if_match is None else ",".join(map(str, if_match))


def _outcome(row: Any) -> Outcome | None:
    if row is None:
        return None
    return Outcome(row[0], None if row[1] is None or row[0] == "moved" else Task(*row[1:]))
