"""The way to Postgres: one statement, one round trip, on a small pool that suits Neon.

No connection is opened before it is needed and none is kept awake; a connection carries no session state, so
that it works behind a transaction-mode pooler; every wait has a deadline, after which a request is `Unavailable`.
"""

import asyncio
import logging
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from time import perf_counter
from typing import Any, Literal, TypeVar

import asyncpg

from db.connections import Connections
from db.errors import Denied, Refused, Unavailable, Unstorable
from db.limiter import Limiter
from db.statements import Statement
from db.together import Asked, Shared, Together
from db.transaction import Transaction
from db.url import ConnectArgs

log = logging.getLogger("db")
T = TypeVar("T")

# The connection is gone or was never made. What was sent may or may not have happened.
LOST = (
    OSError,
    asyncpg.PostgresConnectionError,
    asyncpg.AdminShutdownError,
    asyncpg.CrashShutdownError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
# The server undid the statement; to send it again is safe, also for a write.
UNDONE = (asyncpg.DeadlockDetectedError, asyncpg.SerializationError)
# The server cannot do it now: no space, no memory, read-only after a failover, cancelled at our deadline.
UNABLE = (
    asyncpg.InsufficientResourcesError,
    asyncpg.ReadOnlySQLTransactionError,
    asyncpg.QueryCanceledError,
    asyncpg.CannotConnectNowError,
)

PREPARED = 1000  # statements that a connection keeps prepared, as many as a pooler does
SETTLE_WITHIN = 5.0  # seconds that a connection has to get over a statement given up on


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolOptions:
    """Bounds of a pool; times in seconds."""

    size: int = 8
    wait: float = 10.0  # for a connection, and for a new one to be made
    statement: float = 10.0
    idle: float = 60.0  # an unused connection is closed after it: Neon's compute may then suspend
    echo: bool = False


class Database:
    """A pool of one database. `observe(statement, seconds)` is told of every statement that was answered."""

    def __init__(
        self,
        args: ConnectArgs,
        options: PoolOptions | None = None,
        *,
        observe: Callable[[Statement, float], None] | None = None,
        init: Any = None,
    ) -> None:
        self.args = args
        self.options = options or PoolOptions()
        self.limiter = Limiter(self.options.size)
        self._observe = observe
        self._init = init
        self._settling: set[asyncio.Task[None]] = set()
        self._together: dict[str, Together[Any]] = {}
        self._connections: Connections

    async def open(self) -> None:
        """Get ready, on the loop that will serve; no connection is made."""
        self._connections = Connections(self._connect, self.options.idle)

    async def close(self) -> None:
        """Wait for statements under way, within their deadline, then close every connection."""
        with suppress(TimeoutError):
            async with asyncio.timeout(self.options.statement):
                await self._connections.close()  # ends every connection at once where this is cut short

    @property
    def connections(self) -> int:
        """Connections open now, busy or idle."""
        return len(self._connections)

    async def one(self, statement: Statement, *args: object) -> asyncpg.Record | None:
        """Run a statement that gives one row or none.

        Raises `Unavailable`, `Refused` (a named constraint) or `Unstorable`.
        """
        return await self._run(statement, lambda c, t: c.fetchrow(statement.sql, *args, timeout=t))

    def one_of_many(self, shared: Shared[T], *args: object) -> Asked[T]:
        """The same as `one`, but together with the requests that come while it is in flight, and read (`db.together`)."""
        together = self._together.get(shared.statement.name)
        if together is None:
            together = self._together[shared.statement.name] = Together(self, shared, self.options.wait)
        return together.ask(*args)

    async def all(self, statement: Statement, *args: object) -> list[asyncpg.Record]:
        """Run a statement that gives any number of rows; raises as `one` does."""
        return await self._run(statement, lambda c, t: c.fetch(statement.sql, *args, timeout=t))

    @asynccontextmanager
    async def transaction(
        self, isolation: Literal["repeatable_read"] | None = None
    ) -> AsyncIterator[Transaction]:
        """Several statements, all of them or none: committed where the block ends, undone where it raises.

        With `repeatable_read` all of them see the database as the first one did.

        Raises `Unavailable` where no connection is to be had, or where it is lost: then, if it was lost while committing,
        nobody knows whether it did.
        """
        clock = asyncio.get_running_loop().time
        connect_by = clock() + self.options.wait
        await self._enter(connect_by)
        connection = None
        settled = False
        try:
            connection = await self._acquire(connect_by - clock())
            whole = Transaction(connection, _part)
            try:
                await whole.begin(connect_by - clock(), isolation)
                yield whole
                await whole.commit()
            except Exception as error:
                if isinstance(error, Unavailable):  # nobody waits for a network that may be gone
                    raise
                await whole.undo()
                settled = True
                raise
            finally:
                whole.end()
            settled = True
        except _Again as again:
            raise Unavailable(str(again)) from again.__cause__
        finally:
            self._leave(connection, settled=settled, by="rollback")

    async def _run(self, statement: Statement, send: Callable[[Any, float], Awaitable[T]]) -> T:
        """Send a statement; once more, within the same deadline, where that cannot do it twice.

        That is: never sent, undone by the server, or a read or a keyed write whose connection was lost.
        """
        end = asyncio.get_running_loop().time() + self.options.wait + self.options.statement
        try:
            return await self._try(statement, send, end)
        except _Again as again:
            log.info("%s is tried again: %s", statement.name, again)
        await asyncio.sleep(random.uniform(0.02, 0.1))  # noqa: S311 (jitter, no secret)
        try:
            return await self._try(statement, send, end)
        except _Again as again:
            raise Unavailable(str(again)) from again.__cause__

    async def _try(self, statement: Statement, send: Callable[[Any, float], Awaitable[T]], end: float) -> T:
        clock = asyncio.get_running_loop().time
        connect_by = min(clock() + self.options.wait, end)
        await self._enter(connect_by)
        connection = None
        settled = False
        try:
            connection = await self._acquire(connect_by - clock())
            sent = perf_counter()  # uvloop's clock goes by milliseconds
            answer = await send(connection, min(self.options.statement, end - clock()))
            settled = True
        except _FAILED as error:
            # A value that cannot be sent is a DataError too, of asyncpg's own making.
            settled = isinstance(error, asyncpg.PostgresError) and not isinstance(error, asyncpg.DataError)
            if isinstance(error, LOST) and not isinstance(error, TimeoutError):
                self._connections.drop_idle()
            _judge(statement.name, error, again=statement.kind != "write")
            raise
        finally:
            self._leave(connection, settled=settled)
        took = perf_counter() - sent
        if self._observe:
            self._observe(statement, took)
        if self.options.echo:
            log.info("%s %.1f ms", statement.name, took * 1000)
        return answer

    async def _enter(self, by: float) -> None:
        try:
            await self.limiter.enter(by)
        except TimeoutError:
            raise Unavailable(f"no connection was free within {self.options.wait:g} s") from None

    async def _acquire(self, timeout: float) -> Any:
        try:
            return await self._connections.take(max(timeout, 0.001))
        except (*LOST, asyncpg.PostgresError, UnicodeError) as error:  # UnicodeError: of an impossible host
            raise _Again(f"no connection to {self.args.place}: {type(error).__name__} {error}") from error

    async def _connect(self, timeout: float) -> Any:
        connection = await asyncpg.connect(
            **self.args.kwargs(),
            statement_cache_size=PREPARED,
            max_cached_statement_lifetime=0,  # by default each is prepared anew every five minutes
            timeout=timeout,
            command_timeout=self.options.statement,
            server_settings={"application_name": "roundtrip"},
        )
        if self._init is not None:
            await self._init(connection)
        return connection

    def _leave(self, connection: Any, *, settled: bool, by: str = "select") -> None:
        """Give the connection and the place back, off the caller's path where the network must first be waited for.

        `by`: what then brings the connection into order.
        """
        if connection is None:
            self.limiter.leave()
        elif settled:
            self._release(connection)
        else:
            task = asyncio.create_task(self._settle(connection, by))
            self._settling.add(task)
            task.add_done_callback(self._settling.discard)

    def _release(self, connection: Any) -> None:
        self._connections.give(connection)
        self.limiter.leave()

    async def _settle(self, connection: Any, by: str) -> None:
        """Bring a connection into order whose statement was given up or never sent, or drop it.

        A query does so: it waits for the cancellation, it ends the transaction that asyncpg leaves open between
        preparing and sending, and it shows whether the server is still there.
        """
        settled = False
        try:
            await connection.execute(by, timeout=SETTLE_WITHIN)
            settled = True
        except (*LOST, asyncpg.PostgresError) as error:
            log.warning("a connection was lost over a statement given up: %s", type(error).__name__)
            self._connections.drop_idle()
        finally:
            if not settled:
                connection.terminate()
            self._release(connection)


class _Again(Exception):
    """To send the statement once more does no harm."""


_FAILED = (asyncpg.PostgresError, *LOST, ValueError, OverflowError)


def _judge(name: str, error: Exception, *, again: bool) -> None:
    """Raise what a failure means to the caller; return where it means a mistake of ours.

    `again`: what was sent may be sent once more although nobody knows whether it happened.
    """
    name = f"{name}: {type(error).__name__}"
    if isinstance(error, asyncpg.PostgresError):
        error.detail = None  # it repeats the row, and errors are logged
    match error:
        case asyncpg.IntegrityConstraintViolationError() if error.constraint_name:
            raise Refused(error.constraint_name) from error
        case asyncpg.InsufficientPrivilegeError():
            raise Denied(f"{name}: {error}") from error
        case asyncpg.DataError() | ValueError() | OverflowError():
            raise Unstorable(name) from error  # its text repeats the value
        case TimeoutError():
            raise Unavailable(f"{name}: no answer within its deadline") from error
        case _ if isinstance(error, UNDONE) or (isinstance(error, LOST) and again):
            raise _Again(name) from error
        case _ if isinstance(error, LOST + UNABLE):
            raise Unavailable(f"{name}: {error}") from error


async def _part(name: str, doing: Callable[[], Awaitable[T]]) -> T:
    """A part of a transaction: judged like a statement, never sent again by itself."""
    try:
        return await doing()
    except _FAILED as error:
        try:
            _judge(name, error, again=False)
        except _Again as again:
            raise Unavailable(str(again)) from error
        raise
