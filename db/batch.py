"""Batches of tasks in the database: one function per statement of `sql/batch.sql`."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import astuple

from db import statements
from db.caller import Caller
from db.idempotency import Kept, Key
from db.pool import Database
from db.task import Status, Task

_SQL = statements.load("batch")
APPLY = _SQL["apply"]
APPLY_ONCE = _SQL["apply_once"]

Op: TypeAlias = Literal["create", "update", "toggle", "delete", "restore"]

_encode = msgspec.json.Encoder().encode


class Operation(msgspec.Struct, omit_defaults=True):
    """One operation, the `n`th, as the statement reads it: a field of the task that is None stays.

    `description` and `due_date` may be None and be set; `reopen` makes a completed task pending. `if_revision` is what the
    task must have before the batch; `id` is None where no task can have the id that was given.
    """

    n: int
    op: Op
    id: int | None = None
    if_revision: int | None = None
    title: str | None = None
    description: str | None = None
    set_description: bool = False
    status: Status | None = None
    reopen: bool = False
    priority: int | None = None
    due_date: datetime | None = None
    set_due_date: bool = False


class Failed(msgspec.Struct):
    """The first operation that cannot be done, by its place; nothing was."""

    verdict: Literal["absent", "moved"]
    n: int


class Applied(msgspec.Struct):
    """The user's revision after a batch, and the task after each operation."""

    revision: int
    tasks: Sequence[Task]


async def apply(db: Database, caller: Caller, operations: Sequence[Operation]) -> Applied | Failed | None:
    """All of the operations in their order, or none."""
    rows = await db.all(APPLY, caller.user_id, caller.sid, _text(operations))
    if not rows:
        return None
    verdict, n, revision = rows[0][:3]
    return _failed(verdict, n) or Applied(revision, [Task(*row[3:]) for row in rows])


async def apply_once(
    db: Database, caller: Caller, key: Key, operations: Sequence[Operation]
) -> tuple[Kept, Failed | None] | None:
    """The same under an idempotency key; only where that has no result it matters what failed."""
    row = await db.one(APPLY_ONCE, caller.user_id, caller.sid, *astuple(key), _text(operations))
    return None if row is None else (Kept(*row[2:]), _failed(*row[:2]))


def _text(operations: Sequence[Operation]) -> str:
    return _encode(operations).decode()


def _failed(verdict: Any, n: Any) -> Failed | None:
    return Failed(verdict, n) if verdict in ("absent", "moved") else None
