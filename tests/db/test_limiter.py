"""The limiter: strict order of arrival, never over capacity, no place lost, whatever comes in the same moment."""

import asyncio
import random

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, precondition, rule

from db.limiter import Limiter

FOREVER = float("inf")


def soon(seconds: float) -> float:
    return asyncio.get_running_loop().time() + seconds


async def full(capacity: int) -> Limiter:
    limiter = Limiter(capacity)
    for _ in range(capacity):
        await limiter.enter(0)
    return limiter


async def test_who_finds_a_place_does_not_wait() -> None:
    limiter = await full(2)
    assert (limiter.used, limiter.waiting) == (2, 0)


async def test_the_wait_ends_at_the_deadline() -> None:
    limiter = await full(1)
    for until in (soon(0.01), soon(-1), 0):
        async with asyncio.timeout(2):
            with pytest.raises(TimeoutError):
                await limiter.enter(until)
    assert (limiter.used, limiter.waiting) == (1, 0)
    limiter.leave()
    await limiter.enter(0)


async def test_nobody_overtakes() -> None:
    limiter = await full(1)
    served: list[int] = []

    async def caller(number: int) -> None:
        await limiter.enter(soon(5))
        served.append(number)
        await asyncio.sleep(0)
        limiter.leave()

    callers = [asyncio.create_task(caller(number)) for number in range(50)]
    await asyncio.sleep(0)
    assert limiter.waiting == 50
    limiter.leave()
    late = asyncio.create_task(caller(50))  # comes while a place is being handed over
    await asyncio.gather(*callers, late)
    assert served == list(range(51))
    assert limiter.used == 0


async def test_a_place_that_comes_with_the_end_of_the_wait_is_passed_on() -> None:
    limiter = await full(1)
    first = asyncio.create_task(limiter.enter(soon(5)))
    second = asyncio.create_task(limiter.enter(soon(5)))
    await asyncio.sleep(0)
    limiter.leave()
    first.cancel()
    await second
    assert first.cancelled()
    assert (limiter.used, limiter.waiting) == (1, 0)


async def test_a_smaller_capacity_lets_those_inside_finish() -> None:
    limiter = await full(3)
    limiter.resize(1)
    waiter = asyncio.create_task(limiter.enter(soon(5)))
    for used in (2, 1):
        await asyncio.sleep(0)
        limiter.leave()
        assert limiter.used == used
    await asyncio.sleep(0)
    assert not waiter.done()
    limiter.leave()
    await waiter
    assert limiter.used == 1


async def test_a_larger_capacity_lets_in_at_once() -> None:
    limiter = await full(1)
    waiters = [asyncio.create_task(limiter.enter(soon(5))) for _ in range(3)]
    await asyncio.sleep(0)
    limiter.resize(3)
    await asyncio.gather(*waiters[:2])
    assert (limiter.used, limiter.waiting) == (3, 1)
    waiters[2].cancel()


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time passes when it is told to."""

    now = 0.0

    def time(self) -> float:
        return self.now


class Model(RuleBasedStateMachine):
    """Callers come, leave, give up and run out of time, several of them between two turns of the loop."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Clock()
        self.limiter = Limiter(2)
        self.largest = 2  # capacity since the last turn of the loop
        self.arrived: list[asyncio.Task[None]] = []
        self.last = 0  # of those who were let in
        self.inside: set[int] = set()

    async def caller(self, number: int, until: float) -> None:
        await self.limiter.enter(until)
        self.inside.add(number)
        self.last = max(self.last, number)

    @rule(patience=st.sampled_from([0.0, 1.0, 2.0, 1000.0]))
    def arrive(self, patience: float) -> None:
        number = len(self.arrived)
        self.arrived.append(self.loop.create_task(self.caller(number, self.loop.now + patience)))

    @precondition(lambda self: self.inside)
    @rule(pick=st.randoms(use_true_random=False))
    def leave(self, pick: random.Random) -> None:
        self.inside.remove(pick.choice(sorted(self.inside)))
        self.limiter.leave()

    @precondition(lambda self: self.waiting())
    @rule(pick=st.randoms(use_true_random=False))
    def give_up(self, pick: random.Random) -> None:
        pick.choice(self.waiting()).cancel()

    @rule()
    def pass_time(self) -> None:
        self.loop.now += 1

    @rule(capacity=st.integers(1, 4))
    def resize(self, capacity: int) -> None:
        self.limiter.resize(capacity)
        self.largest = max(self.largest, capacity)

    @rule()
    def turn(self) -> None:
        self.run()
        self.largest = self.limiter.capacity
        # Nobody waits beside a free place, and every place is somebody's.
        assert not self.limiter.waiting or self.limiter.used >= self.limiter.capacity
        assert self.limiter.used == len(self.inside)
        assert self.limiter.waiting == len(self.waiting())
        # Nobody waits whom a later one overtook.
        assert all(self.arrived[number].done() for number in range(self.last))

    def waiting(self) -> list[asyncio.Task[None]]:
        return [task for task in self.arrived if not task.done()]

    def run(self) -> None:
        async def turns() -> None:
            for _ in range(6):
                await asyncio.sleep(0)

        before = len(self.inside)
        self.loop.run_until_complete(turns())
        assert len(self.inside) <= max(before, self.largest)

    def teardown(self) -> None:
        self.loop.now += 10_000
        self.run()
        for number in sorted(self.inside):
            self.inside.remove(number)
            self.limiter.leave()
        self.run()
        assert (self.limiter.used, self.limiter.waiting) == (0, 0)
        assert not self.waiting()
        for task in self.arrived:
            if not task.cancelled():
                assert isinstance(task.exception(), TimeoutError | None)
        self.loop.close()


TestModel = Model.TestCase
TestModel.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
