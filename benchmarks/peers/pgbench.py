"""`pgbench -M prepared` with our very statements: what the database gives where nothing stands before it."""

import re
import resource
import shutil
import tempfile
from asyncio import sleep
from collections.abc import Iterator, Mapping, Sequence
from math import ceil
from pathlib import Path

from msgspec import Struct

from benchmarks.peers.programs import Absent, output
from benchmarks.peers.serving import Postgres
from benchmarks.results import Generator, Latency, Run
from db import cluster, dump, tasks
from db.caller import Caller
from db.pool import Database, PoolOptions
from db.statements import Statement
from db.url import parse

NAME = "pgbench"
CLIENTS = (4, 8, 16)  # which of them gives the most is tried before the first round of each scenario
REAPED_WITHIN = 0.5  # seconds; PostgreSQL knows what its connections have spent once it has buried them
THREADS = 2
ACTORS = max(CLIENTS)
SAMPLED = 0.2  # of the transactions, in the log that the percentiles are from
LONGEST = 2**63 - 1
NEWEST = tasks.LISTS[tasks.Shape("live", "plain", "created_at", "desc", "without")]
STATEMENTS = {"single": tasks.GET, "list": NEWEST, "insert": tasks.CREATE}

# What a script gives for each parameter: a variable, or null, which pgbench cannot send.
VALUES = {
    "single": {"task_id": ":task"},
    "list": {
        "revision": "null::bigint",
        "until": ":until",
        "skip": ":skip",
        "size": ":size",
        "after": ":after",
        "after_id": ":until",
    },
    "insert": {
        "title": ":title",
        "description": "null::text",
        "status": ":status",
        "priority": ":priority",
        "due_date": "null::timestamptz",
    },
}
VARIABLES = {
    "until": LONGEST,
    "skip": 0,
    "size": 101,
    "after": "infinity",
    "title": "Buy milk and bread on the way home",
    "status": "pending",
    "priority": 3,
}

_LITERAL = re.compile(r"'(?:[^']|'')*'")
_PARAMETER = re.compile(r"\$(\d+)")


class Actor(Struct):
    """A user who is signed in, and tasks of theirs."""

    user_id: str
    sid: str
    task_ids: list[int]


class Told(Struct):
    """What pgbench prints in the end."""

    transactions: int
    failed: int
    per_second: float
    mean_ms: float


def inlined(statement: Statement, values: Mapping[str, str]) -> str:
    """A statement with the text of each parameter in its place, by its name.

    pgbench takes a colon before a letter for one of its variables, in literals too: there it is written as an escape.
    """
    names = [item.split()[0] for item in statement.takes]
    sql = _LITERAL.sub(lambda found: _escaped(found[0]), statement.sql)
    return _PARAMETER.sub(lambda found: values[names[int(found[1]) - 1]], sql) + ";\n"


def script(scenario: str, actors: Sequence[Actor]) -> str:
    """What every client does: the statement as a user of its own, for single reads of one of their tasks at random.

    So each connection prepares one statement, as a service's does, and no two clients wait for a user's row.
    """
    parts = []
    for number, actor in enumerate(actors):
        parts.append(f"\\{'elif' if number else 'if'} :client_id = {number}\n")
        if scenario == "single":
            whens = "".join(f" when :n = {n} then {id}" for n, id in enumerate(actor.task_ids))
            parts.append(f"\\set n random(0, {len(actor.task_ids) - 1})\n\\set task case{whens} end\n")
        own = {"user_id": f":user{number}", "sid": f":sid{number}"}
        parts.append(inlined(STATEMENTS[scenario], VALUES[scenario] | own))
    return "".join((*parts, "\\endif\n"))


def told(text: str) -> Told:
    """Read pgbench's report; raises `Absent` where it is none."""
    found = {
        name: re.search(pattern, text)
        for name, pattern in {
            "transactions": r"transactions actually processed: (\d+)",
            "failed": r"failed transactions: (\d+)",
            "per_second": r"tps = ([\d.]+) \(without initial connection time\)",
            "mean_ms": r"latency average = ([\d.]+) ms",
        }.items()
    }
    if not found["transactions"] or not found["per_second"] or not found["mean_ms"]:
        raise Absent("pgbench printed another report than expected")
    return Told(
        int(found["transactions"][1]),
        int(found["failed"][1]) if found["failed"] else 0,  # PostgreSQL 14 has no such line
        float(found["per_second"][1]),
        float(found["mean_ms"][1]),
    )


def latencies(log: str) -> Iterator[float]:
    """Milliseconds of each transaction in a log: client, number, microseconds, script, time. Failed ones have none."""
    for line in log.splitlines():
        took = line.split()[2]
        if took.isdecimal():
            yield int(took) / 1000


