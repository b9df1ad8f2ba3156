"""`roundtrip archive` and `roundtrip unarchive`: completed tasks into a file, and back."""

import sys
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from itertools import groupby, islice
from pathlib import Path
from typing import TypeVar

import click
import msgspec

from db import archive as rows
from db import system
from db.archive import Task
from db.pool import Database
from service import archive_file as files
from service import command
from service.ages import Age, older_than
from service.archive_file import ArchiveError, Header, Seal, User, Writer
from service.progress import Progress

T = TypeVar("T")
Send = Callable[[rows.Lock, str], Awaitable[rows.Verdicts]]
SHOWN = 20  # ids or users that a line lists


@click.command()
@older_than("1d", "How long ago a task was completed.", default="1y", show_default=True)
@click.option(
    "--to",
    "target",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE_OR_FOLDER",
    help="A new file, or a folder in which one is made, tasks-TIME.ndjson.gz.",
)
@click.option("--user", "word", metavar="EMAIL_OR_ID", help="The tasks of this user alone.")
@click.option("--dry-run", is_flag=True, help="Count what would be archived, and change nothing.")
def archive(age: Age, target: Path, word: str | None, dry_run: bool) -> None:
    """Move tasks that were completed long ago into a file.

    The file is written, brought onto the disk and read again before the first task is erased from the database. A task is
    erased only if it is just as the file has it, one that changed meanwhile stays; clients that sync are told. `roundtrip
    unarchive` brings them back.

    It may be killed at any point: each task is in the database, in the file, or in both. Run it again with another name.
    """
    now = datetime.now(UTC)
    if target.is_dir():
        target /= f"tasks-{now:%Y%m%dT%H%M%SZ}.ndjson.gz"
    if target.exists():
        raise click.ClickException(f"{target} is there already, and nothing is ever replaced")
    command.run(lambda db, _: store(db, age, target, word, now=now, dry_run=dry_run))


@click.command()
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--user", "word", metavar="EMAIL_OR_ID", help="The tasks of this user alone.")
@click.option("--dry-run", is_flag=True, help="Count what would come back, and change nothing.")
def unarchive(file: Path, word: str | None, dry_run: bool) -> None:
    """Bring archived tasks back from FILE.

    The whole file is checked first. Tasks come back with their ids, contents and times; clients that sync are told. What is
    there already is left alone, so that it may be killed and run again. The file stays as it is.

    Exits with 1 if there are tasks whose user is no more; the others are brought back.
    """
    with _plainly(file):
        files.verify(file)
        lost = command.run(lambda db, _: bring_back(db, file, word, dry_run=dry_run))
    if lost:
        sys.exit(1)


async def store(
    db: Database, age: Age, target: Path, word: str | None, *, now: datetime, dry_run: bool
) -> None:
    """Write the file, and erase what it has; tell of it."""
    owner = await _owner(db, word)
    due = await rows.count(db, age.seconds, owner)
    if dry_run or not due.tasks:
        click.echo(f"{'Would archive' if due.tasks else 'There is nothing to archive:'} {_old(due)}")
        return
    with _plainly(target, "; nothing was deleted"):
        seal = await _write(db, target, due, owner, now)
    click.echo(f"Archived {_old(rows.Due(due.before, seal.tasks, seal.users))}, in {target}")
    with _plainly(target):
        await _erase(db, target, seal.tasks)


async def _write(db: Database, target: Path, due: rows.Due, owner: str | None, now: datetime) -> Seal:
    """Write the file, and read it again before it gets its name."""
    header = Header(files.VERSION, now, due.before, system.SCHEMA)
    with files.draft(target) as draft:
        with files.written(draft) as content, Progress("tasks written", due.tasks) as progress:
            writer = Writer(content, header)
            async with db.transaction() as snapshot:
                async for email, task in rows.list(snapshot, due.before, owner):
                    writer.add(email, task)
                    progress.add(1)
            seal = writer.seal()
        if files.verify(draft) != seal:
            raise ArchiveError("what was read again is not what was written")
        files.publish(draft, target)
    return seal


