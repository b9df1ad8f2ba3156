"""Transactions on a bad network: all or nothing in every phase, and nothing left of them afterwards."""

import asyncio
import random
import uuid
from collections.abc import Callable
from contextlib import suppress

import asyncpg
import pytest

from db import pool, transaction
from db.errors import Unavailable
from db.pool import Database
from tests.faults.pools import ADD, ONE, SLEEP, count, eventually, kill, opened, running, warm
from tests.faults.proxy import Link, Proxy

Watch = asyncpg.Connection


def silence(link: Link) -> None:
    link.deaf = link.mute = True


def swallow(link: Link) -> None:
    link.mute = True


FAULTS: dict[str, Callable[[Link], object]] = {
    "cut": Link.close,
    "reset": lambda link: link.close(reset=True),
    "silence": silence,
    "reply swallowed": swallow,
}
FAULTY = pytest.mark.parametrize("fault", FAULTS)
# What each phase sends; {value} is that of the note.
PHASES = ("begin", "savepoint part_1", "{value}", "release savepoint", "commit")
PHASE = pytest.mark.parametrize("phase", PHASES)


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SETTLE_WITHIN", 0.5)
    monkeypatch.setattr(transaction, "UNDO_WITHIN", 0.5)


@pytest.fixture
def value() -> str:
    return f"note {uuid.uuid4()}"


async def note(db: Database, value: str) -> None:
    async with db.transaction() as whole, whole.transaction() as part:
        await part.one(ADD, value)


async def left(watch: Watch, value: str) -> int:
    """How many notes are there once no transaction is open; a silent network leaves them open until we end them."""
    await kill(watch)
    await running(watch, 0)
    return await count(watch, value)


# Lost connections


@FAULTY
@PHASE
async def test_a_lost_connection_is_unavailable_and_undoes_it_all(
    proxy: Proxy, watch: Watch, value: str, phase: str, fault: str
) -> None:
    async with opened(proxy.url) as db:
        await warm(db, 1)
        proxy.snare = (phase.format(value=value).encode(), FAULTS[fault])
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable):
                await note(db, value)
        assert proxy.snare is None
        await eventually(lambda: db.limiter.used == 0)
        # A COMMIT whose reply is lost has happened; nobody but the server knows.
        assert await left(watch, value) == (1 if (phase, fault) == ("commit", "reply swallowed") else 0)
        value = f"again {value}"
        await note(db, value)
        assert await count(watch, value) == 1


@FAULTY
async def test_a_connection_lost_while_undoing_hides_nothing(
    proxy: Proxy, watch: Watch, value: str, fault: str
) -> None:
    async with opened(proxy.url) as db:
        proxy.snare = (b"rollback", FAULTS[fault])
        async with asyncio.timeout(5):
            with pytest.raises(KeyError):
                async with db.transaction() as whole:
                    await whole.one(ADD, value)
                    raise KeyError
        assert proxy.snare is None
        assert await left(watch, value) == 0
        await db.one(ONE)


@FAULTY
async def test_a_part_that_may_not_be_undone_is_never_committed(
    proxy: Proxy, watch: Watch, value: str, fault: str
) -> None:
    async with opened(proxy.url) as db:
        proxy.snare = (b"rollback to savepoint part_1", FAULTS[fault])
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable):
                async with db.transaction() as whole:
                    with pytest.raises(KeyError):
                        async with whole.transaction() as part:
                            await part.one(ADD, value)
                            raise KeyError
                    await whole.one(ONE)
        assert proxy.snare is None
        assert await left(watch, value) == 0


async def test_a_block_that_goes_on_without_a_connection_does_not_seem_committed(
    proxy: Proxy, watch: Watch, value: str
) -> None:
    async with opened(proxy.url) as db:
        with pytest.raises(Unavailable):
            async with db.transaction() as whole:
                await whole.one(ADD, value)
                proxy.cut()
                for _ in range(2):
                    with pytest.raises(Unavailable):
                        await whole.one(ONE)
        assert await left(watch, value) == 0


async def test_no_connection_is_to_be_had(proxy: Proxy) -> None:
    async with opened(proxy.url) as db:
        proxy.refuse()
        with pytest.raises(Unavailable, match="ConnectionRefusedError"):
            async with db.transaction():
                pytest.fail("there is none")
        await proxy.accept()
        await db.one(ONE)


async def test_a_dead_connection_from_before_is_found_out(proxy: Proxy, watch: Watch, value: str) -> None:
    async with opened(proxy.url) as db:
        await warm(db, 3)
        proxy.doom()
        with pytest.raises(Unavailable, match="begin"):
            await note(db, value)
        await eventually(lambda: db.connections == 0)  # the other two as well
        await note(db, value)
        assert await count(watch, value) == 1


# Deadlines


async def test_a_statement_past_its_deadline_is_cancelled(proxy: Proxy, watch: Watch, value: str) -> None:
    async with opened(proxy.url) as db:
        with pytest.raises(Unavailable, match="deadline"):
            async with db.transaction() as whole:
                await whole.one(ADD, value)
                await whole.one(SLEEP, 30)
        await running(watch, 0)
        assert await count(watch, value) == 0
        await eventually(lambda: db.limiter.used == 0)
        await db.one(ONE)
        assert db.connections == 1  # the same one


async def test_a_caller_waits_no_longer_than_for_a_statement(proxy: Proxy, watch: Watch) -> None:
    """However long the statements of a command may take: BEGIN must come by the deadline of connecting."""
    async with opened(proxy.url, wait=0.5, statement=3600) as db:
        await warm(db, 1)
        proxy.silence()
        async with asyncio.timeout(5):
            with pytest.raises(Unavailable, match="begin"):
                async with db.transaction():
                    pytest.fail("there is no answer")
    await kill(watch)


