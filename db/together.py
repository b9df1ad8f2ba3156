"""Requests that arrive while a statement is in flight travel together in the next one.

A lone request goes at once, by its own statement, so that nobody waits for company. While one is in flight, or as many as there
are lanes, the next ones gather, and go as one when it is answered: one round trip for all of them. Each brings its own user and session, and gets
its own row. What fails together is done again one by one, so that one caller's bad luck is never another's.
"""

import asyncio
from collections import deque
from collections.abc import Coroutine
from typing import Any, Protocol, TypeAlias

import asyncpg

from db.errors import Refused, Unavailable, Unstorable
from db.statements import Statement

MOST = 200  # requests in one statement
Row: TypeAlias = asyncpg.Record | tuple[Any, ...] | None


class Runs(Protocol):
    """What sends statements: a `Database`."""

    async def one(self, statement: Statement, *args: object) -> asyncpg.Record | None: ...
    async def all(self, statement: Statement, *args: object) -> list[asyncpg.Record]: ...


class _Request:
    __slots__ = ("answer", "args", "since")

    def __init__(self, args: tuple[object, ...]) -> None:
        loop = asyncio.get_running_loop()
        self.args = args
        self.since = loop.time()
        self.answer: asyncio.Future[Row] = loop.create_future()

    def done(self, row: Row) -> None:
        if not self.answer.done():
            self.answer.set_result(row)

    def fail(self, error: Exception) -> None:
        if not self.answer.done():
            self.answer.set_exception(error)


class Together:
    """The requests of one statement. `each` is its form for many: arrays of the same parameters, a row for each request.

    Its first two columns are `ord`, from 1, and `alone`: true where the request has to go by itself, because another
    transaction holds its user's row. No row at all means what no row means when it is alone. `lanes` statements are in flight at
    once, more than one where each is long, with `most` requests in each.
    """

    def __init__(
        self,
        db: Runs,
        statement: Statement,
        each: Statement,
        patience: float,
        *,
        lanes: int = 1,
        most: int = MOST,
    ) -> None:
        self._db = db
        self._statement = statement
        self._each = each
        self._patience = patience  # seconds to wait for one's turn
        self._lanes = lanes  # statements in flight at once
        self._most = most
        self._in_flight = 0
        self._waiting: deque[_Request] = deque()
        self._tasks: set[asyncio.Task[None]] = set()

    async def one(self, *args: object) -> Row:
        """Run the statement for one request, alone or in company; raises as `Database.one` does."""
        if self._in_flight >= self._lanes:
            request = _Request(args)
            self._waiting.append(request)
            return await request.answer
        self._in_flight += 1
        try:
            return await self._db.one(self._statement, *args)
        finally:
            self._landed()

    def _landed(self) -> None:
        self._in_flight -= 1
        self._next()

    def _next(self) -> None:
        """Send those who gathered, if any; a caller who has gone is left out."""
        latest = asyncio.get_running_loop().time() - self._patience
        going: list[_Request] = []
        while self._waiting and len(going) < self._most:
            request = self._waiting.popleft()
            if request.answer.done():
                continue
            if request.since < latest:
                request.answer.set_exception(Unavailable(f"no turn within {self._patience:g} s"))
            else:
                going.append(request)
        if going:
            self._in_flight += 1
            self._start(self._go(going))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _go(self, going: list[_Request]) -> None:
        try:
            if len(going) == 1:
                await self._alone(going[0])
            else:
                await self._company(going)
        finally:
            self._landed()

    async def _company(self, going: list[_Request]) -> None:
        columns = map(list, zip(*(request.args for request in going), strict=True))
        try:
            rows = await self._db.all(self._each, *columns)
        except Unavailable as error:  # nobody knows what happened: nothing may be sent again
            for request in going:
                request.fail(Unavailable(str(error), retry_after=error.retry_after))
            return
        except (Refused, Unstorable, asyncpg.PostgresError):
            held = going  # none of it happened
        else:
            held = []
            found = {row[0]: row for row in rows}
            for number, request in enumerate(going, start=1):
                row = found.get(number)
                if row is not None and row[1]:
                    held.append(request)
                else:
                    request.done(row and row[2:])
        for request in held:
            self._start(self._alone(request))

    async def _alone(self, request: _Request) -> None:
        try:
            request.done(await self._db.one(self._statement, *request.args))
        except Exception as error:  # noqa: BLE001 (whatever it is, it is the caller's)
            request.fail(error)
