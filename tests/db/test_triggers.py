"""What happens by itself to rows that somebody writes by hand."""

import asyncio
import re
import uuid
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any, TypeAlias

import asyncpg
import pytest

from db import catalogue
from db.url import parse

Connection: TypeAlias = asyncpg.Connection
LONG_AGO = datetime(2001, 1, 1, tzinfo=UTC)
FUTURE = datetime(2999, 1, 1, tzinfo=UTC)


@pytest.fixture
async def user(connection: Connection) -> str:
    return await someone(connection)


async def someone(connection: Connection, **columns: Any) -> str:
    """A new user's id."""
    columns = {"id": uuid.uuid4().hex, "email": f"{uuid.uuid4().hex}@example.com"} | columns
    places = ", ".join(f"${n}" for n in range(1, len(columns) + 1))
    await connection.execute(f"insert into users ({', '.join(columns)}) values ({places})", *columns.values())
    return str(columns["id"])


async def add(connection: Connection, user: str, *titles: str) -> list[int]:
    """Insert tasks in one statement, the way a hand does; their ids."""
    rows = await connection.fetch(
        "insert into tasks (user_id, title) select $1, t from unnest($2::text[]) t returning id", user, titles
    )
    return [row["id"] for row in rows]


async def revision(connection: Connection, user: str) -> int:
    return int(await connection.fetchval("select revision from user_state where user_id = $1", user))


async def revisions(connection: Connection, user: str) -> list[int]:
    """Of the user's tasks and tombstones, in order."""
    rows = await connection.fetch(
        "select revision from tasks where user_id = $1 union all"
        " select revision from tombstones where user_id = $1 order by 1",
        user,
    )
    return [row["revision"] for row in rows]


async def stamps(connection: Connection, user: str) -> list[int]:
    """Of the user's tasks, in the order of their ids."""
    rows = await connection.fetch("select revision from tasks where user_id = $1 order by id", user)
    return [row["revision"] for row in rows]


# Users


@pytest.mark.parametrize("active", [True, False])
async def test_a_new_user_has_a_state(connection: Connection, active: bool) -> None:
    user = await someone(connection, is_active=active)
    row = await connection.fetchrow(
        "select revision, purged_revision, conversations_revision, is_active, tokens_valid_from"
        " from user_state where user_id = $1",
        user,
    )
    assert row
    assert tuple(row) == (0, 0, 0, active, datetime(1970, 1, 1, tzinfo=UTC))


async def test_a_deactivation_reaches_the_state(connection: Connection, user: str) -> None:
    for active in (False, False, True):
        await connection.execute("update users set is_active = $2 where id = $1", user, active)
        found = await connection.fetchval("select is_active from user_state where user_id = $1", user)
        assert found is active


async def test_a_deactivation_under_a_new_id_reaches_the_state(connection: Connection, user: str) -> None:
    new = uuid.uuid4().hex
    await connection.execute("update users set id = $2, is_active = false where id = $1", user, new)
    assert await connection.fetchval("select is_active from user_state where user_id = $1", new) is False


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


# What never changes


@pytest.mark.parametrize("table", ["users", "tasks", "conversations", "messages"])
async def test_created_at_is_fixed(connection: Connection, user: str, table: str) -> None:
    await add(connection, user, "one")
    talk = await connection.fetchval("insert into conversations (user_id) values ($1) returning id", user)
    await connection.execute(
        "insert into messages (conversation_id, user_id, role, content) values ($1, $2, 'user', 'hello')",
        talk,
        user,
    )
    whose = f"where {'id' if table == 'users' else 'user_id'} = $1"
    with pytest.raises(
        asyncpg.IntegrityConstraintViolationError, match=f"created_at of {table} cannot"
    ) as it:
        await connection.execute(f"update {table} set created_at = now() {whose}", user)
    assert getattr(it.value, "constraint_name", None) == f"{table}_created_at_fixed"
    await connection.execute(f"update {table} set created_at = created_at {whose}", user)


async def test_a_task_stays_with_its_user(connection: Connection, user: str) -> None:
    other = await someone(connection)
    (task,) = await add(connection, user, "one")
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match="user_id of tasks cannot change"):
        await connection.execute("update tasks set user_id = $2 where id = $1", task, other)
    await connection.execute("update tasks set user_id = user_id where id = $1", task)


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


