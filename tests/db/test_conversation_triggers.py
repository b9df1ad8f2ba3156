"""What happens by itself to conversations and messages that somebody writes by hand."""

import asyncio
import re
import uuid
from collections.abc import Callable, Coroutine
from typing import Any

import asyncpg
import pytest

from db import catalogue
from tests.db.hands import connected, someone
from tests.db.test_triggers import FUTURE, LONG_AGO, Connection

SAID = "insert into messages (conversation_id, user_id, role, content)"


@pytest.fixture
async def user(connection: Connection) -> str:
    return await someone(connection)


async def talk(connection: Connection, user: str, *titles: str) -> list[int]:
    """Insert conversations in one statement; their ids."""
    rows = await connection.fetch(
        "insert into conversations (user_id, title) select $1, t from unnest($2::text[]) t returning id",
        user,
        titles or ["a talk"],
    )
    return [row["id"] for row in rows]


async def say(connection: Connection, user: str, *talks: int) -> None:
    """Insert a message into each conversation, in one statement."""
    await connection.execute(
        f"{SAID} select t, $1, 'user', 'hello' from unnest($2::bigint[]) t",
        user,
        talks,
    )


async def revision(connection: Connection, user: str) -> int:
    """The number of changes of the user's conversations."""
    found = await connection.fetchval(
        "select conversations_revision from user_state where user_id = $1", user
    )
    return int(found)


async def versions(connection: Connection, user: str) -> list[int]:
    """Of the user's conversations, in the order of their ids."""
    rows = await connection.fetch("select version from conversations where user_id = $1 order by id", user)
    return [row["version"] for row in rows]


async def test_inserted_by_hand_they_get_a_range(connection: Connection, user: str) -> None:
    await talk(connection, user, "one", "two", "three")
    await talk(connection, user, "four")
    records = [(user, f"talk {n}") for n in range(3)]
    await connection.copy_records_to_table("conversations", records=records, columns=["user_id", "title"])
    assert await versions(connection, user) == [1, 2, 3, 4, 5, 6, 7]
    assert await revision(connection, user) == 7
    assert await connection.fetchval("select revision from user_state where user_id = $1", user) == 0


async def test_each_user_gets_a_range_of_their_own(connection: Connection, user: str) -> None:
    other = await someone(connection)
    await talk(connection, other)
    both = "update conversations set title = 'changed' where user_id = any($1)"
    await talk(connection, user, "one", "two")
    await connection.execute(both, [user, other])
    assert (await versions(connection, user), await versions(connection, other)) == ([3, 4], [2])
    await connection.execute("delete from conversations where user_id = any($1)", [user, other])
    assert (await revision(connection, user), await revision(connection, other)) == (6, 3)


@pytest.mark.parametrize("change", ["title = 'changed'", "title = null", "updated_at = now()"])
async def test_a_change_by_hand_is_stamped(connection: Connection, user: str, change: str) -> None:
    one, _ = await talk(connection, user, "one", "two")
    await connection.execute(f"update conversations set {change} where id = $1", one)
    assert await versions(connection, user) == [3, 2]
    assert await revision(connection, user) == 3


@pytest.mark.parametrize("change", ["title = title", "updated_at = updated_at", "id = id"])
async def test_no_change_takes_no_number(connection: Connection, user: str, change: str) -> None:
    await talk(connection, user)
    await connection.execute(f"update conversations set {change} where user_id = $1", user)
    assert (await versions(connection, user), await revision(connection, user)) == ([1], 1)


async def test_updated_at_moves_with_a_change_and_never_back(connection: Connection, user: str) -> None:
    async def change(title: str) -> Any:
        return await connection.fetchval(
            "update conversations set title = $2 where user_id = $1 returning updated_at", user, title
        )

    moved = "update conversations set updated_at = $2 where user_id = $1"
    await talk(connection, user)
    await connection.execute(moved, user, LONG_AGO)
    assert await change("one") > LONG_AGO
    await connection.execute(moved, user, FUTURE)
    assert await change("two") == FUTURE


async def test_every_column_that_clients_see_is_looked_at(database_url: str) -> None:
    schema = await catalogue.read(database_url)

    def columns(table: str) -> set[str]:
        return {column.name for column in schema.columns if column.table_name == table}

    (cleared,) = [t for t in schema.triggers if t.name == "conversations_version_cleared"]
    compared = set(re.findall(r"old\.(\w+)(?:::text)? IS DISTINCT", cleared.definition))
    assert compared == columns("conversations") - {"id", "user_id", "version", "created_at"}
    (moving,) = [function for function in schema.functions if function.name == "messages_move"]
    compared = set(re.findall(r"r\.(\w+)[,)]", moving.definition)) - {"id"}
    assert compared == columns("messages") - {"id", "conversation_id", "user_id", "created_at"}


