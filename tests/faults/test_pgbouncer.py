"""The service's statements through a transaction-mode PgBouncer, as behind Neon's pooled host."""

import asyncio
import contextlib
import os
import random
import shutil
import socket
import subprocess
import uuid
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

import asyncpg
import pytest

from db import seed, statements, tasks
from db.caller import Caller
from db.errors import Unavailable, Unstorable
from db.pool import Database
from db.task import Changes, Draft
from db.url import parse
from service import archive, purge
from service.ages import Age
from tests.conftest import ROOT, run, with_database
from tests.db.hands import got
from tests.faults.pools import ONE, SLEEP, Ledger, eventually, opened, statement, unavailable, warm

HOW = (
    "no PgBouncer (1.21 or later): put it on the PATH, name it in PGBOUNCER, or have it at "
    ".roundtrip/pgbouncer/pgbouncer"
)
SERVERS = 3  # connections that the pooler makes to PostgreSQL

CONFIG = """
[databases]
* = host={host} port={port} user={user} password={password}

[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {listen}
unix_socket_dir =
auth_type = any
pool_mode = transaction
max_prepared_statements = 1000
default_pool_size = {servers}
max_client_conn = 200
server_login_retry = 0.1
query_wait_timeout = 5
"""


@pytest.fixture(scope="module")
def binary() -> str:
    """PgBouncer itself; on a build server it must be there."""
    candidates = [
        os.environ.get("PGBOUNCER"),
        shutil.which("pgbouncer"),
        ROOT / ".roundtrip" / "pgbouncer" / "pgbouncer",
    ]
    for candidate in candidates:
        if candidate and Path(candidate).is_file():
            return str(candidate)
    return pytest.fail(HOW) if os.environ.get("CI") == "true" else pytest.skip(HOW)


def free_port() -> int:
    """A port from below the ephemeral range: one from within may be given to a client that then meets itself."""
    while True:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port := random.randrange(10_000, 32_000)))
            return port


class Pooler:
    """A PgBouncer in front of a server; `url` leads through it."""

    def __init__(self, binary: str, url: str, folder: Path) -> None:
        args = parse(url)
        self.port = free_port()
        self.url = f"postgresql://{args.user}@127.0.0.1:{self.port}/{args.database}"
        self._command = [binary, str(folder / "pgbouncer.ini")]
        self._process: subprocess.Popen[bytes] | None = None
        (folder / "pgbouncer.ini").write_text(
            CONFIG.format(
                host=args.host,
                port=args.port,
                user=args.user,
                password=args.password,
                listen=self.port,
                servers=SERVERS,
            )
        )

    async def start(self) -> None:
        """Start it and wait until it listens."""
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        async with asyncio.timeout(10):
            while True:
                with contextlib.suppress(OSError):
                    _, writer = await asyncio.open_connection("127.0.0.1", self.port)
                    writer.close()
                    await writer.wait_closed()
                    return
                await asyncio.sleep(0.02)

    async def kill(self) -> None:
        """End it at once."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)


@pytest.fixture(scope="module")
async def home(server: str, template: str, worker_id: str) -> AsyncIterator[str]:
    """A migrated database of these tests alone."""
    name = f"pooled_{worker_id}"
    await run(server, f"create database {name} template {template}")
    yield with_database(server, name)
    await run(server, f"drop database {name} with (force)")


@pytest.fixture
async def pooler(binary: str, home: str, tmp_path: Path) -> AsyncIterator[Pooler]:
    """A PgBouncer in front of it."""
    pooler = Pooler(binary, home, tmp_path)
    await pooler.start()
    yield pooler
    await pooler.kill()


@pytest.fixture
async def watch(home: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection past the pooler."""
    connection = await asyncpg.connect(**parse(home).kwargs())
    async with asyncio.timeout(10):  # until the pooler of the test before is gone
        while await servers(connection):
            await asyncio.sleep(0.02)
    yield connection
    await connection.close()


async def somebody(db: Database) -> Caller:
    """A user who is signed in."""
    caller = Caller(uuid.uuid4().hex, str(uuid.uuid4()))
    await seed.user(db, caller.user_id, f"{caller.user_id}@example.com", "Somebody", "no hash", False)
    await seed.session(db, caller.sid, caller.user_id, uuid.uuid4().bytes)
    return caller


async def work(db: Database, caller: Caller) -> None:
    """Every statement of a task's life, each answered as it must be."""
    draft = Draft(title="draft", description=None, status="pending", priority=3, due_date=None)
    task = await tasks.create(db, caller, draft)
    assert task is not None
    id = task.id
    changed = await tasks.update(db, caller, id, [task.revision], Changes(title="changed"))
    assert changed is not None
    assert changed.verdict == "done"
    toggled = await tasks.toggle(db, caller, id, None)
    assert toggled is not None
    assert toggled.task is not None
    assert toggled.task.status == "completed"
    assert await got(db, caller, id) == tasks.Outcome("same", toggled.task)
    await tasks.delete(db, caller, id, None)
    assert await got(db, caller, id) == tasks.Outcome("absent", None)
    await tasks.restore(db, caller, id, None)
    assert await tasks.erase(db, caller, id, None) == "done"


