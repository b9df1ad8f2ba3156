"""What changed of a user's tasks: the statement of `sql/changes.sql`."""

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias

import msgspec
from msgspec.structs import astuple

from db import statements
from db.caller import Caller
from db.pool import Database
from db.task import Task
from db.types import Instant

LIST = statements.load("changes")["list"]

Verdict: TypeAlias = Literal["gone", "same", "done"]


class ErasedTask(msgspec.Struct, gc=False):
    """What is left of a task that was erased."""

    id: int
    revision: int
    deleted_at: Instant
    erased: Literal[True]


class Version(msgspec.Struct):
    """A page that a client knows: it holds until the user's revision moves, or tombstones up to another one are dropped."""

    revision: int | None = None
    purged: int | None = None


class Window(msgspec.Struct):
    """Which changes: past revision `since`, `size` at most; `begun` is `Changed.purged` of the walk's first page, None on it."""

    since: int
    begun: int | None
    size: int


class Changed(msgspec.Struct):
    """Changes by revision, all there are up to the user's `revision` unless they fill the window; none if `gone` or the `same`.

    `purged` is the revision up to which tombstones may have been dropped.
    """

    verdict: Verdict
    revision: int
    purged: int
    items: Sequence[Task | ErasedTask]


async def list(db: Database, caller: Caller, known: Version, window: Window) -> Changed | None:
    """What changed in a window, unless that cannot be told in full any more, or is still the `known` version."""
    rows = await db.all(LIST, caller.user_id, caller.sid, *astuple(known), *astuple(window))
    if not rows:
        return None
    verdict, revision, purged = rows[0][:3]
    return Changed(verdict, revision, purged, [_item(row) for row in rows if row[3] is not None])


def _item(row: Any) -> Task | ErasedTask:
    if row["erased"]:
        return ErasedTask(row["id"], row["revision"], row["deleted_at"], erased=True)
    return Task(*row[4:])
