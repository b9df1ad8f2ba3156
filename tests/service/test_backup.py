"""Backups and what becomes of them: the same rows, at one moment, that nothing old fits."""

import asyncio
import re
import shutil
import signal
import stat
import subprocess
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from db import catalogue, cluster, dump, manifest, recovery, system
from db.dump import DumpError
from db.manifest import NoBackup
from db.pool import Database, PoolOptions
from db.url import parse
from service import backup
from service import command as commands
from service.app import create_app
from service.settings import Settings
from tests.conftest import migrate, run, sign_up, started, with_database
from tests.service.served import command, environment

TASKS = "/api/v1/tasks"
JUMP = 2**32
# Whatever a dump might stumble over; an identity provider's table, with a column of an alias's name, too.
ODD = """
insert into users (id, email, name) values ('odd', 'odd@example.com', E'tab\\t nl\\n bs\\\\ \\' "quoted" ☃ 𝄞');
insert into tasks (user_id, title, description, due_date, created_at, import_key)
values ('odd', E'\\\\N', '', '0001-01-01 00:00:00+00', '9999-12-31 23:59:59.999999+00', 'null'),
    ('odd', 'NULL', null, null, '1970-01-01', null), ('odd', 'to go', null, null, now(), null);
update tasks set deleted_at = now() where title = 'NULL';
delete from tasks where title = 'to go';
insert into sessions (id, user_id, refresh_hash, ip, expires_at)
values (gen_random_uuid(), 'odd', '\\x00ff5c27', '2001:db8::1', now() + interval '1 day');
insert into conversations (user_id, title) values ('odd', 'a talk');
insert into messages (conversation_id, user_id, role, content)
select id, user_id, 'user', 'hello' from conversations;
create schema "Identity";
create table "Identity"."Odd ""name" (whole_row text, "Id" bigint generated always as identity, at timestamp, x float8);
insert into "Identity"."Odd ""name" (whole_row, at, x)
values ('x', 'infinity', 'nan'), ('x', '4713-01-01 BC', 1e-300), ('x', '4713-01-01 BC', 1e-300), (null, null, null);
"""


