"""`roundtrip import`: the todos of the console app become a user's tasks."""

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import TextIOWrapper
from itertools import islice
from pathlib import Path
from typing import cast

import click

from db import imports as rows
from db.imports import Import
from db.pool import Database
from service import command
from service.phase1 import ENCODING, ERRORS, Bad, Format, read
from service.settings import Settings

CHUNK = 1000  # tasks that are looked up and copied at a time
NAMED = 50  # faults that are listed; the others are counted


@click.command(name="import")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, readable=True, allow_dash=True))
@click.option("--user", required=True, metavar="EMAIL_OR_ID", help="Whose tasks they become.")
@click.option("--format", type=click.Choice(["json", "csv"]), help="Of FILE, where its name does not say.")
@click.option("--dry-run", is_flag=True, help="Check everything and change nothing.")
def imports(file: str, user: str, format: Format | None, dry_run: bool) -> None:
    """Import the todos of the console app from FILE, or from standard input where it is -.

    JSON is an object of todos by key, {"1": {"title": "Buy milk", "description": "2 litres", "completed": false}}; CSV
    has the header key,title,description,completed.

    Where anything is wrong, every bad line is named and nothing is imported. Another run imports only what is new: a
    task is known by its key, whatever its user did with it since.
    """
    kind = format or {".json": "json", ".csv": "csv"}.get(Path(file).suffix.lower())
    if kind is None:
        raise click.UsageError("the name of FILE ends neither in .json nor in .csv: say --format")
    with _opened(file) as text:
        source = _Source(text, "standard input" if file == "-" else file, cast("Format", kind))
        command.run(lambda db, settings: _import(db, settings, source, user, dry_run=dry_run))


class _Source:
    """A file that is read twice: checked, then imported."""

    def __init__(self, text: TextIOWrapper, name: str, kind: Format) -> None:
        self._text, self.name, self._kind = text, name, kind

    def check(self, settings: Settings) -> int:
        """How many todos it has; raises where one cannot be imported."""
        good, bad, listed = 0, 0, []
        size = os.fstat(self._text.fileno()).st_size
        with click.progressbar(length=size, label=f"Checking {self.name}", file=sys.stderr) as bar:
            for item in read(self._text, self._kind, settings):
                if isinstance(item, Bad):
                    bad += 1
                    if bad <= NAMED:
                        listed.append(f"  {item.where}: {item.why}")
                else:
                    good += 1
                if not (good + bad) % CHUNK:
                    bar.update(os.lseek(self._text.fileno(), 0, os.SEEK_CUR) - bar.pos)
        if bad:
            more = [f"  and {bad - NAMED:,} more"] if bad > NAMED else []
            raise click.ClickException(
                "\n".join([f"{self.name} cannot be imported, and nothing of it was:", *listed, *more])
            )
        return good

    def chunks(self, settings: Settings) -> Iterator[list[Import]]:
        """The todos, some at a time."""
        self._text.seek(0)
        items = read(self._text, self._kind, settings)
        while chunk := list(islice(items, CHUNK)):
            if any(isinstance(item, Bad) for item in chunk):
                raise click.ClickException(f"{self.name} was changed meanwhile; nothing of it was imported")
            yield cast("list[Import]", chunk)


@contextmanager
def _opened(file: str) -> Iterator[TextIOWrapper]:
    """The file, or a copy of what can be read only once."""
    with ExitStack() as stack:
        given = stack.enter_context(click.open_file(file, "rb"))
        if file == "-" or not given.seekable():
            kept = stack.enter_context(tempfile.TemporaryFile())
            shutil.copyfileobj(given, kept)
            kept.seek(0)
            given = kept
        yield stack.enter_context(TextIOWrapper(given, encoding=ENCODING, errors=ERRORS, newline=""))


async def _import(db: Database, settings: Settings, source: _Source, user: str, *, dry_run: bool) -> None:
    owner = await rows.owner(db, user)
    if owner is None:
        raise click.ClickException(f"there is no user with the id or e-mail address {user}")
    todos = source.check(settings)
    verb = "Comparing" if dry_run else "Importing"
    with click.progressbar(length=todos, label=f"{verb} {todos:,} tasks", file=sys.stderr) as bar:
        new, held = 0, None
        async with db.transaction() as whole:
            if not dry_run:
                held = await rows.lock(whole, owner)
                if held is None:
                    raise click.ClickException(f"{user} was deleted meanwhile")
            for chunk in source.chunks(settings):
                known = await rows.known(whole, owner, [task.key for task in chunk])
                fresh = [task for task in chunk if task.key not in known]
                if fresh and held:
                    await rows.add(whole, owner, fresh, held.revision + new, held.now)
                new += len(fresh)
                bar.update(len(chunk))
            if new and held:
                await rows.stamp(whole, owner, new)
    if dry_run:
        click.echo(f"{new:,} to import, {todos - new:,} there already; nothing was changed")
    else:
        click.echo(f"{new:,} imported, {todos - new:,} there already")
