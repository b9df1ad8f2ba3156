"""The pool on a bad network: what each fault may cost, and that nothing is left of it afterwards."""

import asyncio
import random
import uuid
from collections.abc import Callable

import asyncpg
import pytest

from db import pool
from db.errors import Refused, Unavailable, Unstorable
from db.statements import Statement, every
from tests.faults.pools import (
    ADD,
    ONE,
    SLEEP,
    Ledger,
    count,
    eventually,
    kill,
    opened,
    running,
    statement,
    unavailable,
    warm,
)
from tests.faults.proxy import Proxy

SLOW_ADD = statement(
    "insert into notes (value) select $1 from pg_sleep(0.4) returning id", "write", name="notes.slow_add"
)
SLOW_READ = statement("select 1 from pg_sleep(0.4)", name="notes.slow_read")
Watch = asyncpg.Connection
Fault = Callable[[Proxy], None]
FAULTS = {"cut": Proxy.cut, "reset": lambda proxy: proxy.cut(reset=True)}
LOSSES = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


@pytest.fixture(autouse=True)
def short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pool, "SETTLE_WITHIN", 0.5)


# One round trip, and no connection that nobody asked for


async def test_a_statement_is_one_round_trip(proxy: Proxy) -> None:
    async with opened(proxy.url) as db:
        for _ in range(2):
            await db.one(ONE)
            await db.one(ADD, f"warm {random.random()}")
        proxy.sent.clear()
        for number in range(5):
            await db.one(ONE)
            await db.all(ONE)
            await db.one(ADD, f"trip {random.random()} {number}")
        assert proxy.messages == ["BES"] * 15
        assert proxy.attempts == 1


async def test_a_refused_statement_is_one_round_trip(proxy: Proxy) -> None:
    async with opened(proxy.url) as db:
        value = f"once {random.random()}"
        await db.one(ADD, value)
        proxy.sent.clear()
        for _ in range(2):
            with pytest.raises(Refused):
                await db.one(ADD, value)
        assert proxy.messages == ["BES"] * 2


async def test_many_statements_stay_prepared(proxy: Proxy) -> None:
    many = [statement(f"select {number}") for number in range(len(list(every())) + 1)]
    async with opened(proxy.url, wait=10) as db:
        for _ in range(2):
            proxy.sent.clear()
            for one in many:
                await db.one(one)
        assert proxy.messages == ["BES"] * len(many)


async def test_no_connection_before_it_is_needed_or_after(proxy: Proxy) -> None:
    async with opened(proxy.url, idle=0.1) as db:
        await asyncio.sleep(0.1)
        assert (proxy.attempts, db.connections) == (0, 0)
        await warm(db, 3)
        await eventually(lambda: db.connections == 0)
        await eventually(lambda: not proxy.links)
        await asyncio.sleep(0.7)  # a pool that heals itself would be back by now
        assert (proxy.attempts, db.connections) == (3, 0)


async def test_a_killed_idle_connection_is_left_dead(proxy: Proxy, watch: Watch) -> None:
    async with opened(proxy.url) as db:
        await warm(db, 2)
        assert await kill(watch) == 2
        await eventually(lambda: db.connections == 0)
        await asyncio.sleep(0.7)
        assert proxy.attempts == 2


async def test_callers_in_turn_share_one_connection(proxy: Proxy) -> None:
    async with opened(proxy.url) as db:
        for _ in range(20):
            await db.one(ONE)
        assert (proxy.attempts, db.connections) == (1, 1)


# Every request ends by its deadline


@pytest.mark.parametrize("known", [ONE, ADD], ids=["read", "write"])
async def test_a_stalled_network(proxy: Proxy, watch: Watch, known: Statement) -> None:
    async with opened(proxy.url) as db:
        await warm(db, 4)
        proxy.stall()
        values = [f"stalled {known.name} {number}" for number in range(12)]
        arguments = [(value,) if known is ADD else () for value in values]
        await asyncio.gather(*(unavailable(db, known, *given) for given in arguments))
        proxy.flow()
        await db.one(ONE)
        await running(watch, 0)
        for value in values:
            assert await count(watch, value) <= 1


