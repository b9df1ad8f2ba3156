"""What is past its retention goes for good, and nothing else."""

import asyncio
import random
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from click.testing import CliRunner

from db import purge as rows
from db import tasks
from db.pool import Database
from service import purge
from service.ages import Age, parse
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

MONTH = Age("30d", 30 * 86400)
BEFORE = datetime(2026, 1, 1, 12, 0, 0, 123456, tzinfo=UTC)
TICK = timedelta(microseconds=1)
LONG_AGO, LATELY = timedelta(days=31), timedelta(days=29)


async def trash(hand: Connection, user_id: str, deleted_at: Any, number: int = 1) -> list[int]:
    """Tasks in the trash; the trigger gives them their revisions."""
    made = await hand.fetch(
        "insert into tasks (user_id, title, deleted_at) select $1, 'title', $2 from generate_series(1, $3) returning id",
        user_id,
        deleted_at,
        number,
    )
    return [row["id"] for row in made]


async def bury(hand: Connection, user_id: str, deleted_at: Any, number: int = 1) -> list[int]:
    """Erased tasks; the revisions of their tombstones."""
    made = await trash(hand, user_id, None, number)
    await hand.execute("delete from tasks where id = any($1)", made)
    return [
        row["revision"]
        for row in await hand.fetch(
            "update tombstones set deleted_at = $2 where task_id = any($1) returning revision",
            made,
            deleted_at,
        )
    ]


async def add_key(hand: Connection, user_id: str, created_at: Any) -> str:
    key = uuid.uuid4().hex
    await hand.execute(
        "insert into idempotency_keys (user_id, route, key, fingerprint, status, created_at) values ($1, 'r', $2, '', 201, $3)",
        user_id,
        key,
        created_at,
    )
    return key


async def add_session(
    hand: Connection, user_id: str, revoked_at: Any, expires_at: Any, refresh_hash: bytes = b"hash"
) -> uuid.UUID:
    id = uuid.uuid4()
    await hand.execute(
        "insert into sessions (id, user_id, refresh_hash, revoked_at, expires_at) values ($1, $2, $5, $3, $4)",
        id,
        user_id,
        revoked_at,
        expires_at,
        refresh_hash,
    )
    return id


async def test_what_is_past_goes_and_the_rest_stays(own: Database, hand: Connection, capsys: Any) -> None:
    a, b = (await someone(own)).user_id, (await someone(own)).user_id
    now = datetime.now(UTC)
    live = await trash(hand, a, None, 3)
    young = await trash(hand, a, now - LATELY, 2)
    old = [*await trash(hand, a, now - LONG_AGO, 2), *await trash(hand, b, now - LONG_AGO)]
    dropped = await bury(hand, a, now - LONG_AGO, 4)
    kept = await bury(hand, a, now - LATELY)
    over = await add_session(hand, a, now - LONG_AGO, now + LATELY)
    await add_key(hand, a, now - timedelta(hours=25))
    key = await add_key(hand, a, now - timedelta(hours=23))
    revision, _ = await state(hand, a)

    await purge.run(own, MONTH, dry_run=False)

    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()[1:]] == ["3", "4", "1", "1"]
    assert await ids(hand) == sorted(live + young)
    assert over not in await ids(hand, "sessions")
    assert len(await ids(hand, "sessions")) == 2
    assert await ids(hand, "idempotency_keys", "key") == [key]
    # A revision and a tombstone each, which is young itself; the marks speak of what was dropped alone.
    graves = await hand.fetch(
        "select task_id, revision from tombstones where user_id = $1 order by revision", a
    )
    assert [tuple(row) for row in graves][1:] == [(old[0], revision + 1), (old[1], revision + 2)]
    assert graves[0]["revision"] == kept[0]
    assert await state(hand, a) == (revision + 2, max(dropped))
    assert await state(hand, b) == (2, 0)
    assert await ids(hand, "tombstones", "task_id") == sorted([*old, graves[0]["task_id"]])
    await check_revisions(hand)
    again = await contents(hand)
    await purge.run(own, MONTH, dry_run=False)
    assert await contents(hand) == again


async def test_the_first_moment_that_is_kept(own: Database, hand: Connection) -> None:
    user = (await someone(own)).user_id
    await hand.execute("delete from sessions")
    kept = await trash(hand, user, BEFORE)
    await trash(hand, user, BEFORE - TICK)
    assert (await rows.tasks(own, "free", BEFORE, purge.PAIR)).removed == 1
    assert await ids(hand) == kept
    await hand.execute("delete from tombstones")
    last = await bury(hand, user, BEFORE)
    await bury(hand, user, BEFORE - TICK)
    assert (await rows.tombstones(own, "free", BEFORE, purge.PAIR)).removed == 1
    assert await ids(hand, "tombstones", "revision") == last
    ended = await add_session(hand, user, BEFORE, BEFORE + LATELY)
    ran_out = await add_session(hand, user, None, BEFORE)
    await add_session(hand, user, BEFORE - TICK, BEFORE + LATELY)
    await add_session(hand, user, None, BEFORE - TICK)
    assert (await rows.sessions(own, BEFORE, purge.ID)).removed == 2
    assert await ids(hand, "sessions") == sorted([ended, ran_out])
    key = await add_key(hand, user, BEFORE)
    await add_key(hand, user, BEFORE - TICK)
    assert (await rows.keys(own, BEFORE, purge.TRIPLE)).removed == 1
    assert await ids(hand, "idempotency_keys", "key") == [key]


