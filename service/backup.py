"""`roundtrip backup`. Why it does what it does is in docs/RECOVERY.md."""

import asyncio
import os
import re
import tempfile
import time
from collections.abc import Awaitable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path

import click

from db import dump, manifest, recovery, system
from db.dump import DumpError, Tool
from db.manifest import Content, Manifest
from db.pool import PoolOptions
from db.transaction import Transaction
from db.url import ConnectArgs, parse
from service import command
from service.command import say

DAY = 86_400.0
TICK = 5.0  # seconds between two lines on how far pg_dump is
LOCK_WAIT = "60s"  # for a migration under way


@click.command()
@click.argument("file", type=click.Path(dir_okay=False, path_type=Path))
@click.option("--force", is_flag=True, help="Replace FILE where it is there, once the new one is whole.")
def backup(file: Path, force: bool) -> None:
    """Write the whole database to FILE, while it serves.

    The database is DATABASE_URL_UNPOOLED or, without it, DATABASE_URL, which then must not be a pooler; its role must
    be allowed to read everything, as the owner's is. A pg_dump of the server's version or newer must be on this
    machine.

    FILE is a dump that pg_restore reads, and at its end what was true in the very same snapshot: the rows of each
    table, a digest of them, the schema. It appears when it is whole, and only you may read it. Password hashes and
    e-mail addresses are in it, not encrypted. Roles are not.
    """
    if file.exists() and not force:
        raise click.ClickException(f"{file} is there already; --force replaces it")
    begun = time.monotonic()
    try:
        with command.target(migrated=False) as (_, url), _new(file, force=force) as new:
            written = command.finish(_backup(url, new))
    except DumpError as error:
        raise click.ClickException(str(error)) from error
    except OSError as error:
        raise click.ClickException(f"{file}: {error.strerror}") from error
    click.echo(
        f"{file}: {written.rows:,} rows of {len(written.tables)} tables, {_megabytes(file)},"
        f" as of {written.taken_at:%Y-%m-%dT%H:%M:%SZ}, in {time.monotonic() - begun:.1f} s"
    )


async def _backup(url: str, new: Path) -> Manifest:
    args = command.direct(parse(url))
    async with command.opened(url, PoolOptions(size=1, statement=DAY)) as db:
        if (await system.state(db)).schema is None:
            raise click.ClickException("there is nothing to write: the database has no schema of Roundtrip's")
        server = dump.major(await recovery.server(db))
        tool = dump.find("pg_dump", server, args)
        if not tool.fills(server):
            say(
                f"note: from pg_dump {tool.version} no server as old as this one, PostgreSQL {server}, can be filled"
            )
        async with db.transaction("repeatable_read") as snapshot:
            origin = await recovery.origin(snapshot)
            schema = (await system.state(snapshot)).schema
            say(f"{origin.database} at {schema}, PostgreSQL {origin.server}; pg_dump {tool.version}")
            contents, _ = await _both(_digest(snapshot), _dump(tool, args, origin.snapshot, new))
            written = Manifest(
                taken_at=origin.taken_at,
                database=origin.database,
                schema=schema or "",
                roundtrip=version("roundtrip"),
                server=origin.server,
                pg_dump=tool.version,
                tables=contents,
                objects=await recovery.objects(snapshot),
            )
    await asyncio.to_thread(manifest.seal, new, written)
    return written


async def _digest(snapshot: Transaction) -> Sequence[Content]:
    contents = []
    for name in await recovery.tables(snapshot):
        contents.append(await recovery.content_of(snapshot, name))
        say(f"  {name:28} {contents[-1].rows:>12,} rows digested")
    return contents


async def _dump(tool: Tool, args: ConnectArgs, snapshot: str, new: Path) -> None:
    """The same moment by pg_dump, with a line now and then on how far it is."""
    told = time.monotonic()

    def tell(line: str) -> None:
        if table := re.search(r'dumping contents of table "(.*)"', line):
            say(f"  {table[1]:28} is being dumped")

    async def tick() -> None:
        while True:
            await asyncio.sleep(TICK)
            say(f"  {_megabytes(new)} dumped after {time.monotonic() - told:.0f} s")

    ticking = asyncio.create_task(tick())
    arguments = ["--format=custom", f"--snapshot={snapshot}", f"--lock-wait-timeout={LOCK_WAIT}", "--verbose"]
    arguments += ["--no-password", "--no-publications", "--no-subscriptions", f"--file={new}"]
    try:
        await dump.run(tool, arguments, args, tell)
    finally:
        ticking.cancel()


async def _both(one: Awaitable[Sequence[Content]], other: Awaitable[None]) -> tuple[Sequence[Content], None]:
    """Both at once; where one fails, the other is ended."""
    tasks = asyncio.ensure_future(one), asyncio.ensure_future(other)
    try:
        return await asyncio.gather(*tasks)
    finally:
        for task in tasks:
            if not task.cancelling():  # else it is ending by itself, and must not be disturbed in it
                task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _new(file: Path, *, force: bool) -> Iterator[Path]:
    """A file beside FILE that becomes it where the block ends, and is gone where it raises."""
    handle, name = tempfile.mkstemp(prefix=f"{file.name}.", suffix=".partial", dir=file.parent)
    os.close(handle)
    new = Path(name)
    try:
        yield new
        if force:
            new.replace(file)
        else:
            _publish(new, file)
        _sync(file.parent)
    finally:
        new.unlink(missing_ok=True)


def _publish(new: Path, file: Path) -> None:
    """Never over a file that came meanwhile, which a rename would replace."""
    try:
        os.link(new, file)
    except OSError:
        if file.exists():
            raise click.ClickException(f"{file} has come into being meanwhile; --force replaces it") from None
        new.rename(file)  # a file system without links


def _sync(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _megabytes(file: Path) -> str:
    return f"{file.stat().st_size / 1e6:.1f} MB"
