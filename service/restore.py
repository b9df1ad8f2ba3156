"""`roundtrip restore` and `roundtrip after-restore`. Why they do what they do is in docs/RECOVERY.md."""

import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import click

from db import dump, manifest, recovery, system
from db.dump import DumpError, Tool
from db.manifest import Content, Manifest, NoBackup
from db.pool import Database, PoolOptions
from db.transaction import Transaction
from db.url import ConnectArgs, parse
from service import command
from service.command import say, some
from service.settings import Settings

DAY = 86_400.0
TOLD = 100_000  # users between two lines
JOBS = min(4, os.cpu_count() or 1)
VERSION = "public.alembic_version"


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option(
    "--check", is_flag=True, help="Only read FILE: is it whole, and what is in it? Asks no database."
)
@click.option(
    "--jobs", type=click.IntRange(1, 64), default=JOBS, show_default=True, help="Connections to restore by."
)
@click.option(
    "--keep-sessions", is_flag=True, help="End no session; also those live again that were ended since."
)
def restore(file: Path, check: bool, jobs: int, keep_sessions: bool) -> None:
    """Fill an empty database from FILE, which `roundtrip backup` wrote.

    The database is DATABASE_URL_UNPOOLED or, without it, DATABASE_URL, or the embedded one of DATA_DIR; it must be
    empty. Owners and privileges are not restored: grant the service's role its rights anew.

    Afterwards every table is compared with what FILE says of it, row by row. Then the revisions of all users move on
    and sessions end, as by `after-restore`, and only then does the database say which schema it has, without which
    `serve` does not start on it: what fails before leaves a database that nothing serves.
    """
    try:
        found = _read(file)
        if not check:
            with command.target(migrated=False) as (_, url):
                command.finish(_restore(url, file, found, jobs, end_sessions=not keep_sessions))
    except DumpError as error:
        raise click.ClickException(str(error)) from error


@click.command("after-restore")
@click.option("--yes", is_flag=True, help="Do not ask.")
@click.option(
    "--keep-sessions", is_flag=True, help="End no session; also those live again that were ended since."
)
def after_restore(yes: bool, keep_sessions: bool) -> None:
    """Make a database right that was taken back in time by other means, such as Neon's point-in-time restore.

    Clients know revisions, tags and ids of the time that was lost; this moves every user's revision, the versions of
    conversations and the ids to come past them, so that nothing old fits anything new. It ends every session, for
    those live again that were ended since. Works while the service runs, a thousand users at a time; best before it
    does. Once more does no harm.
    """
    if not yes:
        click.confirm("Every client will read everything anew, and sign in again. Go on?", abort=True)

    async def work(db: Database, _: Settings) -> int:
        return await _advance(db, end_sessions=not keep_sessions)

    users = command.run(work)
    click.echo(f"done: the revisions of {users:,} users have moved on")


def _read(file: Path) -> Manifest:
    size = file.stat().st_size
    say(f"{file}: reading {size / 1e6:.1f} MB")
    try:
        found = manifest.read(file)
    except NoBackup as error:
        raise click.ClickException(f"{file}: {error}") from error
    click.echo(
        f"{file}: {found.database} at {found.schema}, as of {found.taken_at:%Y-%m-%dT%H:%M:%SZ},"
        f" {found.rows:,} rows of {len(found.tables)} tables, PostgreSQL {found.server}"
    )
    return found


async def _restore(url: str, file: Path, found: Manifest, jobs: int, *, end_sessions: bool) -> None:
    args = command.direct(parse(url))
    async with command.opened(url, PoolOptions(size=1, statement=DAY)) as db:
        tool = await _suitable(db, args, found)
        with _timed("filled"):
            await _fill(tool, args, file, jobs)
        with _timed("compared"):
            await _compare(db, found)
        with _timed("analyzed"):
            await recovery.analyze(db)
        with _timed("moved on"):
            async with db.transaction() as last:
                await _advance(last, end_sessions=end_sessions)
                await recovery.mark(last, found.schema)
    click.echo(f"restored: all {found.rows:,} rows are as they were")
    if found.schema < system.SCHEMA:
        click.echo(
            f"the schema is at {found.schema}, this version needs {system.SCHEMA}; now: roundtrip migrate"
        )


