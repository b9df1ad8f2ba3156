"""What PostgreSQL does with a statement: its plan under real data, as a flat list of nodes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

import asyncpg
import msgspec

from db.statements import Statement

PLAN = Literal["custom", "generic"]
BIG = "big"  # the user with 10,000 tasks
SESSIONS = 4  # of each user
SID = "00000000-0000-7000-8000-000000000000"

SEED = f"""
insert into users (id, email, password_hash)
select 'user' || n, 'user' || n || '@example.com', 'hash' from generate_series(1, 1000) n
union all select '{BIG}', '{BIG}@example.com', 'hash';
insert into sessions (id, user_id, refresh_hash, expires_at)
select case when id = '{BIG}' and n = 1 then '{SID}'::uuid else gen_random_uuid() end, id, 'hash',
    now() + interval '1 day'
from users, generate_series(1, {SESSIONS}) n;
insert into tasks (user_id, title, status, completed_at, priority, created_at, revision)
select '{BIG}', 'task ' || n, case when n % 3 = 0 then 'completed' else 'pending' end,
    case when n % 3 = 0 then now() end, 1 + n % 5, now() - make_interval(secs => n), n
from generate_series(1, 10000) n
union all
select 'user' || (1 + n % 1000), 'task ' || n, 'pending', null, 3, now() - make_interval(secs => n), 1 + n / 1000
from generate_series(1, 50000) n;
insert into tombstones (user_id, task_id, revision)
select '{BIG}', 1000000 + n, 5 * n from generate_series(1, 2000) n
union all
select 'user' || (1 + n % 1000), 2000000 + n, 1 + n / 1000 from generate_series(1, 10000) n;
update user_state set revision = 10000 where user_id = '{BIG}';
insert into conversations (user_id, title, updated_at)
select '{BIG}', 'talk ' || n, now() - make_interval(secs => n) from generate_series(1, 2000) n
union all
select 'user' || (1 + n % 1000), 'talk ' || n, now() - make_interval(secs => n) from generate_series(1, 10000) n;
insert into messages (conversation_id, user_id, role, content)
select c.id, c.user_id, 'user', 'message ' || n
from conversations c, generate_series(1, case when c.user_id <> '{BIG}' then 3 when c.title = 'talk 1000' then 10000 else 1 end) n;
update users set is_admin = true where id = '{BIG}';
"""

TELLING = """
load 'auto_explain';
set auto_explain.log_min_duration = 0;
set auto_explain.log_nested_statements = on;
set auto_explain.log_analyze = on;
set auto_explain.log_timing = off;
set auto_explain.log_format = json;
set client_min_messages = log
"""


@dataclass(frozen=True)
class Node:
    """One node of a plan; `rows` were given, `dropped` read and filtered away, over all `loops`, 0 where it never ran."""

    kind: str
    relation: str | None
    index: str | None
    rows: int
    dropped: int
    loops: int


async def seed(connection: asyncpg.Connection) -> None:
    """Ten thousand tasks of one user among fifty thousand of a thousand others, a tombstone for each five, and as many messages."""
    await connection.execute(SEED)
    await connection.execute("vacuum analyze")


@asynccontextmanager
async def rolled_back(connection: asyncpg.Connection) -> AsyncIterator[None]:
    """Run statements and undo them."""
    transaction = connection.transaction()
    await transaction.start()
    try:
        yield
    finally:
        await transaction.rollback()


async def plan(
    connection: asyncpg.Connection, statement: Statement, values: dict[str, Any], mode: PLAN = "custom"
) -> list[Node]:
    """Run a statement on values by parameter name, undo it, and give the nodes of its plan."""
    async with prepared(connection, statement, values) as execute:
        await connection.execute(f"set local plan_cache_mode = force_{mode}_plan")
        text = await connection.fetchval(f"explain (analyze, timing off, summary off, format json) {execute}")
    return nodes(msgspec.json.decode(text)[0]["Plan"])


async def custom_plans(connection: asyncpg.Connection, statement: Statement, values: dict[str, Any]) -> int:
    """How many of twenty runs of a statement are planned for their values; the first five always are."""
    async with prepared(connection, statement, values) as execute:
        for _ in range(20):
            await connection.execute(execute)
        return int(
            await connection.fetchval(
                "select custom_plans from pg_prepared_statements where name = 'planned'"
            )
        )


@asynccontextmanager
async def prepared(
    connection: asyncpg.Connection, statement: Statement, values: dict[str, Any]
) -> AsyncIterator[str]:
    """What executes a statement on values by parameter name; undone in the end."""
    takes = [item.split() for item in statement.takes]
    types = f"({', '.join(kind for _, kind in takes)})" if takes else ""
    given = f"({', '.join(literal(values[name]) for name, _ in takes)})" if takes else ""
    async with rolled_back(connection):
        await connection.execute(f"prepare planned {types} as {statement.sql}")
        try:
            yield f"execute planned {given}"
        finally:
            await connection.execute("deallocate planned")


async def work(connection: asyncpg.Connection, sql: str, *args: object) -> int:
    """Run SQL, and count the rows that all nodes of all its plans gave or dropped, those of its triggers too."""
    told: list[str] = []

    def listen(_: object, message: Any) -> None:
        told.append(message.message)

    connection.add_log_listener(listen)
    try:
        await connection.execute(TELLING)
        await connection.execute(sql, *args)
        await connection.execute("reset client_min_messages")
    finally:
        connection.remove_log_listener(listen)
    plans = [message[message.index("{") :] for message in told if " plan:\n{" in message]
    found = [node for plan in plans for node in nodes(msgspec.json.decode(plan)["Plan"])]
    return sum(node.rows + node.dropped for node in found)


def nodes(tree: dict[str, Any]) -> list[Node]:
    """A plan's nodes, from the top."""
    loops = tree["Actual Loops"]
    dropped = tree.get("Rows Removed by Filter", 0) + tree.get("Rows Removed by Index Recheck", 0)
    node = Node(
        tree["Node Type"],
        tree.get("Relation Name"),
        tree.get("Index Name"),
        round(tree["Actual Rows"] * loops),
        round(dropped * loops),
        loops,
    )
    return [node, *(below for child in tree.get("Plans", []) for below in nodes(child))]


def literal(value: Any) -> str:
    """A value as SQL text, for EXECUTE, which takes no parameters of the protocol."""
    match value:
        case None:
            return "null"
        case bool() | int():
            return str(value).lower()
        case bytes():
            return f"'\\x{value.hex()}'"
        case datetime():
            return "'infinity'" if value.year == 9999 else f"'{value.isoformat()}'"
        case _:
            return "'" + str(value).replace("'", "''") + "'"
