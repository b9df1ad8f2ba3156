"""Accounts in the database: one function per statement of `sql/users.sql`."""

from typing import Literal

import msgspec
from msgspec import UNSET, UnsetType
from msgspec.structs import astuple

from db import statements
from db.account import User
from db.caller import Caller
from db.pool import Database

_SQL = statements.load("users")
GET = _SQL["get"]
READ_HASH = _SQL["read_hash"]
UPDATE = _SQL["update"]
CHANGE_PASSWORD = _SQL["change_password"]
DELETE = _SQL["delete"]


class Secret(msgspec.Struct):
    """What a password of the caller is verified against; no hash, no password."""

    id: str
    email: str
    password_hash: str | None


class Changes(msgspec.Struct):
    """A merge patch: what is unset stays."""

    name: str | UnsetType | None = UNSET
    email: str | UnsetType = UNSET


class Outcome(msgspec.Struct):
    """What became of a change; `user` as they are now."""

    verdict: Literal["moved", "same", "done"]
    user: User


async def get(db: Database, caller: Caller) -> User | None:
    """The caller's account."""
    row = await db.one(GET, caller.user_id, caller.sid)
    return None if row is None else User(*row)


async def read_hash(db: Database, caller: Caller) -> Secret | None:
    """The caller's password hash."""
    row = await db.one(READ_HASH, caller.user_id, caller.sid)
    return None if row is None else Secret(*row)


async def update(db: Database, caller: Caller, changes: Changes, password_hash: str | None) -> Outcome | None:
    """Change what is set; `moved` where the e-mail address is another and `password_hash` not the stored one."""
    pairs = (
        part for value in astuple(changes) for part in ((False, None) if value is UNSET else (True, value))
    )
    row = await db.one(UPDATE, caller.user_id, caller.sid, *pairs, password_hash)
    return None if row is None else Outcome(row[0], User(*row[1:]))


async def change_password(
    db: Database, caller: Caller, password_hash: str, new_hash: str
) -> Literal["moved", "done"] | None:
    """Change the password and end the caller's other sessions; `moved` where `password_hash` is not the stored one."""
    while row := await db.one(CHANGE_PASSWORD, caller.user_id, caller.sid, password_hash, new_hash):
        if row[0] != "again":
            return row[0]  # type: ignore[no-any-return]
    return None


async def delete(db: Database, caller: Caller, password_hash: str) -> Literal["moved", "done"] | None:
    """The user and everything of theirs; `moved` where `password_hash` is not the stored one."""
    row = await db.one(DELETE, caller.user_id, caller.sid, password_hash)
    return None if row is None else row[0]
