"""What a statement comes back with: rows, or what stands in the way of them, and what is told of it."""

import asyncio
import logging
import random
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any, Literal

import asyncpg
import pytest
import uvloop

from db.errors import Refused, Unavailable, Unstorable
from db.pool import Database, PoolOptions
from db.statements import Statement
from db.url import parse
from tests.conftest import run, with_database
from tests.faults.pools import NOTES, ONE, eventually, opened, running, statement, unavailable

KEEP = statement(
    "insert into notes (value, amount) values ($1, $2) returning id, value", "write", name="notes.keep"
)
CANARY = "canary-6f1d"

SCHEMA = f"""
{NOTES};
alter table notes add amount int not null default 0 constraint notes_amount_range check (amount >= 0);
insert into notes (value) values ('left'), ('right');

-- Locks one note, waits for whoever holds the gate, then locks the other.
create function cross(first text, second text) returns int language plpgsql as $$
begin
    update notes set amount = amount + 1 where value = first;
    perform pg_advisory_xact_lock(1);
    update notes set amount = amount + 1 where value = second;
    return 1;
end
$$;
"""


@pytest.fixture(scope="module")
async def ground(server: str, worker_id: str) -> AsyncIterator[str]:
    """The URL of a database with a table of notes, where a deadlock is soon found."""
    name = f"pool_{worker_id}"
    await run(server, f"create database {name}")
    await run(server, f"alter database {name} set deadlock_timeout = '50ms'")
    url = with_database(server, name)
    await run(url, SCHEMA)
    yield url
    await run(server, f"drop database {name} with (force)")


