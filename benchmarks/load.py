"""The load generator, in a process of its own: `python -m benchmarks.load`, a `Plan` on stdin, an `Outcome` on stdout.

In open loop requests are sent when they are due, answered or not, and each latency counts from the moment the request was
meant to be sent: a server that freezes for a second is charged with everybody who came in that second. In closed loop
each connection sends its next request when the last is answered, which finds ceilings and hides waiting.
"""

import asyncio
import os
import sys
from array import array
from collections.abc import Awaitable, Callable
from pathlib import Path
from random import Random
from typing import Annotated, Literal, Protocol

import msgspec
from msgspec import Meta, Struct

from benchmarks.results import Generator, Latency, Run

ROOT = Path(__file__).parent.parent
MOST = 20_000_000  # requests of one plan
CONNECTING = 60  # seconds for that, and for all that is not sending
MEASURING, DONE = b"measuring\n", b"done\n"


class Shot(Struct):
    """A request and the status it must get; any other is an error, counted under its number.

    Shots of one `chain` follow each other: in what is sent next stands the `refresh_token` of the last answer instead of
    the one before, and one is under way at most. `fire` leaves in them what a next plan has to send.
    """

    request: bytes  # as it goes on the wire, keep-alive
    expect: int = 200
    chain: str | None = None


class Plan(Struct):
    """What to send, to whom, how fast and for how long."""

    scenario: str
    host: str
    port: int
    loop: Literal["open", "closed"]
    connections: Annotated[int, Meta(ge=1, le=20_000)]
    shots: list[Shot]
    rate: Annotated[float, Meta(gt=0, le=200_000)] | None = None  # requests a second, in open loop
    poisson: bool = True
    duration_s: Annotated[float, Meta(gt=0, le=3600)] = 10
    warmup_s: Annotated[float, Meta(ge=0, le=600)] = 2  # before it; not counted
    once: bool = False  # end when the shots are used up; else they begin again
    tls: bool = False
    timeout_s: Annotated[float, Meta(gt=0, le=60)] = 10  # from when a request was due
    seed: int = 1


class Outcome(Struct):
    """What the generator tells when it is done."""

    elapsed_s: float
    answers: int
    errors: dict[str, int]
    latency: Latency
    generator: Generator
    slowest_connection: float
    chains: dict[str, bytes]


class Service(Protocol):
    """What is measured. `cpu` is seconds so far of the service, all processes, and of PostgreSQL; None where it is elsewhere."""

    host: str
    port: int
    tls: bool

    async def cpu(self) -> tuple[float | None, float | None]: ...


class LoadError(Exception):
    """The load could not be made; the text says why."""


async def fire(plan: Plan, service: Service) -> Run:
    """Have a plan carried out; raises `LoadError`."""
    _check(plan)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "benchmarks.load",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )
    try:
        async with asyncio.timeout(plan.warmup_s + plan.duration_s + plan.timeout_s + CONNECTING):
            outcome, spent = await _follow(process, plan, service.cpu)
    except TimeoutError:
        raise LoadError(f"{plan.scenario}: the generator does not end") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    for shot in plan.shots:
        if shot.chain is not None:
            shot.request = outcome.chains[shot.chain]
    service_cpu, postgres_cpu = ((us and us * 1e6 / max(outcome.answers, 1)) for us in spent)
    return Run(
        scenario=plan.scenario,
        loop=plan.loop,
        connections=plan.connections,
        asked_per_second=plan.rate,
        duration_s=round(outcome.elapsed_s, 3),
        answers=outcome.answers,
        per_second=outcome.answers / outcome.elapsed_s,
        errors=outcome.errors,
        latency=outcome.latency,
        generator=outcome.generator,
        service_cpu_us=service_cpu,
        postgres_cpu_us=postgres_cpu,
        slowest_connection=outcome.slowest_connection,
    )


def schedule(rate: float, seconds: float, *, poisson: bool, seed: int) -> "array[float]":
    """When requests are due, in seconds from the start: evenly, or at random (independent arrivals)."""
    if not poisson:
        return array("d", (number / rate for number in range(int(rate * seconds))))
    draw = Random(seed).expovariate  # noqa: S311 (arrivals, no secrets)
    due, at = array("d"), draw(rate)
    while at < seconds:
        due.append(at)
        at += draw(rate)
    return due


def _check(plan: Plan) -> None:
    try:
        msgspec.convert(msgspec.to_builtins(msgspec.structs.replace(plan, shots=[])), Plan)
    except msgspec.ValidationError as error:
        raise LoadError(f"this load cannot be made: {error}") from None
    if not plan.shots:
        raise LoadError(f"there is nothing to send for {plan.scenario}")
    if (plan.loop == "open") != (plan.rate is not None):
        raise LoadError("an open loop has a rate, a closed one has none")
    if (plan.rate or 0) * (plan.warmup_s + plan.duration_s) > MOST:
        raise LoadError(f"a plan has {MOST:,} requests at most; lower the rate or the duration")


async def _follow(
    process: asyncio.subprocess.Process,
    plan: Plan,
    cpu: Callable[[], Awaitable[tuple[float | None, float | None]]],
) -> tuple[Outcome, tuple[float | None, float | None]]:
    """The outcome, and the CPU spent while it was measured."""
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    complaint = asyncio.create_task(process.stderr.read())
    spent: tuple[float | None, float | None] = (None, None)
    process.stdin.write(msgspec.json.encode(plan))
    process.stdin.write_eof()
    if await process.stdout.readline() == MEASURING:
        before = await cpu()
        if await process.stdout.readline() == DONE:
            spent = _between(before, await cpu())
    told = await process.stdout.read()
    lines = (await complaint).decode(errors="replace").strip().splitlines()
    if await process.wait() or not told:
        raise LoadError(f"{plan.scenario}: {lines[-1] if lines else 'the generator ended'}")
    return msgspec.json.decode(told, type=Outcome), spent


def _between(
    before: tuple[float | None, float | None], after: tuple[float | None, float | None]
) -> tuple[float | None, float | None]:
    service, postgres = (
        None if b is None or a is None else a - b for b, a in zip(before, after, strict=True)
    )
    return service, postgres


def main() -> None:
    """Carry out the plan on stdin."""
    from benchmarks.generator import carry_out

    plan = msgspec.json.decode(sys.stdin.buffer.read(), type=Plan)

    def tell(mark: bytes) -> None:
        sys.stdout.buffer.write(mark)
        sys.stdout.buffer.flush()

    try:
        outcome = carry_out(plan, lambda: tell(MEASURING), lambda: tell(DONE))
    except (OSError, LoadError) as error:
        sys.exit(f"{plan.host}:{plan.port}: {error}")
    tell(msgspec.json.encode(outcome))


if __name__ == "__main__":
    from benchmarks import load  # noqa: PLW0406 (whose classes the generator knows, not those of __main__)

    load.main()
