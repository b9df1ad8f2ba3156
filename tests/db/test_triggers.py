"""What happens by itself to rows that somebody writes by hand."""

import asyncio
import re
import uuid
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg
import pytest

from db import catalogue
from tests.db.hands import add, connected, revision, revisions, someone

Connection: TypeAlias = asyncpg.Connection
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
FUTURE = datetime(2999, 1, 1, tzinfo=UTC)


async def stamps(connection: Connection, user: str) -> list[int]:
    """Of the user's tasks, in the order of their ids."""
    rows = await connection.fetch("select revision from tasks where user_id = $1 order by id", user)
    return [row["revision"] for row in rows]


# Users


@pytest.mark.parametrize(
    "change",
    [
        "email = 'x' || email",
        "name = 'Anna'",
        "password_hash = 'hash'",
        "is_active = false",
        "is_admin = true",
        "email_verified = true",
        "image = 'i'",
    ],
)
async def test_a_users_updated_at_moves_with_a_change(connection: Connection, change: str) -> None:
    user = await someone(connection, updated_at=LONG_AGO)
    update = f"update users set {change} where id = '{user}' returning updated_at"
    assert await connection.fetchval(update) > LONG_AGO
    ahead = await someone(connection, updated_at=FUTURE)
    assert await connection.fetchval(update.replace(user, ahead)) == FUTURE
    said = update.replace(" where", ", updated_at = '2002-02-02Z' where")
    assert await connection.fetchval(said.replace("'x' || ", "")) == datetime(2002, 2, 2, tzinfo=UTC)


@pytest.mark.parametrize("change", ["last_login_at = now()", "email = email", "name = null"])
async def test_a_users_updated_at_stays_without_a_change(connection: Connection, change: str) -> None:
    user = await someone(connection, updated_at=LONG_AGO)
    await connection.execute(f"update users set {change} where id = $1", user)
    assert await connection.fetchval("select updated_at from users where id = $1", user) == LONG_AGO


# Tasks by hand


@pytest.mark.parametrize(
    ("table", "triggers", "aside"),
    [
        ("users", ["users_updated_at_kept"], {"last_login_at"}),
        ("tasks", ["tasks_updated_at_kept", "tasks_revision_cleared"], {"import_key", "user_id", "revision"}),
    ],
)
async def test_triggers_look_at_every_column_that_clients_see(
    database_url: str, table: str, triggers: list[str], aside: set[str]
) -> None:
    schema = await catalogue.read(database_url)
    columns = {column.name for column in schema.columns if column.table_name == table}
    for trigger in schema.triggers:
        if trigger.name in triggers:
            compared = set(re.findall(r"old\.(\w+)(?:::text)? IS DISTINCT", trigger.definition))
            assert compared == columns - aside - {"id", "created_at", "updated_at"}


async def test_tasks_inserted_by_hand_get_a_range(connection: Connection, user: str) -> None:
    await add(connection, user, "one", "two", "three")
    await add(connection, user, "four")
    assert await stamps(connection, user) == [1, 2, 3, 4]
    assert await revision(connection, user) == 4


async def test_the_range_follows_the_ids(connection: Connection, user: str) -> None:
    low = await connection.fetchval("select nextval('tasks_id_seq')")
    high = await connection.fetchval("select nextval('tasks_id_seq')")
    await connection.execute(
        "insert into tasks (id, user_id, title) values ($3, $1, 'high'), ($2, $1, 'low')", user, low, high
    )
    titles = await connection.fetch("select title from tasks where user_id = $1 order by revision", user)
    assert [row["title"] for row in titles] == ["low", "high"]


async def test_each_user_gets_a_range_of_their_own(connection: Connection, user: str) -> None:
    other = await someone(connection)
    await add(connection, other, "before")
    await connection.execute(
        "insert into tasks (user_id, title) select unnest($1::text[]), 'both' from generate_series(1, 3)",
        [user, other],
    )
    assert await stamps(connection, user) == [1, 2, 3]
    assert await stamps(connection, other) == [1, 2, 3, 4]
    await connection.execute("update tasks set title = 'changed' where user_id = any($1)", [user, other])
    assert (await revision(connection, user), await revision(connection, other)) == (6, 8)
    await connection.execute("delete from tasks where user_id = any($1)", [user, other])
    assert (await revision(connection, user), await revision(connection, other)) == (9, 12)