async def test_a_session_without_a_refresh_token_stays_until_its_token_has_expired(
    own: Database, hand: Connection
) -> None:
    user = (await someone(own)).user_id
    await hand.execute("delete from sessions")
    now = datetime.now(UTC)
    ended = await add_session(hand, user, now - LONG_AGO, now + LATELY, b"")
    lately = await add_session(hand, user, now - LONG_AGO, now - LATELY, b"")
    await add_session(hand, user, now - LONG_AGO, now - LONG_AGO, b"")
    await add_session(hand, user, None, now - LONG_AGO, b"")
    assert (await rows.count(own, MONTH.seconds)).sessions == 2
    await purge.run(own, MONTH, dry_run=False)
    assert await ids(hand, "sessions") == sorted([ended, lately])


async def test_the_moments_are_the_databases(own: Database, hand: Connection) -> None:
    start = await hand.fetchval("select now()")
    due = await rows.count(own, 3600)
    end = await hand.fetchval("select now()")
    assert start <= due.before + timedelta(hours=1) <= end
    assert due.before - due.keys_before == timedelta(hours=23)


async def test_marks_go_up_to_the_last_one_dropped_and_never_back(own: Database, hand: Connection) -> None:
    user = (await someone(own)).user_id
    now = datetime.now(UTC)
    first = await bury(hand, user, now - LATELY)
    second = await bury(hand, user, now - LONG_AGO)
    await bury(hand, user, now - LATELY)
    await purge.run(own, MONTH, dry_run=False)
    assert await state(hand, user) == (6, second[0])
    await hand.execute("update tombstones set deleted_at = $2 where revision = $1", first[0], now - LONG_AGO)
    await purge.run(own, MONTH, dry_run=False)
    assert await state(hand, user) == (6, second[0])
    assert len(await ids(hand, "tombstones", "revision")) == 1


async def test_a_dry_run_counts_and_changes_nothing(
    own: Database, hand: Connection, migrated_database: str
) -> None:
    user = (await someone(own)).user_id
    past = datetime.now(UTC) - LONG_AGO
    await trash(hand, user, past, 1234)
    await bury(hand, user, past, 5)
    await add_session(hand, user, past, past)
    await add_key(hand, user, past)
    before = await contents(hand)
    told = await roundtrip(migrated_database, "purge", "--older-than", "30d", "--dry-run")
    assert await contents(hand) == before
    done = await roundtrip(migrated_database, "purge", "--older-than", "30d")
    for ran, verb in ((told, "Would remove"), (done, "Removed")):
        assert ran.returncode == 0, ran.stderr
        assert ran.stdout.startswith(verb)
        assert [line.split()[0] for line in ran.stdout.splitlines()[1:]] == ["1,234", "5", "1", "1"]
    assert [len(rows) for rows in (await contents(hand)).values()] == [1, 1, 1, 0, 1234, 0]


@pytest.mark.parametrize(
    "age", ["30", "5m", "-1d", "1.5d", "1d ", "d", "59s", "0d", "0h", "200y", "9" * 12 + "y"]
)
def test_ages_out_of_reason_are_refused(age: str) -> None:
    done = CliRunner().invoke(main, ["purge", f"--older-than={age}"])
    assert done.exit_code == 2
    assert "Invalid value for '--older-than'" in done.stderr.splitlines()[-1]


def test_help_helps() -> None:
    done = CliRunner().invoke(main, ["purge", "--help"])
    assert done.exit_code == 0
    assert all(
        word in " ".join(done.stdout.split())
        for word in ("--older-than", "--dry-run", "12h, 30d, 4w", "24 hours")
    )


