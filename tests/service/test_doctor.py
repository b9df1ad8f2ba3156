"""The doctor's findings, each provoked; and what a plain role is shown."""

import asyncio
import json
import re
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace as changed
from datetime import datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from db import catalogue, doctor, statements, system
from db.pool import Database, PoolOptions
from db.url import parse
from service import checks, upkeep
from service.checks import Line, Patient
from service.settings import Settings
from tests.conftest import run, with_database
from tests.service.served import command, environment

SECRET = "a secret for tests, 32 bytes or more"


def roundtrip(url: str, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("doctor", *arguments),
        capture_output=True,
        text=True,
        check=False,
        env=environment(DATABASE_URL=url) | settings,
        stdin=subprocess.DEVNULL,
    )


async def report(url: str, **settings: str) -> dict[str, Any]:
    done = await asyncio.to_thread(roundtrip, url, "--json", **settings)
    found: dict[str, Any] = json.loads(done.stdout)
    assert done.returncode == (found["level"] == "fail"), done.stderr
    return found


@asynccontextmanager
async def patient(url: str, **settings: Any) -> AsyncIterator[Patient]:
    """Somebody to be looked at in this process."""
    db = Database(parse(url), PoolOptions(size=1))
    await db.open()
    try:
        server, schema = await doctor.server(db), (await system.state(db)).schema
        yield Patient(Settings(database_url=url, **settings), db, db.args, None, server, schema)
    finally:
        await db.close()


async def said(lines: checks.Lines, level: str) -> list[str]:
    """What a check says at a level; a finding that is not well has a remedy."""
    found: list[Line] = [line async for line in lines]
    assert found
    assert all(line.remedy for line in found if line.level != "ok")
    return [line.detail for line in found if line.level == level]


@pytest.fixture(scope="module")
async def sick(server: str, template: str) -> AsyncIterator[str]:
    """A database of this module, for each test to harm and to heal."""
    name = f"sick_{uuid.uuid4().hex}"
    await run(server, f"create database {name} template {template}")
    yield with_database(server, name)
    await run(server, f"drop database {name} with (force)")


# As a whole


async def test_a_sound_database_is_found_sound(migrated_database: str) -> None:
    database_url = migrated_database  # in a shared one there are the dead rows of other tests
    done = await asyncio.to_thread(roundtrip, database_url)
    assert done.returncode == 0, done.stdout
    ill = [line for line in done.stdout.splitlines() if line.startswith(("warn", "fail"))]
    assert not [line for line in ill if "round trip" not in line]  # which this machine may be slow at
    assert f"ok      schema        at {system.SCHEMA}, current" in done.stdout
    args = parse(database_url)
    assert args.password
    assert args.password not in done.stdout + done.stderr


async def test_machines_are_told_the_same(database_url: str) -> None:
    found = await report(database_url)
    assert {finding["check"] for finding in found["findings"]} >= {"connection", "schema", "indexes", "role"}
    assert all(set(finding) == {"level", "check", "detail", "remedy"} for finding in found["findings"])


async def test_what_fails_is_the_exit_code_and_has_a_remedy(sick: str) -> None:
    await run(sick, "drop index messages_user_id_idx")
    done = await asyncio.to_thread(roundtrip, sick)
    await run(sick, "create index messages_user_id_idx on messages (user_id)")
    assert done.returncode == 1
    assert "fail    indexes       messages_user_id_idx is missing" in done.stdout
    assert "-> create it concurrently" in done.stdout


async def test_a_database_that_is_away_is_a_finding() -> None:
    found = await report("postgresql://u:canary-p4ss@127.0.0.1:1/none")
    assert [(f["level"], f["check"]) for f in found["findings"]] == [("fail", "connection")]
    assert "canary-p4ss" not in json.dumps(found)


async def test_a_database_without_a_schema_is_to_be_migrated(empty_database: str) -> None:
    found = (await report(empty_database))["findings"][-1]
    assert (found["level"], found["check"], found["remedy"]) == ("fail", "schema", "roundtrip migrate")


