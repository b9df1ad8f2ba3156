"""Several statements, all of them or none."""

from collections.abc import AsyncIterator, Awaitable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Protocol, TypeVar

import asyncpg

from db.statements import Statement

T = TypeVar("T")


class Judged(Protocol):
    """Waits for a part of a transaction; what fails there is raised as `Database` raises it."""

    async def __call__(self, name: str, doing: Awaitable[T]) -> T: ...


class Transaction:
    """An open transaction, for what one statement cannot do: imports, purges, archives. No request needs one.

    Its methods raise what those of `Database` raise, and send nothing twice. An exception that leaves a block of
    `transaction()` undoes all that the block did, cancellation and a lost connection too.
    """

    def __init__(self, connection: Any, judged: Judged) -> None:
        self._connection = connection
        self._judged = judged

    async def one(self, statement: Statement, *args: object) -> asyncpg.Record | None:
        """Run a statement that gives one row or none."""
        doing: Awaitable[asyncpg.Record | None] = self._connection.fetchrow(statement.sql, *args)
        return await self._judged(statement.name, doing)

    async def all(self, statement: Statement, *args: object) -> list[asyncpg.Record]:
        """Run a statement that gives any number of rows."""
        doing: Awaitable[list[asyncpg.Record]] = self._connection.fetch(statement.sql, *args)
        return await self._judged(statement.name, doing)

    async def pages(
        self, statement: Statement, *args: object, size: int = 1000
    ) -> AsyncIterator[list[asyncpg.Record]]:
        """The rows of a statement, `size` of them in memory at a time (a cursor)."""
        cursor = await self._judged(statement.name, self._connection.cursor(statement.sql, *args))
        while rows := await self._judged(statement.name, cursor.fetch(size)):
            yield rows

    async def copy(self, table: str, columns: Sequence[str], rows: Iterable[Sequence[object]]) -> int:
        """Insert rows by COPY; their number. Triggers and constraints hold as ever."""
        doing: Awaitable[str] = self._connection.copy_records_to_table(table, columns=columns, records=rows)
        return int((await self._judged(f"copy to {table}", doing)).rpartition(" ")[2])

    @asynccontextmanager
    async def transaction(self) -> AsyncIterator["Transaction"]:
        """A part that may be undone alone (a savepoint)."""
        async with self._connection.transaction():
            yield self
