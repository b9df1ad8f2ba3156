"""Requests that arrive while a statement is in flight travel together in the next one.

A lone request goes at once, by its own statement, so that nobody waits for company; those that arrive in the same turn of
the event loop go with it. While one is in flight, or as many as there are lanes, the next ones gather, and go as one when it
is answered: one round trip for all of them. Each brings its own user and session, and gets its own row. What fails together
is done again one by one, so that one caller's bad luck is never another's.
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeAlias, TypeVar

import asyncpg

from db.errors import Refused, Unavailable, Unstorable
from db.statements import Statement

MOST = 200  # requests in one statement
T = TypeVar("T")
Row: TypeAlias = asyncpg.Record | tuple[Any, ...] | None
log = logging.getLogger("db")


class Runs(Protocol):
    """What sends statements: a `Database`."""

    async def one(self, statement: Statement, *args: object) -> asyncpg.Record | None: ...
    async def all(self, statement: Statement, *args: object) -> list[asyncpg.Record]: ...


class Asked(Generic[T]):
    """An answer to come: `await` it, or have it told at once by `then`, which costs a third of that."""

    __slots__ = ("_error", "_future", "_then", "_value", "args", "settled", "since")

    def __init__(self, args: tuple[object, ...], since: float) -> None:
        self.args = args
        self.since = since
        self.settled = False
        self._value: T
        self._error: Exception | None = None
        self._future: asyncio.Future[None] | None = None
        self._then: Callable[[Asked[T]], None] | None = None

    def then(self, call: Callable[["Asked[T]"], None]) -> None:
        """Have it told, in the turn of the event loop that the answer comes in; of what is asked now, none is there yet."""
        self._then = call

    def result(self) -> T:
        """The answer, once it is there; raises as `Database.one` does."""
        if self._error is not None:
            raise self._error
        return self._value

    def __await__(self) -> Generator[Any, None, T]:
        if not self.settled:
            self._future = asyncio.get_running_loop().create_future()
            yield from self._future
        return self.result()

    @property
    def gone(self) -> bool:
        """Whether whoever asked does not wait any more."""
        return self._future is not None and self._future.cancelled()

    def settle(self, read: Callable[[Any], T], row: object) -> None:
        """Give the answer that is made of a row, or what making it raises."""
        try:
            self._value = read(row)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the asker's)
            self._error = error
        self.settled = True
        if self._future is not None and not self._future.done():
            self._future.set_result(None)
        then, self._then = (
            self._then,
            None,
        )  # who is told knows us: a ring that only the garbage collector would undo
        if then is not None:
            try:
                then(self)
            except Exception:  # nobody else's answer may suffer
                log.exception("an answer could not be told")


def _raised(error: object) -> Any:
    assert isinstance(error, Exception)
    raise error


@dataclass(frozen=True, slots=True)
class Shared(Generic[T]):
    """A statement that requests share. `each` is its form for many: arrays of the same parameters, a row for each request.

    Its first two columns are `ord`, from 1, and `alone`: true where the request has to go by itself, because another
    transaction holds its user's row. No row at all means what no row means when it is alone. `read` makes the answer of a row,
    or of none.
    """

    statement: Statement
    each: Statement
    read: Callable[[Row], T]
    most: int = MOST  # requests in one
    lanes: int = 1  # of it in flight at once
    least: int = 1  # requests for which one leaves beside others


class Together(Generic[T]):
    """The requests of one shared statement, each of which waits `patience` seconds for its turn at most."""

    def __init__(self, db: Runs, shared: Shared[T], patience: float) -> None:
        self._db = db
        self._shared = shared
        self._patience = patience
        self._in_flight = 0
        self._leaving = False
        self._waiting: deque[Asked[T]] = deque()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.get_running_loop()

    def ask(self, *args: object) -> Asked[T]:
        """Run the statement for one request, alone or in company."""
        asked: Asked[T] = Asked(args, self._loop.time())
        self._waiting.append(asked)
        if not self._leaving and self._may_leave():
            self._leaving = True  # with all that arrive in this turn of the event loop
            self._loop.call_soon(self._leave)
        return asked

    def _leave(self) -> None:
        self._leaving = False
        while self._may_leave():
            self._next()

    def _may_leave(self) -> bool:
        least = self._shared.least if self._in_flight else 1
        return self._in_flight < self._shared.lanes and len(self._waiting) >= least

    def _next(self) -> None:
        """Send those who gathered, if any; a caller who has gone is left out."""
        latest = self._loop.time() - self._patience
        going: list[Asked[T]] = []
        while self._waiting and len(going) < self._shared.most:
            asked = self._waiting.popleft()
            if asked.gone:
                continue
            if asked.since < latest:
                asked.settle(_raised, Unavailable(f"no turn within {self._patience:g} s"))
            else:
                going.append(asked)
        if going:
            self._in_flight += 1
            self._start(self._go(going))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = self._loop.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _go(self, going: list[Asked[T]]) -> None:
        try:
            tell = await (self._alone(going[0]) if len(going) == 1 else self._company(going))
        finally:
            self._in_flight -= 1
            self._leave()
        if self._in_flight:
            await asyncio.sleep(0)  # the next statement is on its way before these answers are made
        tell()

    async def _company(self, going: list[Asked[T]]) -> Callable[[], None]:
        columns = map(list, zip(*(asked.args for asked in going), strict=True))
        try:
            rows = await self._db.all(self._shared.each, *columns)
        except Unavailable as error:  # nobody knows what happened: nothing may be sent again
            return partial(self._fail, going, error)
        except (Refused, Unstorable, asyncpg.PostgresError):
            return partial(self._again, going)  # none of it happened
        return partial(self._tell, going, rows)

    def _tell(self, going: list[Asked[T]], rows: list[asyncpg.Record]) -> None:
        found = {row[0]: row for row in rows}
        held = []
        for number, asked in enumerate(going, start=1):
            row = found.get(number)
            if row is not None and row[1]:
                held.append(asked)
            else:
                asked.settle(self._shared.read, row and row[2:])
        self._again(held)

    def _fail(self, going: list[Asked[T]], error: Unavailable) -> None:
        for asked in going:
            asked.settle(_raised, Unavailable(str(error), retry_after=error.retry_after))

    def _again(self, going: list[Asked[T]]) -> None:
        """Send each by itself."""

        async def again(asked: Asked[T]) -> None:
            (await self._alone(asked))()

        for asked in going:
            self._start(again(asked))

    async def _alone(self, asked: Asked[T]) -> Callable[[], None]:
        try:
            row = await self._db.one(self._shared.statement, *asked.args)
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the caller's)
            return partial(asked.settle, _raised, error)
        return partial(asked.settle, self._shared.read, row)
