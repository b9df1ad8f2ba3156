"""Users as admins see them: one function per statement of `sql/admin.sql`."""

from collections.abc import Sequence
from typing import Literal, NamedTuple

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import astuple

from db import statements
from db.account import User
from db.caller import Caller
from db.pool import Database

_SQL = statements.load("admin")
LISTS = statements.family("admin", "list")
UPDATE = _SQL["update"]


class Shape(NamedTuple):
    """Whom a list is of: everyone, or who has one e-mail address."""

    who: Literal["everyone", "addressed"]


class Window(msgspec.Struct):
    """Which rows of the list: past `skip`, `size` at most, beyond the id `after`."""

    skip: int
    size: int
    after: str


class CountedUser(User, gc=False):
    """An account as admins see it: with the number of its tasks, those in the trash left out."""

    task_count: int


class Listed(msgspec.Struct):
    """A page; `users` is None where the caller is no admin."""

    total: int | None
    users: Sequence[CountedUser] | None


class Rights(msgspec.Struct):
    """What a user may do; what is unset stays."""

    is_active: bool | UnsetType = UNSET
    is_admin: bool | UnsetType = UNSET


class Outcome(msgspec.Struct):
    """What became of a change; `user` as they are now, None where it was refused."""

    verdict: Literal["forbidden", "absent", "oneself", "last", "same", "done"]
    user: CountedUser | None


async def list(
    db: Database, shape: Shape, caller: Caller, window: Window, counted: bool, email: str
) -> Listed | None:
    """A page of users by id, of the one who has `email` where it is asked for."""
    given = (email,) if shape.who == "addressed" else ()
    rows = await db.all(LISTS[shape], caller.user_id, caller.sid, *astuple(window), counted, *given)
    if not rows:
        return None
    allowed, total = rows[0][:2]
    if not allowed:
        return Listed(None, None)
    return Listed(total, [CountedUser(*row[2:]) for row in rows if row[2] is not None])


async def update(db: Database, caller: Caller, id: str, rights: Rights) -> Outcome | None:
    """Change what a user may do."""
    pairs = (
        part for value in astuple(rights) for part in ((False, None) if value is UNSET else (True, value))
    )
    row = await db.one(UPDATE, caller.user_id, caller.sid, id, *pairs)
    if row is None:
        return None
    return Outcome(row[0], None if row[1] is None else CountedUser(*row[1:]))