def roundtrip(url: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    """Run a command on a database as its users do."""
    return subprocess.run(
        command(*arguments),
        capture_output=True,
        text=True,
        check=False,
        env=environment(DATABASE_URL=url, **settings),
        stdin=subprocess.DEVNULL,
    )


async def write(url: str, file: Path) -> None:
    done = await asyncio.to_thread(roundtrip, url, "backup", str(file))
    assert done.returncode == 0, done.stderr


async def fill(url: str, file: Path, *arguments: str) -> str:
    done = await asyncio.to_thread(roundtrip, url, "restore", str(file), *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(**parse(url).kwargs())
    try:
        yield connection
    finally:
        await connection.close()


@asynccontextmanager
async def serving(url: str) -> AsyncIterator[httpx.AsyncClient]:
    """A service on a database, and a client of it."""
    settings = Settings(
        database_url=url, secret_key="a secret for tests, 32 bytes or more", rate_limits="off"
    )
    async with started(create_app(settings)) as edge:
        transport = httpx.ASGITransport(edge)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


@asynccontextmanager
async def pool(url: str) -> AsyncIterator[Database]:
    async with commands.opened(url, PoolOptions(size=4, statement=60)) as db:
        yield db


async def rows(url: str, table: str, columns: str, key: str) -> list[tuple[Any, ...]]:
    async with connected(url) as connection:
        return [tuple(row) for row in await connection.fetch(f"select {columns} from {table} order by {key}")]


async def is_empty(url: str) -> bool:
    async with pool(url) as db, db.transaction() as part:
        return not await recovery.objects(part)


@pytest.fixture(scope="module")
async def odd(server: str, template: str) -> AsyncIterator[str]:
    """A database with odd rows, and other things than tables of ours."""
    name = f"odd_{uuid.uuid4().hex}"
    await run(server, f"create database {name} template {template}")
    url = with_database(server, name)
    await run(url, ODD)
    yield url
    await run(server, f"drop database {name} with (force)")


@pytest.fixture(scope="module")
async def written(odd: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A backup of it."""
    file = tmp_path_factory.mktemp("backup") / "odd.backup"
    await write(odd, file)
    return file


@pytest.fixture
def file(written: Path, tmp_path: Path) -> Path:
    """A copy of that, to be spoiled."""
    return Path(shutil.copy(written, tmp_path))


# What is written is what is restored


async def test_everything_is_as_it_was_and_revisions_have_moved_on(
    odd: str, file: Path, empty_database: str
) -> None:
    told = f"restored: all {manifest.read(file).rows} rows are as they were\n"
    assert told in await fill(empty_database, file)
    assert migrate(empty_database, "status").stdout.startswith("current\n")
    assert await catalogue.read(empty_database) == await catalogue.read(odd)
    unchanged = [
        ("users", "users::text", "id"),
        ("tasks", "tasks::text", "id"),
        ("tombstones", "tombstones::text", "task_id"),
        ("messages", "messages::text", "id"),
        ("alembic_version", "version_num", "1"),
        ('"Identity"."Odd ""name"', 'at::text, x::text, whole_row, "Id"', '"Id"'),
        ("sessions", "id, user_id, refresh_hash, ip, created_at", "id"),
        ("conversations", "id, user_id, title, created_at, updated_at", "id"),
    ]
    for table, columns, key in unchanged:
        before = await rows(odd, table, columns, key)
        assert before, table
        assert await rows(empty_database, table, columns, key) == before, table
    moved = "user_id, revision + {0}, {1} + {0}, conversations_revision + {0}, is_active"
    assert await rows(
        empty_database, "user_state", moved.format(0, "purged_revision"), "user_id"
    ) == await rows(odd, "user_state", moved.format(JUMP, "revision"), "user_id")
    assert await rows(empty_database, "conversations", "version", "id") == await rows(
        odd, "conversations", f"version + {JUMP}", "id"
    )
    assert await rows(empty_database, "sessions", "count(*) filter (where revoked_at is null)", "1") == [(0,)]


async def test_a_service_works_on_it_and_no_list_that_a_client_knows_is_taken_for_current(
    migrated_database: str, empty_database: str, tmp_path: Path
) -> None:
    async with serving(migrated_database) as client:
        user = await sign_up(client)
        made = (await client.post(TASKS, json={"title": "one"}, headers=user.headers)).json()
        listed = await client.get(TASKS, headers=user.headers)
    await write(migrated_database, tmp_path / "f")
    await fill(empty_database, tmp_path / "f")
    async with serving(empty_database) as client:
        assert (await client.get("/readyz")).status_code == 200
        assert (await client.get(TASKS, headers=user.headers)).status_code == 401  # the session ended
        spent = {"refresh_token": user.tokens["refresh_token"]}
        assert (await client.post("/api/v1/auth/refresh", json=spent)).status_code == 401
        login = await client.post("/api/v1/auth/login", json={"email": user.email, "password": user.password})
        headers = {"Authorization": f"Bearer {login.json()['access_token']}"}
        again = await client.get(TASKS, headers=headers | {"If-None-Match": listed.headers["etag"]})
        assert again.status_code == 200
        assert again.json()["items"] == listed.json()["items"]
        assert again.json()["revision"] == listed.json()["revision"] + JUMP
        task = f"{TASKS}/{made['id']}"  # the very row that the client knows, by its old tag
        known = await client.get(task, headers=headers | {"If-None-Match": f'"{made["revision"]}"'})
        assert known.status_code == 304
        changed = await client.post(f"{task}/toggle", headers=headers | {"If-Match": f'"{made["revision"]}"'})
        assert changed.json()["revision"] == listed.json()["revision"] + JUMP + 1


async def test_nothing_from_the_time_that_was_lost_fits_what_comes_after(
    migrated_database: str, empty_database: str, tmp_path: Path
) -> None:
    async def live(client: httpx.AsyncClient, headers: dict[str, str]) -> set[tuple[str, str]]:
        """Five new tasks, five changes of an old one; what a client remembers of it."""
        seen = set()
        for n in range(5):
            new = await client.post(TASKS, json={"title": str(n)}, headers=headers)
            old = await client.post(f"{TASKS}/{first}/toggle", headers=headers)
            listed = await client.get(TASKS, headers=headers)
            seen |= {("id", str(new.json()["id"])), ("new", new.headers["etag"])}
            seen |= {("old", old.headers["etag"]), ("list", listed.headers["etag"])}
        return seen

    async with serving(migrated_database) as client:
        user = await sign_up(client)
        first = (await client.post(TASKS, json={"title": "old"}, headers=user.headers)).json()["id"]
        await write(migrated_database, tmp_path / "f")
        lost = await live(client, user.headers)
    await fill(empty_database, tmp_path / "f", "--keep-sessions")
    async with serving(empty_database) as client:
        assert len(lost) == 20
        assert not lost & await live(client, user.headers)
    state = (await rows(empty_database, "user_state", "purged_revision", "1"))[0][0]
    assert all(int(tag.strip('"').split("-")[0]) < state for kind, tag in lost if kind != "id")


# One moment


async def test_a_backup_under_writers_is_the_database_at_one_moment(
    migrated_database: str, empty_database: str, tmp_path: Path
) -> None:
    """Each user's revisions are gapless: of a moment are all changes up to one number, and none after it."""
    insert = "insert into tasks (user_id, title) values ($1, $2) returning id"
    await run(
        migrated_database,
        """
        insert into users (id, email) select 'w' || n, n || '@example.com' from generate_series(0, 3) n;
        insert into tasks (user_id, title, description)
        select 'w0', n::text, repeat(md5(n::text), 20) from generate_series(1, 20000) n
        """,
    )
    stop = asyncio.Event()

    async def writer(user: str) -> int:
        async with connected(migrated_database) as connection:
            written = 0
            while not (stop.is_set() and written):
                await connection.execute(insert, user, f"task {written}")
                written += 1
                await asyncio.sleep(0.001)
            await connection.execute(insert, user, "after all")
            return written

    writers = [asyncio.create_task(writer(f"w{n}")) for n in range(1, 4)]
    await asyncio.sleep(0.2)
    await write(migrated_database, tmp_path / "f")
    stop.set()
    assert min(await asyncio.gather(*writers)) > 0
    await fill(empty_database, tmp_path / "f")
    async with connected(empty_database) as then, connected(migrated_database) as now:
        for n in range(4):
            user = f"w{n}"
            moment = await then.fetchval(
                "select revision - $2 from user_state where user_id = $1", user, JUMP
            )
            whole = "select t::text from tasks t where user_id = $1 and revision <= $2 order by revision"
            restored = await then.fetch(
                "select t::text from tasks t where user_id = $1 order by revision", user
            )
            assert restored == await now.fetch(whole, user, moment)
            assert len(restored) == moment
            behind = await now.fetchval("select revision from user_state where user_id = $1", user)
            assert (behind > moment) == (n > 0)


async def test_content_is_the_same_in_any_order_and_differs_where_a_row_does(db: Database) -> None:
    async def digest(values: str) -> manifest.Content:
        async with db.transaction() as part:
            await part.one(replace(system.FOUND, sql="create table shuffled (a text, b int)"))
            if values:
                await part.one(replace(system.FOUND, sql=f"insert into shuffled values {values}"))
            found = await recovery.content_of(part, "public.shuffled")
            await part.one(replace(system.FOUND, sql="drop table shuffled"))
            return found

    one = await digest("('a', 1), ('b', 2), ('b', 2)")
    assert one == await digest("('b', 2), ('a', 1), ('b', 2)")
    assert one.rows == 3
    others = ["('a', 1), ('b', 2)", "('a', 1), ('b', 2), ('a', 1)", "('a', 1), ('b', 2), ('b', null)", ""]
    others += ["('a', 2), ('b', 1), ('b', 2)", "('a', 1), ('b', 2), ('b', 2), (null, null)", "('a,1', 1)"]
    digests = [await digest(values) for values in others]
    assert len({one.digest, *(found.digest for found in digests)}) == len(others) + 1


async def test_content_does_not_hang_on_settings_of_the_server(migrated_database: str) -> None:
    await run(migrated_database, ODD)

    async def contents() -> list[manifest.Content]:
        async with pool(migrated_database) as db, db.transaction() as part:
            return [await recovery.content_of(part, name) for name in await recovery.tables(part)]

    before = await contents()
    name = parse(migrated_database).database
    for setting in ("timezone = 'Asia/Kolkata'", "datestyle = 'German'", "bytea_output = escape"):
        await run(migrated_database, f"alter database {name} set {setting}")
    await run(migrated_database, f"alter database {name} set extra_float_digits = 0")
    assert await contents() == before
    assert {'"Identity"."Odd ""name"', "public.tasks"} <= {content.table for content in before}


# What is refused


@pytest.mark.parametrize("damage", ["dump", "manifest", "seal", "cut", "empty", "other"])
def test_a_file_that_is_not_as_it_was_written_is_refused(file: Path, damage: str) -> None:
    raw = bytearray(file.read_bytes())
    place = {"dump": 5000, "manifest": len(raw) - 200, "seal": len(raw) - 20}.get(damage)
    if place:
        raw[place] ^= 1
    file.write_bytes({"cut": bytes(raw[:-1]), "empty": b"", "other": b"select 1;" * 100}.get(damage, raw))
    with pytest.raises(NoBackup, match=r"it is damaged|it does not end as a backup does"):
        manifest.read(file)


async def test_a_damaged_file_does_not_reach_the_database(file: Path, empty_database: str) -> None:
    file.write_bytes(file.read_bytes()[:-5] + b"wrong")
    done = await asyncio.to_thread(roundtrip, empty_database, "restore", str(file))
    assert done.returncode == 1
    assert "odd.backup: it does not end as a backup does" in done.stderr
    assert await is_empty(empty_database)


def test_a_manifest_of_another_day_is_refused(tmp_path: Path) -> None:
    (tmp_path / "f").write_bytes(b"a dump")
    manifest.seal(tmp_path / "f", {"taken_at": "today"})  # type: ignore[arg-type]
    with pytest.raises(NoBackup, match="not one that this version reads"):
        manifest.read(tmp_path / "f")


async def test_what_differs_after_the_restore_is_named_and_nothing_serves_it(
    file: Path, empty_database: str
) -> None:
    found = manifest.read(file)
    wrong: dict[str, dict[str, Any]] = {
        "public.tasks": {"rows": 17},
        "public.users": {"digest": "0" * 64},
        "public.messages": {"table": "public.notes"},
    }
    tables = [msgspec.structs.replace(t, **wrong.get(t.table, {})) for t in found.tables]
    manifest.seal(file, msgspec.structs.replace(found, tables=tables, objects=["index tasks_by_mood"]))
    done = await asyncio.to_thread(roundtrip, empty_database, "restore", str(file))
    assert done.returncode == 1
    assert "public.tasks has 2 rows instead of 17" in done.stderr
    assert "public.users has 1 rows, and some differ" in done.stderr
    assert "table public.notes is missing" in done.stderr
    assert "index tasks_by_mood is missing" in done.stderr
    assert await rows(empty_database, "user_state", "max(revision) < 10", "1") == [(True,)]
    assert (await commands.state(empty_database)).schema is None
    secret = "a secret for tests, 32 bytes or more"
    serve = await asyncio.to_thread(roundtrip, empty_database, "serve", "--port", "0", SECRET_KEY=secret)
    assert serve.returncode == 1
    assert "has no schema" in serve.stderr


async def test_only_an_empty_database_is_filled(odd: str, file: Path, empty_database: str) -> None:
    done = await asyncio.to_thread(roundtrip, odd, "restore", str(file))
    assert done.returncode == 1
    assert 'is not empty, it has table Identity.Odd "name, table alembic_version, table' in done.stderr
    await run(empty_database, "create view one as select 1")
    done = await asyncio.to_thread(roundtrip, empty_database, "restore", str(file))
    assert "is not empty, it has view one;" in done.stderr


async def test_a_restore_that_fails_says_so_and_nothing_serves_what_it_left(
    file: Path, empty_database: str
) -> None:
    """A role that may create tables but not schemas stumbles half-way."""
    role = f"half_{uuid.uuid4().hex}"
    await run(
        empty_database,
        f"create role {role} login password 'canary-p4ss'; grant create on schema public to {role}",
    )
    owner = parse(empty_database)
    url = f"postgresql://{role}:canary-p4ss@{owner.host}:{owner.port}/{owner.database}?sslmode=disable"
    try:
        done = await asyncio.to_thread(roundtrip, url, "restore", str(file))
        assert done.returncode == 1
        assert re.search(r"Error: pg_restore: error: .*permission denied.*; drop the database", done.stderr)
        assert "canary-p4ss" not in done.stdout + done.stderr
        assert (await commands.state(empty_database)).schema is None
    finally:
        await run(empty_database, f"drop owned by {role}; drop role {role}")


async def test_nothing_to_back_up_is_an_error(empty_database: str, tmp_path: Path) -> None:
    done = await asyncio.to_thread(roundtrip, empty_database, "backup", str(tmp_path / "f"))
    assert done.returncode == 1
    assert "no schema of Roundtrip's" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [("backup", "{new}"), ("restore", "{file}")], ids=["backup", "restore"])
def test_a_pooler_is_refused_with_the_way_out(arguments: tuple[str, str], tmp_path: Path) -> None:
    file = tmp_path / "f"
    file.write_bytes(b"a dump")
    seen = manifest.Manifest(
        taken_at=datetime.now(UTC),
        database="d",
        schema="0004",
        roundtrip="0",
        server="18.6",
        pg_dump="18.6",
        tables=[],
        objects=[],
    )
    manifest.seal(file, seen)
    verb, path = arguments
    url = "postgresql://u:canary-p4ss@ep-x-pooler.eu-central-1.aws.neon.tech/d"
    done = roundtrip(url, verb, path.format(new=tmp_path / "new", file=file))
    assert done.returncode == 1
    assert "set DATABASE_URL_UNPOOLED to the direct endpoint" in done.stderr
    assert "canary-p4ss" not in done.stdout + done.stderr
    assert not (tmp_path / "new").exists()


# The file


async def test_a_file_that_is_there_is_not_replaced_unasked(file: Path, written: Path, odd: str) -> None:
    before = file.read_bytes()
    done = await asyncio.to_thread(roundtrip, odd, "backup", str(file))
    assert done.returncode == 1
    assert "--force" in done.stderr
    assert file.read_bytes() == before
    done = await asyncio.to_thread(roundtrip, odd, "backup", str(file), "--force")
    assert done.returncode == 0, done.stderr
    assert manifest.read(file).taken_at > manifest.read(written).taken_at


async def test_only_its_owner_may_read_it_and_check_tells_what_is_in_it(written: Path) -> None:
    file = written
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]
    done = roundtrip("postgresql://nowhere.invalid/none", "restore", "--check", str(file))
    assert done.returncode == 0, done.stderr
    assert f"at {system.SCHEMA}, as of 2" in done.stdout
    found = manifest.read(file)
    assert "trigger tasks.tasks_update_stamped" in found.objects
    assert {"function tasks_stamp()", "index tasks_trash_idx", "sequence tasks_id_seq"} <= set(found.objects)


async def test_a_plain_pg_restore_and_the_sql_of_the_paper_do_too(
    file: Path, empty_database: str, odd: str
) -> None:
    args = parse(empty_database)
    tool = dump.find("pg_restore", 18, args)
    await dump.run(tool, ["--exit-on-error", "-j2", f"--dbname={dump.named(args)}", str(file)], args)
    assert await rows(empty_database, "tasks", "tasks::text", "id") == await rows(
        odd, "tasks", "tasks::text", "id"
    )
    paper = (Path(__file__).parents[2] / "docs" / "RECOVERY.md").read_text()
    sql = re.search(r"```sql\n(.*?)```", paper, re.DOTALL)
    assert sql
    await run(empty_database, sql[1])
    state = f"user_id, revision, purged_revision, conversations_revision >= {JUMP}, tokens_valid_from > '2026-01-01'"
    assert await rows(empty_database, "user_state", state, "1") == await rows(
        odd, "user_state", f"user_id, revision + {JUMP}, revision + {JUMP}, true, true", "1"
    )
    assert await rows(empty_database, "conversations", "min(version)", "1") > [(JUMP,)]
    assert await rows(empty_database, "sessions", "count(*) filter (where revoked_at is null)", "1") == [(0,)]
    ids = "insert into tasks (user_id, title) values ('odd', 'new') returning id"
    async with connected(empty_database) as connection:
        assert await connection.fetchval(ids) > JUMP


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
async def test_a_backup_that_is_ended_leaves_no_file_and_shows_no_password(
    odd: str, tmp_path: Path, number: signal.Signals
) -> None:
    args = parse(odd)
    async with connected(odd) as blocker:
        await blocker.execute("begin; lock table tasks in access exclusive mode")
        process = await asyncio.create_subprocess_exec(
            *command("backup", str(tmp_path / "f")),
            env=environment(DATABASE_URL=odd),
            stderr=asyncio.subprocess.PIPE,
        )
        waiting = (
            "select count(*) from pg_stat_activity where datname = $1 and wait_event_type = 'Lock'"
            " and query ilike 'lock table%'"
        )
        async with connected(odd) as watch:
            while not await watch.fetchval(waiting, args.database):
                assert process.returncode is None
                await asyncio.sleep(0.05)
        seen = [line for line in _command_lines() if str(tmp_path) in line]
        assert any("pg_dump" in line for line in seen)
        assert args.password
        assert not [line for line in seen if args.password in line]
        process.send_signal(number)
        assert process.stderr is not None
        said = (await process.stderr.read()).decode() if number is not signal.SIGKILL else ""
        assert await process.wait() == (-number if number is signal.SIGKILL else 1)
        assert "Traceback" not in said
        assert not (tmp_path / "f").exists()
        if number is not signal.SIGKILL:
            assert list(tmp_path.iterdir()) == []
            assert not [line for line in _command_lines() if str(tmp_path) in line]


async def test_what_cleans_up_is_not_disturbed_in_it() -> None:
    """Of two that are cancelled one is gone at once; the other has a process to end."""
    ended = False

    async def waits() -> list[manifest.Content]:
        await asyncio.sleep(60)
        return []

    async def cleans_up() -> None:
        nonlocal ended
        try:
            await asyncio.sleep(60)
        finally:
            await asyncio.sleep(0.05)
            ended = True

    both = asyncio.ensure_future(backup._both(waits(), cleans_up()))
    await asyncio.sleep(0.01)
    both.cancel()
    with pytest.raises(asyncio.CancelledError):
        await both
    assert ended


def test_what_is_ended_leaves_no_open_pipe() -> None:
    """Its loop is closed right after. A grandchild keeps the pipe open here, else it is a matter of luck."""

    async def ended() -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            "sh", "-c", "sleep 0.5 & exit 1", stderr=asyncio.subprocess.PIPE
        )
        while process.returncode is None:
            await asyncio.sleep(0.01)
        await dump._end(process)
        return process

    process = asyncio.run(ended())
    assert process.stderr is not None
    assert process.stderr.at_eof()