async def test_a_stall_while_connecting(proxy: Proxy) -> None:
    async with opened(proxy.url) as db:
        proxy.stall()
        await asyncio.gather(*(unavailable(db, ONE) for _ in range(12)))
        assert proxy.attempts <= 24
        proxy.flow()
        await db.one(ONE)


async def test_refused_connections(proxy: Proxy) -> None:
    async with opened(proxy.url) as db:
        proxy.refuse()
        failures = await asyncio.gather(*(unavailable(db, ONE) for _ in range(12)))
        assert "ConnectionRefusedError" in str(failures[0])
        await unavailable(db, ADD, "refused")
        await proxy.accept()
        await db.one(ONE)


async def test_all_connections_busy(proxy: Proxy) -> None:
    async with opened(proxy.url, size=2, wait=0.5, statement=3) as db:
        await warm(db, 2)
        busy = [asyncio.create_task(db.one(SLEEP, 1.5)) for _ in range(2)]
        await eventually(lambda: db.limiter.used == 2)
        refused: list[int] = []

        async def ask(number: int) -> None:
            with pytest.raises(Unavailable, match="no connection was free"):
                await db.one(ONE)
            refused.append(number)

        async with asyncio.timeout(2):
            await asyncio.gather(*(ask(number) for number in range(500)))
        assert refused == list(range(500))
        assert db.limiter.waiting == 0
        await asyncio.gather(*busy)
        await asyncio.gather(*(db.one(ONE) for _ in range(20)))
        assert proxy.attempts == 2


async def test_waiting_callers_are_served_in_order(proxy: Proxy) -> None:
    async with opened(proxy.url, size=1, wait=5) as db:
        served: list[int] = []

        async def ask(number: int) -> None:
            await db.one(ONE)
            served.append(number)

        await asyncio.gather(*(ask(number) for number in range(100)))
        assert served == list(range(100))


# Lost connections


@LOSSES
async def test_a_lost_read_is_answered(proxy: Proxy, fault: Fault) -> None:
    async with opened(proxy.url, statement=2) as db:
        reads = [asyncio.create_task(db.all(SLOW_READ)) for _ in range(3)]
        await eventually(lambda: proxy.executed == 3)
        fault(proxy)
        assert [len(rows) for rows in await asyncio.gather(*reads)] == [1, 1, 1]


async def test_a_read_is_answered_though_its_backend_was_ended(proxy: Proxy, watch: Watch) -> None:
    async with opened(proxy.url, statement=2) as db:
        reads = [asyncio.create_task(db.all(SLOW_READ)) for _ in range(3)]
        await running(watch, 3)
        assert await kill(watch) == 3
        assert [len(rows) for rows in await asyncio.gather(*reads)] == [1, 1, 1]


async def test_a_read_is_sent_twice_at_most(proxy: Proxy) -> None:
    async with opened(proxy.url, statement=2) as db:
        read = asyncio.create_task(unavailable(db, SLOW_READ))
        await eventually(lambda: proxy.executed == 1)
        proxy.cut()
        await eventually(lambda: proxy.executed == 2)
        proxy.cut()
        await read


async def test_a_retry_ends_by_the_deadline_of_its_request(proxy: Proxy, watch: Watch) -> None:
    async with opened(proxy.url, wait=0.1, statement=1.5) as db:
        await warm(db, 1)
        proxy.sent.clear()
        read = asyncio.create_task(unavailable(db, SLEEP, 30))
        await eventually(lambda: proxy.executed)
        await asyncio.sleep(1.3)
        proxy.cut()
        await read
        assert proxy.executed == 2
    await kill(watch)


async def test_a_retry_connects_by_the_deadline_of_its_request(proxy: Proxy, watch: Watch) -> None:
    async with opened(proxy.url, wait=2, statement=0.3) as db:
        proxy.stall()
        read = asyncio.create_task(unavailable(db, SLEEP, 30))
        await asyncio.sleep(1.7)
        proxy.flow()
        await eventually(lambda: proxy.executed)
        proxy.stall()
        proxy.cut()
        await read
        assert (proxy.executed, proxy.attempts) == (1, 2)
        proxy.flow()
    await kill(watch)