async def test_copied_tasks_get_a_range(connection: Connection, user: str) -> None:
    records = [(user, f"task {n}") for n in range(10)]
    await connection.copy_records_to_table("tasks", records=records, columns=["user_id", "title"])
    assert await stamps(connection, user) == list(range(1, 11))


async def test_an_upsert_stamps_both_kinds(connection: Connection, user: str) -> None:
    upsert = """
        insert into tasks (user_id, title, import_key) select $1, $2, k from unnest($3::text[]) k
        on conflict (user_id, import_key) where import_key is not null do update set title = excluded.title
    """
    await connection.execute(upsert, user, "first", ["a", "b"])
    await connection.execute(upsert, user, "second", ["b", "c"])
    assert await revision(connection, user) == 4
    assert sorted(await stamps(connection, user)) == [1, 3, 4]
    await connection.execute(upsert, user, "second", ["b", "c"])
    assert await revision(connection, user) == 4


@pytest.mark.parametrize(
    "change",
    [
        "title = 'changed'",
        "description = 'changed'",
        "status = 'in_progress'",
        "status = 'completed', completed_at = now()",
        "priority = 5",
        "due_date = now()",
        "deleted_at = now()",
    ],
)
async def test_a_change_by_hand_is_stamped_and_timed(connection: Connection, user: str, change: str) -> None:
    task, other = await add(connection, user, "one", "two")
    await connection.execute("update tasks set updated_at = $2 where id = $1", task, LONG_AGO)
    assert await revision(connection, user) == 2  # a time alone is no change of the task
    await connection.execute(f"update tasks set {change} where id = $1", task)
    row = await connection.fetchrow("select revision, updated_at from tasks where id = $1", task)
    assert row
    assert row["revision"] == await revision(connection, user) == 3
    assert row["updated_at"] > LONG_AGO
    assert await connection.fetchval("select revision from tasks where id = $1", other) == 2


async def test_a_tasks_updated_at_never_goes_back(connection: Connection, user: str) -> None:
    (task,) = await add(connection, user, "one")
    await connection.execute("update tasks set updated_at = $2 where id = $1", task, FUTURE)
    await connection.execute("update tasks set title = 'two' where id = $1", task)
    assert await connection.fetchval("select updated_at from tasks where id = $1", task) == FUTURE
    await connection.execute(
        "update tasks set title = 'three', updated_at = $2 where id = $1", task, LONG_AGO
    )
    assert await connection.fetchval("select updated_at from tasks where id = $1", task) == LONG_AGO


@pytest.mark.parametrize(
    "change", ["import_key = 'k'", "title = title", "description = null", "updated_at = now()"]
)
async def test_no_change_takes_no_revision(connection: Connection, user: str, change: str) -> None:
    (task,) = await add(connection, user, "one")
    before = await connection.fetchval("select updated_at from tasks where id = $1", task)
    await connection.execute(f"update tasks set {change} where id = $1", task)
    assert await stamps(connection, user) == [1]
    assert await revision(connection, user) == 1
    if "updated_at" not in change:
        assert await connection.fetchval("select updated_at from tasks where id = $1", task) == before


async def test_only_rows_that_changed_are_stamped(connection: Connection, user: str) -> None:
    await add(connection, user, "a", "b", "a", "b")
    await connection.execute("update tasks set title = 'a' where user_id = $1", user)
    assert await stamps(connection, user) == [1, 5, 3, 6]


async def test_deleting_by_hand_leaves_tombstones(connection: Connection, user: str) -> None:
    tasks = await add(connection, user, "one", "two", "three")
    await connection.execute("delete from tasks where id = any($1)", [tasks[2], tasks[0]])
    stones = await connection.fetch(
        "select task_id, revision, deleted_at from tombstones where user_id = $1 order by revision", user
    )
    assert [(row["task_id"], row["revision"]) for row in stones] == [(tasks[0], 4), (tasks[2], 5)]
    assert stones[0]["deleted_at"].tzinfo is not None
    assert await revision(connection, user) == 5


async def test_a_task_erased_twice_is_told_of_twice(connection: Connection, user: str) -> None:
    (task,) = await add(connection, user, "one")
    await connection.execute("delete from tasks where id = $1", task)
    await connection.execute("insert into tasks (id, user_id, title) values ($1, $2, 'again')", task, user)
    await connection.execute("delete from tasks where id = $1", task)
    assert await revisions(connection, user) == [4]


