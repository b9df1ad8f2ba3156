"""The data that is asked: seeded once, kept as a template, and cloned for each run, which may then write as it likes."""

import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

from db import samples, seed, system
from db.pool import Database, PoolOptions
from db.statements import Statement
from db.url import parse

Progress = Callable[[str], None]
ROOT = Path(__file__).parent.parent
HOUR = 3600.0
ASKED, SPARE = 0, 1  # remainders of ids: of tasks that stay, and of tasks that may be deleted
SAMPLE = 50_000  # tasks, about
EMPTY = f"seeded_{system.SCHEMA}_none"  # migrated, without rows
FILE_COPY = 150_000  # the first version of PostgreSQL that can choose it


class Sizes(NamedTuple):
    """How much data; `large` of the users have `large_tasks` each, the others share the rest evenly."""

    users: int
    tasks: int
    large: int
    large_tasks: int

    @property
    def template(self) -> str:
        """The database that has it, of this version's schema."""
        return f"seeded_{system.SCHEMA}_{'_'.join(map(str, self))}"

    def loads(self) -> list[tuple[int, int]]:
        """Number and tasks of each user, those with the most first."""
        rest = self.tasks - self.large * self.large_tasks
        each, more = divmod(rest, max(self.users - self.large, 1))
        if self.large > self.users or rest < 0:
            raise ValueError(f"{self} cannot be: the large users have more than there is")
        few = [each + (n < more) for n in range(self.users - self.large)]
        return list(enumerate([self.large_tasks] * self.large + few, start=1))


@asynccontextmanager
async def opened(url: str, size: int = 8) -> AsyncIterator[Database]:
    """A pool without hurry."""
    db = Database(parse(url), PoolOptions(size=size, statement=HOUR, wait=HOUR))
    await db.open()
    try:
        yield db
    finally:
        await db.close()


async def run(db: Database, sql: str, *args: object) -> list[Any]:
    """SQL of the suite's own."""
    return await db.all(Statement("benchmarks.sql", sql, "write", (), (), "", "benchmarks.sql"), *args)


@asynccontextmanager
async def cloned(server: str, sizes: Sizes, progress: Progress) -> AsyncIterator[str]:
    """The URL of a fresh copy of seeded data, dropped in the end; seeds it where that was not done before."""
    name = f"run_{os.getpid()}_{sizes.users}_{sizes.tasks}"
    async with opened(server, 1) as db:
        await _tidy(db)
        if sizes.template not in await _names(db):
            await _seed(db, server, sizes, progress)
        progress(f"Copying {sizes.tasks:,} tasks of {sizes.users:,} users")
        await _copy(db, sizes.template, name)
    try:
        await _warm(named(server, name))
        yield named(server, name)
    finally:
        async with opened(server, 1) as db:
            await run(db, f'drop database if exists "{name}" with (force)')


def named(server: str, name: str) -> str:
    """The same server's URL for another database."""
    return urlsplit(server)._replace(path=f"/{name}").geturl()


async def sample(db: Database, sizes: Sizes, remainder: int) -> list[tuple[str, int]]:
    """Live tasks with their owners, some of everybody's, in no order; other remainders give others."""
    step = max(2, sizes.tasks // SAMPLE)
    rows = await run(
        db,
        "select t.user_id, t.id from tasks t where t.deleted_at is null and t.id % $1::bigint = $2::bigint "
        "order by md5(t.id::text)",
        step,
        remainder,
    )
    return [(row[0], row[1]) for row in rows]


async def _names(db: Database) -> set[str]:
    return {row[0] for row in await run(db, "select datname::text from pg_database")}


async def _tidy(db: Database) -> None:
    """Drop what earlier versions seeded, and what runs that were killed left behind."""
    for name in await _names(db):
        kind, _, rest = name.partition("_")
        owner = rest.partition("_")[0]
        stale = kind == "seeded" and owner != system.SCHEMA
        if stale or (kind in ("run", "making") and not _runs(owner)):
            await run(db, f'drop database if exists "{name}" with (force)')


def _runs(pid: str) -> bool:
    return Path(f"/proc/{pid}").exists()


async def _copy(db: Database, template: str, name: str) -> None:
    (row,) = await run(db, "select current_setting('server_version_num')::int")
    how = " strategy file_copy" if row[0] >= FILE_COPY else ""
    await run(db, f'create database "{name}" template "{template}"{how}')


async def _warm(url: str) -> None:
    """Read it all once, where that can be had: in a copy no page is in memory, as most are where a server has been in use."""
    async with opened(url, 1) as db:
        if await run(db, "select from pg_available_extensions where name = 'pg_prewarm'"):
            await run(db, "create extension if not exists pg_prewarm")
            await run(
                db,
                "select pg_prewarm(c.oid, 'read') from pg_class c "
                "where c.relnamespace = 'public'::regnamespace and c.relkind in ('r', 'i')",
            )


async def _seed(db: Database, server: str, sizes: Sizes, progress: Progress) -> None:
    if EMPTY not in await _names(db):
        progress("Migrating")
        async with _making(db, server, "template0", EMPTY) as url:
            _migrate(url)
    async with _making(db, server, EMPTY, sizes.template) as url, opened(url) as fresh:
        await _fill(fresh, sizes, progress)
        progress("Sorting and analyzing")
        # As rows come to lie where many users write at once: by time, not by user.
        await run(fresh, "create index tasks_in_order on tasks (created_at)")
        await run(fresh, "cluster tasks using tasks_in_order")
        await run(fresh, "drop index tasks_in_order")
        await run(fresh, "vacuum analyze")


@asynccontextmanager
async def _making(db: Database, server: str, template: str, name: str) -> AsyncIterator[str]:
    """The URL of a database that has its name once it is whole."""
    making = f"making_{os.getpid()}_{name}"
    await run(db, f'create database "{making}" template "{template}"')
    yield named(server, making)
    await run(db, f'alter database "{making}" rename to "{name}"')


async def _fill(db: Database, sizes: Sizes, progress: Progress) -> None:
    start = await seed.start(db)
    total, made, told = sizes.users + sizes.tasks, 0, 0
    now: datetime = start.now
    async for rows in seed.bulk(db, sizes.loads(), "no password", now):
        made += rows
        if made * 10 // total > told:
            told = made * 10 // total
            progress(f"Seeding {sizes.tasks:,} tasks of {sizes.users:,} users, once: {told * 10} %")


def _migrate(url: str) -> None:
    """In a child process, so that this one never loads SQLAlchemy."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("DATABASE_")}
    subprocess.run(
        [sys.executable, "-m", "service.migrate", "up"],
        check=True,
        capture_output=True,
        env=kept | {"DATABASE_URL": url, "PYTHONPATH": str(ROOT)},
    )


def user_ids(sizes: Sizes) -> list[str]:
    """Everybody, those with the most tasks first."""
    return [samples.user_id(number) for number, _ in sizes.loads()]
