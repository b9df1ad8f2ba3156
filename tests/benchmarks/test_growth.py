"""Growth: that what is said to grow does, and that what is sent is answered; nothing is timed."""

import asyncio
import os
import secrets
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks import balancer, data, growth, held
from benchmarks.curves import CLOSED, CURSOR, IDLE, INSTANCES, OFFSET, OWN, ROWS
from benchmarks.growth import Growing, Sweep
from benchmarks.load import LoadError, Plan, Service
from benchmarks.results import Curve, Run
from benchmarks.stack import Stack, _sign_in, serve
from db import samples
from db.pool import Database
from tests.benchmarks.made_up import run
from tests.benchmarks.servers import serving

SWEEP = Sweep(
    rows=(1000, 3000),
    own=(1, 30),
    closed=(1, 3),
    idle=(0, 20),
    depths=(0, 7, 27),
    instances=(1, 2),
    seconds=1,
    warmup=0,
)


async def answered(plan: Plan, service: Service) -> list[bytes]:
    """The answers to the first shots of a plan, each as it should be."""
    reader, writer = await asyncio.open_connection(service.host, service.port)
    bodies = []
    for shot in plan.shots[:3]:
        writer.write(shot.request)
        head = (await reader.readuntil(b"\r\n\r\n")).lower()
        assert int(head.split()[1]) == shot.expect, head
        length = next(line for line in head.split(b"\r\n") if line.startswith(b"content-length:"))
        bodies.append(await reader.readexactly(int(length.split()[1])))
    writer.close()
    return bodies


class Fired:
    """Instead of a load: a few of its requests, and what was told of it."""

    def __init__(self) -> None:
        self.bodies: list[list[bytes]] = []
        self.plans: list[Plan] = []

    async def __call__(self, plan: Plan, service: Service) -> Run:
        self.bodies.append(await answered(plan, service))
        self.plans.append(plan)
        assert all(spent is not None for spent in await service.cpu())
        return run(plan.scenario, connections=plan.connections)


@asynccontextmanager
async def growing(url: str, db: Database, sweep: Sweep = SWEEP) -> AsyncIterator[Growing]:
    """The service with two users, one of whom has 1,000 tasks."""
    secret = secrets.token_urlsafe(48)
    ready = Stack("", 0, database_url=url, secret=secret, sizes=growth.SIZES, spare=deque())
    await data._fill(db, growth.SIZES, lambda _: None)
    await _sign_in(ready)
    async with serve(url, settings={"SECRET_KEY": secret}) as running:
        ready.host, ready.port, ready.service = running.host, running.port, running.service
        ready.postgres = os.getpid()  # something to be looked at
        yield Growing(ready, db, sweep, lambda _: None)


def shown(curves: list[Curve]) -> dict[tuple[str, str], list[float]]:
    return {(curve.name, curve.x): [point.x for point in curve.points] for curve in curves}


