"""A purge, killed at random points: only what is past goes."""

import asyncio
import random
import subprocess
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta

from db.pool import Database
from tests.conftest import ROOT
from tests.service.retained import Connection, check_revisions, ids, roundtrip, someone, state
from tests.service.served import PATIENCE, command, environment

KILLS = 5
PAST, YOUNG = timedelta(days=40), timedelta(days=20)


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
