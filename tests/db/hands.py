"""SQL as somebody writes it by hand, past the service: what such a client does and finds."""

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import msgspec

from db import tasks
from db.caller import Caller
from db.pool import Database
from db.task import Task
from db.url import parse

# A row or more in every table, for a user of whom there is only the account.
FILL = """
insert into sessions (id, user_id, refresh_hash, expires_at) values (gen_random_uuid(), '{user}', 'hash', now());
insert into tasks (user_id, title) select '{user}', n::text from generate_series(1, 10) n;
delete from tasks where user_id = '{user}' and title = '3';
insert into conversations (user_id) values ('{user}');
insert into messages (conversation_id, user_id, role, content)
select id, user_id, 'user', 'hello' from conversations where user_id = '{user}';
insert into idempotency_keys (user_id, route, key, fingerprint, status) values ('{user}', '/', 'k', '', 200);
"""
OWNING = (
    "user_state", "sessions", "tasks", "task_texts", "tombstones", "conversations", "messages", "idempotency_keys",
)  # fmt: skip


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    """One more connection."""
    connection = await asyncpg.connect(**parse(url).kwargs())
    try:
        yield connection
    finally:
        await connection.close()


async def someone(connection: asyncpg.Connection, **columns: Any) -> str:
    """A new user's id."""
    columns = {"id": uuid.uuid4().hex, "email": f"{uuid.uuid4().hex}@example.com"} | columns
    places = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    await connection.execute(f"insert into users ({', '.join(columns)}) values ({places})", *columns.values())
    return str(columns["id"])


async def got(db: Database, caller: Caller, id: int) -> tasks.Outcome | None:
    """A task as it is read, in the form that writes answer in."""
    found = await tasks.get(db, caller, id)
    if found is None:
        return None
    if found.revision is None:
        return tasks.Outcome("absent", None)
    task = msgspec.json.decode(found.line, type=Task)
    assert task.revision == found.revision
    return tasks.Outcome("same", task)


async def add(connection: asyncpg.Connection, user: str, *titles: str) -> list[int]:
    """Insert tasks in one statement; their ids."""
    rows = await connection.fetch(
        "insert into tasks (user_id, title) select $1, t from unnest($2::text[]) t returning id", user, titles
    )
    return [row["id"] for row in rows]


async def revision(connection: asyncpg.Connection, user: str) -> int:
    """The user's revision."""
    return int(await connection.fetchval("select revision from user_state where user_id = $1", user))


async def revisions(connection: asyncpg.Connection, user: str) -> list[int]:
    """Those of the user's tasks and tombstones, in order."""
    rows = await connection.fetch(
        "select revision from tasks where user_id = $1 union all"
        " select revision from tombstones where user_id = $1 order by 1",
        user,
    )
    return [row["revision"] for row in rows]


async def contents(connection: asyncpg.Connection, user: str) -> dict[str, str]:
    """Every row of a user but the account, as JSON without the user's id."""
    return {
        table: await connection.fetchval(
            f"select jsonb_agg(to_jsonb(t) - 'user_id' order by to_jsonb(t)::text) from {table} t where user_id = $1",
            user,
        )
        for table in OWNING
    }
