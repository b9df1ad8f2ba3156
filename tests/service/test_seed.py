"""`roundtrip seed`: demo users, and users by the thousand."""

import os
import pty
import re
import subprocess
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import argon2
import asyncpg
import httpx
import pytest

from db import samples, seed
from db.errors import Refused
from db.pool import Database, PoolOptions
from db.url import parse
from service.app import create_app
from service.settings import Settings
from tests.conftest import started
from tests.service.served import PATIENCE, command, environment

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
DONE = re.compile(
    r"([\d,]+) rows \(([\d,]+) users, ([\d,]+) tasks\) in [\d.]+ s: [\d,]+ rows/s; log in as (\S+) with Test123!\n"
)


def roundtrip(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("seed", *arguments),
        check=False,
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


@pytest.fixture
async def there(migrated_database: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to the database of this test alone."""
    connection = await asyncpg.connect(**parse(migrated_database).kwargs())
    yield connection
    await connection.close()


@pytest.fixture
async def pool(migrated_database: str) -> AsyncIterator[Database]:
    """A pool on the database of this test alone."""
    database = Database(parse(migrated_database), PoolOptions(size=2))
    await database.open()
    yield database
    await database.close()


async def revisions_hold(connection: asyncpg.Connection) -> None:
    """Each user's are 1 to as many as they have tasks, and their state knows."""
    rows = await connection.fetch("""
        select us.revision as last, count(t.id) as tasks, count(distinct t.revision) as different,
            coalesce(min(t.revision), 1) as first, coalesce(max(t.revision), 0) as highest
        from user_state us left join tasks t on t.user_id = us.user_id
        group by us.user_id""")
    assert rows
    for row in rows:
        assert row["last"] == row["tasks"] == row["different"] == row["highest"]
        assert row["first"] == 1


# Demo users


async def test_demo_users_are_made_once(
    tmp_path: Path, migrated_database: str, there: asyncpg.Connection
) -> None:
    first, second = (roundtrip(tmp_path, DATABASE_URL=migrated_database) for _ in range(2))
    for done, word in ((first, "made "), (second, "there")):
        assert (done.returncode, done.stderr) == (0, "")
        assert [line.split(",")[0] for line in done.stdout.splitlines()] == [
            f"{word}  {name}@example.com" for name in ("test", "admin", "demo")
        ]
        assert [line.split("password ")[1] for line in done.stdout.splitlines()] == [
            "Test123!",
            "Admin123!, an administrator",
            "Test123!, 5 tasks",
        ]
    users = await there.fetch("select id, email, password_hash, is_admin from users order by id")
    assert [(row["id"], row["is_admin"]) for row in users] == [
        ("admin-user", True),
        ("test-user", False),
        ("test-user-123", False),
    ]
    for row in users:
        argon2.PasswordHasher().verify(row["password_hash"], "Admin123!" if row["is_admin"] else "Test123!")
    tasks = await there.fetch("select user_id, title, status from tasks order by id")
    assert [tuple(row) for row in tasks] == [
        ("test-user-123", "Buy groceries", "pending"),
        ("test-user-123", "Finish project", "pending"),
        ("test-user-123", "Call dentist", "completed"),
        ("test-user-123", "Read book", "pending"),
        ("test-user-123", "Exercise", "completed"),
    ]
    await revisions_hold(there)


@pytest.mark.parametrize("arguments", [(), ("--users", "3")])
async def test_nothing_is_seeded_but_in_development(
    tmp_path: Path, migrated_database: str, there: asyncpg.Connection, arguments: tuple[str, ...]
) -> None:
    done = roundtrip(tmp_path, *arguments, DATABASE_URL=migrated_database, ENVIRONMENT="production")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: roundtrip seed is for development, and ENVIRONMENT says production\n"
    assert await there.fetchval("select count(*) from users") == 0


# Users by the thousand


async def test_many_users_look_real(
    tmp_path: Path, migrated_database: str, there: asyncpg.Connection
) -> None:
    done = roundtrip(tmp_path, "--users", "4", "--tasks-per-user", "500", DATABASE_URL=migrated_database)
    assert (done.returncode, done.stderr) == (0, "Making 2,004 rows\n")
    told = DONE.fullmatch(done.stdout)
    assert told
    assert told.groups() == ("2,004", "4", "2,000", "user000001@example.com")
    await revisions_hold(there)
    shares = await there.fetchrow("""
        select count(*) as tasks, count(distinct title) as titles, count(distinct priority) as priorities,
            count(*) filter (where status = 'pending') as pending,
            count(*) filter (where status = 'in_progress') as in_progress,
            count(*) filter (where status = 'completed') as completed,
            count(*) filter (where deleted_at is not null) as trashed,
            count(*) filter (where due_date is null) as never,
            count(*) filter (where due_date < now() - interval '1 day') as past,
            count(*) filter (where due_date between now() - interval '1 day' and now() + interval '1 day') as today,
            count(*) filter (where due_date > now() + interval '1 day') as later,
            count(*) filter (where description is null) as silent,
            count(*) filter (where created_at > now() - interval '30 days') as recent,
            count(*) filter (where created_at < now() - interval '365 days') as old
        from tasks""")
    assert shares
    assert shares["titles"] > 1500
    assert shares["priorities"] == 5
    for name in set(shares.keys()) - {"tasks", "titles", "priorities"}:
        assert 0.02 < shares[name] / shares["tasks"] < 0.7, name
    wrong = await there.fetchval("""
        select count(*) from tasks
        where not (now() - interval '731 days' < created_at and created_at <= updated_at and updated_at <= now())
            or completed_at not between created_at and updated_at or deleted_at not between created_at and updated_at
            or due_date < created_at - interval '1 day'
            or char_length(title) > 200 or char_length(description) > 1000""")
    assert wrong == 0


async def test_ids_are_in_the_order_of_creation_and_revisions_in_that_of_change(
    pool: Database, there: asyncpg.Connection
) -> None:
    assert [rows async for rows in seed.bulk(pool, [(7, 2000)], "hash", NOW)] == [2001]
    rows = await there.fetch("select created_at, updated_at, revision from tasks order by id")
    created = [row["created_at"] for row in rows]
    assert created == sorted(created)
    changes = sorted((row["updated_at"], row["revision"]) for row in rows)
    assert [revision for _, revision in changes] == list(range(1, 2001))
    assert [row["revision"] for row in rows] != list(range(1, 2001))


async def test_every_value_arrives_as_it_was_drawn(
    pool: Database, there: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    odd = ["\\N", "a\tb\\.\n", '"ü", 😀', "\r\x01\x7f\ufeff"]
    monkeypatch.setattr(samples, "THINGS", odd)
    monkeypatch.setattr(samples, "BEGINNINGS", ["", "Größe 🚲"])
    texts = [None, "", *odd]
    monkeypatch.setattr(
        samples,
        "_descriptions",
        lambda: [samples.NULL, *(samples._text(text) for text in texts if text is not None)],
    )
    now = NOW.replace(minute=34, second=56, microsecond=789_123)
    _ = [rows async for rows in seed.bulk(pool, [(1, 1500)], "hash", now)]
    rows = await there.fetch("select * from tasks order by id")
    assert len(rows) == 1500
    assert {row["title"] for row in rows} == {
        f"{first} {thing}" for first in ("", "Größe 🚲") for thing in odd
    }
    assert {row["description"] for row in rows} == set(texts)
    assert {row["status"] for row in rows} == {"pending", "in_progress", "completed"}
    assert {row["priority"] for row in rows} == {1, 2, 3, 4, 5}
    assert {row["user_id"] for row in rows} == {samples.user_id(1)}
    for row in rows:
        assert row["completed_at"] == (row["updated_at"] if row["status"] == "completed" else None)
        assert row["deleted_at"] in (None, row["updated_at"])
        assert now - timedelta(days=730) < row["created_at"] <= row["updated_at"] <= now
    today = [
        row["due_date"]
        for row in rows
        if row["due_date"] and row["due_date"].minute == 0 == row["due_date"].microsecond
    ]
    assert {due.replace(hour=0) for due in today} == {NOW.replace(hour=0)}
    assert {due.hour for due in today} == set(range(24))


async def test_another_run_goes_on(tmp_path: Path, migrated_database: str, there: asyncpg.Connection) -> None:
    first = roundtrip(tmp_path, "--users", "3", "--tasks-per-user", "2", DATABASE_URL=migrated_database)
    before = await there.fetch("select id, title, revision from tasks order by id")
    # One has another id since, another an address of their own.
    await there.execute("update users set id = 'mine' where email = 'user000003@example.com'")
    await there.execute("update users set email = 'me@example.org' where email = 'user000002@example.com'")
    second = roundtrip(tmp_path, "--users", "2", "--tasks-per-user", "2", DATABASE_URL=migrated_database)
    assert [done.returncode for done in (first, second)] == [0, 0]
    assert "log in as user000004@example.com" in second.stdout
    emails = await there.fetch("select email from users where email like 'user%' order by email")
    assert [row["email"] for row in emails] == [f"user{n:06}@example.com" for n in (1, 3, 4, 5)]
    assert await there.fetch("select id, title, revision from tasks order by id limit 6") == before
    await revisions_hold(there)


async def test_one_of_them_logs_in(tmp_path: Path, migrated_database: str) -> None:
    done = roundtrip(tmp_path, "--users", "1", "--tasks-per-user", "30", DATABASE_URL=migrated_database)
    told = DONE.fullmatch(done.stdout)
    assert told
    settings = Settings(database_url=migrated_database, secret_key="a secret for tests, 32 bytes or more")
    async with started(create_app(settings)) as app:
        transport = httpx.ASGITransport(app)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            login = {"email": told[4], "password": "Test123!"}
            answer = await client.post("/api/v1/auth/login", json=login)
            assert answer.status_code == 200, answer.text
            headers = {"Authorization": f"Bearer {answer.json()['access_token']}"}
            stats = (await client.get("/api/v1/tasks/stats", headers=headers)).json()
            assert stats["total"] + stats["trashed"] == stats["revision"] == 30


async def test_the_same_seed_gives_the_same_tasks(
    pool: Database, there: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads = [(1, 40), (2, 0), (3, 25), (9, 130), (4, 3)]

    async def made(chunk: int, loads: list[tuple[int, int]], generator: int) -> tuple[list[int], list[Any]]:
        monkeypatch.setattr(seed, "CHUNK", chunk)
        await there.execute("delete from users")
        told = [rows async for rows in seed.bulk(pool, loads, "hash", NOW, seed=generator)]
        await revisions_hold(there)
        columns = ", ".join(samples.TASK_COLUMNS)
        rows = await there.fetch(f"select {columns} from tasks order by user_id, id")
        return told, [tuple(row) for row in rows]

    told, rows = await made(60, loads, 1)
    assert sorted(told) == [4, 68, 131]
    told, again = await made(1, loads[::-1], 1)
    assert (sorted(told), again) == ([1, 4, 26, 41, 131], rows)
    _, others = await made(60, loads, 2)
    assert len(others) == len(rows)
    assert others != rows


async def test_the_planner_hears_of_many(
    tmp_path: Path, migrated_database: str, there: asyncpg.Connection
) -> None:
    done = roundtrip(tmp_path, "--users", "2", "--tasks-per-user", "6000", DATABASE_URL=migrated_database)
    assert done.returncode == 0
    assert await there.fetchval("select reltuples from pg_class where relname = 'tasks'") == 12_000
    await revisions_hold(there)


async def test_a_user_is_whole_or_not_there_at_all(
    pool: Database, there: asyncpg.Connection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seed, "CHUNK", 30)
    await there.execute("insert into users (email) values ('USER000005@example.com')")
    with pytest.raises(Refused, match="users_email_key"):
        async for _ in seed.bulk(pool, [(n, 20) for n in range(1, 20)], "hash", NOW):
            pass
    assert await there.fetchval("select count(*) from users where id = $1", samples.user_id(5)) == 0
    # In one statement: a commit that was given up may still come.
    torn = await there.fetchval("""
        select count(*) from users u
        where u.email ~ '^user' and (select count(*) from tasks t where t.user_id = u.id) <> 20""")
    assert torn == 0
    await revisions_hold(there)


def test_help_helps(tmp_path: Path) -> None:
    done = roundtrip(tmp_path, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    for word in ("--users", "--tasks-per-user", "--seed", "demo@example.com", "development"):
        assert word in done.stdout


@pytest.mark.parametrize("arguments", [("--tasks-per-user", "5"), ("--seed", "5"), ("--users", "0"), ("x",)])
def test_a_wrong_command_line_is_exit_code_2(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = roundtrip(tmp_path, *arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    assert not (tmp_path / ".roundtrip").exists()


def test_progress_moves_on_a_terminal(tmp_path: Path, migrated_database: str) -> None:
    ours, theirs = pty.openpty()
    done = subprocess.run(
        command("seed", "--users", "2"),
        check=False,
        cwd=tmp_path,
        env=environment(DATABASE_URL=migrated_database, TERM="xterm"),
        stdout=subprocess.PIPE,
        stderr=theirs,
        timeout=PATIENCE,
    )
    os.close(theirs)
    seen = os.read(ours, 100_000).decode()
    os.close(ours)
    assert done.returncode == 0
    assert "100%" in seen
    assert seen.count("\r") > 1