async def test_the_services_own_role_can_ask_and_is_told_what_it_cannot_see(sick: str) -> None:
    role = f"plain_{uuid.uuid4().hex}"
    await run(
        sick,
        f"""
        create role {role} login password 'p';
        revoke create on schema public from public;
        grant usage on schema public to {role};
        grant select, insert, update, delete on all tables in schema public to {role};
        grant usage on all sequences in schema public to {role};
        """,
    )
    owner = parse(sick)
    url = f"postgresql://{role}:p@{owner.host}:{owner.port}/{owner.database}?sslmode=disable"
    other = await asyncpg.connect(**owner.kwargs())
    try:
        found = await report(url, ENVIRONMENT="production")
    finally:
        await other.close()
        await run(sick, f"drop owned by {role}; drop role {role}")
    levels = {finding["check"]: finding["level"] for finding in found["findings"]}
    assert levels["role"] == "ok"
    assert levels["transactions"] == "unseen"
    assert {level for check, level in levels.items() if check != "latency"} == {"ok", "unseen"}


# One by one


async def test_it_expects_what_a_migrated_database_has(database_url: str) -> None:
    schema, wanted = await catalogue.read(database_url), doctor.expected()
    assert wanted.indexes == {index.name for index in schema.indexes}
    assert wanted.constraints == {constraint.name for constraint in schema.constraints}
    assert wanted.triggers == {trigger.name for trigger in schema.triggers}


@pytest.mark.parametrize(
    ("harm", "heal", "check", "level", "finding"),
    [
        (
            "drop index tasks_trash_idx",
            "create index tasks_trash_idx on tasks (user_id, created_at desc, id desc) where deleted_at is not null",
            upkeep.indexes, "fail", "tasks_trash_idx is missing",
        ),
        (
            "update pg_index set indisvalid = false where indexrelid = 'tasks_trash_idx'::regclass",
            "reindex index tasks_trash_idx",
            upkeep.indexes, "fail", "tasks_trash_idx is not valid",
        ),
        (
            "create index tasks_mood on tasks (title)",
            "drop index tasks_mood",
            upkeep.indexes, "warn", "tasks_mood is none of this schema",
        ),
        (
            "drop index messages_user_id_idx",
            "create index messages_user_id_idx on messages (user_id)",
            upkeep.indexes, "warn", "messages_user_id_fkey, a foreign key, has no index",
        ),
        (
            "alter table tasks drop constraint tasks_priority_range",
            "alter table tasks add constraint tasks_priority_range check (priority between 1 and 5)",
            upkeep.constraints, "fail", "tasks_priority_range is missing",
        ),
        (
            "alter table tasks add constraint tasks_calm check (priority < 9) not valid",
            "alter table tasks drop constraint tasks_calm",
            upkeep.constraints, "warn", "tasks_calm was never validated",
        ),
        (
            "alter table tasks disable trigger tasks_update_stamped",
            "alter table tasks enable trigger tasks_update_stamped",
            upkeep.triggers, "fail", "tasks_update_stamped is disabled",
        ),
        (
            "alter table tasks disable trigger all",
            "alter table tasks enable trigger all",
            upkeep.triggers, "fail", "tasks_user_id_fkey is disabled",
        ),
        (
            "alter table users rename constraint users_pkey to users_key; alter trigger tasks_insert_stamped on tasks rename to t",
            "alter table users rename constraint users_key to users_pkey; alter trigger t on tasks rename to tasks_insert_stamped",
            upkeep.triggers, "fail", "tasks_insert_stamped is missing",
        ),
        (
            """
            insert into users (id, email) values ('s', 's@example.com');
            insert into tasks (id, user_id, title) values (1000000, 's', 'ahead')
            """,
            "delete from users where id = 's'",
            upkeep.sequences, "fail", "public.tasks.id has 1,000,000 and would be given 1",
        ),
    ],
)  # fmt: skip
async def test_harm_is_found(sick: str, harm: str, heal: str, check: Any, level: str, finding: str) -> None:
    async with patient(sick) as looked_at:
        assert not [detail for detail in await said(check(looked_at), level) if finding in detail]
        await run(sick, harm)
        try:
            found = await said(check(looked_at), level)
        finally:
            await run(sick, heal)
        assert any(detail.startswith(finding) for detail in found), found
        assert not [detail for detail in await said(check(looked_at), level) if finding in detail]


