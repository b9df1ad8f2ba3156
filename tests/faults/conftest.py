"""A database that faults may be tried on, and a bad network in front of it."""

import logging
import random
from collections.abc import AsyncIterator

import asyncpg
import pytest

from db.url import parse
from tests.conftest import run, with_database
from tests.faults.pools import NOTES, gone_soon
from tests.faults.proxy import Proxy, proxied


@pytest.fixture(scope="session")
async def ground(server: str, worker_id: str) -> AsyncIterator[str]:
    """The URL of a database with a table of notes."""
    name = f"faults_{worker_id}"
    await run(server, f"create database {name}")
    url = with_database(server, name)
    await run(url, NOTES)
    yield url
    await run(server, f"drop database {name} with (force)")


@pytest.fixture
async def proxy(ground: str) -> AsyncIterator[Proxy]:
    """A network in front of it."""
    async with proxied(ground) as proxy:
        yield proxy


@pytest.fixture
async def watch(ground: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection past the proxy, to see what happens on the server."""
    connection = await asyncpg.connect(**parse(ground).kwargs())
    await gone_soon(connection)
    yield connection
    await connection.close()


@pytest.fixture
def chance() -> random.Random:
    """Chance whose seed a failing test shows in its log."""
    seed = random.randrange(10**9)
    logging.getLogger("tests").warning("seed %d", seed)
    return random.Random(seed)