@pytest.fixture
async def watch(ground: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection beside the pool."""
    connection = await asyncpg.connect(**parse(ground).kwargs())
    yield connection
    await connection.close()


def fresh() -> str:
    return f"{CANARY} {random.random()}"


# Rows


async def test_rows_and_no_rows(ground: str) -> None:
    numbers = statement("select n from generate_series(1, $1::int) n order by n")
    async with opened(ground) as db:
        row = await db.one(numbers, 3)
        assert row is not None
        assert row["n"] == 1
        assert await db.one(numbers, 0) is None
        assert [row["n"] for row in await db.all(numbers, 3)] == [1, 2, 3]
        assert await db.all(numbers, 0) == []


@pytest.mark.parametrize("loop", [asyncio.new_event_loop, uvloop.new_event_loop])
def test_observers_are_told_of_every_answer(
    ground: str, loop: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    told: list[tuple[Statement, float]] = []

    async def use() -> None:
        db = Database(
            parse(ground), PoolOptions(size=1), observe=lambda what, took: told.append((what, took))
        )
        await db.open()
        for _ in range(5):
            await db.one(ONE)
            await db.all(ONE)
        with pytest.raises(asyncpg.UndefinedColumnError):
            await db.one(statement("select nothing"))
        await db.close()

    with asyncio.Runner(loop_factory=loop) as runner:
        runner.run(use())
    assert [what for what, _ in told] == [ONE] * 10
    assert all(0 < took < 5 for _, took in told)
    assert any(took * 1000 % 1 for _, took in told), "whole milliseconds are too coarse"


def test_a_pool_may_be_made_before_there_is_a_loop(ground: str) -> None:
    db = Database(parse(ground), PoolOptions(size=1, idle=0.1))

    async def use() -> None:
        await db.open()
        await db.one(ONE)
        await eventually(lambda: db.connections == 0)
        await db.one(ONE)
        await db.close()

    asyncio.run(use())


async def test_connections_prepare_a_statement_once_and_for_all(ground: str) -> None:
    seen: list[Any] = []

    async def init(connection: object) -> None:
        seen.append(connection)

    async with opened(ground, init=init) as db:
        await db.one(ONE)
        assert seen[0]._config.max_cached_statement_lifetime == 0
        assert seen[0].get_settings().application_name == "roundtrip"


# Refusals and mistakes


async def test_a_named_constraint_refuses(ground: str) -> None:
    async with opened(ground) as db:
        value = fresh()
        await db.one(KEEP, value, 1)
        with pytest.raises(Refused) as caught:
            await db.one(KEEP, value, 1)
        assert caught.value.constraint == "notes_value_key"
        with pytest.raises(Refused) as caught:
            await db.one(KEEP, fresh(), -1)
        assert caught.value.constraint == "notes_amount_range"
        assert CANARY not in "".join(traceback.format_exception(caught.value))
        with pytest.raises(asyncpg.NotNullViolationError) as crash:
            await db.one(KEEP, fresh(), None)
        assert CANARY not in "".join(traceback.format_exception(crash.value))


UNSTORABLE = {
    "NUL": ("\0", 1),
    "lone surrogate": ("\ud800", 1),
    "above 32 bits": ("", 2**31),
    "above 64 bits": ("", 2**80),
    "no text": (1, 1),
    "no number": ("", "many"),
}


@pytest.mark.parametrize(("text", "amount"), UNSTORABLE.values(), ids=UNSTORABLE.keys())
async def test_a_value_that_cannot_be_stored(
    ground: str, watch: asyncpg.Connection, text: object, amount: object
) -> None:
    async with opened(ground) as db:
        value = CANARY + text if isinstance(text, str) else text
        with pytest.raises(Unstorable) as caught:
            await db.one(KEEP, value, amount)
        assert str(caught.value).startswith("notes.keep: ")
        assert CANARY not in str(caught.value)
        assert "many" not in str(caught.value)
        await eventually(lambda: db.limiter.used == 0)
        await running(watch, 0)
        await db.one(KEEP, fresh(), 1)
        assert db.connections == 1


@pytest.mark.parametrize(
    ("sql", "error"),
    [
        ("select nothing", asyncpg.UndefinedColumnError),
        ("insert into notes (value) values (null)", asyncpg.NotNullViolationError),
    ],
)
async def test_a_mistake_of_ours_is_told_as_it_is(ground: str, sql: str, error: type[Exception]) -> None:
    async with opened(ground) as db:
        with pytest.raises(error):
            await db.one(statement(sql))
        await db.one(ONE)


# What the server undid or cannot do now


@pytest.mark.parametrize("kind", ["read", "write"])
async def test_a_deadlock_is_tried_again(
    ground: str, watch: asyncpg.Connection, caplog: pytest.LogCaptureFixture, kind: Literal["read", "write"]
) -> None:
    caplog.set_level(logging.INFO, "db")
    cross = statement("select cross('left', 'right') as done", kind, name="notes.cross")
    before = await watch.fetch("select value, amount from notes where value in ('left', 'right') order by 1")
    gate = await asyncpg.connect(**parse(ground).kwargs())
    async with opened(ground, statement=5) as db:
        await gate.execute("begin; select pg_advisory_xact_lock(1)")
        await watch.execute("set deadlock_timeout = '1min'")  # it is the pool's statement that is undone
        await watch.execute("begin; update notes set amount = amount + 1 where value = 'right'")
        crossing = asyncio.create_task(db.one(cross))
        await waiting(gate, "advisory")
        other = asyncio.create_task(
            watch.execute("update notes set amount = amount + 1 where value = 'left'")
        )
        await waiting(gate, "transactionid")
        await gate.execute("commit")
        await other
        assert not crossing.done()
        await watch.execute("commit")
        row = await crossing
        assert row is not None
        assert row["done"] == 1
    await gate.close()
    after = await watch.fetch("select value, amount from notes where value in ('left', 'right') order by 1")
    assert [row["amount"] for row in after] == [row["amount"] + 2 for row in before]
    assert "notes.cross is tried again: notes.cross: DeadlockDetectedError" in caplog.text


async def waiting(connection: asyncpg.Connection, event: str) -> None:
    """Wait until some statement waits for a lock of this kind."""
    for _ in range(250):
        await connection.execute("select pg_stat_clear_snapshot()")
        if await connection.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() and wait_event = $1",
            event,
        ):
            return
        await asyncio.sleep(0.02)
    pytest.fail(f"nothing waits for a lock of kind {event}")


def raising(state: str) -> str:
    return f"do $$ begin raise exception 'canary' using errcode = '{state}'; end $$"


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("state", ["53100", "53200", "53300", "25006", "57014", "57P03"])
async def test_what_the_server_cannot_do_now_is_unavailable(
    ground: str, state: str, kind: Literal["read", "write"]
) -> None:
    async with opened(ground) as db:
        await unavailable(db, statement(raising(state), kind))
        await db.one(ONE)
        assert db.connections == 1


@pytest.mark.parametrize("kind", ["read", "write"])
@pytest.mark.parametrize("state", ["40001", "40P01"])
async def test_what_the_server_undid_is_tried_twice_at_most(
    ground: str, caplog: pytest.LogCaptureFixture, state: str, kind: Literal["read", "write"]
) -> None:
    caplog.set_level(logging.INFO, "db")
    async with opened(ground) as db:
        failure = await unavailable(db, statement(raising(state), kind))
        assert isinstance(failure.__cause__, asyncpg.PostgresError)
    assert [record.getMessage() for record in caplog.records if record.name == "db"] == [
        f"notes.test is tried again: notes.test: {type(failure.__cause__).__name__}"
    ]


async def test_nobody_is_there(unused_tcp_port: int) -> None:
    async with opened(f"postgresql://nobody:{CANARY}@127.0.0.1:{unused_tcp_port}/none") as db:
        failure = await unavailable(db, ONE)
    assert f"127.0.0.1:{unused_tcp_port}/none" in str(failure)
    assert CANARY not in str(failure)


async def test_a_host_that_cannot_be_one() -> None:
    async with opened("postgresql://nobody@empty..label/none") as db:
        await unavailable(db, ONE)


async def test_a_wrong_password(ground: str) -> None:
    wrong = parse(ground)
    url = f"postgresql://{wrong.user}:{CANARY}@{wrong.host}:{wrong.port}/{wrong.database}"
    async with opened(url) as db:
        failure = await unavailable(db, ONE)
    assert "InvalidPasswordError" in str(failure)
    assert CANARY not in str(failure)


async def test_unavailable_says_when_to_come_back() -> None:
    assert Unavailable("busy").retry_after == 1
    assert Unavailable("busy", retry_after=7).retry_after == 7


# The log


async def test_echo_tells_names_and_times_and_no_values(
    ground: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    async with opened(ground, echo=True) as db:
        value = fresh()
        await db.one(KEEP, value, 1)
        await db.all(ONE)
        with pytest.raises(Refused):
            await db.one(KEEP, value, 1)
        with pytest.raises(Unstorable):
            await db.one(KEEP, f"{CANARY}\0", 1)
        with pytest.raises(Unstorable):
            await db.one(KEEP, f"{CANARY}\ud800", 1)
    lines = [record.getMessage().split() for record in caplog.records if record.name == "db"]
    assert [line[0] for line in lines] == ["notes.keep", "notes.one"]
    assert all(float(line[1]) > 0 and line[2] == "ms" for line in lines)
    assert CANARY not in caplog.text


async def test_without_echo_nothing_is_told(ground: str, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "db")
    async with opened(ground) as db:
        await db.one(KEEP, fresh(), 1)
    assert not [record for record in caplog.records if record.name == "db"]
