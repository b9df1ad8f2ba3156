"""Roundtrip and its peers, side by side: in turns, on the same data, with the same requests and checks (README.md)."""

import asyncio
import platform
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from http.client import HTTPException
from importlib import metadata
from itertools import groupby
from pathlib import Path
from typing import Protocol

import msgspec
from msgspec import Struct

from benchmarks import scenarios
from benchmarks.load import LoadError, Plan, Service, Shot, fire
from benchmarks.peers import answers, pgbench
from benchmarks.peers.programs import PROGRAMS, Absent, Program, said
from benchmarks.peers.serving import serving
from benchmarks.results import Peer, Run
from benchmarks.stack import Stack, serve
from db import sweep, tasks
from db.pool import Database, PoolOptions
from db.url import parse

US = "Roundtrip"
MEMORY = "Roundtrip, lists from memory"
FOLDER = Path(".roundtrip/bench/peers").absolute()
SCENARIOS = ("single", "list", "insert")
CONNECTIONS = 64
ROUNDS, SECONDS, WARMUP = 3, 2.0, 0.4
BUSY = 0.01  # CPU seconds in a tenth of a second
LEFT_OUT = "left out of a quick run"
TASKS_OF_EACH = 16  # that pgbench reads


class Entrant(Protocol):
    """Whoever takes turns; `run` raises `Absent` or `LoadError` where it cannot go on."""

    name: str
    processes: int
    versions: dict[str, str]

    async def run(self, scenario: str, seconds: float) -> Run: ...


class OverHttp(Struct):
    """A service, and what it is sent."""

    name: str
    processes: int
    versions: dict[str, str]
    service: Service
    shots: dict[str, list[Shot]]
    longer: float = 1.0  # its rounds, so many times

    async def run(self, scenario: str, seconds: float) -> Run:
        """One round in closed loop."""
        plan = Plan(
            scenario=scenario,
            host=self.service.host,
            port=self.service.port,
            tls=self.service.tls,
            loop="closed",
            connections=CONNECTIONS,
            shots=self.shots[scenario],
            duration_s=seconds * self.longer,
            warmup_s=WARMUP * self.longer,
        )
        try:
            return await fire(plan, self.service)
        finally:
            await _quiet(self.service)


async def compare(stack: Stack, *, quick: bool, progress: Callable[[str], None]) -> list[Peer]:
    """Everybody's rounds, in turns. `quick` leaves out what has to be installed or built."""
    if stack.database_url is None or stack.secret is None:
        return [_absent(name, n, "the database is not ours to ask") for name, n in everybody()]
    url, secret = stack.database_url, stack.secret
    found: dict[tuple[str, int], Entrant | str] = {}
    async with AsyncExitStack() as until_the_end, _swept(url, stack.users) as clean:
        for name, processes, enter in _entries(stack, url, secret, quick=quick, within=until_the_end):
            progress(f"{_label(name, processes)} is made ready")
            found[name, processes] = await _entered(enter)
        entrants = [it for it in found.values() if not isinstance(it, str)]
        runs = await take_turns(
            entrants, 1 if quick else ROUNDS, 1.0 if quick else SECONDS, clean=clean, progress=progress
        )
    return [
        _absent(*key, it) if isinstance(it, str) else runs[it.name, it.processes] for key, it in found.items()
    ]


def everybody() -> Iterator[tuple[str, int]]:
    """Names and numbers of processes, in the order of the report."""
    yield US, 1
    yield US, 2
    yield from ((program.name, program.processes) for program in PROGRAMS)
    yield pgbench.NAME, 1


def turns(count: int, rounds: int) -> Iterator[tuple[str, list[int]]]:
    """Scenario by scenario everybody has a turn, and each time the next one begins."""
    for number in range(rounds * len(SCENARIOS)):
        first = number % count
        yield SCENARIOS[number % len(SCENARIOS)], [*range(first, count), *range(first)]


async def take_turns(
    entrants: Sequence[Entrant],
    rounds: int,
    seconds: float,
    *,
    clean: Callable[[], Awaitable[None]],
    progress: Callable[[str], None],
) -> dict[tuple[str, int], Peer]:
    """Every entrant's runs. One that fails is out for the rest, and absent; `clean` follows each scenario's turns."""
    runs: list[list[Run]] = [[] for _ in entrants]
    out: dict[int, str] = {}
    for scenario, order in turns(len(entrants), rounds) if entrants else ():
        for place in order:
            if place in out:
                continue
            entrant = entrants[place]
            try:
                run = await entrant.run(scenario, seconds)
            except (Absent, LoadError, OSError) as error:
                out[place] = f"it failed at {scenario}: {said(str(error))}"
                continue
            runs[place].append(run)
            progress(f"{_label(entrant.name, entrant.processes)}: {scenario}, {run.per_second:,.0f} a second")
        if scenario == "insert":
            await clean()
    return {
        (it.name, it.processes): Peer(it.name, it.versions, it.processes, out.get(place), runs[place])
        for place, it in enumerate(entrants)
    }


async def _quiet(service: Service) -> None:
    """Wait until nothing is done any more for requests that the last round left behind: the next one's turn is its own."""
    before, _ = await service.cpu()
    for _ in range(50):
        await asyncio.sleep(0.1)
        now, _ = await service.cpu()
        if before is None or now is None or now - before < BUSY:
            return
        before = now