def test_ages_are_read() -> None:
    ages = ("1h", "12h", "30d", "4w", "1y", "100y")
    assert [parse(age, "1h").seconds // 3600 for age in ages] == [1, 12, 720, 672, 8760, 876_000]


async def test_many_batches_and_many_users(own: Database, hand: Connection) -> None:
    users = [(await someone(own)).user_id for _ in range(12)]
    now = datetime.now(UTC)
    for user in users:
        await trash(hand, user, now - LONG_AGO, random.randrange(50, 150))
        await trash(hand, user, now - LATELY, 20)
        await bury(hand, user, now - LONG_AGO, random.randrange(50, 150))
    await trash(hand, users[4], now - LONG_AGO, 2500)
    await bury(hand, users[5], now - LONG_AGO, 2500)
    due = await rows.count(own, MONTH.seconds)
    revisions = {user: await state(hand, user) for user in users}
    old = await hand.fetch(
        "select user_id, count(*) from tasks where deleted_at < $1 group by user_id", due.before
    )
    marks = await hand.fetch("select user_id, max(revision) from tombstones group by user_id")
    highest = {row[0]: row[1] for row in marks}
    await purge.run(own, MONTH, dry_run=False)
    assert len(await ids(hand)) == 12 * 20
    assert len(await ids(hand, "tombstones", "task_id")) == due.tasks
    for user, number in old:
        assert await state(hand, user) == (revisions[user][0] + number, highest[user])
    await check_revisions(hand)


async def test_several_at_once_take_turns(own: Database, hand: Connection, migrated_database: str) -> None:
    users = [(await someone(own)).user_id for _ in range(3)]
    past = datetime.now(UTC) - LONG_AGO
    for user in users:
        await trash(hand, user, past, 1500)
        await bury(hand, user, past, 1500)
    revisions = [(await state(hand, user))[0] for user in users]
    both = await asyncio.gather(
        *(roundtrip(migrated_database, "purge", "--older-than", "30d") for _ in range(3))
    )
    assert [done.returncode for done in both] == [0, 0, 0]
    removed = [
        [int(line.split()[0].replace(",", "")) for line in done.stdout.splitlines()[1:]] for done in both
    ]
    assert [sum(kind) for kind in zip(*removed, strict=True)] == [4500, 4500, 0, 0]
    assert [await state(hand, user) for user in users] == [
        (revision + 1500, revision) for revision in revisions
    ]
    await check_revisions(hand)


async def test_where_it_is_not_its_turn_nothing_is_found(own: Database, hand: Connection) -> None:
    user = (await someone(own)).user_id
    await trash(hand, user, BEFORE - TICK)
    key = rows.SESSIONS.sql.partition("xact_lock(")[2].partition(")")[0]
    async with hand.transaction():
        await hand.execute(f"select pg_advisory_xact_lock({key})")
        for batch in (
            rows.tasks(own, "free", BEFORE, purge.PAIR),
            rows.tasks(own, "busy", BEFORE, purge.PAIR),
        ):
            assert await batch == rows.Batch(mine=False, found=0, removed=0, place=None)
        going = asyncio.create_task(purge.run(own, MONTH, dry_run=False))
        done, _ = await asyncio.wait([going], timeout=0.3)
        assert not done
    await going
    assert await ids(hand) == []


async def test_a_busy_user_keeps_nobody_waiting(
    own: Database, hand: Connection, migrated_database: str
) -> None:
    """The others' rows go at once; the busy one's when the writer is done, as they are then."""
    busy, *others = [await someone(own) for _ in range(4)]
    past = datetime.now(UTC) - LONG_AGO
    held = await trash(hand, busy.user_id, past, 3)
    for other in others:
        await trash(hand, other.user_id, past, 2)
    [dropped] = await bury(hand, busy.user_id, past)
    async with hand.transaction():
        await hand.execute("select from user_state where user_id = $1 for update", busy.user_id)
        going = asyncio.create_task(purge.run(own, MONTH, dry_run=False))
        await waiting(hand)
        assert await ids(hand) == held
        free = await hand.fetch("select user_id from user_state for update skip locked")
        assert {row["user_id"] for row in free} == {who.user_id for who in (busy, *others)}
        # Back from the trash, by the way that a request takes.
        await hand.execute("update user_state set revision = revision + 1 where user_id = $1", busy.user_id)
        await hand.execute("update tasks set deleted_at = null, revision = $2 where id = $1", held[0], 6)
    await going
    assert await ids(hand) == [held[0]]
    assert await state(hand, busy.user_id) == (8, dropped)
    await check_revisions(hand)


async def test_sync_hears_of_it_and_a_later_erase_does_not_collide(own: Database, hand: Connection) -> None:
    caller = await someone(own)
    [id] = await trash(hand, caller.user_id, datetime.now(UTC) - LONG_AGO)
    # A tombstone that somebody left behind under the id of a task that is there.
    await hand.execute(
        "insert into tombstones (user_id, task_id, revision, deleted_at) values ($1, $2, 1, now())",
        caller.user_id,
        id,
    )
    await hand.execute("update tasks set revision = 1 where id = $1", id)
    await purge.run(own, MONTH, dry_run=False)
    graves = await hand.fetch(
        "select task_id, revision, deleted_at > now() - interval '1 minute' from tombstones"
    )
    assert [tuple(row) for row in graves] == [(id, 2, True)]
    assert await tasks.restore(own, caller, id, None) == tasks.Outcome("absent", None)
