"""What a request costs as data, users' own tasks, connections, depth and instances grow.

One user asks throughout, who has the same 1,000 tasks, one request after the other where nothing else is said: so latency is
that of a request and not of a queue. Rows of others are added on the way, up to 3,000,000.
"""

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from functools import partial
from http.client import HTTPConnection, HTTPException

from msgspec.structs import replace

from benchmarks import scenarios, tokens
from benchmarks.balancer import balanced, haproxy
from benchmarks.curves import CLOSED, CURSOR, IDLE, INSTANCES, OFFSET, OWN, ROWS, absent, curve
from benchmarks.data import Progress, Sizes, opened, run
from benchmarks.held import held, memory_kb, most
from benchmarks.load import LoadError, Plan, Service, Shot, fire
from benchmarks.results import Curve, Point, Run
from benchmarks.stack import FOLDER, Instance, Stack, serve, stack
from db import samples, seed
from db.errors import Refused, Unavailable
from db.pool import Database

TASKS = 1000  # of the user who asks, and of each of the others
SIZES = Sizes(users=2, tasks=TASKS, large=1, large_tasks=TASKS)  # who asks, and who writes
BYTES = 1200  # on disk for each row, its indexes and log
SHOTS = 1000
BUSY = 64  # connections, where instances share a load
LATELY = 8  # connections that ask while others are held
VACUUM = "vacuum (analyze) users, user_state, sessions, tasks, task_texts"
QUICK = "left out of a quick run"


@dataclass(frozen=True)
class Sweep:
    """How far everything grows, and for how long each point is measured."""

    rows: Sequence[int]
    own: Sequence[int]
    closed: Sequence[int]
    idle: Sequence[int]
    depths: Sequence[int]
    instances: Sequence[int]
    seconds: float
    warmup: float


FULL = Sweep(
    rows=(1_000, 10_000, 100_000, 1_000_000, 3_000_000, 10_000_000),
    own=(10, 100, 1_000, 10_000, 100_000),
    closed=(1, 10, 100, 1_000, 10_000),
    idle=(0, 1_000, 10_000),
    depths=(0, 100, 1_000, 10_000, 90_000),
    instances=(1, 2, 4),
    seconds=2.0,
    warmup=0.5,
)
SMALL = Sweep(
    rows=(1_000, 10_000),
    own=(),
    closed=(1, 100, 1_000),
    idle=(0, 1_000),
    depths=(0, 900),
    instances=(),
    seconds=0.8,
    warmup=0.2,
)


async def growth(*, quick: bool, progress: Progress, rows: int) -> list[Curve]:
    """Every curve; what cannot be had is absent and says why. `rows` of others at most, where the disk has room."""
    sweep = SMALL if quick else FULL
    async with stack(**SIZES._asdict(), progress=progress) as ready:
        assert ready.database_url is not None
        async with opened(ready.database_url) as db:
            growing = Growing(ready, db, sweep, progress)
            return [found async for found in growing.all(rows)]