async def test_everything_grows(
    migrated_database: str, own: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    fired = Fired()
    monkeypatch.setattr(growth, "fire", fired)
    monkeypatch.setattr(growth, "haproxy", lambda: None)
    async with growing(migrated_database, own) as subject:
        curves = [curve async for curve in subject.all(2000)]
    assert [curve.absent for curve in curves if curve.x != INSTANCES] == [None] * 10
    found = shown(curves)
    for name in ("single", "list", "insert"):
        assert found[name, ROWS] == [1000]
    for name in ("list of 10", "search without a hit", "statistics"):
        assert found[name, OWN] == [1, 30]
    assert found["list", OFFSET] == found["list", CURSOR] == [0, 7, 27]
    assert found["single", CLOSED] == [1, 3]
    assert found["single", IDLE] == [0, 20]
    (memory,) = [point.memory_kb for curve in curves for point in curve.points if point.x == 20]
    assert memory is not None
    (gone,) = [curve for curve in curves if curve.x == INSTANCES]
    assert gone.absent is not None
    assert "apt-get install haproxy" in gone.absent
    assert all(curve.absent is None for curve in curves if curve is not gone)
    # By offset and by cursor a page is the same.
    pages = [
        bodies[0] for bodies, plan in zip(fired.bodies, fired.plans, strict=True) if plan.scenario == "list"
    ]
    by_offset, by_cursor = pages[1:4], pages[4:7]
    assert [page.partition(b'"next_cursor"')[0] for page in by_offset] == [
        page.partition(b'"next_cursor"')[0] for page in by_cursor
    ]
    assert len(set(by_offset)) == 3


async def test_rows_of_others_are_added_and_the_one_who_asks_has_as_many_as_before(
    migrated_database: str, own: Database
) -> None:
    ready = Stack("", 0, database_url=migrated_database, users=data.user_ids(growth.SIZES))
    await data._fill(own, growth.SIZES, lambda _: None)
    subject = Growing(ready, own, SWEEP, lambda _: None)
    for total in (1000, 3000):
        await subject._add(total - subject.others)
        (row,) = await data.run(
            own,
            "select count(*) filter (where user_id = $1), count(*) filter (where user_id <> $1) from tasks",
            samples.user_id(1),
        )
        assert tuple(row) == (1000, total)


async def test_what_breaks_off_costs_no_other_curve(monkeypatch: pytest.MonkeyPatch, own: Database) -> None:
    async def fails(*_: object) -> Run:
        raise LoadError("no luck")

    monkeypatch.setattr(growth, "fire", fails)
    monkeypatch.setattr(growth, "haproxy", lambda: None)
    ready = Stack(
        "127.0.0.1", 1, secret="s" * 32, users=["a", "b"], tokens={"a": "t", "b": "t"}, task_ids=[("a", 1)]
    )
    subject = Growing(ready, own, SWEEP, lambda _: None)
    curves = [curve async for curve in subject.all(1000)]
    assert len(curves) == 7
    assert all(curve.absent for curve in curves)
    assert curves[0].absent == "it broke off: no luck"


async def test_a_full_disk_ends_the_rows_early(monkeypatch: pytest.MonkeyPatch, own: Database) -> None:
    ready = Stack(
        "127.0.0.1", 1, secret="s" * 32, users=["a", "b"], tokens={"a": "t", "b": "t"}, task_ids=[("a", 1)]
    )
    subject = Growing(ready, own, SWEEP, lambda _: None)
    monkeypatch.setattr(subject, "_room", lambda rows: rows <= 1000)

    async def fire(plan: Plan, service: Service) -> Run:
        return run(plan.scenario)

    monkeypatch.setattr(growth, "fire", fire)
    for curve in await subject._rows(3000):
        assert [point.x for point in curve.points] == [1000]
        assert curve.absent == "no room on the disk for 3,000 rows"


def test_the_full_run_grows_as_far_as_asked() -> None:
    assert 3_000_000 in growth.FULL.rows
    assert growth.FULL.rows[-1] == 10_000_000
    assert growth.FULL.own == (10, 100, 1_000, 10_000, 100_000)
    assert growth.FULL.closed[-1] == growth.FULL.idle[-1] == 10_000
    assert growth.FULL.depths[-1] == 90_000
    assert growth.FULL.instances == (1, 2, 4)


# Connections that are held, and instances behind a balancer


async def test_connections_are_held_until_the_end(own_service: Service) -> None:
    async with held.held(own_service, 30) as closed:
        assert closed() == 0


async def test_closed_connections_are_counted() -> None:
    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(talk, "127.0.0.1", 0)
    async with server:
        place = Stack("127.0.0.1", server.sockets[0].getsockname()[1])
        async with held.held(place, 5) as closed:
            assert closed() == 5


async def test_a_service_that_is_away_holds_nothing() -> None:
    with pytest.raises(LoadError, match="could not be made"):
        async with held.held(Stack("127.0.0.1", 1), 1):
            pass


def test_memory_is_of_a_process_that_is_there() -> None:
    mine = held.memory_kb(os.getpid())
    assert mine is not None
    assert mine > 5000
    assert held.memory_kb(99_999_999) is None


async def test_a_balancer_that_ends_is_told_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(balancer, "FOLDER", tmp_path)
    with pytest.raises(LoadError, match="haproxy ended with 1"):
        async with balancer.balanced("/bin/false", [], 0):
            pass
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
async def own_service() -> AsyncIterator[Service]:
    async with serving() as server:
        yield server