Enter = Callable[[], Awaitable[Entrant]]


def _entries(
    stack: Stack, url: str, secret: str, *, quick: bool, within: AsyncExitStack
) -> Iterator[tuple[str, int, Enter]]:
    shots = {
        "single": scenarios.single(stack),
        "list": scenarios.list_page(stack),
        "insert": scenarios.insert(stack),
    }
    subject = _subject(stack)
    environment = _environment(url, secret)

    async def ourselves() -> Entrant:
        return OverHttp(US, 1, _own_versions(), stack, shots)

    async def twice() -> Entrant:
        if quick:
            raise Absent(LEFT_OUT)
        settings = stack.settings | {"SECRET_KEY": secret}
        again = serve(url, processes=2, settings=settings)
        running = await within.enter_async_context(again)
        running.postgres = stack.postgres
        return OverHttp(US, 2, _own_versions(), running, shots)

    async def remembering() -> Entrant:
        if quick:
            raise Absent(LEFT_OUT)
        settings = stack.settings | {"SECRET_KEY": secret, "CACHE_SIZE": "64"}
        running = await within.enter_async_context(serve(url, settings=settings))
        running.postgres = stack.postgres
        return OverHttp(MEMORY, 1, _own_versions(), running, shots)

    async def over_http(program: Program) -> Entrant:
        if quick:
            raise Absent(LEFT_OUT)
        made = await program.make(FOLDER)
        log = FOLDER / f"{program.name}, {program.processes}.log".replace("/", "-")
        served = await within.enter_async_context(serving(made, environment, stack, log))
        await answers.same(served, stack, subject, secret)
        return OverHttp(
            program.name, program.processes, made.versions, served, shots, 2 if program.slow else 1
        )

    async def alone() -> Entrant:
        binary, version = await pgbench.find()
        actors = _actors(stack)
        await pgbench.check(url, actors)
        return pgbench.Pgbench(binary, version, url, actors, stack, (8,) if quick else pgbench.CLIENTS)

    yield US, 1, ourselves
    yield US, 2, twice
    yield MEMORY, 1, remembering
    for program in PROGRAMS:
        yield program.name, program.processes, partial(over_http, program)
    yield pgbench.NAME, 1, alone


async def _entered(enter: Enter) -> Entrant | str:
    """Whoever is ready, or why not."""
    try:
        return await enter()
    except Absent as error:
        return str(error)
    except answers.Differs as error:
        return f"its answers are not Roundtrip's: {error}"
    except (OSError, HTTPException, RuntimeError) as error:
        return f"it broke off: {type(error).__name__} {said(str(error))}"


@asynccontextmanager
async def _swept(url: str, users: Sequence[str]) -> AsyncIterator[Callable[[], Awaitable[None]]]:
    """Takes away what was inserted since: whenever it is called, and in the end."""
    db = Database(parse(url), PoolOptions(size=1, statement=600))
    await db.open()
    try:
        last = await sweep.mark(db)

        async def clean() -> None:
            await sweep.tasks(db, last, users)
            await sweep.tombstones(db, last, users)
            await sweep.vacuum(db)

        yield clean
        await clean()
    finally:
        await db.close()


def _subject(stack: Stack) -> answers.Subject:
    """A user with more than one page of tasks, where the data have one."""
    owned = [(user, id) for user, id in stack.task_ids if user in stack.tokens]
    user = next((user for user, _ in owned if user in set(stack.large)), owned[0][0])
    return answers.Subject(
        user,
        stack.tokens[user],
        [id for owner, id in owned if owner == user][:5],
        next(id for owner, id in owned if owner != user),
    )


def _actors(stack: Stack) -> list[pgbench.Actor]:
    owned = sorted((user, id) for user, id in stack.task_ids if user in stack.tokens)
    found = [
        pgbench.Actor(user, stack.callers[user].sid, [id for _, id in ids][:TASKS_OF_EACH])
        for user, ids in groupby(owned, key=lambda pair: pair[0])
    ]
    return found[:: max(len(found) // pgbench.ACTORS, 1)][: pgbench.ACTORS]


def _environment(url: str, secret: str) -> dict[str, str]:
    """What every peer is told; the statements are in a file: ours, with tasks as rows."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    path = FOLDER / "statements.json"
    rows = {name: Path(__file__).with_name(f"{name}.sql").read_text("utf-8") for name in ("get", "list")}
    path.write_bytes(msgspec.json.encode({**rows, "create": tasks.CREATE.sql}))
    return {
        "DATABASE_URL": url,
        "TOKEN_KEY": answers.token_key(secret).hex(),
        "STATEMENTS": str(path),
    }


def _own_versions() -> dict[str, str]:
    names = ("litestar", "asyncpg", "msgspec", "uvicorn")
    return {"Python": platform.python_version()} | {name: metadata.version(name) for name in names}


def _absent(name: str, processes: int, why: str) -> Peer:
    return Peer(name, {}, processes, absent=why)


def _label(name: str, processes: int) -> str:
    return f"{name}, {processes} processes" if processes > 1 else name
