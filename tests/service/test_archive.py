"""Completed tasks go into a file and come back from it; nothing is ever in neither place."""

import asyncio
import gzip
import json
import tracemalloc
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from db import archive as rows
from db import tasks
from db.pool import Database
from service import archive
from service import archive_file as files
from service.ages import Age
from service.cli import main
from tests.service.retained import (
    Connection,
    check_revisions,
    contents,
    ids,
    roundtrip,
    someone,
    state,
    waiting,
)

YEAR = Age("1y", 365 * 86400)
NOW = datetime(2026, 11, 22, tzinfo=UTC)
LONG_AGO, LATELY = timedelta(days=366), timedelta(days=364)
STORED = (
    "select id, user_id, title, description, status, priority, due_date::text, created_at, updated_at, completed_at,"
    " deleted_at, import_key from tasks order by id"
)


async def completed(
    hand: Connection, user_id: str, number: int = 1, age: timedelta = LONG_AGO, title: str = "title"
) -> list[int]:
    """Tasks that were completed a while ago."""
    made = await hand.fetch(
        "insert into tasks (user_id, title, description, status, completed_at, created_at, priority, due_date)"
        " select $1, $2 || n, repeat('x', n % 50), 'completed', now() - $3::interval, now() - $3::interval * 2,"
        " 1 + n % 5, case when n % 2 = 0 then now() - $3::interval end from generate_series(1, $4) n returning id",
        user_id,
        title,
        age,
        number,
    )
    return [row["id"] for row in made]


async def into(own: Database, target: Path, word: str | None = None) -> None:
    await archive.store(own, YEAR, target, word, now=NOW, dry_run=False)


async def back(own: Database, file: Path, word: str | None = None, *, dry_run: bool = False) -> int:
    files.verify(file)
    return await archive.bring_back(own, file, word, dry_run=dry_run)


async def stored(hand: Connection) -> list[Any]:
    """All of every task but its revision."""
    return [tuple(row) for row in await hand.fetch(STORED)]


def lines(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in gzip.open(file, "rt", encoding="utf-8")]


async def test_everything_comes_back_as_it_was(own: Database, hand: Connection, tmp_path: Path) -> None:
    a, b = (await someone(own)).user_id, (await someone(own)).user_id
    await completed(hand, a, 700)
    await completed(hand, b, 3)
    await hand.execute(
        "insert into tasks (user_id, title, description, status, priority, due_date, created_at, updated_at, completed_at,"
        " import_key) values"
        " ($1, E'two\\nlines \"quoted\" \\\\ \\U0001F600', repeat('é', 20000), 'completed', 1, '0001-01-01T00:00:00Z',"
        "  '0001-01-01T00:00:00Z', '0001-01-01T00:00:00.000001Z', '0001-01-01T00:00:00Z', 'key'),"
        " ($1, ' ' || repeat('a', 499), '', 'completed', 5, '9999-12-31T23:59:59.999999Z',"
        "  '1883-11-18T12:03:58.5Z', now(), '2001-02-03T04:05:06.789012Z', null)",
        a,
    )
    before, revision = await stored(hand), (await state(hand, a))[0]
    file = tmp_path / "file"
    await into(own, file)
    assert await ids(hand) == []
    assert len(await ids(hand, "tombstones", "task_id")) == 705
    assert await state(hand, a) == (revision + 702, 0)
    assert await back(own, file) == 0
    assert await stored(hand) == before
    assert await ids(hand, "tombstones", "task_id") == []
    assert await state(hand, a) == (revision + 2 * 702, 0)
    assert await ids(hand, f"tasks where user_id = '{a}'", "revision") == [
        *range(revision + 703, revision + 2 * 702 + 1)
    ]
    await check_revisions(hand)


