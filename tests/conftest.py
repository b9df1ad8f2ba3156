"""One embedded PostgreSQL for the whole run, one migrated template, a clone for each worker, a fresh user for each test."""

import asyncio
import os
import re
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from fcntl import LOCK_EX, flock
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import hypothesis
import msgspec
import pytest
from uvicorn.server import ServerState

from db import embedded
from db.pool import Database, PoolOptions
from db.url import parse
from service.app import create_app
from service.edge import Edge
from service.http import Http
from service.serve import server_config
from service.settings import Settings

hypothesis.settings.register_profile("default", max_examples=15, derandomize=True)
hypothesis.settings.register_profile("long", max_examples=300, print_blob=True)
hypothesis.settings.load_profile("default")

# They do over and over what other tests do once. Tracing the lines of it all doubles what a run costs: these go untraced.
REPEATING = re.compile(
    r"test_(\w*races|batch_model|bulk|idempotency|lists|memory|plans|properties|refresh|replay|retention|routes|statements"
    r"|together_writes)"
)
TEMPLATE = "template_migrated"
ROOT = Path(__file__).parent.parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if REPEATING.fullmatch(item.path.stem):
            item.add_marker("no_cover")


def with_database(url: str, name: str) -> str:
    """The same server's URL for another database."""
    from urllib.parse import urlsplit

    return urlsplit(url)._replace(path=f"/{name}").geturl()


def migrate(url: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Run `roundtrip migrate` as its users do."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith("DATABASE_")} | {
        "DATABASE_URL": url
    }
    return subprocess.run(
        [sys.executable, "-m", "service.migrate", *arguments],
        check=False,
        capture_output=True,
        text=True,
        env=environment,
        cwd=ROOT,
    )


async def run(url: str, sql: str) -> None:
    """Run SQL on a connection of its own."""
    connection = await asyncpg.connect(**parse(url).kwargs())
    try:
        await connection.execute(sql)
    finally:
        await connection.close()


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Path:
    """A folder that all workers of this run share."""
    base = tmp_path_factory.getbasetemp()
    return base if worker_id == "master" else base.parent


@pytest.fixture(scope="session")
def server(shared_folder: Path) -> Iterator[str]:
    """The URL of the run's PostgreSQL."""
    with embedded.start(shared_folder / "postgres") as running:
        yield running.url


@pytest.fixture(scope="session")
async def template(server: str, shared_folder: Path) -> str:
    """The name of a migrated database that nobody is connected to."""
    marker = shared_folder / "migrated"
    with (shared_folder / "template.lock").open("w") as lock:
        flock(lock, LOCK_EX)
        if not marker.exists():
            await run(server, f"create database {TEMPLATE}")
            done = migrate(with_database(server, TEMPLATE), "up")
            assert done.returncode == 0, done.stderr
            marker.touch()
    return TEMPLATE


async def _database(server: str, name: str, template: str | None) -> str:
    await run(server, f"create database {name}" + (f" template {template}" if template else ""))
    return with_database(server, name)


@pytest.fixture(scope="session")
async def database_url(server: str, template: str, worker_id: str) -> str:
    """A migrated database of this worker."""
    return await _database(server, f"test_{worker_id}", template)


@pytest.fixture
async def empty_database(server: str) -> AsyncIterator[str]:
    """A new database without a schema, dropped after the test."""
    name = f"empty_{uuid.uuid4().hex}"
    yield await _database(server, name, None)
    await run(server, f"drop database {name} with (force)")


@pytest.fixture
async def migrated_database(server: str, template: str) -> AsyncIterator[str]:
    """A migrated database of this test alone, dropped after it."""
    name = f"migrated_{uuid.uuid4().hex}"
    yield await _database(server, name, template)
    await run(server, f"drop database {name} with (force)")