def _command_lines() -> Iterator[str]:
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            yield path.read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue


# Older and newer


async def test_a_dump_of_an_older_schema_is_restored_and_to_be_migrated(
    migrated_database: str, empty_database: str, tmp_path: Path
) -> None:
    assert migrate(migrated_database, "down").returncode == 0
    await write(migrated_database, tmp_path / "f")
    assert "now: roundtrip migrate" in await fill(empty_database, tmp_path / "f")
    assert migrate(empty_database, "status").stdout.startswith("behind: 1 to apply")
    assert migrate(empty_database, "up").returncode == 0
    assert migrate(empty_database, "status").stdout.startswith("current")


def fake(folder: Path, version: str, *, tls: bool = True) -> Path:
    """A pg_dump that knows its version, and how to fail."""
    folder.mkdir(parents=True)
    path = folder / "pg_dump"
    complaint = (
        "connection refused" if tls else 'sslmode value "x" invalid when SSL support is not compiled in'
    )
    path.write_text(
        f'#!/bin/sh\n[ "$1" = --version ] && echo "pg_dump (PostgreSQL) {version}" && exit\necho \'{complaint}\' >&2; exit 1\n'
    )
    path.chmod(0o755)
    return folder


def test_the_oldest_pg_dump_that_will_do_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = parse("postgresql://u@h/d?sslmode=disable")
    secure = parse("postgresql://u@h/d?sslmode=require")
    monkeypatch.setattr(shutil, "which", lambda _: None)
    monkeypatch.setattr(cluster, "folders", list)
    with pytest.raises(
        DumpError, match=r"there is no pg_dump on this machine; install .*postgresql-client-18"
    ):
        dump.find("pg_dump", 18, plain)
    places = [fake(tmp_path / "18", "18.6", tls=False), fake(tmp_path / "15", "15.18 (Debian 15.18-1)")]
    monkeypatch.setattr(cluster, "folders", lambda: places)
    assert dump.find("pg_dump", 14, plain).version == "15.18"
    assert dump.find("pg_dump", 16, plain).version == "18.6"
    assert dump.find("pg_dump", 15, secure).version == "15.18"
    with pytest.raises(
        DumpError, match=r"built without TLS, which the URL asks for; install the client tools"
    ):
        dump.find("pg_dump", 16, secure)
    with pytest.raises(DumpError, match=r"pg_dump 18\.6 \(.*\) is too old for PostgreSQL 19; install"):
        dump.find("pg_dump", 19, plain)