async def test_the_file_is_sealed_and_says_what_it_is(
    own: Database, hand: Connection, tmp_path: Path
) -> None:
    user = (await someone(own)).user_id
    [id] = await completed(hand, user)
    file = tmp_path / "file"
    await into(own, file)
    header, owner, task, seal = lines(file)
    assert header["type"] == "archive"
    assert (header["data"]["version"], header["data"]["created_at"]) == (1, "2026-11-22T00:00:00Z")
    assert header["data"]["schema"] == await hand.fetchval("select version_num from alembic_version")
    assert owner == {"type": "user", "data": {"id": user, "email": f"{user}@Example.com"}}
    assert (task["type"], task["data"]["id"], task["data"]["title"]) == ("task", id, "title1")
    assert (seal["data"]["users"], seal["data"]["tasks"], len(seal["data"]["sha256"])) == (1, 1, 64)
    assert file.stat().st_mode & 0o777 == 0o600
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


async def test_only_live_tasks_completed_before(own: Database, hand: Connection, tmp_path: Path) -> None:
    user = (await someone(own)).user_id
    kept = await completed(hand, user, 2, LATELY)
    [trashed, reopened, old] = await completed(hand, user, 3)
    await hand.execute("update tasks set deleted_at = now() where id = $1", trashed)
    await hand.execute("update tasks set status = 'pending', completed_at = null where id = $1", reopened)
    await into(own, tmp_path / "file")
    assert await ids(hand) == [*kept, trashed, reopened]
    assert [line["data"]["id"] for line in lines(tmp_path / "file")[2:-1]] == [old]


async def test_the_first_moment_that_stays(own: Database, hand: Connection) -> None:
    user = (await someone(own)).user_id
    made = await completed(hand, user, 2)
    await hand.execute("update tasks set completed_at = $2 where id = $1", made[0], NOW)
    await hand.execute(
        "update tasks set completed_at = $2 where id = $1", made[1], NOW - timedelta(microseconds=1)
    )
    async with own.transaction() as snapshot:
        found = [task.id async for _, task in rows.list(snapshot, NOW, None)]
    assert found == made[1:]


@pytest.mark.parametrize("by", ["id", "email"])
async def test_one_user_alone(own: Database, hand: Connection, tmp_path: Path, by: str) -> None:
    a, b = (await someone(own)).user_id, (await someone(own)).user_id
    word = a if by == "id" else f"{a}@example.COM"
    of_a, of_b = await completed(hand, a, 3), await completed(hand, b, 3)
    await into(own, tmp_path / "a", word=word)
    assert await ids(hand) == of_b
    await into(own, tmp_path / "b")
    assert await ids(hand) == []
    await back(own, tmp_path / "b", word)
    assert await ids(hand) == []
    await back(own, tmp_path / "a", word)
    assert await ids(hand) == of_a
    with pytest.raises(click.ClickException, match="there is no user nobody"):
        await into(own, tmp_path / "c", word="nobody")


@pytest.mark.parametrize("command", ["archive", "unarchive"])
def test_help_helps(command: str) -> None:
    done = CliRunner().invoke(main, [command, "--help"])
    assert done.exit_code == 0
    assert all(word in done.stdout for word in ("--user", "--dry-run", "killed"))


async def test_the_commands(own: Database, hand: Connection, migrated_database: str, tmp_path: Path) -> None:
    user = (await someone(own)).user_id
    await completed(hand, user, 1234)
    before, whole = await contents(hand), await stored(hand)

    def run(*arguments: str) -> Any:
        return roundtrip(migrated_database, *arguments)

    told = await run("archive", "--to", str(tmp_path), "--dry-run")
    assert told.returncode == 0, told.stderr
    assert told.stdout.startswith("Would archive 1,234 tasks of 1 user, completed before ")
    assert list(tmp_path.iterdir()) == []
    assert await contents(hand) == before
    done = await run("archive", "--to", str(tmp_path))
    assert done.returncode == 0, done.stderr
    [file] = tmp_path.iterdir()
    assert done.stdout.splitlines() == [
        done.stdout.splitlines()[0],
        "Erased 1,234 of them from the database",
    ]
    assert done.stdout.startswith("Archived 1,234 tasks of 1 user, completed before ")
    assert done.stdout.splitlines()[0].endswith(str(file))
    assert file.name.startswith("tasks-")
    assert file.name.endswith("Z.ndjson.gz")
    empty = await contents(hand)
    told = await run("unarchive", str(file), "--dry-run")
    assert (told.returncode, told.stdout) == (0, "Would bring back 1,234 tasks; 0 were there already\n")
    assert await contents(hand) == empty
    done = await run("unarchive", str(file))
    assert (done.returncode, done.stdout) == (0, "Brought back 1,234 tasks; 0 were there already\n")
    assert await stored(hand) == whole
    refused = await run("archive", "--to", str(file))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert refused.stderr == f"Error: {file} is there already, and nothing is ever replaced\n"
    none = await run("archive", "--older-than", "99y", "--to", str(tmp_path))
    assert none.stdout.startswith("There is nothing to archive: 0 tasks")
    assert list(tmp_path.iterdir()) == [file]