@pytest.fixture
async def own(migrated_database: str) -> AsyncIterator[Database]:
    """A pool on a database of this test alone, for what works on everybody's rows."""
    database = Database(parse(migrated_database), PoolOptions(size=4, statement=60))
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def hand(migrated_database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to it, for SQL by hand."""
    connection = await asyncpg.connect(**parse(migrated_database).kwargs())
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
async def db(database_url: str) -> AsyncIterator[Database]:
    """A pool on this worker's database."""
    database = Database(parse(database_url), PoolOptions(size=8))
    await database.open()
    yield database
    await database.close()


@pytest.fixture
async def connection(database_url: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection of its own, for SQL by hand."""
    connection = await asyncpg.connect(**parse(database_url).kwargs())
    yield connection
    await connection.close()


@pytest.fixture(scope="session")
def settings(database_url: str) -> Settings:
    """Settings of the tests: no throttling, the secret of nobody."""
    return Settings(
        database_url=database_url, secret_key="a secret for tests, 32 bytes or more", rate_limits="off"
    )


@asynccontextmanager
async def started(edge: Edge) -> AsyncIterator[Edge]:
    """An application in its lifespan, in one task: fixtures are entered and left in different ones."""
    ready, done = asyncio.Event(), asyncio.Event()

    async def live() -> None:
        async with edge.app.lifespan():
            ready.set()
            await done.wait()

    task = asyncio.create_task(live())
    await ready.wait()
    try:
        yield edge
    finally:
        done.set()
        await task


@pytest.fixture(scope="session")
async def app(settings: Settings) -> AsyncIterator[Edge]:
    """The application, started."""
    async with started(create_app(settings)) as edge:
        yield edge


@asynccontextmanager
async def listening(edge: Edge) -> AsyncIterator[str]:
    """An application behind HTTP, by its base URL, on the loop of the tests."""
    config = server_config(edge, edge.lean.settings)
    config.load()
    state = ServerState()
    state.default_headers = [(b"date", b"Sun, 06 Nov 1994 08:49:37 GMT")]
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Http(config, state, {}), "127.0.0.1", 0)
    try:
        yield "http://{}:{}".format(*server.sockets[0].getsockname())
    finally:
        server.close()
        for connection in [*state.connections]:
            connection.shutdown()
        await server.wait_closed()


@pytest.fixture(scope="session")
async def client(app: Edge) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the application, without a token."""
    async with listening(app) as base, httpx.AsyncClient(base_url=base, limits=httpx.Limits()) as client:
        yield client


@pytest.fixture(scope="session")
async def inside(app: Edge) -> AsyncIterator[httpx.AsyncClient]:
    """A client without HTTP between, for headers that no library would send."""
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


class Account(msgspec.Struct):
    """A user who signed up over HTTP."""

    id: str
    email: str
    password: str
    tokens: dict[str, Any]
    headers: dict[str, str]


async def sign_up(client: httpx.AsyncClient) -> Account:
    """Register somebody new."""
    email, password = f"{uuid.uuid4().hex}@example.com", "correct horse battery"
    answer = await client.post("/api/v1/auth/register", json={"email": email, "password": password})
    assert answer.status_code == 201, answer.text
    tokens = answer.json()
    return Account(
        tokens["user"]["id"], email, password, tokens, {"Authorization": f"Bearer {tokens['access_token']}"}
    )


@pytest.fixture
async def user(client: httpx.AsyncClient) -> Account:
    """Somebody new."""
    return await sign_up(client)


@pytest.fixture
async def other(client: httpx.AsyncClient) -> Account:
    """Somebody else who is new."""
    return await sign_up(client)


async def turn(_: object) -> None:
    """A turn of the event loop: asyncpg tells its query loggers of a statement in the next one."""
    await asyncio.sleep(0)


async def quiet(client: httpx.AsyncClient, sent: list[str]) -> None:
    """Wait until an application that has just started has sent what it sends by itself: it fits its pool to the server."""
    await client.get("/readyz")
    async with asyncio.timeout(10):
        while len(sent) < 2:
            await asyncio.sleep(0.01)
