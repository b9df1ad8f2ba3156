"""Plans of all statements, by their names, with parameters that the command finds by itself."""

import subprocess
from collections.abc import AsyncIterator

import msgspec
import pytest

from db import explain, statements
from db.explain import Way
from db.pool import Database, PoolOptions
from db.statements import Statement
from service import command as commands
from tests.conftest import run, with_database
from tests.service.served import command, environment

STATEMENTS = [statement for statement in statements.every() if explain.explainable(statement)]
ONE_OF_EACH = [
    *{statement.family: statement for statement in STATEMENTS}.values()
]  # families have one of theirs
ALL = pytest.mark.parametrize("statement", ONE_OF_EACH, ids=[statement.name for statement in ONE_OF_EACH])
NEWEST = "tasks.list_live_plain_created_at_desc_without"
SEED = """
insert into users (id, email) select 'u' || n, n || '@example.com' from generate_series(1, 9) n;
insert into tasks (user_id, title) select 'u' || (1 + n % 9), 'task ' || n from generate_series(1, 900) n;
insert into tasks (user_id, title) select 'u7', 'one ''of'' the most \\' from generate_series(1, 50) n;
insert into conversations (user_id, title) values ('u7', 'a talk');
analyze;
"""


@pytest.fixture(scope="module")
async def url(server: str, template: str, worker_id: str) -> AsyncIterator[str]:
    """A database of this module, where u7 has the most tasks."""
    name = f"explained_{worker_id}"
    await run(server, f"create database {name} template {template}")
    await run(with_database(server, name), SEED)
    yield with_database(server, name)
    await run(server, f"drop database {name} with (force)")


@pytest.fixture
async def db(url: str) -> AsyncIterator[Database]:
    """A pool whose connections end with the test, and what is prepared there."""
    async with commands.opened(url, PoolOptions(size=1)) as db:
        yield db


class _Undo(Exception):
    pass


async def planned(db: Database, statement: Statement, way: Way, **given: str | None) -> str:
    text = ""
    with pytest.raises(_Undo):
        async with db.transaction() as part:
            found = await explain.sample(part)
            assert found
            values = explain.values(statement, found, given)
            if way.analyze:
                await explain.sign_in(part, statement, values, found)
            text = await explain.plan(part, statement, values, way)
            raise _Undo
    return text


COUNTS = Statement(
    "test.counts",
    "select (select count(*) from tasks), (select sum(revision) from user_state), (select count(*) from sessions),"
    " (select count(*) from users), (select count(*) from pg_prepared_statements where from_sql)",
    "read", (), (), "", "",
)  # fmt: skip


@ALL
async def test_every_statement_has_a_plan_of_any_kind(db: Database, statement: Statement) -> None:
    plan = await planned(db, statement, Way(format="json"))
    assert msgspec.json.decode(plan)[0]["Plan"]
    assert "Actual Rows" not in plan
    assert "cost=" in await planned(db, statement, Way(generic=True))
    before = await db.one(COUNTS)
    ran = msgspec.json.decode(await planned(db, statement, Way(analyze=True, format="json")))[0]
    assert await db.one(COUNTS) == before
    if statement.name.split(".")[0] == "tasks":
        assert ran["Plan"]["Actual Rows"] >= 1, "the caller was not found"


def test_arrays_have_one_element_by_the_name_of_one() -> None:
    found = explain.Sample('u"\\', "7", None)
    takes = (
        "user_ids text[]",
        "sids uuid[]",
        "task_ids bigint[]",
        "priorities smallint[]",
        "due_dates timestamptz[]",
    )
    statement = Statement("test.each", "", "read", takes, (), "", "")
    assert explain.values(statement, found, {}) == {
        "user_ids": '{"u\\"\\\\"}',
        "sids": f'{{"{explain.SID}"}}',
        "task_ids": '{"7"}',
        "priorities": '{"4"}',
        "due_dates": "{NULL}",
    }


def roundtrip(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("explain", *arguments),
        capture_output=True,
        text=True,
        check=False,
        env=environment(DATABASE_URL=url),
        stdin=subprocess.DEVNULL,
    )


def test_it_finds_the_user_with_the_most_tasks_and_one_of_them(url: str) -> None:
    done = roundtrip(url, "tasks.get", "--analyze", "--buffers")
    assert done.returncode == 0, done.stderr
    assert "--   user_id = 'u7'" in done.stderr
    assert "tasks.get: One live task." in done.stderr
    assert "Buffers: " in done.stdout
    assert "actual time" in done.stdout
    assert "(never executed)" not in done.stdout
    assert "@" not in done.stdout + done.stderr


def test_values_may_be_given_and_odd_ones_are_values(url: str) -> None:
    odd = "it's; drop table tasks --\\"
    given = ("--param", f"title={odd}", "--param", "description", "--param", "priority=2")
    done = roundtrip(url, "tasks.create", *given)
    assert done.returncode == 0, done.stderr
    assert "--   title = 'it''s; drop table tasks --\\'" in done.stderr
    assert "--   description = null" in done.stderr
    assert "--   priority = '2'" in done.stderr


def test_json_is_all_there_is_on_stdout(url: str) -> None:
    done = roundtrip(url, NEWEST, "--format", "json")
    assert msgspec.json.decode(done.stdout)[0]["Plan"]["Node Type"]


def test_the_generic_plan_knows_no_value(url: str) -> None:
    assert "'u7'" in roundtrip(url, "tasks.stats").stdout
    generic = roundtrip(url, "tasks.stats", "--generic").stdout
    assert "'u7'" not in generic
    assert "$1" in generic


def test_without_a_name_all_are_listed() -> None:
    done = roundtrip("postgresql://nowhere.invalid/none")
    assert done.returncode == 0, done.stderr
    names = [line for line in done.stdout.splitlines() if not line.startswith(" ")]
    assert names == sorted(names, key=lambda name: name.split(".")[0])
    assert {"tasks.get", "auth.refresh", "recovery.advance"} <= set(names)
    sorts = "{created_at,updated_at,due_date,priority,title,status}"
    family = f"tasks.list_{{live,trash}}_{{plain,filtered,searched}}_{sorts}_{{asc,desc}}_{{without,counted}}"
    assert family in names


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["tasks.git"], "there is no statement tasks.git; perhaps tasks.get"),
        (["tasks.list"], "perhaps tasks.list_live_plain_created_at"),
        (["zzz"], "there is no statement zzz; `roundtrip explain` lists all"),
        (["recovery.content"], "recovery.content is no query, and has no plan"),
        (["tasks.get", "--param", "id=1"], "tasks.get does not take id; it takes user_id, sid, task_id"),
        (["tasks.get", "--param", "task_id=first"], "a value is not of its type"),
    ],
)
def test_what_is_wrong_is_said_in_a_line(url: str, arguments: list[str], complaint: str) -> None:
    done = roundtrip(url, *arguments)
    assert done.returncode == 1
    assert done.stdout == ""
    assert complaint in done.stderr
    assert "Traceback" not in done.stderr


async def test_it_plans_where_there_is_nobody_yet(empty_database: str, migrated_database: str) -> None:
    assert roundtrip(migrated_database, NEWEST).returncode == 0
    assert roundtrip(migrated_database, NEWEST, "--analyze").returncode == 0
    none = roundtrip(empty_database, NEWEST)
    assert none.returncode == 1
    assert "roundtrip migrate" in none.stderr
