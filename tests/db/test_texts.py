"""The texts that search looks through: always those of the task, whoever writes it, also while they are first filled in."""

import asyncio
import random
import uuid
from importlib import import_module
from typing import Any

import asyncpg
import pytest

from tests.db.hands import add, connected, someone
from tests.db.migrating import roundtrip
from tests.db.test_triggers import Connection

SAID = """
select coalesce(jsonb_object_agg(w.task_id, w.text order by w.task_id), '{}') from task_texts w where w.user_id = $1"""
MEANT = """
select coalesce(jsonb_object_agg(t.id, left(lower(t.title || ' ' || coalesce(t.description, '')), 300) order by t.id), '{}')
from tasks t where t.user_id = $1"""
ALL_TRUE = (
    f"select ({SAID.replace('where w.user_id = $1', '')}) = ({MEANT.replace('where t.user_id = $1', '')})"
)


@pytest.fixture
async def user(connection: Connection) -> str:
    return await someone(connection)


async def said(connection: Connection, user: str) -> Any:
    """The texts on file, which must be those of the tasks."""
    found = await connection.fetchval(SAID, user)
    assert found == await connection.fetchval(MEANT, user)
    return found


async def test_they_follow_the_task(connection: Connection, user: str) -> None:
    first, second = await add(connection, user, "Buy MILK, 2 litres!", "École (100%) -- über_alles")
    assert await said(connection, user) == (
        f'{{"{first}": "buy milk, 2 litres! ", "{second}": "école (100%) -- über_alles "}}'
    )
    await connection.execute("update tasks set description = 'Don''t wait' where id = $1", first)
    assert "buy milk, 2 litres! don't wait" in await said(connection, user)
    await connection.execute("update tasks set title = 'x' where user_id = $1", user)
    await connection.execute("update tasks set deleted_at = now() where id = $1", first)
    assert len(await said(connection, user)) > 2
    await connection.execute("delete from tasks where user_id = $1", user)
    assert await said(connection, user) == "{}"


async def test_only_a_change_of_the_text_writes_them(connection: Connection, user: str) -> None:
    [task] = await add(connection, user, "Buy milk")
    place = "select ctid::text from task_texts where user_id = $1"
    before = await connection.fetchval(place, user)
    await connection.execute(
        "update tasks set title = title, status = 'completed', completed_at = now(), priority = 5 where id = $1",
        task,
    )
    assert await connection.fetchval(place, user) == before
    await connection.execute("update tasks set title = 'Buy tea' where id = $1", task)
    assert await connection.fetchval(place, user) != before


async def test_a_new_id_of_the_user_takes_them_along(connection: Connection, user: str) -> None:
    [task] = await add(connection, user, "Buy milk")
    new = uuid.uuid4().hex
    await connection.execute("update users set id = $2 where id = $1", user, new)
    assert await said(connection, user) == "{}"
    assert await said(connection, new) == f'{{"{task}": "buy milk "}}'
    await connection.execute("delete from users where id = $1", new)
    assert await said(connection, new) == "{}"


async def test_a_long_text_is_cut_and_a_long_word_too(connection: Connection, user: str) -> None:
    [task] = await add(connection, user, "long")
    await connection.execute("update tasks set description = repeat('ü', 20000) where id = $1", task)
    assert await said(connection, user) == f'{{"{task}": "long {"ü" * 295}"}}'


async def test_what_is_left_of_another_task_is_written_over(connection: Connection, user: str) -> None:
    """As it is where that one went while the triggers were off."""
    [task] = await add(connection, user, "Buy milk")
    await connection.execute("delete from tasks where id = $1", task)
    await connection.execute(
        "insert into task_texts (user_id, task_id, text) values ($1, $2, 'old')", user, task
    )
    await connection.execute(
        "insert into tasks (id, user_id, title) overriding system value values ($1, $2, 'Buy tea')",
        task,
        user,
    )
    assert await said(connection, user) == f'{{"{task}": "buy tea "}}'