async def test_nothing_is_replaced_nor_deleted_where_the_file_cannot_be_made(
    own: Database, hand: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await completed(hand, (await someone(own)).user_id, 3)
    before = await contents(hand)
    with pytest.raises(click.ClickException, match="No such file or directory; nothing was deleted"):
        await into(own, tmp_path / "no" / "file")
    (tmp_path / "file").write_text("made by somebody else meanwhile")
    with pytest.raises(click.ClickException, match=r"file: File exists; nothing was deleted"):
        await into(own, tmp_path / "file")
    assert (tmp_path / "file").read_text() == "made by somebody else meanwhile"
    with monkeypatch.context() as patch:
        patch.setattr(gzip.GzipFile, "write", full)
        with pytest.raises(click.ClickException, match="No space left on device; nothing was deleted"):
            await into(own, tmp_path / "other")
    assert await contents(hand) == before
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def full(*_: Any) -> int:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    "damage", [lambda whole: whole[:-9], lambda whole: whole[:40] + b"!" + whole[41:], None]
)
async def test_what_cannot_be_read_again_is_not_deleted(
    own: Database,
    hand: Connection,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Callable[[bytes], bytes] | None,
) -> None:
    await completed(hand, (await someone(own)).user_id, 600)
    before = await contents(hand)
    written = files.written

    @contextmanager
    def badly(path: Path) -> Iterator[Any]:
        with written(path) as content:
            yield content
        if damage:
            path.write_bytes(damage(path.read_bytes()))
        else:  # another archive altogether, and a sound one
            reseal(path, lambda found: found[0]["data"].update(schema="other"))

    monkeypatch.setattr(files, "written", badly)
    with pytest.raises(click.ClickException, match="nothing was deleted"):
        await into(own, tmp_path / "file")
    assert await contents(hand) == before
    assert list(tmp_path.iterdir()) == []


def reseal(path: Path, change: Callable[[list[dict[str, Any]]], Any]) -> None:
    """Change the lines of an archive, and seal it anew."""
    import hashlib

    found = lines(path)
    change(found)
    texts = [json.dumps(line, separators=(",", ":"), ensure_ascii=False).encode() + b"\n" for line in found]
    seal = {
        "users": sum(line["type"] == "user" for line in found),
        "tasks": sum(line["type"] == "task" for line in found),
        "sha256": hashlib.sha256(b"".join(texts[:-1])).hexdigest(),
    }
    texts[-1] = json.dumps({"type": "seal", "data": seal}, separators=(",", ":")).encode() + b"\n"
    path.write_bytes(gzip.compress(b"".join(texts)))


def rewritten(path: Path, change: Callable[[list[bytes]], Any]) -> None:
    """Change the lines of an archive and leave its seal as it is."""
    texts = gzip.decompress(path.read_bytes()).splitlines(keepends=True)
    path.write_bytes(gzip.compress(b"".join(change(texts))))