async def test_a_schema_that_is_not_this_versions_is_not_compared(sick: str) -> None:
    async with patient(sick) as looked_at:
        looked_at.schema = "0001"
        assert "needs" in (await said(upkeep.schema(looked_at), "fail"))[0]
        await run(sick, "drop index tasks_trash_idx")
        try:
            assert await said(upkeep.indexes(looked_at), "fail") == []
        finally:
            await run(
                sick,
                "create index tasks_trash_idx on tasks (user_id, created_at desc, id desc) where deleted_at is not null",
            )
        looked_at.schema = "9999"
        assert "of a newer version" in (await said(upkeep.schema(looked_at), "ok"))[0]


@pytest.mark.parametrize(
    ("settings", "limits", "level", "detail"),
    [
        ({}, {}, "ok", "1 instances x 1 workers x 8 = 8; the server has 97"),
        ({"workers": 4, "database_instances": 3}, {}, "ok", "x 8 = 96;"),
        ({"database_pool_size": 90, "database_max_overflow": 8}, {}, "warn", "= 98; the server has 97"),
        ({"workers": 4, "database_instances": 4}, {}, "warn", "= 128; the server has 97"),
        ({}, {"role_limit": 5}, "warn", "the server has 5 for this role"),
        ({}, {"database_limit": 7}, "warn", "the server has 7 for this role"),
        ({}, {"reserved": 90}, "ok", "the server has 14 for this role"),
        ({"workers": 20, "database_instances": 5}, {}, "fail", "= 800; the server has 97"),
    ],
)
async def test_pools_are_held_against_what_the_server_has(
    database_url: str, settings: dict[str, int], limits: dict[str, int], level: str, detail: str
) -> None:
    async with patient(database_url, **settings) as looked_at:
        given = {"max_connections": 104, "reserved": 7} | limits
        looked_at.server = msgspec.structs.replace(looked_at.server, **given)
        assert detail in (await said(checks.connections(looked_at), level))[0]


async def test_pools_are_read_from_the_settings(database_url: str) -> None:
    found = await report(database_url, DATABASE_POOL_SIZE="150", WORKERS="2")
    assert [f["level"] for f in found["findings"] if f["check"] == "connections"] == ["warn"]


async def test_limits_of_the_role_and_the_database_count(sick: str) -> None:
    name = parse(sick).database
    await run(sick, f"alter database {name} connection limit 11")
    try:
        async with patient(sick) as looked_at:
            assert looked_at.server.connections == 11
    finally:
        await run(sick, f"alter database {name} connection limit -1")


@pytest.mark.parametrize(
    ("facts", "level", "detail"),
    [
        ({"version": "13.9"}, "fail", "PostgreSQL 13.9 is too old"),
        ({"version": "19.1"}, "warn", "PostgreSQL 19.1 is newer than what was tried"),
        ({"read_only": True}, "fail", "standby"),
        ({"careless": "fsync"}, "warn", "off: fsync"),
    ],
)
async def test_servers_that_do_not_suit(
    database_url: str, facts: dict[str, Any], level: str, detail: str
) -> None:
    async with patient(database_url) as looked_at:
        looked_at.server = msgspec.structs.replace(looked_at.server, **facts)
        assert detail in (await said(checks.server(looked_at), level))[0]


