"""The database alone: functions of `db` on a pool as the service has it, in open loop, timed from when each call was due."""

import asyncio
from array import array
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import chain, cycle
from time import perf_counter

from benchmarks.load import schedule
from benchmarks.scenarios import spared
from benchmarks.stack import Stack
from db import tasks
from db.errors import Refused, Unavailable
from db.pool import Database
from db.statements import Statement
from db.task import Changes, Draft

Call = Callable[[Database], Awaitable[float | None]]  # gives what to count instead of its own time
PLAIN = tasks.Shape("live", "plain", "created_at", "desc", "without")
OLDEST = tasks.Shape("live", "plain", "created_at", "asc", "without")
SIZE = 101  # rows of a page of 100, and whether there are more

_answered_in: ContextVar[float] = ContextVar("answered_in")


class Unexpected(Exception):
    """The call did not do what it should."""


@dataclass
class Timed:
    """What calls took, in seconds, and what went wrong."""

    took: "array[float]" = field(default_factory=lambda: array("d"))
    errors: Counter[str] = field(default_factory=Counter)


def observe(_: Statement, seconds: float) -> None:
    """For a `Database`: what the statement took of a call, so that the rest is known too."""
    _answered_in.set(seconds)


async def measure(
    db: Database, calls: Sequence[Call], *, rate: float, seconds: float, warmup: float, burst: int = 1
) -> Timed:
    """Make calls when they are due, `burst` at a time; those of the warm-up are not counted."""
    found = Timed()
    moments = schedule(rate / burst, warmup + seconds, poisson=True, seed=1)
    due = chain.from_iterable([at] * burst for at in moments)
    starts = perf_counter()

    async def one(call: Call, at: float) -> None:
        try:
            instead = await call(db)
        except (Unavailable, Refused, Unexpected) as error:
            found.errors[type(error).__name__] += 1
            return
        if at >= warmup:
            found.took.append(perf_counter() - starts - at if instead is None else instead)

    async with asyncio.TaskGroup() as group:
        for call, at in zip(cycle(calls), due, strict=False):
            if (wait := starts + at - perf_counter()) > 0:
                await asyncio.sleep(wait)
            group.create_task(one(call, at))
    return found


def calls(stack: Stack, scenario: str, n: int) -> list[Call]:
    """The calls of a scenario, as the users with the most tasks make them."""
    return [*SCENARIOS[scenario](stack, n)]


def _acquire(stack: Stack, n: int) -> Iterator[Call]:
    """All that a call takes beside its statement: the wait for a place and a connection."""
    for user, id in _tasks(stack, n):

        async def call(db: Database, user: str = user, id: int = id) -> float:
            began = perf_counter()
            caller = stack.callers[user]
            await db.one(tasks.GET, caller.user_id, caller.sid, id)
            return perf_counter() - began - _answered_in.get()

        yield call


def _single(stack: Stack, n: int) -> Iterator[Call]:
    for user, id in _tasks(stack, n):

        async def call(db: Database, user: str = user, id: int = id) -> None:
            found = await tasks.get(db, stack.callers[user], id)
            if found is None or found.revision is None:
                raise Unexpected("signed out, or no such task")

        yield call


def _list(stack: Stack, n: int) -> Iterator[Call]:
    return _pages(stack, n, PLAIN, tasks.edge("created_at", "desc"))


def _index_scan(stack: Stack, n: int) -> Iterator[Call]:
    """A range of an index that begins in its middle."""
    half_a_year_ago = datetime.now(UTC) - timedelta(days=182)
    return _pages(stack, n, OLDEST, (half_a_year_ago.isoformat(), 0))


def _pages(stack: Stack, n: int, shape: tasks.Shape, beyond: tuple[str, int]) -> Iterator[Call]:
    window = tasks.Window(0, SIZE, *beyond)
    for user, _ in _tasks(stack, n):

        async def call(db: Database, user: str = user) -> None:
            page = await tasks.list(
                db, shape, stack.callers[user], tasks.Version(), window, tasks.Filters(), ""
            )
            if page is None or not page.lines:
                raise Unexpected("no tasks")

        yield call


def _insert(stack: Stack, n: int) -> Iterator[Call]:
    for number, (user, _) in enumerate(_tasks(stack, n)):

        async def call(db: Database, user: str = user, number: int = number) -> None:
            draft = Draft(f"Measure {number}", None, "pending", 3, None)
            if await tasks.create(db, stack.callers[user], draft) is None:
                raise Unexpected("not made")

        yield call


def _update(stack: Stack, n: int) -> Iterator[Call]:
    """Each task twice with two titles, as `scenarios.update` does."""
    half = [*_tasks(stack, (n + 1) // 2)]
    for title in ("Earlier", "Later"):
        for user, id in half:

            async def call(db: Database, user: str = user, id: int = id, title: str = title) -> None:
                changes = Changes(title=f"{title} {id}")
                _done(await tasks.update(db, stack.callers[user], id, None, changes), "done")

            yield call


def _delete(stack: Stack, n: int) -> Iterator[Call]:
    for user, id in spared(stack, n, stack.large):

        async def call(db: Database, user: str = user, id: int = id) -> None:
            _done(await tasks.delete(db, stack.callers[user], id, None), "done")

        yield call


def _done(outcome: tasks.Outcome | None, wanted: str) -> None:
    if outcome is None or outcome.verdict != wanted:
        raise Unexpected("signed out" if outcome is None else outcome.verdict)


def _tasks(stack: Stack, n: int) -> Iterator[tuple[str, int]]:
    large = set(stack.large)
    theirs = [task for task in stack.task_ids if task[0] in large]
    return iter((theirs * (n // len(theirs) + 1))[:n])


SCENARIOS: dict[str, Callable[[Stack, int], Iterator[Call]]] = {
    "acquire": _acquire,
    "single": _single,
    "list": _list,
    "index_scan": _index_scan,
    "insert": _insert,
    "update": _update,
    "delete": _delete,
}
