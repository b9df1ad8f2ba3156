"""The texts that search looks through: always those of the task, whoever writes it."""

import uuid
from typing import Any

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


TASKS = """
insert into users (id, email) values ('anna', 'anna@example.com');
insert into tasks (user_id, title, description)
select 'anna', 'Task ' || n, 'words ' || n from generate_series(1, 9000) n"""
HASH = "select md5(string_agg(t::text, ',' order by t.id)) from tasks t"


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