def test_pg_restore_knows_which_servers_it_can_fill() -> None:
    old, new = dump.Tool(Path("a"), "15.18"), dump.Tool(Path("b"), "18.6")
    assert (old.fills(15), old.fills(18), new.fills(17), new.fills(16)) == (True, True, True, False)


@pytest.mark.parametrize(
    ("query", "mode", "root"),
    [
        ("", "prefer", False),
        ("?sslmode=disable", "disable", False),
        ("?sslmode=require", "verify-full", True),
        ("?sslmode=verify-full&sslrootcert=system", "verify-full", True),
        ("?sslmode=verify-ca", "verify-ca", True),
    ],
)
def test_libpq_is_told_by_its_environment_what_the_url_means_here(
    query: str, mode: str, root: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"PGSSLMODE": "disable", "PGSERVICE": "x", "PGUSER": "somebody"}.items():
        monkeypatch.setenv(name, value)
    told = dump.environment(parse(f"postgresql://u:p%20w@h:1/d{query}"))
    assert told["PGSSLMODE"] == mode
    assert ("PGSSLROOTCERT" in told) is root
    assert (told["PGHOST"], told["PGPORT"], told["PGDATABASE"]) == ("h", "1", "d")
    assert (told["PGUSER"], told["PGPASSWORD"]) == ("u", "p w")
    assert "PGSERVICE" not in told
    assert dump.environment(parse("postgresql://h/d"))["PGUSER"] == "somebody"


