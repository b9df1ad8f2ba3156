"""The stack of open connections: the one used last, those unused closed, none in the middle of something."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest

from db.connections import Connections
from db.url import parse
from tests.faults.pools import eventually


class Made:
    """Makes connections, and keeps them."""

    def __init__(self, url: str) -> None:
        self.args = parse(url).kwargs()
        self.all: list[Any] = []

    async def connect(self, timeout: float) -> Any:
        self.all.append(await asyncpg.connect(**self.args, timeout=timeout))
        return self.all[-1]


@pytest.fixture
async def made(server: str) -> AsyncIterator[Made]:
    made = Made(server)
    yield made
    for connection in made.all:
        connection.terminate()


async def test_the_one_used_last_comes_first(made: Made) -> None:
    pool = Connections(made.connect, 60)
    first, second = await pool.take(5), await pool.take(5)
    assert (len(pool), len(made.all)) == (2, 2)
    pool.give(second)
    pool.give(first)
    assert [await pool.take(5), await pool.take(5)] == [first, second]
    pool.give(first)
    pool.give(second)
    await pool.close()
    assert len(pool) == 0
    assert all(connection.is_closed() for connection in made.all)


async def test_the_unused_are_closed_and_the_used_stay(made: Made) -> None:
    pool = Connections(made.connect, 0.2)
    first, second = await pool.take(5), await pool.take(5)
    pool.give(first)
    await eventually(first.is_closed)
    assert not second.is_closed()
    pool.give(second)
    await eventually(second.is_closed)
    assert len(pool) == 0
    await pool.close()


async def test_one_in_a_transaction_is_nobody_elses(made: Made) -> None:
    pool = Connections(made.connect, 60)
    connection = await pool.take(5)
    await connection.execute("begin")
    pool.give(connection)
    assert connection.is_closed()
    assert await pool.take(5) is not connection
    pool.give(made.all[-1])
    await pool.close()


async def test_one_that_the_server_ended_is_not_handed_out(made: Made) -> None:
    pool = Connections(made.connect, 60)
    connection = await pool.take(5)
    other = await pool.take(5)
    pool.give(connection)
    await other.execute("select pg_terminate_backend($1)", connection.get_server_pid())
    await eventually(lambda: len(pool) == 1)
    fresh = await pool.take(5)
    assert fresh not in (connection, other)
    pool.give(fresh)
    pool.give(other)
    await pool.close()


async def test_closing_waits_for_those_in_use_and_those_being_made(made: Made) -> None:
    pool = Connections(made.connect, 60)
    used, being_made = await pool.take(5), asyncio.create_task(pool.take(5))
    await asyncio.sleep(0)
    closing = asyncio.create_task(pool.close())
    fresh = await being_made
    with pytest.raises(asyncpg.InterfaceError, match="closed"):
        await pool.take(5)
    for connection in (used, fresh):
        assert not closing.done()
        assert await connection.fetchval("select 1") == 1
        pool.give(connection)
        await asyncio.sleep(0)
    await closing
    assert len(pool) == 0


async def test_closing_cut_short_ends_them_all_and_may_be_done_again(made: Made) -> None:
    pool = Connections(made.connect, 60)
    used = await pool.take(5)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(pool.close(), 0.05)
    assert used.is_closed()
    assert len(pool) == 0
    pool.give(used)
    await pool.close()


async def test_one_that_cannot_be_made_is_not_waited_for(made: Made) -> None:
    async def refuse(timeout: float) -> Any:
        raise OSError

    pool = Connections(refuse, 60)
    with pytest.raises(OSError):
        await pool.take(5)
    await pool.close()
