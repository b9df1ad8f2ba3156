"""Purge and archive, killed at random points and amid writers: only what is past goes, and nothing is in neither place."""

import asyncio
import random
import subprocess
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from db import tasks
from db.pool import Database
from db.task import Draft
from service import archive
from service import archive_file as files
from service.ages import Age
from tests.conftest import ROOT
from tests.service.retained import Connection, check_revisions, ids, roundtrip, someone, state
from tests.service.served import PATIENCE, command, environment

KILLS = 5
PAST, YOUNG = timedelta(days=40), timedelta(days=20)
COLUMNS = "id, user_id, title, description, status, priority, due_date, created_at, updated_at, completed_at"


async def killed_when(reached: Callable[[], Awaitable[bool]], url: str, *arguments: str) -> bool:
    """Run a command and kill it at a point; False where it ended before that, which it must do well."""
    process = subprocess.Popen(
        command(*arguments),
        cwd=ROOT,
        env=environment(DATABASE_URL=url),
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            while process.poll() is None and not await reached():
                await asyncio.sleep(0.001)
    finally:
        process.kill()
        _, said = process.communicate()
    assert process.returncode in (0, -9), said
    return process.returncode == -9


async def resting(hand: Connection) -> None:
    """Wait until the server has done with what a killed client left it."""
    async with asyncio.timeout(PATIENCE):
        while await hand.fetchval(
            "select count(*) from pg_stat_activity where datname = current_database() and pid <> pg_backend_pid()"
            " and state <> 'idle'"
        ):
            await asyncio.sleep(0.01)


async def test_a_purge_that_is_killed(
    own: Database, hand: Connection, migrated_database: str, chance: random.Random
) -> None:
    users = [(await someone(own)).user_id for _ in range(6)]
    now = datetime.now(UTC)
    for user in users:
        for age in (YOUNG, PAST):
            await hand.execute(
                "insert into tasks (user_id, title, deleted_at) select $1, 'title', $2 from generate_series(1, $3)",
                user,
                now - age,
                chance.randrange(800, 1500),
            )
            made = await hand.fetch(
                "insert into tasks (user_id, title) select $1, 'title' from generate_series(1, $2) returning id",
                user,
                chance.randrange(800, 1500),
            )
            buried = [row["id"] for row in made]
            await hand.execute("delete from tasks where id = any($1)", buried)
            await hand.execute(
                "update tombstones set deleted_at = $2 where task_id = any($1)", buried, now - age
            )
    edge = now - (PAST + YOUNG) / 2
    past = set(await ids(hand, f"tasks where deleted_at < '{edge}'"))
    young = set(await ids(hand)) - past
    stones = {
        row["task_id"]: row
        for row in await hand.fetch("select user_id, task_id, revision, deleted_at from tombstones")
    }
    revisions = {user: (await state(hand, user))[0] for user in users}
    owner = {row["id"]: row["user_id"] for row in await hand.fetch("select id, user_id from tasks")}
    total = len(past) + len([stone for stone in stones.values() if stone["deleted_at"] < edge])

    async def gone() -> int:
        found = await hand.fetchval(
            "select (select count(*) from tasks where deleted_at < $1)"
            " + (select count(*) from tombstones where deleted_at < $1)",
            edge,
        )
        return total - int(found)

    async def check() -> None:
        await resting(hand)
        there, left = set(await ids(hand)), set(await ids(hand, "tombstones", "task_id"))
        erased = past - there
        assert young <= there <= young | past
        assert left - set(stones) == erased
        dropped = set(stones) - left
        assert all(stones[id]["deleted_at"] < edge for id in dropped)
        for user in users:
            mark = max((stones[id]["revision"] for id in dropped if stones[id]["user_id"] == user), default=0)
            number = sum(owner[id] == user for id in erased)
            assert await state(hand, user) == (revisions[user] + number, mark)
        await check_revisions(hand)

    arguments = ("purge", "--older-than", "30d")
    for _ in range(KILLS):
        point = chance.randrange(await gone(), total + 1)

        async def reached(point: int = point) -> bool:
            return await gone() >= point

        await killed_when(reached, migrated_database, *arguments)
        await check()
    done = await roundtrip(migrated_database, *arguments)
    assert done.returncode == 0, done.stderr
    await check()
    assert await gone() == total


async def completed(hand: Connection, user: str, number: int) -> None:
    """Tasks that were completed long ago."""
    await hand.execute(
        "insert into tasks (user_id, title, description, status, completed_at)"
        " select $1, 'title ' || n, repeat(md5(n::text), n % 20), 'completed', now() - interval '2 years'"
        " from generate_series(1, $2) n",
        user,
        number,
    )


async def stored(hand: Connection) -> dict[int, Any]:
    """All of every task but its revision, by id."""
    return {row["id"]: tuple(row) for row in await hand.fetch(f"select {COLUMNS} from tasks")}


def archived(folder: Path) -> dict[int, Any]:
    """The same of the tasks in every file that has its name."""
    found: dict[int, Any] = {}
    for file in folder.glob("*.gz"):
        files.verify(file)
        found |= {
            task.id: tuple(getattr(task, name) for name in COLUMNS.split(", "))
            for _, task in files.read(file)
        }
    return found


async def test_an_archive_that_is_killed(
    own: Database, hand: Connection, migrated_database: str, tmp_path: Path, chance: random.Random
) -> None:
    """While it writes, when the file gets its name, or while it erases."""
    users = [(await someone(own)).user_id for _ in range(3)]
    for user in users:
        await completed(hand, user, 3000)
    before = await stored(hand)

    async def left() -> int:
        return int(await hand.fetchval("select count(*) from tasks"))

    async def writing() -> bool:
        return any(file.stat().st_size >= bytes_ for file in tmp_path.glob(".*.part"))

    async def named() -> bool:
        return len([*tmp_path.glob("*.gz")]) > number

    async def erasing() -> bool:
        return await left() <= point

    kills = 0
    for number in range(KILLS):
        bytes_ = chance.randrange(200_000)
        point = chance.randrange(max(await left(), 1))
        reached = chance.choice((writing, named, erasing, erasing))
        kills += await killed_when(
            reached, migrated_database, "archive", "--to", str(tmp_path / f"{number}.gz")
        )
        await resting(hand)
        there, kept = await stored(hand), archived(tmp_path)
        assert there | kept == before
        assert there.items() <= before.items()
        await check_revisions(hand)
    assert kills
    done = await roundtrip(migrated_database, "archive", "--to", str(tmp_path / "last.gz"))
    assert done.returncode == 0, done.stderr
    assert await left() == 0
    assert archived(tmp_path) == before
    assert [await state(hand, user) for user in users] == [(6000, 0)] * 3
    for file in (*tmp_path.glob("*.gz"), *tmp_path.glob("*.gz")):
        await archive.bring_back(own, file, None, dry_run=False)
    assert await stored(hand) == before
    assert [await state(hand, user) for user in users] == [(9000, 0)] * 3
    await check_revisions(hand)


async def test_coming_back_that_is_killed(
    own: Database, hand: Connection, migrated_database: str, tmp_path: Path, chance: random.Random
) -> None:
    users = [(await someone(own)).user_id for _ in range(3)]
    for user in users:
        await completed(hand, user, 2000)
    before = await stored(hand)
    file = tmp_path / "0.gz"
    await archive.store(own, Age("1y", 365 * 86400), file, None, now=datetime.now(UTC), dry_run=False)
    for _ in range(KILLS):
        point = chance.randrange(1, 6001)

        async def reached(point: int = point) -> bool:
            return bool(await hand.fetchval("select count(*) >= $1 from tasks", point))

        await killed_when(reached, migrated_database, "unarchive", str(file))
        await resting(hand)
        there = await stored(hand)
        assert there.items() <= before.items()
        assert await hand.fetchval("select count(*) from tombstones") == len(before) - len(there)
        await check_revisions(hand)
    done = await roundtrip(migrated_database, "unarchive", str(file))
    assert done.returncode == 0, done.stderr
    assert await stored(hand) == before
    assert [await state(hand, user) for user in users] == [(6000, 0)] * 3


async def test_an_archive_amid_writers(
    own: Database, hand: Connection, tmp_path: Path, chance: random.Random
) -> None:
    """A task that somebody reopens meanwhile is there, reopened; every other one is in the file."""
    callers = [await someone(own) for _ in range(4)]
    for caller in callers:
        await completed(hand, caller.user_id, 1500)
    before = await stored(hand)
    over = asyncio.Event()
    reopened: set[int] = set()

    async def write(caller: Any) -> None:
        mine = [id for id, row in before.items() if row[1] == caller.user_id]
        while not over.is_set() and mine:
            id = mine.pop(chance.randrange(len(mine)))
            toggled = await tasks.toggle(own, caller, id, None)
            assert toggled is not None
            if toggled.verdict == "done":
                reopened.add(id)
            assert await tasks.create(own, caller, Draft("new", None, "pending", 3, None))
            await asyncio.sleep(0)

    async def work() -> None:
        await archive.store(
            own, Age("1y", 365 * 86400), tmp_path / "0.gz", None, now=datetime.now(UTC), dry_run=False
        )
        over.set()

    await asyncio.gather(work(), *(write(caller) for caller in callers))
    assert reopened
    there = {
        row["id"]: row["status"]
        for row in await hand.fetch("select id, status from tasks where title <> 'new'")
    }
    assert there == dict.fromkeys(reopened, "pending")
    kept = archived(tmp_path)
    assert {id: row for id, row in before.items() if id not in reopened}.items() <= kept.items()
    await check_revisions(hand)
    for caller in callers:
        revision, mark = await state(hand, caller.user_id)
        written = await hand.fetchval(
            "select count(*) from tasks where user_id = $1 and title = 'new'", caller.user_id
        )
        changed = sum(before[id][1] == caller.user_id for id in reopened)
        assert (revision, mark) == (1500 + 1500 + written, 0), changed
