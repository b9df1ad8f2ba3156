"""Plans on real sizes: the promised index, nothing scanned whole, nothing read that is not needed."""

from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import asyncpg
import pytest

from db import statements, tasks
from db.statements import Statement
from db.url import parse
from tests.db.plans import BIG, PLAN, SESSIONS, SID, plan, seed

FIRST = {"before": tasks.TOP[0], "before_id": tasks.TOP[1], "skip": 0, "size": 51, "known": None}
VALUES: dict[str, Any] = {
    "user_id": BIG,
    "sid": SID,
    "title": "a title",
    "description": "a description",
    "status": "completed",
    "priority": 4,
    "due_date": None,
    "if_match": None,
    "reopen": False,
    **{
        f"set_{name}": True
        for name in ("title", "description", "status", "priority", "due_date", "name", "email")
    },
    **FIRST,
    # accounts
    "email": "somebody.new@example.com",
    "session_id": SID,
    "name": "Somebody",
    "password_hash": "hash",
    "new_hash": None,
    "refresh_hash": b"hash",
    "presented_hash": b"hash",
    "next_hash": b"next",
    "user_agent": "pytest",
    "ip": "127.0.0.1",
    "idle": 3600,
    "ttl": 7200,
    "grace": 10,
    # seeds
    "id": "seeded",
    "is_admin": False,
    "completed": True,
    "due_in_days": 1,
}
OWN_SESSION = {"auth.register", "auth.login", "seed.session"}  # statements that open the session `sid`
RIDING = [statement for statement in statements.every() if statement.rides_on]


@pytest.fixture(scope="module")
async def planned(server: str, template: str, worker_id: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database of this module with the seeded sizes."""
    from tests.conftest import run, with_database

    name = f"planned_{worker_id}"
    await run(server, f"create database {name} template {template}")
    connection = await asyncpg.connect(**parse(with_database(server, name)).kwargs())
    await seed(connection)
    yield connection
    await connection.close()
    await run(server, f"drop database {name} with (force)")


async def values_for(connection: asyncpg.Connection, statement: Statement) -> dict[str, Any]:
    task_id = await connection.fetchval(
        "select id from tasks where user_id = $1 and title = 'task 5000'", BIG
    )
    values = VALUES | {"task_id": task_id}
    if statement.name in OWN_SESSION:
        values["sid"] = "00000000-0000-7000-8000-000000000001"
    return values


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("statement", RIDING, ids=[statement.name for statement in RIDING])
async def test_rides_on_its_indexes_and_scans_nothing_whole(
    planned: asyncpg.Connection, statement: Statement, mode: PLAN
) -> None:
    found = await plan(planned, statement, await values_for(planned, statement), mode)
    used = {node.index for node in found if node.index}
    assert set(statement.rides_on) <= used
    assert [node.relation for node in found if node.kind == "Seq Scan"] == []
    assert sum(node.dropped for node in found) <= SESSIONS


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize(
    "window",
    [{}, {"skip": 100}, {"before": datetime(2020, 1, 1), "before_id": 1}, {"size": 501}],
    ids=["first", "offset", "past the end", "longest"],
)
async def test_list_reads_its_page_and_no_more(
    planned: asyncpg.Connection, window: dict[str, Any], mode: PLAN
) -> None:
    values = VALUES | window
    found = await plan(planned, tasks.LIST, values, mode)
    read = [node for node in found if node.index == "tasks_user_id_created_at_id_idx"]
    assert len(read) == 1
    assert read[0].rows <= values["skip"] + values["size"]
    assert all(node.rows <= values["size"] for node in found if node.kind in ("Sort", "Incremental Sort"))


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_list_touches_no_task_where_the_revision_is_known(
    planned: asyncpg.Connection, mode: PLAN
) -> None:
    found = await plan(planned, tasks.LIST, VALUES | {"known": 10_000}, mode)
    assert sum(node.rows for node in found if node.relation == "tasks") == 0


async def test_a_write_reads_one_task(planned: asyncpg.Connection) -> None:
    for statement in (tasks.UPDATE, tasks.TOGGLE, tasks.DELETE, tasks.RESTORE, tasks.ERASE):
        found = await plan(planned, statement, await values_for(planned, statement))
        scans = [node for node in found if node.relation == "tasks" and "Scan" in node.kind]
        assert {node.index for node in scans} == {"tasks_pkey"}, statement.name
        assert all(node.rows <= 1 for node in scans), statement.name