async def _erase(db: Database, target: Path, total: int) -> None:
    """Erase what the file has, as the file has it."""
    verdicts: Counter[str] = Counter()
    moved: list[int] = []
    with Progress("tasks erased", total) as progress:
        for part in _parts(files.read(target)):
            found = await _settled(lambda lock, text: rows.erase(db, lock, text), part)
            verdicts.update(found.values())
            moved += [id for id, verdict in found.items() if verdict == "moved"][: SHOWN + 1 - len(moved)]
            progress.add(len(found))
    click.echo(f"Erased {verdicts['done']:,} of them from the database")
    if moved:
        click.echo(f"{_tasks(verdicts['moved'])} changed meanwhile and stayed: {_some(map(str, moved))}")
    if gone := verdicts["absent"]:
        click.echo(f"{_tasks(gone)} had meanwhile been erased by somebody else")


async def bring_back(db: Database, file: Path, word: str | None, *, dry_run: bool) -> int:
    """Bring back what can be, and tell of it; how many tasks have no user."""
    owner = await _owner(db, word)

    def chosen() -> Iterator[tuple[User, Task]]:
        return ((user, task) for user, task in files.read(file) if owner in (None, user.id))

    def send(lock: rows.Lock, text: str) -> Awaitable[rows.Verdicts]:
        return rows.look(db, text) if dry_run else rows.restore(db, lock, text)

    total = top = 0
    for _, task in chosen():
        total, top = total + 1, max(top, task.id)
    while not dry_run and await rows.advance(db, top):
        pass
    verdicts: Counter[str] = Counter()
    lost: Counter[str] = Counter()
    with Progress("tasks", total) as progress:
        for part in _parts(chosen()):
            found = await _settled(send, part)
            verdicts.update(found.values())
            lost.update(f"{user.email} ({user.id})" for user, task in part if found[task.id] == "absent")
            progress.add(len(found))
    click.echo(
        f"{'Would bring' if dry_run else 'Brought'} back {_tasks(verdicts['done'])};"
        f" {verdicts['same']:,} were there already"
    )
    if lost:
        click.echo(f"Left out {_tasks(lost.total())} of users who are no more: {_some(lost)}", err=True)
    return lost.total()


async def _owner(db: Database, word: str | None) -> str | None:
    """The id of the user that a word means; none for no word."""
    if word is None:
        return None
    if (found := await rows.find_user(db, word)) is None:
        raise click.ClickException(f"there is no user {word}")
    return found[0]


async def _settled(send: Send, part: list[tuple[User, Task]]) -> rows.Verdicts:
    """What became of each task: first of users whom nobody is writing to, then of the others, when their turns have come."""
    verdicts = await send("free", _json(task for _, task in part))
    busy = [task for _, task in part if verdicts[task.id] == "busy"]
    for _, tasks in groupby(busy, key=lambda task: task.user_id):
        verdicts |= await send("busy", _json(tasks))
    return verdicts


def _parts(lines: Iterator[T]) -> Iterator[list[T]]:
    while part := list(islice(lines, rows.PAGE)):
        yield part


def _json(tasks: Iterable[Task]) -> str:
    return msgspec.json.encode([*tasks]).decode()


def _old(due: rows.Due) -> str:
    users = f"{due.users:,} user{'' if due.users == 1 else 's'}"
    return f"{_tasks(due.tasks)} of {users}, completed before {due.before:%Y-%m-%dT%H:%M:%SZ}"


def _tasks(number: int) -> str:
    return f"{number:,} task{'' if number == 1 else 's'}"


def _some(items: Iterable[str]) -> str:
    shown = list(islice(items := iter(items), SHOWN))
    return ", ".join([*shown, "..."] if next(items, None) else shown)


@contextmanager
def _plainly(file: Path, end: str = "") -> Iterator[None]:
    """What may go wrong with a file, said in a line."""
    try:
        yield
    except (ArchiveError, OSError) as error:
        said = error.strerror if isinstance(error, OSError) else error
        raise click.ClickException(f"{file}: {said}{end}") from error