OTHERS = "from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"


async def servers(watch: asyncpg.Connection, which: str = "") -> int:
    """How many connections the pooler has to PostgreSQL."""
    found: int = await watch.fetchval(f"select count(*) {OTHERS} {which}")
    return found


async def test_many_clients_over_few_connections(pooler: Pooler, watch: asyncpg.Connection) -> None:
    async with (
        opened(pooler.url, size=10, wait=10, statement=10) as db,
        opened(pooler.url, size=10, wait=10, statement=10) as other,
    ):
        callers = await asyncio.gather(*(somebody(db) for _ in range(8)))
        pools = [db, other] * 12
        await asyncio.gather(*(work(pool, caller) for pool, caller in zip(pools, callers * 3, strict=True)))
        assert db.connections + other.connections > SERVERS
        assert 0 < await servers(watch) <= SERVERS
        users = [caller.user_id for caller in callers]
        assert not await watch.fetchval("select count(*) from tasks where user_id = any($1)", users)
        assert await watch.fetchval("select count(*) from tombstones where user_id = any($1)", users) == 24


async def test_purge_and_archive(pooler: Pooler, watch: asyncpg.Connection, tmp_path: Path) -> None:
    """Two purges at once, whose turns are locks; an archive, whose pages are a cursor's; and back."""
    async with opened(pooler.url, size=SERVERS, wait=10, statement=10) as db:
        user = (await somebody(db)).user_id
        await watch.execute(
            "insert into tasks (user_id, title, status, completed_at, deleted_at)"
            " select $1, 'title', 'completed', '2001-01-01Z', case when n % 2 = 0 then timestamptz '2001-01-01Z' end"
            " from generate_series(1, 5000) n",
            user,
        )
        age, file = Age("1y", 365 * 86400), tmp_path / "file"
        await asyncio.gather(*(purge.run(db, age, dry_run=False) for _ in range(2)))
        await archive.store(db, age, file, user, now=datetime.now(UTC), dry_run=False)
        counts = "select (select count(*) from tasks where user_id = $1), (select count(*) from tombstones where user_id = $1)"
        assert tuple(await watch.fetchrow(counts, user) or ()) == (0, 5000)
        assert await archive.bring_back(db, file, user, dry_run=False) == 0
        assert tuple(await watch.fetchrow(counts, user) or ()) == (2500, 2500)


async def test_every_statement_of_tasks(pooler: Pooler) -> None:
    """With nobody as the caller, each does nothing and gives no row."""
    every = list(statements.load("tasks").values())
    async with opened(pooler.url, size=SERVERS + 2, wait=10, statement=10) as db:
        for _ in range(2):
            for order in (every, every[::-1]):
                answers = await asyncio.gather(*(db.all(one, *[None] * len(one.takes)) for one in order))
                assert not any(answers)


async def test_connections_that_have_not_prepared_a_statement(
    pooler: Pooler, watch: asyncpg.Connection
) -> None:
    """The pooler's connections are new, ours are not: it prepares again what we have prepared long ago."""
    async with opened(pooler.url, size=6, wait=5, statement=5) as db:
        caller = await somebody(db)
        for _ in range(3):
            await asyncio.gather(*(work(db, caller) for _ in range(6)))
            ours = db.connections
            assert await watch.fetchval(f"select count(pg_terminate_backend(pid)) {OTHERS}")
            async with asyncio.timeout(5):
                while await servers(watch):
                    await asyncio.sleep(0.01)
            await asyncio.gather(*(tasks.get(db, caller, 1) for _ in range(6)))
            assert db.connections == ours


async def test_a_restart_under_way(pooler: Pooler, watch: asyncpg.Connection) -> None:
    ledger, reads = Ledger(), Ledger()
    async with opened(pooler.url, size=6, wait=1, statement=1) as db:
        caller = await somebody(db)
        over = asyncio.Event()

        async def write(name: int) -> None:
            while not over.is_set():
                title = f"{name} {uuid.uuid4()}"
                await ledger.enter(title, tasks.create(db, caller, Draft(title, None, "pending", 3, None)))
                await asyncio.sleep(0.01)

        async def read() -> None:
            while not over.is_set():
                await reads.enter(str(uuid.uuid4()), tasks.get(db, caller, 1))
                await asyncio.sleep(0.01)

        async def restart(away: float) -> None:
            await asyncio.sleep(0.4)
            await pooler.kill()
            await asyncio.sleep(away)
            await pooler.start()
            before = len(reads.known)
            await eventually(lambda: len(reads.known) > before)

        async def faults() -> None:
            await restart(0)
            await restart(0.3)
            over.set()

        await asyncio.gather(faults(), *(write(name) for name in range(4)), *(read() for _ in range(4)))
        for _ in range(20):
            assert await tasks.get(db, caller, 1)
    assert reads.unknown, "nobody noticed"
    rows = await watch.fetch("select title from tasks where user_id = $1", caller.user_id)
    ledger.check([row["title"] for row in rows])


