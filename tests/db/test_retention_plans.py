"""Plans of purge and archive: a batch costs what the batch is, however much stays."""

import json
from collections.abc import AsyncIterator

import asyncpg
import pytest

from db import statements
from db.statements import Statement
from db.url import parse
from tests.conftest import run, with_database
from tests.db.plans import PLAN, Node, plan, rolled_back

BATCH = 1000
TRASH, LIVE = 6_000, 54_000
PURGE = {
    statement.name: statement for statement in statements.load("purge").values() if statement.kind == "write"
}
BULK = {statement.name: statement for statement in statements.load("archive").values() if statement.member}
FIRST = {
    "tasks": '["", 0]',
    "tombstones": '["", 0]',
    "sessions": '["00000000-0000-0000-0000-000000000000"]',
    "keys": '["", "", ""]',
}
SEED = """
insert into users (id, email) select 'user' || n, 'user' || n || '@example.com' from generate_series(1, 1000) n;
insert into sessions (id, user_id, refresh_hash, expires_at)
select gen_random_uuid(), 'user' || (1 + n % 1000), 'hash', now() + interval '1 day' * (n % 100 - 80)
from generate_series(1, 20000) n;
insert into tasks (user_id, title, status, completed_at, deleted_at, revision)
select 'user' || (1 + n % 1000), 'task ' || n, 'completed', now() - interval '2 years',
    case when n % 10 = 0 then now() - interval '1 day' * (n / 10 % 60) end, n
from generate_series(1, 60000) n;
insert into tombstones (user_id, task_id, revision, deleted_at)
select 'user' || (1 + n % 1000), 60000 + n, 60000 + n, now() - interval '1 day' * (n % 60) from generate_series(1, 60000) n;
insert into idempotency_keys (user_id, route, key, fingerprint, status, created_at)
select 'user' || (1 + n % 1000), 'route', 'key ' || n, '', 201, now() - interval '1 day' * (n % 60)
from generate_series(1, 20000) n;
update user_state set revision = 120000;
"""


@pytest.fixture(scope="module")
async def old(server: str, template: str, worker_id: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database of this module, where a tenth of the tasks is in the trash and half of all is past."""
    name = f"old_{worker_id}"
    await run(server, f"create database {name} template {template}")
    connection = await asyncpg.connect(**parse(with_database(server, name)).kwargs())
    await connection.execute(SEED)
    await connection.execute("vacuum analyze")
    yield connection
    await connection.close()
    await run(server, f"drop database {name} with (force)")


def read(found: list[Node], relation: str) -> int:
    """Rows of a table that were read, used or not."""
    scans = [node for node in found if node.relation == relation and node.kind.endswith("Scan")]
    return sum(node.rows + node.dropped for node in scans)


def check(statement: Statement, found: list[Node]) -> None:
    assert set(statement.rides_on) <= {node.index for node in found}
    assert [node.relation for node in found if node.kind == "Seq Scan"] == []


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("statement", PURGE.values(), ids=PURGE)
async def test_a_batch_of_a_purge(old: asyncpg.Connection, statement: Statement, mode: PLAN) -> None:
    table = {"keys": "idempotency_keys"}.get(kind := statement.family.split(".")[1], kind)
    before = await old.fetchval("select now() - interval '30 days'")
    found = await plan(old, statement, {"before": before, "place": FIRST[kind]}, mode)
    check(statement, found)
    size = 1 if statement.member == ("busy",) else BATCH
    # To find half of them past, twice as many are walked, and up to a user's more; then the batch itself.
    assert read(found, table) <= 3.2 * size + 100
    assert read(found, "user_state") <= 2 * size


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_the_walk_through_the_trash_ends_with_the_trash(old: asyncpg.Connection, mode: PLAN) -> None:
    """Where little is past, the whole trash is read once, and no other task."""
    before = await old.fetchval("select now() - interval '59 days'")
    found = await plan(old, PURGE["purge.tasks_free"], {"before": before, "place": FIRST["tasks"]}, mode)
    assert read(found, "tasks") <= TRASH + BATCH


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("statement", BULK.values(), ids=BULK)
async def test_a_part_of_an_archive(old: asyncpg.Connection, statement: Statement, mode: PLAN) -> None:
    size = 500
    given = await given_tasks(old, size)
    async with rolled_back(old):
        if statement.family == "archive.restore":
            await old.execute(
                "delete from tasks where id in (select (g->>'id')::bigint from json_array_elements($1::json) g)",
                given,
            )
        found = await plan(old, statement, {"tasks": given}, mode)
    check(statement, found)
    assert read(found, "tasks") <= 3 * size
    assert read(found, "user_state") <= 3 * size


async def given_tasks(old: asyncpg.Connection, size: int) -> str:
    """Tasks of many users, as a file has them."""
    rows = await old.fetch(
        "select to_json(t) from (select id, user_id, title, description, status, priority, due_date, created_at,"
        " updated_at, completed_at, revision, import_key from tasks where deleted_at is null"
        " order by md5(id::text) limit $1) t",
        size,
    )
    return json.dumps([json.loads(row[0]) for row in rows])