def test_the_authorities_of_the_url_are_libpqs_too() -> None:
    certificate = Path(__file__).parents[1] / "db" / "localhost.pem"
    told = dump.environment(parse(f"postgresql://h/d?sslmode=verify-ca&sslrootcert={certificate}"))
    assert told["PGSSLROOTCERT"] == str(certificate)


# After a point-in-time restore


async def test_after_restore_moves_everything_on_while_users_write(migrated_database: str) -> None:
    async with serving(migrated_database) as client:
        users = [await sign_up(client) for _ in range(3)]
        tags = []
        for user in users:
            await client.post(TASKS, json={"title": "one"}, headers=user.headers)
            tags.append((await client.get(TASKS, headers=user.headers)).headers["etag"])
        stop = asyncio.Event()

        async def writing(headers: dict[str, str]) -> list[int]:
            statuses = []
            while not stop.is_set():
                answer = await client.post(TASKS, json={"title": "more"}, headers=headers)
                statuses.append(answer.status_code)
            return statuses

        writers = [asyncio.create_task(writing(user.headers)) for user in users for _ in range(2)]
        for _ in range(2):
            done = await asyncio.to_thread(
                roundtrip, migrated_database, "after-restore", "--yes", "--keep-sessions"
            )
            assert done.returncode == 0, done.stderr
            assert "revisions of 3 users" in done.stdout
        stop.set()
        assert {status for statuses in await asyncio.gather(*writers) for status in statuses} == {201}
        for user, tag in zip(users, tags, strict=True):
            again = await client.get(TASKS, headers=user.headers | {"If-None-Match": tag})
            assert again.status_code == 200
            assert again.json()["revision"] > 2 * JUMP
            state = await rows(migrated_database, "user_state", "user_id, revision, purged_revision", "1")
            assert all(revision >= purged >= 2 * JUMP for _, revision, purged in state)
            kept = await rows(
                migrated_database, "tasks", "count(*), count(distinct (user_id, revision))", "1"
            )
            assert kept[0][0] == kept[0][1]
        new = await client.post(TASKS, json={"title": "new"}, headers=users[0].headers)
        assert new.json()["id"] > 2 * JUMP