@pytest.mark.parametrize(
    ("table", "column"),
    [("conversations", "user_id"), ("messages", "user_id"), ("messages", "conversation_id")],
)
async def test_whose_they_are_is_fixed(connection: Connection, user: str, table: str, column: str) -> None:
    other = await someone(connection)
    (one,) = await talk(connection, user)
    await say(connection, user, one)
    await talk(connection, other)
    another = (
        "select id from conversations" if column == "conversation_id" else "select user_id from conversations"
    )
    with pytest.raises(asyncpg.IntegrityConstraintViolationError, match=f"{column} of {table} cannot change"):
        await connection.execute(
            f"update {table} set {column} = ({another} where user_id = $2) where user_id = $1", user, other
        )
    await connection.execute(f"update {table} set {column} = {column} where user_id = $1", user)
    assert await revision(connection, user) == 2


# Messages


@pytest.mark.parametrize(
    "change",
    [
        f"{SAID} select $1, user_id, 'user', 'x' from messages where conversation_id = $1",
        "update messages set content = 'changed' where conversation_id = $1",
        "update messages set role = 'assistant' where conversation_id = $1",
        "delete from messages where conversation_id = $1",
    ],
)
async def test_messages_by_hand_move_their_conversation(
    connection: Connection, user: str, change: str
) -> None:
    one, two = await talk(connection, user, "one", "two")
    await say(connection, user, one, one, two)
    assert await versions(connection, user) == [3, 4]
    await connection.execute("update conversations set updated_at = $2 where user_id = $1", user, LONG_AGO)
    assert await versions(connection, user) == [5, 6]
    await connection.execute(change, one)
    assert await versions(connection, user) == [7, 6]
    assert await revision(connection, user) == 7
    times = await connection.fetch(
        "select updated_at from conversations where user_id = $1 order by id", user
    )
    assert [row["updated_at"] > LONG_AGO for row in times] == [True, False]


@pytest.mark.parametrize(
    "change",
    [
        "update messages set content = content where user_id = $1",
        "update messages set role = 'user' where user_id = $1",
        "delete from messages where user_id = $1 and content = 'no such'",
    ],
)
async def test_what_changes_no_message_moves_nothing(connection: Connection, user: str, change: str) -> None:
    (one,) = await talk(connection, user)
    await say(connection, user, one)
    await connection.execute(change, user)
    assert (await versions(connection, user), await revision(connection, user)) == ([2], 2)


async def test_a_conversation_moves_once_in_a_transaction(connection: Connection, user: str) -> None:
    (one,) = await talk(connection, user)
    async with connection.transaction():
        for _ in range(3):
            await say(connection, user, one)
    assert await versions(connection, user) == [2]
    async with connection.transaction():
        undone = connection.transaction()
        await undone.start()
        await say(connection, user, one)
        await undone.rollback()
        await say(connection, user, one)
    assert await versions(connection, user) == [3]
    assert await revision(connection, user) == 3
    await connection.execute(
        "with c as (insert into conversations (user_id) values ($1) returning id)"
        f" {SAID} select c.id, $1, 'user', 'x' from c",
        user,
    )
    assert await revision(connection, user) == 4


async def test_a_deleted_conversation_is_counted_once_with_its_messages(
    connection: Connection, user: str
) -> None:
    (one, two) = await talk(connection, user, "one", "two")
    await say(connection, user, one, one, two)
    await connection.execute("delete from conversations where id = $1", one)
    assert (await versions(connection, user), await revision(connection, user)) == ([4], 5)
    assert await connection.fetchval("select count(*) from messages where user_id = $1", user) == 1
    await connection.execute("delete from conversations where id = $1", one)
    assert await revision(connection, user) == 5


async def test_the_services_own_numbers_stay(connection: Connection, user: str) -> None:
    stamp = "with stamp as (update user_state set conversations_revision = conversations_revision + 1 where user_id = $1 returning *)"
    await connection.execute(
        f"{stamp} insert into conversations (user_id, version) select $1, conversations_revision from stamp",
        user,
    )
    await connection.execute(
        f"""{stamp}, moved as (update conversations c set version = s.conversations_revision, updated_at = $2
            from stamp s where c.user_id = $1 returning c.id)
        {SAID} select id, $1, 'user', 'x' from moved""",
        user,
        FUTURE,
    )
    assert (await versions(connection, user), await revision(connection, user)) == ([2], 2)
    assert (
        await connection.fetchval("select updated_at from conversations where user_id = $1", user) == FUTURE
    )