TAMPERED: dict[str, Callable[[Path], Any]] = {
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-20]),
    "cut before its checksum": lambda path: path.write_bytes(path.read_bytes()[:-8]),
    "a byte of another value": lambda path: path.write_bytes(
        (whole := path.read_bytes())[:100] + bytes([whole[100] ^ 1]) + whole[101:]
    ),
    "another title": lambda path: rewritten(
        path, lambda texts: [t.replace(b"title2", b"title9") for t in texts]
    ),
    "without a task": lambda path: rewritten(path, lambda texts: texts[:2] + texts[3:]),
    "a task twice": lambda path: rewritten(path, lambda texts: texts[:3] + texts[2:]),
    "without its seal": lambda path: rewritten(path, lambda texts: texts[:-1]),
    "going on": lambda path: rewritten(path, lambda texts: texts + texts[2:3]),
    "two at once": lambda path: path.write_bytes(path.read_bytes() * 2),
    "without a header": lambda path: rewritten(path, lambda texts: texts[1:]),
    "of tomorrow's format": lambda path: reseal(path, lambda found: found[0]["data"].update(version=2)),
    "with a field we do not know": lambda path: reseal(
        path, lambda found: found[2]["data"].update(colour="red")
    ),
    "with a task that is not completed": lambda path: reseal(
        path, lambda found: found[2]["data"].update(status="pending")
    ),
    "with somebody else's task": lambda path: reseal(
        path, lambda found: found[2]["data"].update(user_id="x")
    ),
    "of other letters": lambda path: rewritten(
        path, lambda texts: [t.replace(b"title2", b"\xfftle2") for t in texts]
    ),
    "too deep": lambda path: rewritten(
        path, lambda texts: [texts[0].replace(b"}}", b',"x":' + b"[" * 100_000)]
    ),
    "not compressed": lambda path: path.write_bytes(gzip.decompress(path.read_bytes())),
    "empty": lambda path: path.write_bytes(b""),
}


async def test_a_file_that_was_tampered_with_is_refused(
    own: Database, hand: Connection, tmp_path: Path, migrated_database: str
) -> None:
    await completed(hand, (await someone(own)).user_id, 600)
    file = tmp_path / "file"
    await into(own, file)
    whole, before = file.read_bytes(), await contents(hand)
    for how, tamper in TAMPERED.items():
        tamper(file)
        done = CliRunner().invoke(main, ["unarchive", str(file)], env={"DATABASE_URL": migrated_database})
        assert (done.exit_code, done.stdout) == (1, ""), how
        assert done.stderr.startswith(f"Error: {file}: "), how
        assert len(done.stderr.splitlines()) == 1, how
        file.write_bytes(whole)
    assert await contents(hand) == before


async def test_what_the_schema_refuses_is_said_in_a_line(
    own: Database, hand: Connection, tmp_path: Path, migrated_database: str
) -> None:
    await completed(hand, (await someone(own)).user_id, 2)
    file = tmp_path / "file"
    await into(own, file)
    for change in ({"title": " "}, {"title": "x" * 501}, {"priority": 9}, {"id": 2**70}):
        reseal(file, lambda found: found[2]["data"].update(change))  # noqa: B023
        before = await contents(hand)
        done = await roundtrip(migrated_database, "unarchive", str(file))
        assert (done.returncode, len(done.stderr.splitlines())) == (1, 1), done.stderr
        assert await contents(hand) == before