async def test_ten_thousand_by_hand(connection: Connection, user: str) -> None:
    many = 10_000
    await add(connection, user, "a first one, for which this connection plans")
    for change, count in [
        ("insert into tasks (user_id, title) select $1, n::text from generate_series(2, 10000) n", many),
        ("update tasks set priority = 5 where user_id = $1", 2 * many),
        ("delete from tasks where user_id = $1", 3 * many),
    ]:
        await connection.execute(change, user)
        assert await revision(connection, user) == count
        assert await revisions(connection, user) == list(range(count - many + 1, count + 1))


async def test_ten_thousand_users_in_one_statement(migrated_database: str) -> None:
    async with connected(migrated_database) as connection:
        await connection.execute(
            "insert into users (id, email) select n, n || '@example.com' from generate_series(1, 10000) n"
        )
        for change in (
            "insert into tasks (user_id, title) select id, 'x' from users",
            "update tasks set title = 'y'",
            "delete from tasks",
        ):
            await connection.execute(change)
        assert await connection.fetchval("select array_agg(distinct revision) from user_state") == [3]
        assert await connection.fetchval("select count(*) from tombstones where revision = 3") == 10_000


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = await asyncpg.connect(**parse(url).kwargs())
    try:
        yield connection
    finally:
        await connection.close()


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


# A new id, and the end


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


async def contents(connection: Connection, user: str) -> dict[str, str]:
    """Every row of a user, as JSON without the user's id."""
    return {
        table: await connection.fetchval(
            f"select jsonb_agg(to_jsonb(t) - 'user_id' order by to_jsonb(t)::text) from {table} t where user_id = $1",
            user,
        )
        for table in OWNING
    }


async def test_every_table_with_a_user_is_looked_at(connection: Connection) -> None:
    tables = await connection.fetch(
        "select table_name from information_schema.columns where table_schema = 'public' and column_name = 'user_id'"
    )
    assert {row["table_name"] for row in tables} == set(OWNING)


async def test_a_new_id_takes_everything_along_unchanged(connection: Connection, user: str) -> None:
    await connection.execute(FILL.format(user=user))
    before, new = await contents(connection, user), uuid.uuid4().hex
    assert all(before.values())
    await connection.execute("update users set id = $2 where id = $1", user, new)
    assert await contents(connection, new) == before
    assert not any((await contents(connection, user)).values())
    await add(connection, new, "and on")
    assert await revision(connection, new) == 12


async def test_a_deleted_user_leaves_nothing(connection: Connection, user: str) -> None:
    other = await someone(connection)
    for somebody in (user, other):
        await connection.execute(FILL.format(user=somebody))
    before = await contents(connection, other)
    await connection.execute("delete from users where id = $1", user)
    assert not any((await contents(connection, user)).values())
    assert await contents(connection, other) == before


async def test_a_user_goes_and_changes_in_whatever_order_the_keys_are_followed(
    migrated_database: str,
) -> None:
    """A restore makes foreign keys anew, by table name, and PostgreSQL follows them in the order they were made."""
    async with connected(migrated_database) as connection:
        await connection.execute(
            """
            alter table user_state drop constraint user_state_user_id_fkey;
            alter table user_state add constraint user_state_user_id_fkey
                foreign key (user_id) references users (id) on update cascade on delete cascade;
            """
        )
        user, new = await someone(connection), uuid.uuid4().hex
        await connection.execute(FILL.format(user=user))
        before = await contents(connection, user)
        await connection.execute("update users set id = $2 where id = $1", user, new)
        assert await contents(connection, new) == before
        await connection.execute("update users set id = $2, is_active = false where id = $1", new, user)
        assert '"is_active": false' in (await contents(connection, user))["user_state"]
        await connection.execute("delete from users where id = $1", user)
        assert not any((await contents(connection, user)).values())


async def test_a_user_goes_together_with_tasks_of_another(connection: Connection, user: str) -> None:
    other = await someone(connection)
    await add(connection, user, "one")
    await add(connection, other, "two")
    await connection.execute(
        "with gone as (delete from tasks where user_id = any($1)) delete from users where id = $2",
        [user, other],
        user,
    )
    assert await revisions(connection, user) == []
    assert await revisions(connection, other) == [2]


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
