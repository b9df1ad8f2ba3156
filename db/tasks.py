"""Tasks in the database: one function per statement of `sql/tasks.sql`."""

from collections.abc import Awaitable, Sequence
from typing import Literal, NamedTuple, TypeAlias

import msgspec
from msgspec import UNSET
from msgspec.structs import astuple

from db import statements
from db.caller import Caller
from db.idempotency import Kept, Key
from db.pool import Database
from db.task import Changes, Draft, Task
from db.together import Row, Shared

_SQL = statements.load("tasks")
LISTS = statements.family("tasks", "list")
NEWEST_EACH = _SQL["list_live_plain_created_at_desc_without_each"]
STATS = _SQL["stats"]
GET = _SQL["get"]
GET_EACH = _SQL["get_each"]
CREATE = _SQL["create"]
CREATE_EACH = _SQL["create_each"]
CREATE_ONCE = _SQL["create_once"]
UPDATE = _SQL["update"]
UPDATE_EACH = _SQL["update_each"]
TOGGLE = _SQL["toggle"]
TOGGLE_EACH = _SQL["toggle_each"]
DELETE = _SQL["delete"]
DELETE_EACH = _SQL["delete_each"]
RESTORE = _SQL["restore"]
ERASE = _SQL["erase"]

Scope: TypeAlias = Literal["live", "trash"]
Sort: TypeAlias = Literal["created_at", "updated_at", "due_date", "priority", "title", "status"]
Way: TypeAlias = Literal["asc", "desc"]
Verdict: TypeAlias = Literal["absent", "moved", "same", "done"]
IfMatch: TypeAlias = Sequence[int] | None  # revisions that a task may have, None for any


class Shape(NamedTuple):
    """Which list it is, one axis of the family each."""

    scope: Scope
    rows: Literal["plain", "filtered", "searched"]
    sort: Sort
    way: Way
    total: Literal["without", "counted"]


NEWEST = Shape("live", "plain", "created_at", "desc", "without")  # what every client opens with


class Version(msgspec.Struct):
    """A list or statistic that a client knows: it holds while `revision` is the user's and `until` is not over.

    `until` is in microseconds since 1970, at which time alone changes it.
    """

    revision: int | None = None
    until: int = 2**63 - 1


class Window(msgspec.Struct):
    """Which rows of the list: past `skip`, `size` at most, beyond the position (`after`, `after_id`)."""

    skip: int
    size: int
    after: str
    after_id: int


class Filters(msgspec.Struct):
    """Which tasks; each default takes all. Times are ISO 8601 texts: asyncpg takes the last of datetime for infinity."""

    statuses: str = "pending,in_progress,completed"
    priorities: str = "1,2,3,4,5"
    without_due_date: bool = True
    due_after: str = "-infinity"
    due_before: str = "infinity"
    created_after: str = "-infinity"
    created_before: str = "infinity"
    updated_after: str = "-infinity"
    overdue: Literal["any", "yes", "no"] = "any"


class Outcome(msgspec.Struct):
    """What became of a write; `task` as it is now, None where it is absent or has moved on."""

    verdict: Verdict
    task: Task | None


class Found(msgspec.Struct):
    """A `Task` as JSON, and its revision; None where there is none, and the line is of no use."""

    revision: int | None
    line: str


class Listed(msgspec.Struct):
    """A page and the version of the list that it is of; not `fresh`, and empty, where that version was known.

    `lines` has a `Task` as JSON in each. `position` and `last_id` are where the last but one of a full page stands in the sort: the page
    after it begins beyond. `until` is None where time alone changes nothing.
    """

    revision: int
    fresh: bool
    total: int | None
    until: int | None
    lines: str | None
    position: str | None
    last_id: int | None


class Stats(msgspec.Struct):
    """Counts over the live tasks, and of the trash."""

    until: int
    total: int
    pending: int
    in_progress: int
    completed: int
    overdue: int
    due_today: int
    trashed: int
    priority_1: int
    priority_2: int
    priority_3: int
    priority_4: int
    priority_5: int


class Counted(msgspec.Struct):
    """Statistics and the revision they hold at; `stats` is None where that version was known."""

    revision: int
    stats: Stats | None


def _listed(row: Row) -> Listed | None:
    return None if row is None else Listed(*row)


def _found(row: Row) -> Found | None:
    return None if row is None else Found(*row)


def _made(row: Row) -> Task | None:
    return None if row is None else Task(*row)


def _outcome(row: Row) -> Outcome | None:
    if row is None:
        return None
    return Outcome(row[0], None if row[1] is None or row[0] == "moved" else Task(*row[1:]))