TASKS = """
insert into users (id, email) values ('anna', 'anna@example.com');
insert into tasks (user_id, title, description)
select 'anna', 'Task ' || n, 'words ' || n from generate_series(1, 9000) n"""
HASH = "select md5(string_agg(t::text, ',' order by t.id)) from tasks t"


async def test_filled_in_while_tasks_are_written(migrated_database: str) -> None:
    """Twelve writers on a schema without them, and the migration comes."""
    await roundtrip(migrated_database, "to", "0004")
    async with connected(migrated_database) as connection:
        await connection.execute(TASKS)
        stop, all_write = asyncio.Event(), asyncio.Barrier(13)
        _, *written = await asyncio.gather(
            up(migrated_database, stop, all_write),
            *(write(migrated_database, seed, stop, all_write) for seed in range(12)),
        )
        assert min(written) > 0
        assert await connection.fetchval("select count(*) from task_texts") > 0
        assert await connection.fetchval(ALL_TRUE) is True


async def test_filled_in_beside_one_that_is_being_erased(migrated_database: str) -> None:
    """Its row was deleted before there was one, and it is still there for who looks while the eraser waits for a number."""
    filled_in = import_module("migrations.versions.0005_search").BACKFILL
    async with (
        connected(migrated_database) as holder,
        connected(migrated_database) as eraser,
        connected(migrated_database) as filler,
    ):
        await holder.execute(TASKS)
        await holder.execute("delete from task_texts")
        async with holder.transaction():
            await holder.execute("update user_state set is_active = is_active")
            erasing = asyncio.create_task(eraser.execute("delete from tasks where title = 'Task 9000'"))
            await waits(holder, eraser)
            filling = asyncio.create_task(filler.execute(filled_in))
            while await holder.fetchval("select count(*) from task_texts") < 9_000:
                await asyncio.sleep(0.01)
            await asyncio.wait([filling], timeout=0.2)
        await asyncio.gather(erasing, filling)
        assert await holder.fetchval("select count(*) from task_texts") == 8_999
        assert await holder.fetchval(ALL_TRUE) is True


async def waits(holder: asyncpg.Connection, other: asyncpg.Connection) -> None:
    """Until the other waits for a lock of the holder's."""
    while holder.get_server_pid() not in await holder.fetchval(
        "select pg_blocking_pids($1)", other.get_server_pid()
    ):
        await asyncio.sleep(0.01)


async def test_filled_in_and_undone_without_a_change_of_any_task(migrated_database: str) -> None:
    await roundtrip(migrated_database, "to", "0004")
    async with connected(migrated_database) as connection:
        await connection.execute(TASKS)
        before = await connection.fetchval(HASH)
        for _ in range(2):
            await roundtrip(migrated_database, "up")
            assert await connection.fetchval(ALL_TRUE) is True
            assert await connection.fetchval(HASH) == before
            await roundtrip(migrated_database, "to", "0004")
            assert await connection.fetchval(HASH) == before


async def up(url: str, stop: asyncio.Event, all_write: asyncio.Barrier) -> int:
    await all_write.wait()
    try:
        await roundtrip(url, "up")
    finally:
        stop.set()
    return 0


async def write(url: str, seed: int, stop: asyncio.Event, all_write: asyncio.Barrier) -> int:
    """Insert, change, and erase tasks until told to stop; how many statements that were."""
    chance, done = random.Random(seed), 0
    async with connected(url) as connection:
        while not stop.is_set():
            id = chance.randint(1, 9000)
            match chance.randrange(4):
                case 0:
                    sql = "insert into tasks (user_id, title) values ('anna', 'New ' || $1::bigint)"
                case 1:
                    sql = "update tasks set title = 'Changed ' || id where id = $1"
                case 2:
                    sql = "delete from tasks where id = $1"
                case _:
                    sql = "update tasks set status = 'in_progress' where id = $1"
            try:
                await connection.execute(sql, id)
                done += 1
            except asyncpg.DeadlockDetectedError:
                continue
            if done == 1:
                await all_write.wait()
    return done
