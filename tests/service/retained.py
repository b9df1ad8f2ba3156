"""What the tests of purge and archive share: commands on a database of their own, and all that it holds."""

import asyncio
import subprocess
import uuid
from typing import Any, TypeAlias

import asyncpg

from db import seed
from db.caller import Caller
from db.pool import Database
from tests.conftest import ROOT
from tests.service.served import PATIENCE, command, environment

Connection: TypeAlias = asyncpg.Connection
Contents: TypeAlias = dict[str, list[str]]
TABLES = ("users", "user_state", "sessions", "tasks", "tombstones", "idempotency_keys")


async def roundtrip(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a database as its users do."""
    return await asyncio.to_thread(
        subprocess.run,
        command(*arguments),
        check=False,
        cwd=ROOT,
        env=environment(DATABASE_URL=url),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


async def someone(db: Database) -> Caller:
    """A user who is signed in."""
    caller = Caller(uuid.uuid4().hex, str(uuid.uuid4()))
    await seed.user(db, caller.user_id, f"{caller.user_id}@Example.com", "Somebody", "no hash", False)
    await seed.session(db, caller.sid, caller.user_id, uuid.uuid4().bytes)
    return caller


async def contents(connection: Connection) -> Contents:
    """Every row of every table, as text."""
    return {
        table: [row[0] for row in await connection.fetch(f"select t::text from {table} t order by 1")]
        for table in TABLES
    }


async def ids(connection: Connection, table: str = "tasks", column: str = "id") -> list[Any]:
    """A column of a table, in order."""
    return [row[0] for row in await connection.fetch(f"select {column} from {table} order by 1")]


async def state(connection: Connection, user_id: str) -> tuple[int, int]:
    """A user's revision, and up to where it was purged."""
    row = await connection.fetchrow(
        "select revision, purged_revision from user_state where user_id = $1", user_id
    )
    assert row is not None
    return row["revision"], row["purged_revision"]


async def check_revisions(connection: Connection) -> None:
    """No revision of a user is on two rows, none is over the user's own, none was left out of being stamped."""
    wrong = await connection.fetch("""
        select us.user_id
        from user_state us
        left join (
            select t.user_id, t.revision from tasks t union all select b.user_id, b.revision from tombstones b
        ) r on r.user_id = us.user_id
        group by us.user_id, us.revision
        having count(r.revision) <> count(distinct r.revision) or max(r.revision) > us.revision
            or min(r.revision) < 1""")
    assert wrong == []


async def waiting(connection: Connection) -> None:
    """Wait until somebody on this database waits for a lock."""
    async with asyncio.timeout(PATIENCE):
        while not await connection.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
        ):
            await asyncio.sleep(0.02)
