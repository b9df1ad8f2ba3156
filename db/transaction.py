"""Several statements, all of them or none."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from itertools import islice
from typing import Any, Protocol, TypeVar

import asyncpg

from db.statements import Statement

T = TypeVar("T")
UNDO_WITHIN = 5.0  # seconds; past them the connection is dropped, and the server undoes it all


class Judged(Protocol):
    """Does a part of a transaction; what fails there is raised as `Database` raises it."""

    async def __call__(self, name: str, doing: Callable[[], Awaitable[T]]) -> T: ...


class Transaction:
    """An open transaction, for what one statement cannot do: imports, purges, archives. No request needs one.

    Its methods raise what those of `Database` raise, and send nothing twice. An exception that leaves a block of
    `transaction()` undoes all that the block did, cancellation and a lost connection too. A block that means to go on
    after a failed statement has it in a part of its own.
    """

    def __init__(self, connection: Any, judged: Judged) -> None:
        self._connection = connection
        self._judged = judged
        self._parts = 0
        self._ended = False

    async def one(self, statement: Statement, *args: object) -> asyncpg.Record | None:
        """Run a statement that gives one row or none."""
        return await self._do(statement.name, lambda c: c.fetchrow(statement.sql, *args))

    async def all(self, statement: Statement, *args: object) -> list[asyncpg.Record]:
        """Run a statement that gives any number of rows."""
        return await self._do(statement.name, lambda c: c.fetch(statement.sql, *args))

    async def pages(
        self, statement: Statement, *args: object, size: int = 1000
    ) -> AsyncIterator[list[asyncpg.Record]]:
        """The rows of a statement, `size` of them in memory at a time (a cursor)."""
        cursor = await self._do(statement.name, lambda c: c.cursor(statement.sql, *args))
        while rows := await self._do(statement.name, lambda _: cursor.fetch(size)):
            yield rows

    async def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> int:
        """Insert rows by COPY; their number. Triggers and constraints hold as ever."""
        tag: str = await self._do(
            f"copy to {table}", lambda c: c.copy_records_to_table(table, columns=columns, records=rows)
        )
        return int(tag.rpartition(" ")[2])

    async def copy_encoded(self, table: str, columns: Sequence[str], rows: Iterable[bytes]) -> int:
        """The same of rows that are in COPY's binary form already."""
        tag: str = await self._do(
            f"copy to {table}",
            lambda c: c.copy_to_table(table, columns=columns, source=_framed(rows), format="binary"),
        )
        return int(tag.rpartition(" ")[2])

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Transaction"]:
        """A part that may be undone alone (a savepoint)."""
        self._parts += 1
        name = f"part_{self._parts}"
        await self._send(f"savepoint {name}")
        try:
            yield self
        except BaseException:
            await self.undo(f"rollback to savepoint {name}; release savepoint {name}")
            raise
        await self._send(f"release savepoint {name}")

    # For `Database` alone

    async def begin(self, within: float, isolation: str | None = None) -> None:
        level = f" isolation level {isolation.replace('_', ' ')}" if isolation else ""
        await self._send(f"begin{level}", timeout=within)

    async def commit(self) -> None:
        """Raises `RuntimeError` where the block went on after a failure: the server then undoes what it is to commit."""
        if await self._send("commit") != "COMMIT":
            raise RuntimeError("nothing was committed: a statement had failed, and the block went on")

    async def undo(self, how: str = "rollback") -> None:
        """Undo what was done; where the server does not say that it has, drop the connection, which undoes it all."""
        undone = False
        try:
            with suppress(asyncpg.PostgresError, asyncpg.InterfaceError, OSError):
                await self._connection.execute(how, timeout=UNDO_WITHIN)
                undone = True
        finally:
            if not undone:
                with suppress(asyncpg.InterfaceError):  # it was dropped already
                    self._connection.terminate()

    def end(self) -> None:
        """Refuse every use from now on: it would be outside of the transaction."""
        self._ended = True

    async def _send(self, command: str, **options: Any) -> str:
        return await self._do(command, lambda c: c.execute(command, **options))

    async def _do(self, name: str, doing: Callable[[Any], Awaitable[T]]) -> T:
        if self._ended:
            raise RuntimeError(f"{name}: this transaction has ended")
        return await self._judged(name, lambda: doing(self._connection))


async def _framed(rows: Iterable[bytes], size: int = 1000) -> AsyncIterator[bytes]:
    """COPY's binary form of rows: a signature, no flags, no extension; `size` rows at a time; no more columns."""
    yield b"PGCOPY\n\xff\r\n\0" + bytes(8)
    left = iter(rows)
    while part := b"".join(islice(left, size)):
        yield part
    yield b"\xff\xff"
