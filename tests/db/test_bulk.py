"""Many rows in one statement: right, by counts of work no worse than linear, and not all in memory at once."""

import tracemalloc
from collections import Counter
from collections.abc import AsyncIterator

import asyncpg
import msgspec
import pytest

from db import imports, statements
from db.pool import Database
from tests.db.hands import add, connected, revision, revisions
from tests.db.plans import work

MANY = 10_000
INSERT = "insert into tasks (user_id, title) select $1, n::text from generate_series(1, 10000) n"
UPDATE = "update tasks set priority = 5 where user_id = $1"
DELETE = "delete from tasks where user_id = $1"


@pytest.fixture
async def alone(migrated_database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database of this test alone."""
    async with connected(migrated_database) as connection:
        yield connection


# Right


@pytest.mark.parametrize("how", ["insert", "copy"])
async def test_ten_thousand_by_hand(connection: asyncpg.Connection, user: str, how: str) -> None:
    await add(connection, user, "a first one, for which this connection plans")
    if how == "copy":
        records = [(user, str(n)) for n in range(1, MANY)]
        await connection.copy_records_to_table("tasks", records=records, columns=["user_id", "title"])
    else:
        await connection.execute(INSERT.replace("(1,", "(2,"), user)
    for changes, change in enumerate((None, UPDATE, DELETE), start=1):
        if change:
            await connection.execute(change, user)
        assert await revision(connection, user) == changes * MANY
        assert await revisions(connection, user) == list(range((changes - 1) * MANY + 1, changes * MANY + 1))
    assert await connection.fetchval("select count(*) from tombstones where user_id = $1", user) == MANY


async def test_ten_thousand_users_in_one_statement(alone: asyncpg.Connection) -> None:
    await alone.execute(
        "insert into users (id, email) select n, n || '@example.com' from generate_series(1, 10000) n"
    )
    for change in (
        "insert into tasks (user_id, title) select id, 'x' from users",
        "update tasks set title = 'y'",
        "delete from tasks",
    ):
        await alone.execute(change)
    assert await alone.fetchval("select array_agg(distinct revision) from user_state") == [3]
    assert await alone.fetchval("select count(*) from tombstones where revision = 3") == MANY
    await alone.execute("delete from users")
    assert await alone.fetchval("select count(*) from tombstones") == 0


async def test_a_user_with_ten_thousand_tasks_changes_the_id_and_goes(
    connection: asyncpg.Connection, user: str
) -> None:
    await connection.execute(INSERT, user)
    await connection.execute("delete from tasks where user_id = $1 and id % 2 = 0", user)
    before, new = await revisions(connection, user), user[::-1]
    await connection.execute("update users set id = $2 where id = $1", user, new)
    assert await revisions(connection, new) == before
    await connection.execute("delete from users where id = $1", new)
    assert await revisions(connection, new) == []


async def test_a_service_that_buries_in_bulk_is_not_stamped_again(
    connection: asyncpg.Connection, user: str
) -> None:
    await connection.execute(INSERT, user)
    await connection.execute(
        """
        with stamp as (update user_state set revision = revision + 10000 where user_id = $1 returning revision),
        graves as (
            insert into tombstones (user_id, task_id, revision)
            select t.user_id, t.id, s.revision - 10000 + row_number() over (order by t.id)
            from tasks t, stamp s
            where t.user_id = $1)
        delete from tasks where user_id = $1
        """,
        user,
    )
    assert await revision(connection, user) == 2 * MANY
    assert await revisions(connection, user) == list(range(MANY + 1, 2 * MANY + 1))


# The work it takes


@pytest.mark.parametrize("change", [INSERT, UPDATE, DELETE], ids=["insert", "update", "delete"])
async def test_ten_thousand_rows_take_one_bump(
    connection: asyncpg.Connection, user: str, change: str
) -> None:
    if change != INSERT:
        await connection.execute(INSERT, user)
    async with connection.transaction():
        before = await written(connection)
        told = await connection.fetchval(f"explain (analyze, timing off, format json) {change}", user)
        wrote = await written(connection)
    wrote.subtract(before)
    tasks = {INSERT: (MANY, MANY, 0), UPDATE: (0, 2 * MANY, 0), DELETE: (0, 0, MANY)}[change]
    assert tuple(wrote["tasks", how] for how in HOW) == tasks
    assert tuple(wrote["user_state", how] for how in HOW) == (0, 1, 0)
    assert tuple(wrote["tombstones", how] for how in HOW) == (MANY if change == DELETE else 0, 0, 0)
    calls = {item.get("Trigger Name"): item["Calls"] for item in msgspec.json.decode(told)[0]["Triggers"]}
    whole = {INSERT: "tasks_insert_stamped", UPDATE: "tasks_update_stamped", DELETE: "tasks_delete_buried"}
    assert calls[whole[change]] == 1


HOW = ("n_tup_ins", "n_tup_upd", "n_tup_del")


async def written(connection: asyncpg.Connection) -> Counter[tuple[str, str]]:
    """Row versions that this session has inserted, updated and deleted, by table."""
    rows = await connection.fetch(f"select relname, {', '.join(HOW)} from pg_stat_xact_user_tables")
    return Counter({(row["relname"], how): row[how] for row in rows for how in HOW})


BULK = (
    "insert into tasks (user_id, title) select 1 + n % {users}, n::text from generate_series(1, {rows}) n",
    "update tasks set title = title || '!'",
    "delete from tasks",
    "delete from tombstones",
    "insert into conversations (user_id, title) select 1 + n % {users}, n::text from generate_series(1, {rows}) n",
    "update conversations set title = title || '!'",
    "insert into messages (conversation_id, user_id, role, content) select id, user_id, 'user', 'x' from conversations",
    "update messages set content = 'y'",
    "delete from messages",
    "delete from conversations",
)


@pytest.mark.parametrize(("rows", "users"), [(3_000, 1), (3_000, 1_000)])
@pytest.mark.parametrize("believed", ["truth", "empty"])
async def test_the_work_grows_with_the_rows(
    alone: asyncpg.Connection, rows: int, users: int, believed: str
) -> None:
    """Believed empty: vacuumed while they were, the planner takes tables for one row each, until they are analysed."""
    names = ("tasks", "task_texts", "tombstones", "conversations", "messages", "users", "user_state")
    for table in names[2:5] + names[:1]:  # or each key would be looked up by a plan of its own, of one row
        await alone.execute(f"alter table {table} drop constraint {table}_user_id_fkey")
    await alone.execute("alter table messages drop constraint messages_conversation_id_fkey")
    await alone.execute(
        "insert into users (id, email) select n, n || '@x' from generate_series(1, $1) n", users
    )
    if believed == "empty":
        await alone.execute(
            "update pg_class set reltuples = 0, relpages = 1000 where oid = any($1::text[]::regclass[])",
            names,
        )
        await alone.execute("delete from users where id = 'nobody'")  # the others are read anew
    for sql in BULK:
        assert rows <= await work(alone, sql.format(rows=rows, users=users)) < 100 * rows, sql


async def test_an_import_looks_up_its_keys_and_no_others(alone: asyncpg.Connection) -> None:
    """Also of those it has brought itself, of which the planner knows nothing yet."""
    await alone.execute("insert into users (id, email) select n, n || '@x' from generate_series(1, 20) n")
    await alone.execute("insert into users (id, email) values ('ada', 'ada@x')")
    await alone.execute(
        "insert into tasks (user_id, title) select 1 + n % 20, 'x' from generate_series(1, 20000) n"
    )
    await alone.execute("vacuum analyze tasks")
    await alone.execute(
        "insert into tasks (user_id, title, import_key) select 'ada', 'x', n from generate_series(1, 3000) n"
    )
    keys = msgspec.json.encode([str(n) for n in range(2900, 3100)]).decode()
    for _ in range(7):  # custom plans, and then a generic one
        assert await work(alone, imports.KNOWN.sql, "ada", keys) < 5 * 200


# Memory


async def test_pages_are_read_without_holding_all(
    db: Database, connection: asyncpg.Connection, user: str
) -> None:
    read = statements.Statement(
        "test.read", "select id, title, description from tasks where user_id = $1", "read", (), (), "", ""
    )
    await connection.execute(
        INSERT.replace("title)", "title, description)").replace("n::text", "n::text, repeat('x', 200)"), user
    )
    peaks, counts = [], []
    for paged in (False, True):
        tracemalloc.start()
        try:
            async with db.transaction() as whole:
                if paged:
                    counts.append(sum([len(page) async for page in whole.pages(read, user, size=200)]))
                else:
                    counts.append(len(await whole.all(read, user)))
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    assert counts == [MANY, MANY]
    assert peaks[1] * 5 < peaks[0]