@LOSSES
async def test_a_lost_write_is_not_sent_again(proxy: Proxy, watch: Watch, fault: Fault) -> None:
    async with opened(proxy.url, statement=2) as db:
        value = f"lost {random.random()}"
        write = asyncio.create_task(unavailable(db, SLOW_ADD, value))
        await eventually(lambda: proxy.executed)
        fault(proxy)
        await write
        await running(watch, 0)
        assert proxy.executed == 1
        assert await count(watch, value) <= 1


async def test_a_write_whose_reply_was_lost_is_not_sent_again(proxy: Proxy, watch: Watch) -> None:
    async with opened(proxy.url) as db:
        await db.one(ADD, f"first {random.random()}")
        proxy.sent.clear()
        proxy.swallow()
        value = f"swallowed {random.random()}"
        await unavailable(db, ADD, value)
        assert proxy.messages.count("BES") == 1
        assert await count(watch, value) == 1
        await db.one(ONE)


async def test_a_write_that_was_never_sent_is_sent(proxy: Proxy, watch: Watch) -> None:
    async with opened(proxy.url) as db:
        proxy.turn_away = 1
        value = f"late {random.random()}"
        await db.one(ADD, value)
        assert await count(watch, value) == 1
        assert proxy.attempts == 2


async def test_every_idle_connection_killed_at_once(proxy: Proxy, watch: Watch) -> None:
    async with opened(proxy.url) as db:
        await warm(db, 4)
        assert await kill(watch) == 4
        await asyncio.gather(*(db.one(ONE) for _ in range(12)))


async def test_one_loss_is_enough_to_learn_of_several(proxy: Proxy) -> None:
    async with opened(proxy.url) as db:
        await warm(db, 4)
        proxy.doom()
        await db.one(ONE)  # its retry would meet the next dead connection
        await db.one(ADD, f"after the doom {random.random()}")
        assert db.connections == 1


async def test_connections_that_fell_silent_cost_one_deadline(proxy: Proxy) -> None:
    async with opened(proxy.url) as db:
        await warm(db, 4)
        proxy.silence()
        await unavailable(db, ONE)
        await eventually(lambda: db.connections == 0)
        await db.one(ONE)


async def test_a_silent_connection_is_dropped_whatever_its_last_statement(proxy: Proxy) -> None:
    number = statement("select $1::int")
    async with opened(proxy.url) as db:
        await db.one(number, 1)
        proxy.silence()
        with pytest.raises(Unstorable):
            await db.one(number, 10**12)
        await eventually(lambda: db.connections == 0)
        await db.one(ONE)


async def test_the_good_connections_of_others_are_left_to_them(proxy: Proxy) -> None:
    async with opened(proxy.url, statement=2) as db:
        read = asyncio.create_task(db.all(SLOW_READ))
        await eventually(lambda: proxy.executed)
        link = proxy.latest
        await asyncio.gather(db.one(ONE), db.one(ONE))
        for other in proxy.links - {link}:
            other.doomed = True
        await db.one(ONE)
        assert len(await read) == 1
        assert link in proxy.links


# Given up


async def test_a_statement_past_its_deadline_is_cancelled(proxy: Proxy, watch: Watch) -> None:
    async with opened(proxy.url, size=2) as db:
        await asyncio.gather(*(unavailable(db, SLEEP, 30) for _ in range(2)))
        await running(watch, 0)
        await eventually(lambda: db.limiter.used == 0)
        links = len(proxy.links)
        assert links == db.connections == 2  # still good for another
        await asyncio.gather(db.one(ONE), db.one(ONE))
        assert len(proxy.links) == links


async def test_callers_who_give_up_leave_nothing(proxy: Proxy, watch: Watch) -> None:
    async with opened(proxy.url, wait=5, statement=5) as db:
        callers = [asyncio.create_task(db.one(SLEEP, 30)) for _ in range(40)]
        await running(watch, 4)
        for caller in callers:
            caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        assert all(caller.cancelled() for caller in callers)
        await running(watch, 0)
        await asyncio.gather(*(db.one(ONE) for _ in range(20)))


async def test_a_caller_who_gives_up_does_not_wait_for_the_network(
    proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pool, "SETTLE_WITHIN", 4)
    async with opened(proxy.url, wait=5, statement=5) as db:
        await warm(db, 2)
        proxy.stall()
        callers = [asyncio.create_task(db.one(ONE)) for _ in range(2)]
        await asyncio.sleep(0.05)
        for caller in callers:
            caller.cancel()
        async with asyncio.timeout(2):
            await asyncio.gather(*callers, return_exceptions=True)
        assert db.limiter.used == 2  # until it is known what became of their connections
        proxy.flow()


