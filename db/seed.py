"""Demo data for development: one function per statement of `sql/seed.sql`, and users by the thousand."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain

import msgspec

from db import samples, statements
from db.pool import Database
from db.transaction import Transaction
from db.types import Instant

_SQL = statements.load("seed")
USER = _SQL["user"]
TASK = _SQL["task"]
SESSION = _SQL["session"]
START = _SQL["start"]
STAMP = _SQL["stamp"]
ANALYZE = _SQL["analyze"]

CHUNK = 20_000  # rows of a transaction, or one user's


class Start(msgspec.Struct):
    """Where `bulk` goes on: the number of the last user it made, and the time."""

    last: int
    now: Instant


async def user(
    db: Database | Transaction, id: str, email: str, name: str, password_hash: str, is_admin: bool
) -> bool:
    """Make a demo user; False where there is one already."""
    return await db.one(USER, id, email, name, password_hash, is_admin) is not None


async def task(
    db: Database | Transaction,
    user_id: str,
    title: str,
    description: str,
    completed: bool,
    priority: int,
    due_in_days: int | None,
) -> None:
    """Make a demo task."""
    await db.one(TASK, user_id, title, description, completed, priority, due_in_days)


async def session(db: Database, sid: str, user_id: str, refresh_hash: bytes) -> None:
    """Open the session of the token that `serve` prints."""
    await db.one(SESSION, sid, user_id, refresh_hash)


async def start(db: Database) -> Start:
    """Where to go on."""
    row = await db.one(START)
    assert row is not None
    return Start(*row)


async def stamp(whole: Transaction, revisions: str) -> None:
    """Give new users their revisions, JSON by id."""
    await whole.one(STAMP, revisions)


async def analyze(db: Database) -> None:
    """Tell the planner of what is new; it would find out by itself a minute later."""
    await db.one(ANALYZE)


async def bulk(
    db: Database, loads: Iterable[tuple[int, int]], password_hash: str, now: datetime, *, seed: int = 1
) -> AsyncIterator[int]:
    """Make users who have tasks, by COPY on every connection of the pool; tells the rows of each chunk once they are committed.

    `loads` has the number of each new user (`samples.user_id`, `samples.email`) and how many tasks they have; users are
    whole or not there at all. `analyze` is up to the caller.
    """

    async def fill(chunk: Sequence[tuple[int, int]]) -> int:
        revisions = msgspec.json.encode({samples.user_id(number): count for number, count in chunk}).decode()
        users = (samples.user(number, password_hash, now) for number, _ in chunk)
        tasks = chain.from_iterable(samples.tasks(seed, number, count, now) for number, count in chunk)
        async with db.transaction() as whole:
            made = await whole.copy("users", samples.USER_COLUMNS, users)
            await stamp(whole, revisions)
            return made + await whole.copy_encoded("tasks", samples.TASK_COLUMNS, tasks)

    chunks = _chunks(loads)
    under_way: set[asyncio.Task[int]] = set()
    try:
        while True:
            while len(under_way) < db.options.size and (chunk := next(chunks, None)):
                under_way.add(asyncio.create_task(fill(chunk)))
            if not under_way:
                return
            done, under_way = await asyncio.wait(under_way, return_when=asyncio.FIRST_COMPLETED)
            for part in done:
                yield part.result()
    finally:
        for part in under_way:
            part.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)


def _chunks(loads: Iterable[tuple[int, int]]) -> Iterator[list[tuple[int, int]]]:
    """Users together who have about `CHUNK` rows."""
    chunk: list[tuple[int, int]] = []
    rows = 0
    for number, count in loads:
        chunk.append((number, count))
        rows += 1 + count
        if rows >= CHUNK:
            yield chunk
            chunk, rows = [], 0
    if chunk:
        yield chunk
