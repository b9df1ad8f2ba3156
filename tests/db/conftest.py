"""Rows for the tests of the data layer: users without HTTP, and what belongs to them."""

import uuid
from typing import Any

import asyncpg
import pytest

from db.caller import Caller
from tests.db.hands import someone

SIGNED_IN = "insert into sessions (id, user_id, refresh_hash, expires_at) values ($1, $2, 'hash', now() + interval '1 day')"


@pytest.fixture
async def user(connection: asyncpg.Connection) -> str:
    """The id of somebody new, of whom there is only the account."""
    return await someone(connection)


@pytest.fixture
async def caller(connection: asyncpg.Connection, user: str) -> Caller:
    """The same user, signed in."""
    return await signed_in(connection, user)


@pytest.fixture
async def stranger(connection: asyncpg.Connection) -> Caller:
    """Somebody else, signed in."""
    return await signed_in(connection, await someone(connection))


@pytest.fixture
async def rows(connection: asyncpg.Connection, user: str) -> dict[str, Any]:
    """The user with a task and a conversation of one message, and another user: by name, for SQL with places."""
    found = await connection.fetchrow(
        """
        with task as (insert into tasks (user_id, title) values ($1, 'x') returning id),
        talk as (insert into conversations (user_id) values ($1) returning id),
        message as (
            insert into messages (conversation_id, user_id, role, content)
            select id, $1, 'user', 'hello' from talk returning id)
        select task.id as task, talk.id as talk, message.id as message from task, talk, message
        """,
        user,
    )
    assert found
    return {"user": user, "other": await someone(connection), **found}


async def signed_in(connection: asyncpg.Connection, user: str) -> Caller:
    """A session of a user."""
    caller = Caller(user, str(uuid.uuid4()))
    await connection.execute(SIGNED_IN, caller.sid, user)
    return caller