def latency(taken: Sequence[float], mean_ms: float) -> Latency:
    """Percentiles of a sample; the mean is of all transactions."""
    ordered = sorted(taken) or [mean_ms]

    def at(percent: float) -> float:
        return ordered[min(int(len(ordered) * percent / 100), len(ordered) - 1)]

    return Latency(at(50), at(90), at(99), at(99.9), ordered[-1], mean_ms)


class Pgbench:
    """pgbench on the stack's database; as many actors as it is to have clients."""

    name = NAME
    processes = 1

    def __init__(
        self,
        binary: Path,
        version: str,
        database_url: str,
        actors: Sequence[Actor],
        postgres: Postgres,
        clients: Sequence[int] = CLIENTS,
    ) -> None:
        self.versions = {"pgbench": version}
        self._binary = binary
        self._environment = dump.environment(parse(database_url))
        self._actors = actors
        self._postgres = postgres
        self._candidates = clients
        self._clients: dict[str, int] = dict.fromkeys(STATEMENTS, clients[0]) if len(clients) == 1 else {}

    async def run(self, scenario: str, seconds: float) -> Run:
        """One round, with as many clients as give the most."""
        if scenario not in self._clients:
            tried = {clients: await self._run(scenario, 1, clients) for clients in self._candidates}
            self._clients[scenario] = max(tried, key=lambda clients: tried[clients].per_second)
        return await self._run(scenario, ceil(seconds), self._clients[scenario])

    async def _run(self, scenario: str, seconds: int, clients: int) -> Run:
        with tempfile.TemporaryDirectory(prefix="roundtrip-pgbench-") as place:
            folder = Path(place)
            before, cpu_before = (await self._postgres.cpu())[1], _own_cpu()
            text = await output(
                self._binary,
                *f"-n -M prepared -c {clients} -j {THREADS} -T {seconds}".split(),
                *("-l", f"--sampling-rate={SAMPLED}", f"--log-prefix={folder / 'log'}"),
                *self._arguments(scenario, folder),
                environment=self._environment,
            )
            await sleep(REAPED_WITHIN)
            after, cpu = (await self._postgres.cpu())[1], _own_cpu() - cpu_before
            taken = [*_logged(folder)]
        done = told(text)
        count = max(done.transactions, 1)
        return Run(
            scenario=scenario,
            loop="closed",
            connections=clients,
            asked_per_second=None,
            duration_s=float(seconds),
            answers=done.transactions,
            per_second=done.per_second,
            errors={"failed": done.failed} if done.failed else {},
            latency=latency(taken, done.mean_ms),
            generator=Generator(cpu * 1e6 / count, cpu / seconds, 0.0, bottleneck=False),
            service_cpu_us=None,
            postgres_cpu_us=None if before is None or after is None else (after - before) * 1e6 / count,
        )

    def _arguments(self, scenario: str, folder: Path) -> Iterator[str]:
        path = folder / "script.sql"
        path.write_text(script(scenario, self._actors))
        yield from ("-f", str(path))
        for number, actor in enumerate(self._actors):
            yield from ("-D", f"user{number}={actor.user_id}", "-D", f"sid{number}={actor.sid}")
        for name, value in VARIABLES.items():
            yield from ("-D", f"{name}={value}")


async def find() -> tuple[Path, str]:
    """The program of the embedded PostgreSQL, or of this machine, and its version; raises `Absent`."""
    places = [folder / NAME for folder in cluster.folders()] + [Path(shutil.which(NAME) or NAME)]
    binary = next((place for place in places if place.is_file()), Path(NAME))
    version = re.search(r"\(PostgreSQL\) (\S+)", await output(binary, "--version"))
    return binary, version[1] if version else "unknown"


async def check(database_url: str, actors: Sequence[Actor]) -> None:
    """See that the statements find what they ask for, which pgbench never looks at; raises `Absent`."""
    db = Database(parse(database_url), PoolOptions(size=1))
    await db.open()
    try:
        for actor in actors:
            caller = Caller(actor.user_id, actor.sid)
            for task_id in actor.task_ids:
                found = await tasks.get(db, caller, task_id)
                if found is None or found.revision is None:
                    raise Absent("its users are not signed in, or their tasks are gone")
    finally:
        await db.close()


def _logged(folder: Path) -> Iterator[float]:
    for log in folder.glob("log.*"):
        yield from latencies(log.read_text())


def _escaped(literal: str) -> str:
    if ":" not in literal:
        return literal
    return "E" + literal.replace("\\", "\\\\").replace(":", "\\x3a")


def _own_cpu() -> float:
    """CPU seconds of the children that ended: pgbench, in its turn the only one."""
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    return children.ru_utime + children.ru_stime