async def test_what_changed_meanwhile_stays(
    own: Database, hand: Connection, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """Between the file and the erasing: completed anew, edited, trashed, erased, its user gone, all by others."""
    caller, gone = await someone(own), await someone(own)
    made = await completed(hand, caller.user_id, 6)
    await completed(hand, gone.user_id, 2)
    publish = files.publish

    def meanwhile(draft: Path, target: Path) -> None:
        publish(draft, target)
        happened.append(asyncio.ensure_future(change()))

    async def change() -> None:
        for _ in range(2):
            assert await tasks.toggle(own, caller, made[0], None)
        await hand.execute("update tasks set title = 'edited' where id = $1", made[1])
        assert await tasks.delete(own, caller, made[2], None)
        assert await tasks.erase(own, caller, made[3], None) == "done"
        await hand.execute("delete from users where id = $1", gone.user_id)

    happened: list[asyncio.Future[None]] = []
    erase = rows.erase

    async def after(db: Database, shape: rows.Lock, text: str) -> rows.Verdicts:
        await happened[0]
        return await erase(db, shape, text)

    monkeypatch.setattr(files, "publish", meanwhile)
    monkeypatch.setattr(rows, "erase", after)
    await into(own, tmp_path / "file")
    assert await ids(hand) == made[:3]
    assert await ids(hand, "tombstones", "task_id") == made[3:]
    told = capsys.readouterr().out.splitlines()[1:]
    assert told == [
        "Erased 2 of them from the database",
        f"3 tasks changed meanwhile and stayed: {made[0]}, {made[1]}, {made[2]}",
        "3 tasks had meanwhile been erased by somebody else",
    ]
    await check_revisions(hand)


async def test_a_task_that_is_written_to_while_it_is_erased(
    own: Database, hand: Connection, tmp_path: Path
) -> None:
    """The writer has its lock: the others go at once, and its user's tasks are judged when it is done."""
    busy, other = await someone(own), await someone(own)
    made = await completed(hand, busy.user_id, 3)
    await completed(hand, other.user_id, 3)
    async with hand.transaction():
        await hand.execute("select from user_state where user_id = $1 for update", busy.user_id)
        going = asyncio.create_task(into(own, tmp_path / "file"))
        await waiting(hand)
        assert await ids(hand) == made
        await hand.execute("update user_state set revision = revision + 1 where user_id = $1", busy.user_id)
        await hand.execute(
            "update tasks set status = 'pending', completed_at = null, revision = 4 where id = $1", made[1]
        )
    await going
    assert await ids(hand) == [made[1]]
    assert await state(hand, busy.user_id) == (6, 0)
    await check_revisions(hand)


async def test_coming_back_to_a_busy_user(own: Database, hand: Connection, tmp_path: Path) -> None:
    busy, other = await someone(own), await someone(own)
    made = [*await completed(hand, busy.user_id, 3), *await completed(hand, other.user_id, 3)]
    await into(own, tmp_path / "file")
    async with hand.transaction():
        await hand.execute("update user_state set revision = revision + 1 where user_id = $1", busy.user_id)
        await hand.execute("insert into tasks (user_id, title, revision) values ($1, 'new', 7)", busy.user_id)
        going = asyncio.create_task(back(own, tmp_path / "file"))
        await waiting(hand)
        assert set(await ids(hand)) > set(made[3:])
    await going
    assert set(await ids(hand)) > set(made)
    assert await state(hand, busy.user_id) == (10, 0)
    await check_revisions(hand)


async def test_two_at_once(own: Database, hand: Connection, tmp_path: Path) -> None:
    user = (await someone(own)).user_id
    await completed(hand, user, 1500)
    before = await stored(hand)
    await asyncio.gather(into(own, tmp_path / "a"), into(own, tmp_path / "b"))
    assert await ids(hand) == []
    assert await state(hand, user) == (3000, 0)
    assert files.verify(tmp_path / "a").tasks == files.verify(tmp_path / "b").tasks == 1500
    await asyncio.gather(*(back(own, tmp_path / name) for name in "abab"))
    assert await stored(hand) == before
    assert await state(hand, user) == (4500, 0)
    await check_revisions(hand)


async def test_twice_brings_nothing_back_twice(
    own: Database, hand: Connection, tmp_path: Path, capsys: Any
) -> None:
    caller = await someone(own)
    made = await completed(hand, caller.user_id, 5)
    await into(own, tmp_path / "file")
    await back(own, tmp_path / "file")
    whole = await contents(hand)
    await back(own, tmp_path / "file")
    assert await contents(hand) == whole
    # In the trash or changed, it is there; erased, it is not.
    await tasks.delete(own, caller, made[0], None)
    await tasks.toggle(own, caller, made[1], None)
    assert await tasks.erase(own, caller, made[2], None) == "done"
    capsys.readouterr()
    await back(own, tmp_path / "file", dry_run=True)
    await back(own, tmp_path / "file")
    assert capsys.readouterr().out.splitlines() == [
        "Would bring back 1 task; 4 were there already",
        "Brought back 1 task; 4 were there already",
    ]
    assert await ids(hand) == made
    await check_revisions(hand)


async def test_sync_is_told_of_going_and_coming(own: Database, hand: Connection, tmp_path: Path) -> None:
    """A client at any earlier revision finds the task, alive, at a revision beyond its own."""
    caller = await someone(own)
    [id] = await completed(hand, caller.user_id)
    await into(own, tmp_path / "file")
    graves = await hand.fetch("select task_id, revision from tombstones")
    assert [tuple(row) for row in graves] == [(id, 2)]
    await back(own, tmp_path / "file")
    assert await ids(hand, "tombstones", "task_id") == []
    found = await tasks.get(own, caller, id)
    assert found is not None
    assert (found.revision, await state(hand, caller.user_id)) == (3, (3, 0))
    assert await tasks.erase(own, caller, id, None) == "done"
    assert await ids(hand, "tombstones", "revision") == [4]


async def test_users_who_are_no_more_are_named(
    own: Database, hand: Connection, tmp_path: Path, migrated_database: str
) -> None:
    kept, gone = (await someone(own)).user_id, (await someone(own)).user_id
    made = await completed(hand, kept, 3)
    await completed(hand, gone, 2)
    await into(own, tmp_path / "file")
    await hand.execute("delete from users where id = $1", gone)
    for dry in ((), ("--dry-run",)):
        done = await roundtrip(migrated_database, "unarchive", str(tmp_path / "file"), *dry)
        assert done.returncode == 1
        assert done.stderr.endswith(
            f"Left out 2 tasks of users who are no more: {gone}@Example.com ({gone})\n"
        )
        assert await ids(hand) == made
    assert done.stdout == "Would bring back 0 tasks; 3 were there already\n"


async def test_an_id_that_is_somebody_elses_by_now(own: Database, hand: Connection, tmp_path: Path) -> None:
    user, other = (await someone(own)).user_id, (await someone(own)).user_id
    made = await completed(hand, user, 3)
    await into(own, tmp_path / "file")
    await hand.execute("insert into tasks (id, user_id, title) values ($1, $2, 'theirs')", made[1], other)
    for _ in range(2):
        await back(own, tmp_path / "file")
        mine = await hand.fetch(
            "select id, title, import_key from tasks where user_id = $1 order by title", user
        )
        assert [(row["title"], row["import_key"]) for row in mine] == [
            ("title1", None),
            ("title2", f"archive:{made[1]}"),
            ("title3", None),
        ]
        assert mine[1]["id"] > made[2]
    assert await ids(hand, f"tasks where user_id = '{other}'", "title") == ["theirs"]
    await check_revisions(hand)


async def test_a_task_that_was_imported_again_is_there(
    own: Database, hand: Connection, tmp_path: Path
) -> None:
    user = (await someone(own)).user_id
    [first, second] = await completed(hand, user, 2)
    await hand.execute("update tasks set import_key = 'key' where id = $1", first)
    await into(own, tmp_path / "file")
    await hand.execute("insert into tasks (user_id, title, import_key) values ($1, 'again', 'key')", user)
    await back(own, tmp_path / "file")
    assert await ids(hand, column="title") == ["again", "title2"]
    assert second in await ids(hand)


async def test_new_tasks_never_get_an_id_that_came_back(
    own: Database, hand: Connection, tmp_path: Path
) -> None:
    """As in a database that was made anew, with the same users."""
    caller = await someone(own)
    await hand.execute("alter sequence tasks_id_seq restart with 250000")
    made = await completed(hand, caller.user_id, 3)
    await into(own, tmp_path / "file")
    await hand.execute("alter sequence tasks_id_seq restart")
    await back(own, tmp_path / "file", dry_run=True)
    assert await hand.fetchval("select last_value from tasks_id_seq") == 1
    await back(own, tmp_path / "file")
    assert await ids(hand) == made
    assert await completed(hand, caller.user_id) == [made[-1] + 1]
    await hand.execute("alter sequence tasks_id_seq restart with 300000")
    await back(own, tmp_path / "file")
    assert await completed(hand, caller.user_id) == [300_001]  # one was drawn to know where it is


async def test_memory_stays_flat(own: Database, hand: Connection, tmp_path: Path) -> None:
    """Three times as much, 29 MB, in the same memory."""
    user = (await someone(own)).user_id
    peaks = []
    for number in (1000, 3000):
        await hand.execute("delete from tasks")
        await hand.execute(
            "insert into tasks (user_id, title, description, status, completed_at)"
            " select $1, 'title', repeat(md5(n::text), 300), 'completed', now() - interval '2 years'"
            " from generate_series(1, $2) n",
            user,
            number,
        )
        file = tmp_path / str(number)
        for work in (into(own, file), back(own, file)):
            tracemalloc.start()
            await work
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        assert len(await ids(hand)) == number
    assert max(peaks[2:]) < 1.2 * max(peaks[:2])