async def _suitable(db: Database, args: ConnectArgs, found: Manifest) -> Tool:
    """The pg_restore to take. Refuses a database that is not empty, and a server that is too old."""
    async with db.transaction() as part:
        things = await recovery.objects(part)
    if things:
        first = sorted(things, key=lambda thing: not thing.startswith("table "))
        raise click.ClickException(
            f"the database {args.database} is not empty, it has {some(first)};"
            " restore into a new one (for the embedded one: another DATA_DIR)"
        )
    server = dump.major(await recovery.server(db))
    if server < dump.major(found.server):
        raise click.ClickException(
            f"the server is PostgreSQL {server}, too old for a database of {found.server}"
        )
    tool = dump.find("pg_restore", dump.major(found.pg_dump), args)
    if not tool.fills(server):
        raise click.ClickException(
            f"pg_restore {tool.version} does not fill servers as old as this one, PostgreSQL {server}"
        )
    return tool


async def _fill(tool: Tool, args: ConnectArgs, file: Path, jobs: int) -> None:
    """Everything but the schema's revision: until that is there, nothing serves the database."""

    def tell(line: str) -> None:
        if step := re.search(r"(processing data for table|creating INDEX|creating CONSTRAINT) (.*)", line):
            say(f"  {step[1].split()[1].lower()} {step[2]}".replace('"', ""))

    entries = await dump.contents(tool, file)
    with tempfile.NamedTemporaryFile("w", suffix=".list") as chosen:
        chosen.write("\n".join(e for e in entries if " TABLE DATA public alembic_version " not in e))
        chosen.flush()
        arguments = ["--exit-on-error", "--no-owner", "--no-privileges", "--no-password", "--verbose"]
        arguments += [
            f"--jobs={jobs}",
            f"--use-list={chosen.name}",
            f"--dbname={dump.named(args)}",
            str(file),
        ]
        try:
            await dump.run(tool, arguments, args, tell)
        except DumpError as error:
            raise click.ClickException(
                f"{error}; drop the database {args.database}, which is half full"
            ) from error


async def _compare(db: Database, found: Manifest) -> None:
    """With what the manifest says. Refuses what differs, by name."""
    async with db.transaction("repeatable_read") as part:
        contents = []
        for name in await recovery.tables(part):
            if name != VERSION:
                contents.append(await recovery.content_of(part, name))
                say(f"  {name:28} {contents[-1].rows:>12,} rows compared")
        wrong = [*_differences(found, contents, await recovery.objects(part))]
        wrong += [
            f"{c.column} would be given {c.next} again" for c in await recovery.sequences(part) if c.behind
        ]
    if wrong:
        raise click.ClickException("what was restored is not what was backed up: " + some(wrong))


def _differences(found: Manifest, contents: Sequence[Content], objects: Sequence[str]) -> Iterator[str]:
    now = {content.table: content for content in contents}
    for then in found.tables:
        if then.table not in (VERSION, *now):
            yield f"table {then.table} is missing"
        elif then.table != VERSION and (is_now := now[then.table]) != then:
            yield f"{then.table} has {is_now.rows:,} rows" + (
                f" instead of {then.rows:,}" if is_now.rows != then.rows else ", and some differ"
            )
    yield from (f"{name} is missing" for name in found.objects if name not in objects)


async def _advance(db: Database | Transaction, *, end_sessions: bool) -> int:
    await recovery.skip_ids(db, recovery.JUMP)
    users = 0
    async for users in recovery.advance_all(db, end_sessions=end_sessions):
        if users % TOLD == 0:
            say(f"  {users:,} users")
    return users


@contextmanager
def _timed(done: str) -> Iterator[None]:
    begun = time.monotonic()
    yield
    say(f"{done} in {time.monotonic() - begun:.1f} s")