async def test_callers_who_give_up_at_any_moment_leave_nothing(
    proxy: Proxy, watch: Watch, chance: random.Random
) -> None:
    async with opened(proxy.url, wait=5, statement=5) as db:

        async def caller() -> None:
            task = asyncio.create_task(db.one(statement(f"select {chance.randrange(10**9)}")))
            for _ in range(chance.randrange(60)):
                await asyncio.sleep(0)
            await asyncio.sleep(chance.random() * 0.005)
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

        for _ in range(10):
            await asyncio.gather(*(caller() for _ in range(20)))
        await running(watch, 0)
        await asyncio.gather(*(db.one(ONE) for _ in range(20)))


async def test_a_value_that_cannot_be_sent_leaves_no_transaction_open(proxy: Proxy, watch: Watch) -> None:
    async with opened(proxy.url) as db:
        with pytest.raises(Unstorable):
            await db.one(statement("select $1::int"), 10**12)
        await running(watch, 0)
        await eventually(lambda: db.limiter.used == 0)
        await db.one(ONE)
        assert proxy.attempts == 1


# Closing


async def test_closing_waits_for_what_is_under_way(proxy: Proxy) -> None:
    async with opened(proxy.url, statement=2) as db:
        read = asyncio.create_task(db.all(SLOW_READ))
        await eventually(lambda: proxy.executed)
        await db.close()
        assert len(await read) == 1
        await unavailable(db, ONE)


async def test_closing_ends_by_its_deadline(proxy: Proxy) -> None:
    async with opened(proxy.url) as db:
        await warm(db, 2)
        proxy.stall()
        read = asyncio.create_task(unavailable(db, ONE))
        await asyncio.sleep(0.05)
        async with asyncio.timeout(2):
            await db.close()
            await read
        assert db.connections == 0


async def test_a_connection_lost_while_closing(proxy: Proxy) -> None:
    async with opened(proxy.url, statement=2) as db:
        await warm(db, 2)
        proxy.sent.clear()
        read = asyncio.create_task(unavailable(db, SLOW_READ))
        await eventually(lambda: proxy.executed)
        closing = asyncio.create_task(db.close())
        await asyncio.sleep(0)
        assert proxy.latest
        proxy.latest.close()
        await read
        await closing


# A long bad day


async def test_suspended_and_back(proxy: Proxy, watch: Watch) -> None:
    """As Neon does: backends ended, connections refused, then slow to be made."""
    async with opened(proxy.url, wait=1) as db:
        await warm(db, 4)
        proxy.refuse()
        await kill(watch)
        await asyncio.gather(*(unavailable(db, ONE) for _ in range(8)))
        proxy.stall()
        await proxy.accept()
        reads = [asyncio.create_task(db.one(ONE)) for _ in range(8)]
        await asyncio.sleep(0.4)
        proxy.flow()
        await asyncio.gather(*reads)


async def test_each_acknowledged_write_is_there_once(
    proxy: Proxy, watch: Watch, chance: random.Random
) -> None:
    run, ledger = chance.random(), Ledger()
    faults: list[Callable[[], object]] = [proxy.cut, proxy.doom, proxy.silence, proxy.swallow, lambda: None]
    async with opened(proxy.url) as db:
        over = asyncio.Event()

        async def write(name: int) -> None:
            while not over.is_set():
                value = f"{run} {name} {uuid.uuid4()}"
                await ledger.enter(value, db.one(ADD, value))

        async def spoil() -> None:
            for fault in chance.sample(faults, len(faults)):
                await asyncio.sleep(0.1)
                fault()
                if chance.random() < 0.5:
                    await kill(watch)
            await eventually(lambda: ledger.known, within=10)
            over.set()

        proxy.chaos = chance
        await asyncio.gather(spoil(), *(write(name) for name in range(8)))
        proxy.chaos = None
        proxy.cut()
        await db.one(ONE)
        await running(watch, 0)
        rows = await watch.fetch("select value from notes where value like $1", f"{run} %")
        ledger.check([row["value"] for row in rows])
        assert ledger.unknown
