"""All parts of the suite, in order: targets, scenarios, mix, peers, growth."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from math import ceil

from benchmarks import scenarios, targets
from benchmarks.data import Progress, Sizes
from benchmarks.load import Plan, Shot, fire
from benchmarks.results import Curve, Peer, Report, Run, Verdict
from benchmarks.stack import Stack, stack

__all__ = ["PARTS", "Asked", "Progress", "measure"]

ALONE = ("single", "list", "search", "statistics", "insert", "update", "toggle", "delete", "refresh")
PARTS = ("targets", *ALONE, "connections", "mix", "peers", "growth")
SLOW = (
    "search",
    "statistics",
    "update",
    "toggle",
    "delete",
    "refresh",
    "peers",
)  # what a quick run does without
AWAY = ("peers", "growth")  # what needs data and a service of our own
FULL, QUICK = Sizes(1000, 1_000_000, 50, 10_000), Sizes(100, 100_000, 5, 10_000)
FULL_S, QUICK_S = 4.0, 1.5  # seconds of each load
MANY = 1000  # connections
ROWS = 3_000_000  # of others, that growth goes up to
MIX = 2  # times as long as a scenario alone


@dataclass(frozen=True)
class Asked:
    """What the command line asked for. Without a rate: a closed loop for the ceiling, then an open one at half of it."""

    parts: Sequence[str] = PARTS
    quick: bool = False
    url: str | None = None
    rate: float | None = None
    connections: int = 64
    duration_s: float = FULL_S
    rows: int = ROWS
    command: str = "roundtrip bench"

    @property
    def warmup_s(self) -> float:
        """Before each load."""
        return 0.3 if self.quick else 1.0

    def left_out(self) -> dict[str, str]:
        """Parts that are not run, and why."""
        out = {part: "not asked for" for part in PARTS if part not in self.parts}
        if self.quick and self.parts == PARTS:
            out |= dict.fromkeys(SLOW, "not in a quick run")
        if self.url is not None:
            out |= dict.fromkeys(AWAY, "needs data and a service of our own")
            if "targets" in self.parts:
                out["targets in the database"] = "needs to reach it"
        return out


@dataclass
class Found:
    """What was found so far."""

    verdicts: list[Verdict] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)


async def measure(asked: Asked, progress: Progress) -> Report:
    """Run the parts that are asked for."""
    from benchmarks.machine import machine, scrubbed, versions

    started, began = datetime.now(UTC), time.monotonic()
    facts = machine()
    left_out = asked.left_out()
    parts = [part for part in PARTS if part not in left_out]
    found = Found()
    sizes = QUICK if asked.quick else FULL
    if any(part != "growth" for part in parts):
        async with stack(**sizes._asdict(), url=asked.url, progress=progress) as ready:
            sizes = ready.sizes
            facts["service"] = " ".join(f"{name}={value}" for name, value in ready.settings.items())
            await _with_stack(ready, asked, parts, found, progress)
    if "growth" in parts:
        from benchmarks.growth import growth

        found.curves += await growth(quick=asked.quick, progress=progress, rows=asked.rows)
    return Report(
        started=started,
        duration_s=time.monotonic() - began,
        command=scrubbed(asked.command),
        machine=facts,
        versions=versions(),
        data={
            "users": sizes.users,
            "tasks": sizes.tasks,
            "large users": sizes.large,
            "tasks of each": sizes.large_tasks,
        },
        quick=asked.quick,
        verdicts=found.verdicts,
        runs=found.runs,
        curves=found.curves,
        peers=found.peers,
        left_out=left_out,
    )


async def _with_stack(
    ready: Stack, asked: Asked, parts: Sequence[str], found: Found, progress: Progress
) -> None:
    if "targets" in parts:
        for target in targets.load():
            found.verdicts += await targets.judge(ready, target, quick=asked.quick, progress=progress)
    for name in (*ALONE, "mix"):
        if name in parts:
            found.runs += await _scenario(ready, asked, name, progress)
    if "connections" in parts:
        progress(f"single over {MANY:,} connections, as fast as it goes")
        found.runs.append(await _fire(ready, asked, "single", None, connections=MANY))
    if "peers" in parts:
        from benchmarks.peers import compare

        found.peers += await compare(ready, quick=asked.quick, progress=progress)


async def _scenario(ready: Stack, asked: Asked, name: str, progress: Progress) -> list[Run]:
    runs = []
    rate = asked.rate
    if rate is None:
        progress(f"{name} over {asked.connections:,} connections, as fast as it goes")
        runs.append(await _fire(ready, asked, name, None))
        if asked.quick and name != "mix":  # the targets have told of latencies
            return runs
        rate = max(1, float(f"{runs[0].per_second / 2:.2g}"))
    progress(f"{name} at {rate:,g} a second")
    runs.append(await _fire(ready, asked, name, rate))
    return runs


async def _fire(
    ready: Stack, asked: Asked, name: str, rate: float | None, *, connections: int | None = None
) -> Run:
    await ready.renew()
    seconds = asked.duration_s * (MIX if name == "mix" else 1)
    plan = Plan(
        scenario=name,
        host=ready.host,
        port=ready.port,
        tls=ready.tls,
        loop="closed" if rate is None else "open",
        rate=rate,
        connections=connections or asked.connections,
        warmup_s=asked.warmup_s,
        duration_s=seconds,
        shots=_shots(ready, name, rate, asked.warmup_s + seconds),
        once=name == "delete",
    )
    return await fire(plan, ready)


def _shots(ready: Stack, name: str, rate: float | None, seconds: float) -> list[Shot]:
    """Of tasks that can be deleted once no more than are needed, and never all that are left."""
    if name != "delete":
        return scenarios.ALL[name](ready)
    left = len(ready.spare) // 2
    return scenarios.delete(ready, left if rate is None else min(left, ceil(rate * seconds * targets.SPARE)))
