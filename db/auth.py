"""Signing in, in the database: one function per statement of `sql/auth.sql`."""

from collections.abc import Sequence
from typing import Literal
from uuid import UUID

import msgspec
from msgspec.structs import astuple

from db import statements
from db.account import User
from db.caller import Caller
from db.pool import Database
from db.types import Instant

_SQL = statements.load("auth")
REGISTER = _SQL["register"]
LOGIN_READ = _SQL["login_read"]
LOGIN = _SQL["login"]
REFRESH = _SQL["refresh"]
OPEN_SESSION = _SQL["open_session"]
LOGOUT = _SQL["logout"]
LOGOUT_ALL = _SQL["logout_all"]
LIST_SESSIONS = _SQL["list_sessions"]
END_SESSION = _SQL["end_session"]


class SignUp(msgspec.Struct):
    """What a new user is made of."""

    email: str
    name: str | None
    password_hash: str


class Opening(msgspec.Struct):
    """A session to be opened; it ends `idle` seconds after its last use and `ttl` after its first."""

    sid: str
    refresh_hash: bytes
    user_agent: str | None
    ip: str | None
    idle: int
    ttl: int


class Rotation(msgspec.Struct):
    """A refresh token, spent for its successor; `grace`, `idle` and `ttl` in seconds."""

    sid: str
    presented_hash: bytes
    next_hash: bytes
    grace: int
    idle: int
    ttl: int


class Foreign(msgspec.Struct):
    """A session to be opened for a token of an identity provider, `issued` and `expires` in seconds since 1970."""

    sid: str
    user_id: str
    user_agent: str | None
    ip: str | None
    issued: int
    expires: int


class Known(msgspec.Struct):
    """What a login is decided by."""

    id: str
    password_hash: str | None
    is_active: bool


class Refreshed(msgspec.Struct):
    """What became of a refresh token, and whose it is."""

    verdict: Literal["rotate", "again", "reused", "ended"]
    user: User


class Session(msgspec.Struct):
    """A signed-in device; `current` is the one that asks."""

    id: UUID
    user_agent: str | None
    ip: str | None
    created_at: Instant
    last_used_at: Instant
    expires_at: Instant
    current: bool


async def register(db: Database, sign_up: SignUp, opening: Opening) -> User:
    """A new user, signed in. Raises `Refused` where the e-mail address is taken."""
    row = await db.one(REGISTER, *astuple(sign_up), *astuple(opening))
    assert row is not None
    return User(*row)


async def login_read(db: Database, email: str) -> Known | None:
    """Whom an e-mail address belongs to, in any case."""
    row = await db.one(LOGIN_READ, email)
    return None if row is None else Known(*row)


async def login(
    db: Database, user_id: str, password_hash: str, new_hash: str | None, opening: Opening
) -> User | None:
    """Open a session; None where `password_hash` is no longer the stored one, or the user is gone or inactive."""
    row = await db.one(LOGIN, user_id, password_hash, new_hash, *astuple(opening))
    return None if row is None else User(*row)


async def refresh(db: Database, rotation: Rotation) -> Refreshed | None:
    """Spend a refresh token; None where its session is gone for good."""
    row = await db.one(REFRESH, *astuple(rotation))
    return None if row is None else Refreshed(row[0], User(*row[1:]))


async def open_session(db: Database, foreign: Foreign) -> Literal["done"] | None:
    """Open a session unless it is known; None where the token is of nobody here, or from before all were refused."""
    row = await db.one(OPEN_SESSION, *astuple(foreign))
    return None if row is None else row[0]


async def logout(db: Database, caller: Caller) -> Literal["done"] | None:
    """End the caller's session."""
    row = await db.one(LOGOUT, caller.user_id, caller.sid)
    return None if row is None else row[0]


async def logout_all(db: Database, caller: Caller) -> Literal["done"] | None:
    """End every session of the caller."""
    while row := await db.one(LOGOUT_ALL, caller.user_id, caller.sid):
        if row[0] == "done":
            return "done"
    return None


async def list_sessions(db: Database, caller: Caller) -> Sequence[Session] | None:
    """The caller's live sessions, latest use first."""
    rows = await db.all(LIST_SESSIONS, caller.user_id, caller.sid)
    return [Session(*row) for row in rows if row[0] is not None] if rows else None


async def end_session(db: Database, caller: Caller, session_id: str) -> Literal["absent", "done"] | None:
    """End one live session of the caller."""
    row = await db.one(END_SESSION, caller.user_id, caller.sid, session_id)
    return None if row is None else row[0]
