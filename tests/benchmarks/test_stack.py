"""Data, service and accounts: made, measured, and gone in the end."""

import os
import secrets
import subprocess
import sys
from urllib.parse import urlsplit

import pytest

from benchmarks import cpu, data, remote, scenarios
from benchmarks.data import Sizes
from benchmarks.load import LoadError, Plan, fire
from benchmarks.stack import serve
from db import system
from db.pool import Database
from tests.conftest import TEMPLATE, run

SMALL = Sizes(users=7, tasks=300, large=2, large_tasks=100)


def test_tasks_are_spread_to_the_last() -> None:
    loads = SMALL.loads()
    assert loads[:4] == [(1, 100), (2, 100), (3, 20), (4, 20)]
    assert (len(loads), sum(count for _, count in loads)) == (7, 300)
    with pytest.raises(ValueError, match="cannot be"):
        Sizes(1, 10, 2, 5).loads()
    with pytest.raises(ValueError, match="cannot be"):
        Sizes(10, 10, 2, 6).loads()


async def test_seeded_data_is_what_was_asked_for(own: Database) -> None:
    told: list[str] = []
    await data._fill(own, SMALL, told.append)
    (row,) = await data.run(own, "select count(*), count(distinct t.user_id) from tasks t")
    assert tuple(row) == (300, 7)
    assert told[-1].endswith("100 %")
    asked = await data.sample(own, SMALL, data.ASKED)
    spare = await data.sample(own, SMALL, data.SPARE)
    assert asked
    assert spare
    assert not set(asked) & set(spare)
    assert {user for user, _ in asked} <= set(data.user_ids(SMALL))


async def test_a_run_has_a_copy_of_its_own(server: str, template: str) -> None:
    sizes = Sizes(1, os.getpid(), 0, 0)  # nobody else's
    await run(server, f'create database "{sizes.template}" template {TEMPLATE}')
    left = "run_99999999_1_1"  # by a process that is no more
    await run(server, f'create database "{left}"')
    try:
        async with data.cloned(server, sizes, lambda _: None) as url:
            async with data.opened(url, 1) as db:
                assert (await system.state(db)).schema == system.SCHEMA
                names = await data._names(db)
            assert left not in names
            assert urlsplit(url).path[1:] in names
    finally:
        await run(server, f'drop database "{sizes.template}"')
    async with data.opened(server, 1) as db:
        assert urlsplit(url).path[1:] not in await data._names(db)


async def test_a_deployment_is_left_as_it_was(
    migrated_database: str, own: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "TASKS", (20, 5))
    settings = {"SECRET_KEY": secrets.token_urlsafe(48)}
    async with serve(migrated_database, settings=settings) as service:
        before = await service.cpu()
        told: list[str] = []
        async with remote.borrowed(f"http://127.0.0.1:{service.port}", told.append) as stack:
            assert len(stack.large) == 1
            assert len(stack.users) == 2
            assert len(stack.task_ids) + len(stack.spare) == 25
            plan = Plan(
                "mix", stack.host, stack.port, "open", 4, scenarios.mix(stack, 200), rate=100, duration_s=0.5
            )
            result = await fire(plan, service)
            assert result.errors == {}
            assert result.answers > 20
        assert before[0] is not None
        assert result.service_cpu_us is not None
        assert (before[0] > 0, result.service_cpu_us > 0, before[1]) == (True, True, None)
        (row,) = await data.run(own, "select (select count(*) from users), (select count(*) from tasks)")
        assert tuple(row) == (0, 0)
    with pytest.raises(LoadError, match="register"):
        async with remote.borrowed(f"http://127.0.0.1:{service.port}", told.append):
            pass


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("http://localhost:8000", ("localhost", 8000, False, True)),
        ("https://todo.example.com/", ("todo.example.com", 443, True, False)),
        ("http://[::1]:81", ("::1", 81, False, True)),
        ("http://10.0.0.1", ("10.0.0.1", 80, False, False)),
    ],
)
def test_a_url_says_where_and_whether_it_is_here(url: str, place: tuple[object, ...]) -> None:
    found = remote.place(url)
    assert (*found, found.local) == place


@pytest.mark.parametrize(
    "url", ["todo.example.com", "ftp://x", "http://x/prefix", "http://x:y", "http://x?a=b"]
)
def test_what_is_no_place_is_refused(url: str) -> None:
    with pytest.raises(LoadError):
        remote.place(url)


def test_cpu_is_of_a_process_and_all_its_children() -> None:
    burn = "import time\nend = time.process_time() + 0.2\nwhile time.process_time() < end: pass\n"
    both = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {burn!r}])\n{burn}\nprint(flush=True)\ninput()"
    with subprocess.Popen(
        [sys.executable, "-c", both], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        assert cpu.of_tree(process.pid) > 0.35  # the child's is in whole ticks
        process.communicate(b"\n")
    assert cpu.of_tree(process.pid) == 0


def test_a_child_that_ends_meanwhile_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    alive = {7: 2.0}  # the child's seconds; the parent has them as soon as it is gone
    ends = iter((True,))

    def children(pid: int) -> list[int]:
        if next(ends, False):
            alive.clear()
        return [*alive] if pid == 1 else []

    monkeypatch.setattr(cpu, "children", children)
    monkeypatch.setattr(cpu, "_own", lambda pid: alive.get(pid, 0.0))
    monkeypatch.setattr(cpu, "_outlived", lambda pid: 0.0 if alive or pid != 1 else 2.0)
    assert [cpu.of_tree(1) for _ in range(2)] == [2.0, 2.0]