async def idle(watch: asyncpg.Connection) -> None:
    """Wait until no server connection is in a transaction: the server tells of an end a moment late."""
    for _ in range(40):
        if not await servers(watch, "and xact_start is not null"):
            return
        await asyncio.sleep(0.05)
    pytest.fail("a server connection stays in a transaction")


async def test_a_value_that_cannot_be_sent_holds_no_connection(
    pooler: Pooler, watch: asyncpg.Connection
) -> None:
    async with opened(pooler.url, size=SERVERS + 2, wait=2, statement=2) as db:
        await warm(db, SERVERS + 2)
        refusals = [statement(f"select $1::int + {number}") for number in range(SERVERS + 2)]
        for outcome in await asyncio.gather(
            *(db.one(refusal, 10**12) for refusal in refusals), return_exceptions=True
        ):
            assert isinstance(outcome, Unstorable)
        await asyncio.gather(*(db.one(ONE) for _ in range(10)))
        await eventually(lambda: db.limiter.used == 0)
        await idle(watch)


async def test_a_statement_past_its_deadline_is_cancelled(pooler: Pooler, watch: asyncpg.Connection) -> None:
    async with opened(pooler.url) as db:
        await asyncio.gather(*(unavailable(db, SLEEP, 30) for _ in range(SERVERS)))
        await eventually(lambda: db.limiter.used == 0)
        await idle(watch)
        await asyncio.gather(*(db.one(ONE) for _ in range(10)))


# Transactions hold a server connection from BEGIN to the end


async def test_more_transactions_than_connections(pooler: Pooler, watch: asyncpg.Connection) -> None:
    async with opened(pooler.url, size=3 * SERVERS, wait=10, statement=10) as db:
        callers = await asyncio.gather(*(somebody(db) for _ in range(3 * SERVERS)))

        async def fill(caller: Caller) -> int:
            title = [(caller.user_id, f"task {n}") for n in range(250)]
            async with db.transaction() as whole:
                await whole.copy("tasks", ["user_id", "title"], title)
                with contextlib.suppress(KeyError):
                    async with whole.transaction() as part:
                        await part.copy("tasks", ["user_id", "title"], title)
                        raise KeyError
                own = statement("select id from tasks where user_id = $1")
                return sum([len(rows) async for rows in whole.pages(own, caller.user_id, size=100)])

        assert await asyncio.gather(*(fill(caller) for caller in callers)) == [250] * len(callers)
        users = [caller.user_id for caller in callers]
        assert await watch.fetchval("select count(*) from tasks where user_id = any($1)", users) == 250 * 9
        await idle(watch)
        assert await servers(watch) <= SERVERS


async def test_transactions_given_up_hold_no_connection(pooler: Pooler, watch: asyncpg.Connection) -> None:
    async with opened(pooler.url, size=SERVERS + 2, wait=5, statement=5) as db:
        caller = await somebody(db)

        async def write(number: int) -> None:
            async with db.transaction() as whole:
                await whole.copy("tasks", ["user_id", "title"], [(caller.user_id, "undone")])
                if number % 2:
                    raise KeyError
                await whole.one(SLEEP, 30)

        writers = [asyncio.create_task(write(number)) for number in range(6)]
        await asyncio.sleep(0.3)
        for writer in writers:
            writer.cancel()
        await asyncio.gather(*writers, return_exceptions=True)
        await eventually(lambda: db.limiter.used == 0)
        await idle(watch)
        assert not await watch.fetchval("select count(*) from tasks where user_id = $1", caller.user_id)
        await asyncio.gather(*(db.one(ONE) for _ in range(10)))


async def test_a_pooler_that_goes_within_a_transaction(pooler: Pooler, watch: asyncpg.Connection) -> None:
    async with opened(pooler.url, wait=2, statement=2) as db:
        caller = await somebody(db)
        with pytest.raises(Unavailable):
            async with db.transaction() as whole:
                await whole.copy("tasks", ["user_id", "title"], [(caller.user_id, "undone")])
                await pooler.kill()
                await whole.one(ONE)
        await pooler.start()
        assert await tasks.get(db, caller, 1)
        assert not await watch.fetchval("select count(*) from tasks where user_id = $1", caller.user_id)


async def test_nothing_to_connect_to(pooler: Pooler) -> None:
    async with opened(pooler.url.rpartition("/")[0] + "/no_such_database", wait=2, statement=2) as db:
        failure = await unavailable(db, ONE)
        assert "no_such_database" in str(failure)