async def test_after_restore_ends_sessions_and_tokens_of_a_provider(migrated_database: str) -> None:
    async with serving(migrated_database) as client:
        user = await sign_up(client)
        done = await asyncio.to_thread(roundtrip, migrated_database, "after-restore", "--yes")
        assert done.returncode == 0, done.stderr
        assert (await client.get(TASKS, headers=user.headers)).status_code == 401
    assert await rows(
        migrated_database, "user_state", "tokens_valid_from > now() - interval '1 minute'", "1"
    ) == [(True,)]


async def test_after_restore_asks_and_takes_silence_for_no(migrated_database: str) -> None:
    await run(migrated_database, "insert into users (id, email) values ('x', 'x@example.com')")
    done = await asyncio.to_thread(roundtrip, migrated_database, "after-restore")
    assert done.returncode == 1
    assert await rows(migrated_database, "user_state", "revision", "1") == [(0,)]


async def test_every_user_moves_on_once_whatever_their_id(
    migrated_database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recovery, "BATCH", 3)
    await run(
        migrated_database,
        """
        insert into users (id, email) select chr(32 + n), n || '@example.com' from generate_series(1, 50) n;
        insert into users (id, email) select chr(128 + n) || 'x', n || '@ex.com' from generate_series(1, 50) n;
        insert into users (id, email) values ('', 'a@b.c'), (E'\\x01', 'b@b.c'), (E'!\\x01', 'c@b.c');
        """,
    )
    async with pool(migrated_database) as db:
        steps = [done async for done in recovery.advance_all(db, end_sessions=True)]
    assert steps[-1] == 103
    assert len(steps) == 35
    assert await rows(migrated_database, "user_state", "distinct revision, purged_revision", "1") == [
        (JUMP, JUMP)
    ]


async def test_a_role_without_the_right_is_told_so_in_a_line(migrated_database: str) -> None:
    role = f"plain_{uuid.uuid4().hex}"
    await run(
        migrated_database,
        f"create role {role} login password 'canary-p4ss'; grant select, update on all tables in schema public to {role}",
    )
    owner = parse(migrated_database)
    url = f"postgresql://{role}:canary-p4ss@{owner.host}:{owner.port}/{owner.database}?sslmode=disable"
    try:
        done = await asyncio.to_thread(roundtrip, url, "after-restore", "--yes")
        assert done.returncode == 1
        assert re.fullmatch(r"Error: the role may not do it: .*permission denied.*\n", done.stderr)
        assert "canary-p4ss" not in done.stderr
    finally:
        await run(migrated_database, f"drop owned by {role}; drop role {role}")
