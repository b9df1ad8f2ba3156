"""What the commands that work on a database share: which one it is, and errors in a line."""

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click

from db import system
from db.embedded import EmbeddedError, start
from db.errors import Denied, Refused, Unavailable, Unstorable
from db.pool import Database, PoolOptions
from db.url import ConnectArgs, parse
from service.settings import Settings, SettingsError, load

T = TypeVar("T")
HOUR = 3600.0
NAMED = 6


@contextmanager
def target(*, serving: bool = False, migrated: bool = True) -> Iterator[tuple[Settings, str]]:
    """The settings, and the URL of the database they mean: DATABASE_URL_UNPOOLED, DATABASE_URL, or the embedded one.

    The embedded one is started where it is not running, and migrated. Failures become a line and exit code 1.
    `migrated=False` takes the embedded one as it is.
    """
    with plainly():
        settings = load(serving=serving)
        if settings.direct_url is not None:
            yield settings, settings.direct_url
            return
        with start(Path(settings.data_dir) / "postgres") as server:
            if migrated and asyncio.run(state(server.url)).schema != system.SCHEMA:
                migrate(server.url)
            yield settings, server.url


def run(work: Callable[[Database, Settings], Awaitable[T]]) -> T:
    """Do work on the database of the settings, whose schema must be this version's, without hurry."""
    with target() as (settings, url):

        async def working() -> T:
            async with opened(url, PoolOptions(size=2, statement=HOUR)) as db:
                check(await system.state(db))
                return await work(db, settings)

        return asyncio.run(working())


@asynccontextmanager
async def opened(url: str, options: PoolOptions | None = None) -> AsyncIterator[Database]:
    """A pool on a database, closed in the end."""
    db = Database(parse(url), options or PoolOptions(size=1))
    await db.open()
    try:
        yield db
    finally:
        await db.close()


async def state(url: str) -> system.DatabaseState:
    """What the database says of itself; raises `Unavailable`."""
    async with opened(url) as db:
        return await system.state(db)


def check(found: system.DatabaseState) -> None:
    """Refuse a schema behind the code."""
    if not system.serves(found.schema):
        where = "has no schema" if found.schema is None else f"has its schema at {found.schema}"
        raise click.ClickException(
            f"the database {where}, this version needs {system.SCHEMA}; bring it up with: roundtrip migrate"
        )


def direct(args: ConnectArgs) -> ConnectArgs:
    """Refuse a pooler, for what needs a session of its own."""
    if args.pooled:
        raise click.ClickException(
            f"{args.host} is a pooler, where a session is not its own; set DATABASE_URL_UNPOOLED to the direct endpoint"
        )
    return args


def finish(work: Coroutine[Any, Any, T]) -> T:
    """Run what may take long; SIGTERM cancels it, as Ctrl-C does, so that it can clean up."""

    async def working() -> T:
        task = asyncio.current_task()
        assert task is not None
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
        return await work

    try:
        return asyncio.run(working())
    except asyncio.CancelledError:
        raise click.ClickException("ended by SIGTERM") from None


def say(line: str) -> None:
    """Tell how far a long work is, beside its output."""
    click.echo(line, err=True)


def some(things: Sequence[str]) -> str:
    """The first of them, and how many more."""
    more = len(things) - NAMED
    return ", ".join(things[:NAMED]) + (f" and {more} more" if more > 0 else "")


def development_only(settings: Settings, what: str) -> None:
    """Refuse what would harm production."""
    if settings.environment != "development":
        raise click.ClickException(f"{what} is for development, and ENVIRONMENT says {settings.environment}")


def migrate(url: str) -> None:
    """Bring a schema up, in a child process, so that this one never loads SQLAlchemy."""
    os.environ["DATABASE_URL"] = os.environ["DATABASE_URL_UNPOOLED"] = url
    done = subprocess.run(
        [sys.executable, "-m", "service.migrate", "up"],
        check=False,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        raise click.ClickException(f"the migrations failed:\n{done.stderr}")


@contextmanager
def plainly() -> Iterator[None]:
    """What may go wrong with settings and database, said in a line."""
    try:
        yield
    except (SettingsError, EmbeddedError, Unavailable, Unstorable) as error:
        raise click.ClickException(str(error)) from error
    except Refused as error:
        raise click.ClickException(f"the database refuses it: {error.constraint}") from error
    except Denied as error:
        raise click.ClickException(f"the role may not do it: {error}; use the owner's") from error