# Cancellation


async def cancelled(db: Database, value: str, when: Callable[[], object]) -> None:
    """Begin a transaction, cancel it at a moment, and wait for its end."""
    task = asyncio.create_task(note(db, value))
    await eventually(when)
    task.cancel()
    async with asyncio.timeout(5):
        with pytest.raises(asyncio.CancelledError):
            await task


@PHASE
async def test_cancellation_in_any_phase_undoes_it_all(
    proxy: Proxy, watch: Watch, value: str, phase: str
) -> None:
    async with opened(proxy.url) as db:
        await warm(db, 1)
        proxy.snare = (phase.format(value=value).encode(), lambda _: proxy.stall())
        await cancelled(db, value, lambda: proxy.snare is None)
        proxy.flow()
        await running(watch, 0)
        assert await count(watch, value) in ((0, 1) if phase == "commit" else (0,))
        await db.one(ONE)


async def test_cancellation_while_undoing(proxy: Proxy, watch: Watch, value: str) -> None:
    async with opened(proxy.url) as db:
        proxy.snare = (b"rollback", lambda _: proxy.stall())

        async def failing() -> None:
            async with db.transaction() as whole:
                await whole.one(ADD, value)
                raise KeyError

        task = asyncio.create_task(failing())
        await eventually(lambda: proxy.snare is None)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        proxy.flow()
        assert await left(watch, value) == 0
        await db.one(ONE)


async def test_cancellation_while_waiting_for_a_connection(proxy: Proxy, watch: Watch, value: str) -> None:
    async with opened(proxy.url, size=1, wait=5) as db:
        async with db.transaction() as whole:
            await cancelled(db, value, lambda: db.limiter.waiting == 1)
            await whole.one(ONE)
        assert await count(watch, value) == 0


async def test_cancellation_while_connecting(proxy: Proxy, watch: Watch, value: str) -> None:
    async with opened(proxy.url, wait=5) as db:
        proxy.stall()
        await cancelled(db, value, lambda: proxy.attempts == 1)
        proxy.flow()
        await db.one(ONE)
        assert await count(watch, value) == 0


async def test_a_caller_who_gives_up_does_not_wait_for_the_network(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SETTLE_WITHIN", 60)
    async with opened(proxy.url, statement=60) as db:
        entered = asyncio.Event()

        async def giving_up() -> None:
            async with db.transaction() as whole:
                entered.set()
                await whole.one(SLEEP, 30)

        task = asyncio.create_task(giving_up())
        await entered.wait()
        await eventually(lambda: proxy.executed)
        proxy.stall()
        task.cancel()
        async with asyncio.timeout(10):
            await asyncio.gather(task, return_exceptions=True)
        assert task.cancelled()
        assert db.limiter.used == 1  # until it is known what became of the connection
        proxy.flow()


async def test_a_part_given_up_is_undone_alone(proxy: Proxy, watch: Watch, value: str) -> None:
    async with opened(proxy.url, statement=5) as db:
        async with db.transaction() as whole:
            await whole.one(ADD, f"kept {value}")
            with suppress(TimeoutError):
                async with asyncio.timeout(0.3), whole.transaction() as part:
                    await part.one(ADD, value)
                    await part.one(SLEEP, 30)
            with pytest.raises(Unavailable):
                async with whole.transaction() as part:
                    await part.one(ADD, value)
                    raise Unavailable("somebody else")
        assert await count(watch, f"kept {value}") == 1
        assert await count(watch, value) == 0


async def test_transactions_given_up_at_any_moment_leave_nothing(
    proxy: Proxy, watch: Watch, chance: random.Random
) -> None:
    async with opened(proxy.url, wait=5, statement=5) as db:
        run, acknowledged = uuid.uuid4(), set()

        async def caller(number: int) -> None:
            value = f"{run} {number}"

            async def noting() -> None:
                await note(db, value)
                acknowledged.add(value)

            task = asyncio.create_task(noting())
            await asyncio.sleep(chance.random() * 0.05)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        for number in range(10):
            await asyncio.gather(*(caller(10 * number + n) for n in range(10)))
        await running(watch, 0)
        await asyncio.gather(*(note(db, f"after {run} {n}") for n in range(20)))
        rows = await watch.fetch("select value from notes where value like $1", f"{run} %")
        assert acknowledged <= {row["value"] for row in rows}


async def test_each_transaction_is_there_whole_or_not_at_all(
    proxy: Proxy, watch: Watch, chance: random.Random
) -> None:
    """Two notes each, through packets cut small, resets, and backends that are ended."""
    run, known, unknown = uuid.uuid4(), set(), set()
    async with opened(proxy.url, wait=2, statement=2) as db:
        over = asyncio.Event()

        async def write() -> None:
            while not over.is_set():
                value = f"{run} {uuid.uuid4()}"
                try:
                    async with db.transaction() as whole:
                        for half in "ab":
                            await whole.one(ADD, f"{value} {half}")
                    known.add(value)
                except Unavailable:
                    unknown.add(value)

        async def spoil() -> None:
            for _ in range(5):
                await asyncio.sleep(0.2)
                await kill(watch)
            await eventually(lambda: known and unknown, within=20)
            over.set()

        proxy.chaos = chance
        await asyncio.gather(spoil(), *(write() for _ in range(4)))
        proxy.chaos = None
        proxy.cut()
        await running(watch, 0)
    rows = await watch.fetch(
        "select left(value, -2) as value, count(*) as halves from notes where value like $1 group by 1",
        f"{run} %",
    )
    assert {row["halves"] for row in rows} == {2}
    assert known <= {row["value"] for row in rows} <= known | unknown