# What the service stamped itself


async def test_the_services_own_stamps_stay(connection: Connection, user: str) -> None:
    stamp = "with stamp as (update user_state set revision = revision + 1 where user_id = $1 returning *)"
    await connection.execute(
        f"{stamp} insert into tasks (user_id, title, revision) select $1, 'one', revision from stamp", user
    )
    assert await stamps(connection, user) == [1]
    await connection.execute(
        f"{stamp} update tasks t set title = 'two', revision = s.revision from stamp s where t.user_id = $1",
        user,
    )
    assert await stamps(connection, user) == [2]
    await connection.execute(
        f"""{stamp}, grave as (insert into tombstones (user_id, task_id, revision)
            select t.user_id, t.id, s.revision from tasks t, stamp s where t.user_id = $1)
        delete from tasks where user_id = $1""",
        user,
    )
    assert await revisions(connection, user) == [3]
    assert await revision(connection, user) == 3


# Many, and many at once


async def test_hands_and_service_at_once_leave_no_gap(
    connection: Connection, user: str, database_url: str
) -> None:
    async def insert(one: Connection) -> None:
        await add(one, user, "a", "b", "c")

    async def lean(one: Connection) -> None:
        await one.execute(
            "with stamp as (update user_state set revision = revision + 1 where user_id = $1 returning *)"
            " insert into tasks (user_id, title, revision) select $1, 'lean', revision from stamp",
            user,
        )

    async def change(one: Connection) -> None:
        (task,) = await add(one, user, "mine")
        await one.execute("update tasks set title = title || '!' where id = $1", task)

    async def erase(one: Connection) -> None:
        (task,) = await add(one, user, "mine")
        await one.execute("delete from tasks where id = $1", task)

    async def work(what: Callable[[Connection], Coroutine[Any, Any, None]]) -> None:
        async with connected(database_url) as one:
            for _ in range(20):
                await what(one)

    await asyncio.gather(*(work(what) for what in (insert, insert, lean, lean, change, erase)))
    found = await revisions(connection, user)
    assert len(found) == len(set(found)) == 2 * 60 + 2 * 20 + 20 + 20
    # A change and an erasure take a second revision and leave the first one to nobody.
    assert await revision(connection, user) == len(found) + 20 + 20 == found[-1]


@pytest.mark.parametrize(
    "change",
    [
        "insert into tasks (user_id, title) select unnest($1::text[]), 'x'",
        "update tasks set title = 'changed' where user_id = any($1)",
        "delete from tasks where user_id = any($1)",
    ],
)
async def test_states_are_locked_in_the_order_of_users(
    connection: Connection, database_url: str, change: str
) -> None:
    """Whoever waits for the first holds none of the others, so that two such statements cannot deadlock."""
    users = sorted((uuid.uuid4().hex for _ in range(20)), reverse=True)
    for user in users:
        await someone(connection, id=user)
        await add(connection, user, "one")
    async with connected(database_url) as holder, connected(database_url) as one:
        waiting = None
        async with holder.transaction():
            await holder.execute("select from user_state where user_id = $1 for update", users[-1])
            waiting = asyncio.create_task(one.execute(change, users))
            while not await holder.fetchval(
                "select cardinality(pg_blocking_pids($1)) > 0", one.get_server_pid()
            ):
                await asyncio.sleep(0.01)
            others = "select from user_state where user_id = any($1) for no key update nowait"
            assert len(await holder.fetch(others, users[:-1])) == 19
        await waiting
    assert {await revision(connection, user) for user in users} == {2}


async def test_triggers_find_their_tables_whatever_the_search_path(connection: Connection) -> None:
    async with connection.transaction():
        await connection.execute(
            "create temp table user_state (user_id text, is_active boolean) on commit drop"
        )
        await connection.execute("set local search_path = ''")
        user = uuid.uuid4().hex
        await connection.execute(
            "insert into public.users (id, email) values ($1, $2)", user, f"{user}@example.com"
        )
        await connection.execute("insert into public.tasks (user_id, title) values ($1, 'x')", user)
        await connection.execute("delete from public.tasks where user_id = $1", user)
        assert (
            await connection.fetchval("select revision from public.user_state where user_id = $1", user) == 2
        )
        assert await connection.fetchval("select count(*) from user_state") == 0