# Several statements at once for lists, which keep a process of PostgreSQL busy, and for many single reads; one for a few of
# them beside another costs more than it saves.
PAGES = Shared(LISTS[NEWEST], NEWEST_EACH, _listed, most=8, lanes=4)
READS = Shared(GET, GET_EACH, _found, lanes=3, least=12)
CREATES = Shared(CREATE, CREATE_EACH, _made)
UPDATES = Shared(UPDATE, UPDATE_EACH, _outcome)
TOGGLES = Shared(TOGGLE, TOGGLE_EACH, _outcome)
DELETES = Shared(DELETE, DELETE_EACH, _outcome)

# Where the first page of each sort begins: beyond it is everything. The title's is above every title of 500 characters.
_EDGES: dict[Sort, tuple[str, str]] = {
    "created_at": ("-infinity", "infinity"),
    "updated_at": ("-infinity", "infinity"),
    "due_date": ("-infinity", "infinity"),
    "priority": ("0", "6"),
    "title": ("", "\U0010ffff" * 501),
    "status": ("0", "4"),
}


def edge(sort: Sort, way: Way) -> tuple[str, int]:
    """The position before the first row of a list."""
    lowest, highest = _EDGES[sort]
    return (lowest, -1) if way == "asc" else (highest, 2**63 - 1)


def list(
    db: Database, shape: Shape, caller: Caller, known: Version, window: Window, filters: Filters, q: str
) -> Awaitable[Listed | None]:
    """A page of a list, of what has the words of `q` where it is searched; nothing is read where the version is still the `known` one."""
    given = {"plain": (), "filtered": astuple(filters), "searched": (*astuple(filters), q)}[shape.rows]
    args = (caller.user_id, caller.sid, *astuple(known), *astuple(window), *given)
    if shape == NEWEST:
        return db.one_of_many(PAGES, *args)

    async def alone() -> Listed | None:
        return _listed(await db.one(LISTS[shape], *args))

    return alone()


async def stats(db: Database, caller: Caller, known: Version, tz: str) -> Counted | None:
    """Statistics, with `tz`, an IANA name, for what today is."""
    row = await db.one(STATS, caller.user_id, caller.sid, *astuple(known), tz)
    if row is None:
        return None
    return Counted(row[0], Stats(*row[2:]) if row[1] else None)


def get(db: Database, caller: Caller, task_id: int) -> Awaitable[Found | None]:
    """One live task."""
    return db.one_of_many(READS, caller.user_id, caller.sid, task_id)


def create(db: Database, caller: Caller, draft: Draft) -> Awaitable[Task | None]:
    """A new task, with the next revision."""
    return db.one_of_many(CREATES, caller.user_id, caller.sid, *astuple(draft))


async def create_once(db: Database, caller: Caller, key: Key, draft: Draft) -> Kept | None:
    """The same under an idempotency key; the result is the task."""
    row = await db.one(CREATE_ONCE, caller.user_id, caller.sid, *astuple(key), *astuple(draft))
    return None if row is None else Kept(*row)


def update(
    db: Database, caller: Caller, task_id: int, if_match: IfMatch, changes: Changes
) -> Awaitable[Outcome | None]:
    """Change what is set; `same` where nothing differs, and no revision is taken."""
    *fields, reopen = astuple(changes)
    pairs = (part for value in fields for part in ((False, None) if value is UNSET else (True, value)))
    args = (caller.user_id, caller.sid, task_id, _text(if_match), *pairs, reopen)
    return db.one_of_many(UPDATES, *args)


def toggle(db: Database, caller: Caller, task_id: int, if_match: IfMatch) -> Awaitable[Outcome | None]:
    """Completed to pending, anything else to completed."""
    args = (caller.user_id, caller.sid, task_id, _text(if_match))
    return db.one_of_many(TOGGLES, *args)


def delete(db: Database, caller: Caller, task_id: int, if_match: IfMatch) -> Awaitable[Outcome | None]:
    """A live task into the trash."""
    args = (caller.user_id, caller.sid, task_id, _text(if_match))
    return db.one_of_many(DELETES, *args)


async def restore(db: Database, caller: Caller, task_id: int, if_match: IfMatch) -> Outcome | None:
    """Back from the trash; `same` for a live task."""
    return _outcome(await db.one(RESTORE, caller.user_id, caller.sid, task_id, _text(if_match)))


async def erase(db: Database, caller: Caller, task_id: int, if_match: IfMatch) -> Verdict | None:
    """Gone for good, live or in the trash."""
    row = await db.one(ERASE, caller.user_id, caller.sid, task_id, _text(if_match))
    return None if row is None else row[0]


def _text(if_match: IfMatch) -> str | None:
    return None if if_match is None else ",".join(map(str, if_match))
