"""The documents' latency targets, from `targets.toml`: measured, and met or not."""

import tomllib
from pathlib import Path
from typing import Literal

import msgspec
from msgspec import Struct

from benchmarks import direct, scenarios
from benchmarks.data import Progress
from benchmarks.generator import latency
from benchmarks.load import Plan, fire
from benchmarks.results import Verdict
from benchmarks.stack import Stack
from db.pool import Database, PoolOptions
from db.url import parse

FILE = Path(__file__).with_name("targets.toml")
FULL, QUICK = (2.0, 10.0), (0.3, 1.5)  # seconds of warm-up and of measuring
SPARE = 1.3  # arrivals at random may be more than asked


class Target(Struct, forbid_unknown_fields=True):
    """One line of the documents."""

    name: str
    source: str
    limit_ms: float
    where: tuple[Literal["http", "database"], ...]
    scenario: str
    rate: float | None = None
    burst: int = 1
    connections: int = 16
    fair: float = 0.0


def load() -> list[Target]:
    """All of them."""
    return msgspec.convert(tomllib.loads(FILE.read_text(encoding="utf-8"))["target"], list[Target])


async def judge(stack: Stack, target: Target, *, quick: bool, progress: Progress) -> list[Verdict]:
    """Measure a target wherever it is to be, and wherever the stack lets us."""
    verdicts = []
    for where in target.where:
        if where == "database" and stack.database_url is None:
            progress(f"Target {target.name}: the database is out of reach, left out")
            continue
        progress(f"Target {target.name}, {where}")
        await stack.renew()
        verdicts.append(
            await (_http if where == "http" else _database)(stack, target, *(QUICK if quick else FULL))
        )
    return verdicts


async def _http(stack: Stack, target: Target, warmup: float, seconds: float) -> Verdict:
    deleting = target.scenario == "delete"
    n = int((warmup + seconds) * (target.rate or 0) * SPARE) if deleting else scenarios.MANY
    plan = Plan(
        scenario=target.scenario,
        host=stack.host,
        port=stack.port,
        tls=stack.tls,
        loop="open" if target.rate else "closed",
        rate=target.rate,
        connections=target.connections,
        warmup_s=warmup,
        duration_s=seconds,
        shots=scenarios.ALL[target.scenario](stack, n, users=stack.large),
        once=deleting,
    )
    run = await fire(plan, stack)
    fine = not run.errors and run.slowest_connection >= target.fair
    return _verdict(target, "http", run.latency.p99_ms, run.answers, fine=fine)


async def _database(stack: Stack, target: Target, warmup: float, seconds: float) -> Verdict:
    assert stack.database_url is not None
    assert target.rate is not None
    n = int((warmup + seconds) * target.rate * SPARE)
    db = Database(parse(stack.database_url), PoolOptions(), observe=direct.observe)
    await db.open()
    try:
        found = await direct.measure(
            db,
            direct.calls(stack, target.scenario, n),
            rate=target.rate,
            seconds=seconds,
            warmup=warmup,
            burst=target.burst,
        )
    finally:
        await db.close()
    return _verdict(target, "database", latency(found.took).p99_ms, len(found.took), fine=not found.errors)


def _verdict(
    target: Target, where: Literal["http", "database"], p99_ms: float, requests: int, *, fine: bool
) -> Verdict:
    return Verdict(
        target=target.name,
        source=target.source,
        where=where,
        limit_ms=target.limit_ms,
        p99_ms=p99_ms,
        passed=fine and requests > 0 and p99_ms < target.limit_ms,
        requests=requests,
    )
