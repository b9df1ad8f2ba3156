"""The open connections of a pool: a stack, the one used last on top.

Which of its callers may have one, and until when they wait, is the limiter's (`db.limiter`). `asyncpg.Pool` does the same for
100 us of CPU each time, most of it timers and tasks, against 2 here; it also resets sessions, of whose state no statement
leaves any.
"""

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any, TypeAlias

import asyncpg

Connection: TypeAlias = "asyncpg.Connection[Any]"


class Connections:
    """Connections made by `connect(timeout)` when there is no idle one, and closed when `idle` seconds unused."""

    def __init__(self, connect: Callable[[float], Awaitable[Connection]], idle: float) -> None:
        self._connect = connect
        self._patience = idle
        self._loop = asyncio.get_running_loop()
        self._open: set[Connection] = set()
        self._taken = 0  # those being made too
        self._idle: deque[tuple[Connection, float]] = (
            deque()
        )  # with the time when it came back; the oldest to the left
        self._sweeping: asyncio.TimerHandle | None = None
        self._closed = False
        self._all_back = asyncio.Event()  # once it is closed

    def __len__(self) -> int:
        """Those open now, busy or idle."""
        return len(self._open)

    async def take(self, timeout: float) -> Connection:
        """An idle connection, or a new one within `timeout` seconds; raises what asyncpg raises."""
        if self._closed:
            raise asyncpg.InterfaceError("the pool is closed")
        self._taken += 1
        while self._idle:
            connection, _ = self._idle.pop()
            if not connection.is_closed():
                return connection
        try:
            connection = await self._connect(timeout)
        except BaseException:
            self._taken -= 1
            self._tell()
            raise
        self._open.add(connection)
        connection.add_termination_listener(self._open.discard)
        return connection

    def give(self, connection: Connection) -> None:
        """Take a connection back. One in the middle of something is of no use to anybody else."""
        self._taken -= 1
        if not connection.is_closed() and connection.is_in_transaction():
            self._drop(connection)
        elif not connection.is_closed():
            self._idle.append((connection, self._loop.time()))
            if self._sweeping is None and not self._closed:
                self._sweeping = self._loop.call_later(self._patience, self._sweep)
        self._tell()

    def drop_idle(self) -> None:
        """Close all that nobody uses."""
        while self._idle:
            self._drop(self._idle.pop()[0])

    async def close(self) -> None:
        """Wait until all are back, and say goodbye to the server; where that is cut short, end them at once."""
        self._closed = True
        if self._sweeping is not None:
            self._sweeping.cancel()
        try:
            self._tell()
            await self._all_back.wait()
            goodbyes = (connection.close() for connection, _ in self._idle)
            await asyncio.gather(*goodbyes, return_exceptions=True)
        finally:
            for connection in [*self._open]:
                self._drop(connection)
            self._idle.clear()

    def _tell(self) -> None:
        if self._closed and not self._taken:
            self._all_back.set()

    def _sweep(self) -> None:
        """Close those unused for too long, and come again when the next one may be."""
        self._sweeping = None
        latest = self._loop.time() - self._patience
        while self._idle and self._idle[0][1] <= latest:
            self._drop(self._idle.popleft()[0])
        if self._idle:
            self._sweeping = self._loop.call_at(self._idle[0][1] + self._patience, self._sweep)

    def _drop(self, connection: Connection) -> None:
        connection.terminate()
        self._open.discard(connection)
