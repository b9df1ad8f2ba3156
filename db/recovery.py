"""Backups and restores, in the database: one function per statement of `sql/recovery.sql`."""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime

import msgspec

from db import statements, system
from db.manifest import Content
from db.pool import Database
from db.transaction import Transaction

_SQL = statements.load("recovery")
ORIGIN = _SQL["origin"]
SERVER = _SQL["server"]
TABLES = _SQL["tables"]
OBJECTS = _SQL["objects"]
SUBJECT = _SQL["subject"]
CONTENT = _SQL["content"]
SEQUENCES = _SQL["sequences"]
ADVANCE = _SQL["advance"]
SKIP_IDS = _SQL["skip_ids"]
MARK = _SQL["mark"]
ANALYZE = _SQL["analyze"]

JUMP = 1 << 32  # more than any user changed, or any table grew by, in the time that was lost
BATCH = 1000  # users who are locked at a time


class Origin(msgspec.Struct):
    """A snapshot that pg_dump can look through, and when it is of which database."""

    snapshot: str
    taken_at: datetime
    database: str
    server: str


class Counter(msgspec.Struct):
    """An identity column, what its sequence gives next, and the largest number in it."""

    column: str
    next: int
    highest: int | None

    @property
    def behind(self) -> bool:
        return self.highest is not None and self.next <= self.highest


class Advanced(msgspec.Struct):
    """How far `advance` came: up to the user `last`."""

    last: str | None
    users: int


async def origin(snapshot: Transaction) -> Origin:
    """The snapshot of a transaction; its first statement."""
    row = await snapshot.one(ORIGIN)
    assert row is not None
    return Origin(*row)


async def server(db: Database) -> str:
    """The server's version, such as 18.6."""
    row = await db.one(SERVER)
    assert row is not None
    return str(row["server"])


async def tables(part: Transaction) -> Sequence[str]:
    """The tables that have rows, quoted and with their schema."""
    return [row["name"] for row in await part.all(TABLES)]


async def objects(part: Transaction) -> Sequence[str]:
    """All else, by kind and name, such as `index tasks_pkey`."""
    return [row["name"] for row in await part.all(OBJECTS)]


async def subject(part: Transaction, name: str) -> None:
    """Name the table that `content` looks at."""
    await part.one(SUBJECT, name)


async def content(part: Transaction) -> Content:
    """Count its rows and digest them."""
    await part.one(CONTENT)
    return msgspec.json.decode(await system.found(part), type=Content)


async def content_of(part: Transaction, name: str) -> Content:
    """The same of a table by its name."""
    await subject(part, name)
    return await content(part)


async def sequences(part: Transaction) -> Sequence[Counter]:
    """The identity columns of all tables."""
    await part.one(SEQUENCES)
    return msgspec.json.decode(await system.found(part), type=list[Counter])


async def advance(
    db: Database | Transaction, beyond: str, size: int, jump: int, end_sessions: bool
) -> Advanced:
    """Move the revisions of the `size` users from `beyond` on past all that was ever given out."""
    row = await db.one(ADVANCE, beyond, size, jump, end_sessions)
    assert row is not None
    return Advanced(*row)


async def advance_all(db: Database | Transaction, *, end_sessions: bool) -> AsyncIterator[int]:
    """The same for every user, batch by batch; the number of users after each."""
    done, beyond = 0, ""
    while (batch := await advance(db, beyond, BATCH, JUMP, end_sessions)).last is not None:
        done += batch.users
        beyond = batch.last + "\x01"  # the next id by the order of bytes
        yield done


async def skip_ids(db: Database | Transaction, jump: int) -> None:
    """Let the ids of all rows to come jump."""
    await db.one(SKIP_IDS, jump)


async def mark(part: Transaction, schema: str) -> None:
    """Give a restored database the revision of its schema: from then on it is served."""
    await part.one(MARK, schema)


async def analyze(db: Database) -> None:
    """Gather the planner's statistics."""
    await db.one(ANALYZE)