async def test_settings_of_the_database_that_endanger_rows(sick: str) -> None:
    name = parse(sick).database
    await run(sick, f"alter database {name} set session_replication_role = replica")
    await run(sick, f"alter database {name} set synchronous_commit = off")
    try:
        async with patient(sick) as looked_at:
            assert "no trigger" in (await said(checks.server(looked_at), "fail"))[0]
            assert (await said(checks.server(looked_at), "warn"))[0].startswith("off: synchronous_commit;")
    finally:
        await run(sick, f"alter database {name} reset all")


@pytest.mark.parametrize(
    ("seconds", "level"), [(0, "ok"), (-5, "warn"), (5, "warn"), (-3600, "fail"), (31, "fail")]
)
async def test_a_clock_that_is_off(
    database_url: str, seconds: int, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = doctor.clock

    async def off(db: Database) -> datetime:
        return await real(db) + timedelta(seconds=seconds)

    monkeypatch.setattr(doctor, "clock", off)
    async with patient(database_url) as looked_at:
        assert f"differ by {abs(seconds)}." in (await said(checks.clock(looked_at), level))[0]


@pytest.mark.parametrize(
    ("host", "query", "tls", "environment", "level", "detail"),
    [
        ("127.0.0.1", "", None, "production", "ok", "direct, no TLS"),
        ("db.example.com", "?sslmode=disable", None, "production", "fail", "in clear"),
        ("db.example.com", "?sslmode=disable", None, "development", "warn", "in clear"),
        ("db.example.com", "", "TLSv1.3", "production", "warn", "not verified"),
        ("ep-x-pooler.neon.tech", "?sslmode=require", "TLSv1.3", "production", "ok", "pooled, TLSv1.3"),
    ],
)
async def test_what_the_way_to_the_database_gives_away(
    database_url: str, host: str, query: str, tls: str | None, environment: str, level: str, detail: str
) -> None:
    async with patient(database_url, environment=environment) as looked_at:
        looked_at.db.args = parse(f"postgresql://{host}/d{query}")
        looked_at.tls = tls
        assert detail in (await said(checks.connection(looked_at), level))[0]


async def test_a_pooler_alone_does_for_serving_only(database_url: str) -> None:
    async with patient(database_url) as looked_at:
        looked_at.direct = parse("postgresql://ep-x-pooler.neon.tech/d")
        assert "no direct endpoint is known" in (await said(checks.direct(looked_at), "warn"))[0]


async def test_the_direct_endpoint_must_answer_and_be_the_same_database(
    database_url: str, empty_database: str
) -> None:
    async with patient(database_url) as looked_at:
        looked_at.direct = parse(empty_database)
        assert "another database" in (await said(checks.direct(looked_at), "fail"))[0]
        looked_at.direct = changed(looked_at.direct, port=1)
        assert "DATABASE_URL_UNPOOLED: no connection" in (await said(checks.direct(looked_at), "fail"))[0]
        looked_at.direct = changed(looked_at.db.args, host="localhost")
        assert "answers" in (await said(checks.direct(looked_at), "ok"))[0]


async def test_a_role_that_is_too_powerful_for_production(database_url: str) -> None:
    async with patient(database_url) as looked_at:
        assert "superuser" in (await said(checks.role(looked_at), "ok"))[0]
    async with patient(database_url, environment="production", secret_key=SECRET) as looked_at:
        assert "superuser" in (await said(checks.role(looked_at), "fail"))[0]
        assert "alter and drop the tables" in (await said(checks.role(looked_at), "warn"))[0]


async def test_tables_that_nobody_looks_after(sick: str) -> None:
    """Statistics reach the view when the session that made them ends, or flushes them."""
    await run(
        sick,
        """
        alter table tombstones set (autovacuum_enabled = off);
        insert into users (id, email) values ('b', 'b@example.com');
        insert into tombstones (user_id, task_id, revision) select 'b', n, n from generate_series(1, 25000) n;
        """,
    )
    try:
        async with patient(sick) as looked_at:
            assert (await until(lambda: said(upkeep.vacuum(looked_at), "warn")))[0].startswith(
                "tombstones has 25,000 rows and was never analyzed"
            )
            await run(sick, "analyze tombstones; delete from tombstones where task_id > 10000")
            assert (await until(lambda: said(upkeep.vacuum(looked_at), "warn")))[0].startswith(
                "tombstones has 15,000 dead rows beside 10,000"
            )
    finally:
        await run(sick, "delete from users where id = 'b'")


async def until(look: Any) -> Any:
    """What is seen once there is something to see."""
    for _ in range(600):
        if found := await look():
            return found
        await asyncio.sleep(0.05)
    raise AssertionError("never seen")


@pytest.mark.parametrize(("age", "level"), [(600_000_000, "warn"), (1_600_000_000, "fail")])
async def test_rows_too_old_for_the_counter_of_transactions(database_url: str, age: int, level: str) -> None:
    async with patient(database_url) as looked_at:
        looked_at.server = msgspec.structs.replace(looked_at.server, xid_age=age, vacuums=False)
        assert "the server stops" in (await said(upkeep.vacuum(looked_at), level))[0]
        assert "autovacuum or track_counts is off" in (await said(upkeep.vacuum(looked_at), "warn"))


async def test_transactions_that_hold_vacuum_back(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    async def held(_: Database) -> doctor.Transactions:
        return doctor.Transactions(1, 2, 3, 4, 5)

    async with patient(database_url) as looked_at:
        assert (await doctor.transactions(looked_at.db)).hidden == 0
        monkeypatch.setattr(doctor, "transactions", held)
        assert [detail[0] for detail in await said(upkeep.transactions(looked_at), "warn")] == list("1234")
        assert (await said(upkeep.transactions(looked_at), "unseen"))[0].startswith("5 sessions")


async def test_slow_statements_are_named(sick: str) -> None:
    """The view is a stand-in: the library must be loaded when a server starts, and here it is not."""
    known = next(statement for statement in statements.every() if statement.name == "tasks.get").sql
    seen = known.replace("'lowest', 'low', 'medium', 'high', 'highest'", "$5 /*, ... */")
    seen = re.sub("'[^']*'", "$4", seen)
    async with patient(sick) as looked_at:
        assert "not installed" in (await said(upkeep.slow(looked_at), "unseen"))[0]
        await run(sick, "create schema odd; create extension pg_stat_statements schema odd")
        try:
            assert "not loaded" in (await said(upkeep.slow(looked_at), "unseen"))[0]
            await run(
                sick,
                f"""
                alter extension pg_stat_statements drop view odd.pg_stat_statements;
                drop view odd.pg_stat_statements;
                create table odd.pg_stat_statements as
                select d.oid as dbid, query, calls, total / calls as mean_exec_time, total as total_exec_time,
                    total as max_exec_time
                from pg_database d, (values
                    ($_${seen}$_$, 12, 3000.0),
                    ('select pg_sleep($1)', 5, 1000.0),
                    ('select ''fast''', 1000000, 90000.0),
                    ('select ''once''', 1, 5000.0)) v (query, calls, total)
                where d.datname = current_database()
                """,
            )
            found = [line async for line in upkeep.slow(looked_at)]
        finally:
            await run(sick, "drop extension pg_stat_statements; drop schema odd cascade")
    assert "'" not in seen
    assert [line.detail for line in found] == [
        "tasks.get: 250 ms on average of 12, 3,000 at worst",
        "select pg_sleep($1): 200 ms on average of 5, 1,000 at worst",
    ]
    assert found[0].remedy == "roundtrip explain tasks.get --analyze"


@pytest.mark.parametrize(("far", "level"), [(0.0, "warn"), (1e9, "ok")])
async def test_a_database_far_away(
    database_url: str, far: float, level: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "FAR", far)
    async with patient(database_url) as looked_at:
        assert "ms a round trip" in (await said(checks.latency(looked_at), level))[0]