class Growing:
    """The data, the service and who asks, while it all grows."""

    def __init__(self, ready: Stack, db: Database, sweep: Sweep, progress: Progress) -> None:
        self.ready, self.db, self.sweep, self.progress = ready, db, sweep, progress
        self.asking, self.writing = ready.users
        self.others = 0  # rows of them
        self.owners: dict[int, str] = {}  # who was made, by how many tasks they have

    async def all(self, rows: int) -> AsyncIterator[Curve]:
        parts: list[tuple[str, str, Callable[[], Awaitable[list[Curve]]]]] = [
            ("single", ROWS, partial(self._rows, rows)),
            ("statistics", OWN, self._own),
            ("list", OFFSET, partial(self._depth, OFFSET)),
            ("list", CURSOR, partial(self._depth, CURSOR)),
            ("single", INSTANCES, self._instances),
            ("single", IDLE, self._idle),  # before the next, whose connections leave memory behind
            ("single", CLOSED, self._closed),
        ]
        for name, x, part in parts:
            try:
                for found in await part():
                    yield found
            except (LoadError, Unavailable, Refused, OSError, HTTPException) as error:
                yield absent(name, x, f"it broke off: {error}")

    async def _rows(self, most_rows: int) -> list[Curve]:
        """Requests of one user, as those of others become more."""
        points: dict[str, list[Point]] = {"single": [], "list": [], "insert": []}
        why = None
        for size in self.sweep.rows:
            if size > most_rows:
                break
            if not self._room(size - self.others):
                why = f"no room on the disk for {size:,} rows"
                break
            await self._add(size - self.others)
            for name, shots in self._asked().items():
                points[name].append(Point(size, await self._fire(name, shots, f"{size:,} {ROWS}")))
        return [
            curve(name, ROWS, found, why) if found else absent(name, ROWS, why or "nothing was asked for")
            for name, found in points.items()
        ]

    async def _own(self) -> list[Curve]:
        """Requests of users with more and more tasks."""
        if not self.sweep.own:
            return [absent("all requests", OWN, QUICK)]
        points: dict[str, list[Point]] = {"list of 10": [], "search without a hit": [], "statistics": []}
        for size, user in (await self._users(self.sweep.own)).items():
            asked = {
                "list of 10": scenarios.list_page(self.ready, SHOTS, limit=10, users=[user]),
                "search without a hit": scenarios.list_page(
                    self.ready, SHOTS, query="&q=zyzzyva", users=[user]
                ),
                "statistics": scenarios.statistics(self.ready, SHOTS, users=[user]),
            }
            for name, shots in asked.items():
                points[name].append(Point(size, await self._fire(name, shots, f"{size:,} {OWN}")))
        return [curve(name, OWN, found) for name, found in points.items()]

    async def _closed(self) -> list[Curve]:
        """Single reads over more and more connections, each with its next request at once."""
        shots = self._asked()["single"]
        points = []
        for count in self.sweep.closed:
            if count > most():
                break
            told = f"{count:,} {CLOSED}"
            points.append(Point(count, await self._fire("single", shots, told, connections=count)))
        return [curve("single", CLOSED, points, _descriptors(self.sweep.closed))]

    async def _idle(self) -> list[Curve]:
        """Single reads over a few connections, as more and more others are held, and the memory these take."""
        shots = self._asked()["single"]
        points: list[Point] = []
        before: float | None = None
        for count in self.sweep.idle:
            if count > most():
                break
            async with held(self.ready, count) as closed:
                after = memory_kb(self.ready.service)
                found = await self._fire("single", shots, f"{count:,} {IDLE}", connections=LATELY)
                if gone := closed():
                    found = replace(found, errors=found.errors | {"idle connection closed": gone})
            before = before or memory_kb(self.ready.service)
            each = (after - before) / count if count and before and after else None
            points.append(Point(count, found, each))
        return [curve("single", IDLE, points, _descriptors(self.sweep.idle))]

    async def _instances(self) -> list[Curve]:
        """Single reads and lists of many connections, shared by more and more instances."""
        binary = haproxy()
        if not self.sweep.instances or binary is None:
            why = (
                QUICK
                if binary
                else "there is no haproxy on this machine; install it with: apt-get install haproxy"
            )
            return [absent("single", INSTANCES, why)]
        url, secret = self.ready.database_url, self.ready.secret
        assert url is not None
        assert secret is not None
        settings = {"SECRET_KEY": secret, "DATABASE_INSTANCES": str(max(self.sweep.instances) + 1)}
        asked = self._asked()
        points: dict[str, list[Point]] = {"single": [], "list": []}
        async with AsyncExitStack() as running:
            instances: list[Instance] = []
            for count in self.sweep.instances:
                while len(instances) < count:
                    instances.append(await running.enter_async_context(serve(url, settings=settings)))
                async with balanced(binary, instances, self.ready.postgres) as service:
                    for name, found in points.items():
                        told = f"{count} {INSTANCES}"
                        found.append(Point(count, await self._fire(name, asked[name], told, service, BUSY)))
        return [curve(name, INSTANCES, found) for name, found in points.items()]

    async def _depth(self, x: str) -> list[Curve]:
        """Pages of a list, farther and farther from its beginning."""
        size = max(self.sweep.depths) * 10 // 9  # some are in the trash
        user = self.asking if size <= TASKS else (await self._users([size]))[size]
        points = []
        for depth in self.sweep.depths:
            query = f"&offset={depth}" if x == OFFSET else await self._cursor(user, depth)
            shots = scenarios.list_page(self.ready, SHOTS, query=query, users=[user])
            points.append(Point(depth, await self._fire("list", shots, f"{depth:,} {x}")))
        return [curve("list", x, points)]

    async def _cursor(self, user: str, depth: int) -> str:
        """The parameter for a page with so many tasks before it."""
        if not depth:
            return ""
        request = f"{scenarios.TASKS}?limit=1&offset={depth - 1}"
        cursor = (await asyncio.to_thread(_asked_for, self.ready, request, user))["next_cursor"]
        if cursor is None:
            raise LoadError(f"there are not {depth:,} tasks to walk")
        return f"&cursor={cursor}"

    # What grows, and what is asked

    def _asked(self) -> dict[str, list[Shot]]:
        return {
            "single": scenarios.single(self.ready, SHOTS, users=[self.asking]),
            "list": scenarios.list_page(self.ready, SHOTS, users=[self.asking]),
            "insert": scenarios.insert(self.ready, SHOTS, users=[self.writing]),
        }

    async def _add(self, rows: int) -> None:
        """More tasks of others, 1,000 each, and everything at rest."""
        start = await seed.start(self.db)
        loads = ((start.last + n, TASKS) for n in range(1, rows // TASKS + 1))
        made, told = 0, 0
        async for chunk in seed.bulk(self.db, loads, "no password", start.now):
            made += chunk
            if made >= told + 500_000:
                told = made
                self.progress(f"Adding rows of others: {self.others + made:,}")
        self.others += rows
        await self._settle()

    async def _users(self, sizes: Sequence[int]) -> dict[int, str]:
        """Users by how many tasks they have, signed in; made where they are not there yet."""
        if missing := [size for size in sizes if size not in self.owners]:
            self.progress(f"Making users with {', '.join(f'{size:,}' for size in missing)} tasks")
            start = await seed.start(self.db)
            loads = list(enumerate(missing, start.last + 1))
            async for _ in seed.bulk(self.db, loads, "no password", start.now):
                pass
            await self._settle()
            for number, size in loads:
                self.owners[size] = await self._signed_in(samples.user_id(number))
        return {size: self.owners[size] for size in sizes}

    async def _signed_in(self, user: str) -> str:
        assert self.ready.secret is not None
        signed = tokens.sign_in(self.ready.secret, user)
        await seed.session(self.db, signed.sid, user, signed.refresh_hash)
        self.ready.tokens[user] = signed.access
        return user

    async def _settle(self) -> None:
        """Nothing is left to do for the background, and the planner knows."""
        await run(self.db, VACUUM)
        await run(self.db, "checkpoint")

    def _room(self, rows: int) -> bool:
        return shutil.disk_usage(FOLDER.parent.parent).free > 2 * BYTES * rows

    async def _fire(
        self, name: str, shots: list[Shot], told: str, service: Service | None = None, connections: int = 1
    ) -> Run:
        self.progress(f"{name} with {told}")
        service = service or self.ready
        return await fire(
            Plan(
                scenario=name,
                host=service.host,
                port=service.port,
                loop="closed",
                connections=connections,
                shots=shots,
                duration_s=self.sweep.seconds,
                warmup_s=self.sweep.warmup,
            ),
            service,
        )


def _descriptors(counts: Sequence[int]) -> str | None:
    if max(counts) <= most():
        return None
    return f"a process may have {most():,} connections here; raise it with: ulimit -n"


def _asked_for(service: Stack, path: str, user: str) -> dict[str, str | None]:
    connection = HTTPConnection(service.host, service.port, timeout=30)
    try:
        connection.request("GET", path, headers={"Authorization": f"Bearer {service.tokens[user]}"})
        found: dict[str, str | None] = json.loads(connection.getresponse().read())
        return found
    finally:
        connection.close()
