"""The load generator, against a server that does as it is told."""

import asyncio
import os
import resource
import signal
from collections.abc import AsyncIterator
from itertools import pairwise
from statistics import mean, pstdev
from typing import Any

import pytest
from msgspec import structs

from benchmarks import cpu, generator
from benchmarks.generator import fairness, renewed
from benchmarks.load import LoadError, Plan, Shot, fire, schedule
from tests.benchmarks.servers import Server, serving


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    async with serving() as server:
        yield server


def plan(server: Server, *paths: str, **more: Any) -> Plan:
    """A short plan in open loop."""
    shots = [Shot(server.request(path)) for path in paths]
    usual: dict[str, Any] = {
        "loop": "open",
        "rate": 200,
        "connections": 4,
        "warmup_s": 0,
        "duration_s": 0.5,
        "shots": shots,
    }
    usual |= {"scenario": "test", "host": server.host, "port": server.port}
    return Plan(**(usual | more))


def once(server: Server, *paths: str, **more: Any) -> Plan:
    """Each path once."""
    return plan(server, *paths, once=True, duration_s=10, rate=400, **more)


async def test_an_open_loop_charges_a_freeze_to_everybody_who_came_in_it(server: Server) -> None:
    run = await fire(plan(server, "/freeze", duration_s=2), server)
    assert run.errors == {}
    assert server.asked["/freeze"] == run.answers
    # A second of two: half of them came in it, and half of those waited more than half of it.
    assert run.latency.p90_ms > 500
    assert run.latency.p99_ms > 700


async def test_a_closed_loop_hides_it(server: Server) -> None:
    run = await fire(plan(server, "/freeze", loop="closed", rate=None, duration_s=1.2), server)
    assert run.errors == {}
    assert run.latency.max_ms > 700
    assert run.latency.p90_ms < 500


async def test_every_request_is_counted_by_what_became_of_it(server: Server) -> None:
    run = await fire(once(server, *["/ok", "/busy", "/chunked", "/goodbye", "/vanish"] * 20), server)
    assert (run.answers, run.errors) == (60, {"503": 20, "closed": 20})
    assert set(server.asked.values()) == {20}
    assert run.service_cpu_us == pytest.approx(1e6 / 60)
    assert run.postgres_cpu_us is None


async def test_the_warm_up_is_not_counted(server: Server) -> None:
    asked = plan(server, "/ok", warmup_s=0.2, duration_s=0.3, poisson=False)
    run = await fire(asked, server)
    assert run.answers == 60
    assert server.asked["/ok"] == 100
    assert run.asked_per_second == 200


async def test_who_waits_for_a_connection_waits_for_an_answer(server: Server) -> None:
    asked = once(server, "/never", "/ok", connections=1, timeout_s=0.6)
    run = await fire(structs.replace(asked, rate=3, poisson=False), server)
    assert (run.answers, run.errors) == (1, {"timeout": 1})
    assert run.latency.p50_ms > 150
    assert run.latency.max_ms > 550  # of the one that never was answered


async def test_a_refresh_sends_what_the_last_one_gave(server: Server) -> None:
    def shot(name: str) -> Shot:
        return Shot(server.request("/refresh", b'{"refresh_token":"%b.0"}' % name.encode()), chain=name)

    shots = [shot("one"), shot("two"), Shot(server.request("/ok"))]
    asked = plan(server, shots=shots, loop="closed", rate=None, duration_s=0.3)
    assert (await fire(asked, server)).errors == {}
    before = dict(server.tokens)
    assert min(before.values()) > 10  # so that the token became longer, too
    assert (await fire(asked, server)).errors == {}
    assert server.tokens["one"] > before["one"]


async def test_the_generator_says_when_it_was_late_itself(server: Server) -> None:
    firing = asyncio.create_task(fire(plan(server, "/ok", duration_s=1), server))
    while not server.asked["/ok"]:
        await asyncio.sleep(0.05)
    (process,) = cpu.children(os.getpid())
    os.kill(process, signal.SIGSTOP)
    await asyncio.sleep(0.5)
    os.kill(process, signal.SIGCONT)
    run = await firing
    assert run.generator.bottleneck
    assert run.generator.lag_p99_ms > 200


async def test_many_connections_get_their_share(server: Server) -> None:
    asked = plan(server, "/ok", connections=500, rate=2000, poisson=False, duration_s=0.5)
    run = await fire(asked, server)
    assert (run.answers, run.errors) == (1000, {})
    assert run.slowest_connection > 0
    assert run.generator.cpu_us > 0


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"rate": None}, "an open loop has a rate"),
        ({"loop": "closed"}, "a closed one has none"),
        ({"rate": 200_000, "duration_s": 3600}, "20,000,000 requests at most"),
        ({"connections": 0}, "connections"),
        ({"shots": []}, "nothing to send"),
        ({"port": 1}, "Connect call failed|refused"),
    ],
)
async def test_what_cannot_be_is_refused(change: dict[str, Any], complaint: str, server: Server) -> None:
    with pytest.raises(LoadError, match=complaint):
        await fire(plan(server, "/ok", **change), server)


def test_more_connections_than_descriptors_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (10, 100))
    with pytest.raises(LoadError, match="ulimit -n"):
        generator.carry_out(plan(Server(), "/ok", connections=50), lambda: None, lambda: None)


def test_random_arrivals_have_the_rate_and_do_not_know_each_other() -> None:
    due = schedule(500, 100, poisson=True, seed=7)
    assert len(due) == pytest.approx(50_000, rel=0.02)
    gaps = [later - earlier for earlier, later in pairwise(due)]
    assert mean(gaps) == pytest.approx(1 / 500, rel=0.02)
    assert pstdev(gaps) == pytest.approx(1 / 500, rel=0.05)  # as wide as they are long: exponential
    assert due == schedule(500, 100, poisson=True, seed=7)
    assert due != schedule(500, 100, poisson=True, seed=8)


def test_even_arrivals_are_even() -> None:
    assert [*schedule(4, 1, poisson=False, seed=1)] == [0, 0.25, 0.5, 0.75]


def test_a_request_is_renewed_with_its_length() -> None:
    request = b'POST / HTTP/1.1\r\nContent-Length: 21\r\n\r\n{"refresh_token":"a"}'
    assert renewed(request, b"abc") == b'POST / HTTP/1.1\r\nContent-Length: 23\r\n\r\n{"refresh_token":"abc"}'


def test_fairness_is_of_the_last_to_the_median() -> None:
    assert fairness([10, 10, 4, 12]) == 0.4
    assert fairness([0, 0]) == 1.0