# Many, and many at once


async def test_ten_thousand_by_hand(connection: Connection, user: str) -> None:
    (first,) = await talk(connection, user, "a first one, for which this connection plans")
    await say(connection, user, first)
    for change, count in [
        (
            f"{SAID} select id, $1, 'user', 'x' from conversations, generate_series(1, 9999) where user_id = $1",
            3,
        ),
        ("update messages set content = 'y' where user_id = $1", 4),
        ("delete from messages where user_id = $1", 5),
        ("insert into conversations (user_id) select $1 from generate_series(1, 9999)", 10_004),
        ("update conversations set title = 'z' where user_id = $1", 20_004),
        (f"{SAID} select id, $1, 'user', 'x' from conversations where user_id = $1", 30_004),
        ("update messages set content = 'y' where user_id = $1", 40_004),
        ("delete from messages where user_id = $1", 50_004),
        ("delete from conversations where user_id = $1", 60_004),
    ]:
        await connection.execute(change, user)
        assert await revision(connection, user) == count, change
        found = await versions(connection, user)
        assert found in ([], list(range(count - len(found) + 1, count + 1)))


async def test_hands_and_service_at_once_leave_no_gap(
    connection: Connection, user: str, database_url: str
) -> None:
    async def insert(one: Connection) -> None:
        await talk(one, user, "a", "b", "c")

    async def lean(one: Connection) -> None:
        await one.execute(
            "with stamp as (update user_state set conversations_revision = conversations_revision + 1"
            " where user_id = $1 returning *)"
            " insert into conversations (user_id, version) select $1, conversations_revision from stamp",
            user,
        )

    async def converse(one: Connection) -> None:
        (mine,) = await talk(one, user)
        await say(one, user, mine, mine)

    async def erase(one: Connection) -> None:
        (mine,) = await talk(one, user)
        await one.execute("delete from conversations where id = $1", mine)

    async def work(what: Callable[[Connection], Coroutine[Any, Any, None]]) -> None:
        async with connected(database_url) as one:
            for _ in range(20):
                await what(one)

    await asyncio.gather(*(work(what) for what in (insert, insert, lean, lean, converse, erase)))
    found = await versions(connection, user)
    assert len(found) == len(set(found)) == 2 * 60 + 2 * 20 + 20
    # A conversation that is spoken in takes a second number, and one erased two that are nobody's.
    assert await revision(connection, user) == len(found) + 20 + 2 * 20


@pytest.mark.parametrize(
    "change",
    [
        "insert into conversations (user_id) select unnest($1::text[])",
        "update conversations set title = 'changed' where user_id = any($1)",
        "delete from conversations where user_id = any($1)",
        f"{SAID} select id, user_id, 'user', 'x' from conversations where user_id = any($1)",
        "update messages set content = 'changed' where user_id = any($1)",
        "delete from messages where user_id = any($1)",
    ],
)
async def test_states_are_locked_in_the_order_of_users(
    connection: Connection, database_url: str, change: str
) -> None:
    """Whoever waits for the first holds none of the others, so that two such statements cannot deadlock."""
    users = sorted((uuid.uuid4().hex for _ in range(20)), reverse=True)
    for user in users:
        await someone(connection, id=user)
        async with connection.transaction():
            (one,) = await talk(connection, user)
            await say(connection, user, one)
    async with connected(database_url) as holder, connected(database_url) as waiter:
        async with holder.transaction():
            await holder.execute("select from user_state where user_id = $1 for update", users[-1])
            waiting = asyncio.create_task(waiter.execute(change, users))
            while not await holder.fetchval(
                "select cardinality(pg_blocking_pids($1)) > 0", waiter.get_server_pid()
            ):
                await asyncio.sleep(0.01)
            others = "select from user_state where user_id = any($1) for no key update nowait"
            assert len(await holder.fetch(others, users[:-1])) == 19
        await waiting
    assert {await revision(connection, user) for user in users} == {2}


async def test_a_user_goes_together_with_conversations_of_another(connection: Connection, user: str) -> None:
    other = await someone(connection)
    for somebody in (user, other):
        (one,) = await talk(connection, somebody)
        await say(connection, somebody, one)
    await connection.execute(
        "with gone as (delete from conversations where user_id = any($1)) delete from users where id = $2",
        [user, other],
        user,
    )
    assert await revision(connection, other) == 3
    assert (
        await connection.fetchval("select count(*) from messages where user_id = any($1)", [user, other]) == 0
    )
