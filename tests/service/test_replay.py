"""A feed replayed from 0 equals the table: clients that lose answers and their memory, 20 writers, SQL by hand, purges.

100 seeds, with what each saw: uv run pytest tests/service/test_replay.py --hypothesis-profile=long -rP
"""

import asyncio
import random
from collections import Counter
from collections.abc import AsyncIterator
from datetime import datetime
from typing import Any

import asyncpg
import httpx
import pytest
from hypothesis import settings

from db.url import parse
from service.routes import BASE
from tests.conftest import Account

TASKS = f"{BASE}/tasks"
SEEDS = range(settings().max_examples // 3)  # 5 by default, 100 in the long run
BY_HTTP, BY_HAND, CLIENTS = 16, 4, 6
STEPS = 15  # of each writer
COLUMNS = (
    "id title description status priority due_date created_at updated_at completed_at deleted_at revision"
)
LOCK = "select revision, purged_revision from user_state where user_id = $1 for no key update"
TIMES = ("due_date", "created_at", "updated_at", "completed_at", "deleted_at")


class World:
    """One user's tasks, who writes them, and what is known of it all."""

    def __init__(self, seed: int, client: httpx.AsyncClient, user: Account) -> None:
        self.seed = seed
        self.client = client
        self.user = user
        self.ids: list[int] = []
        self.writing = True
        self.dropping = self.dropped = 0  # tombstones up to here may have been dropped, and have been
        self.counts: Counter[str] = Counter()
        self.pages: list[tuple[int, dict[str, Any]]] = []  # with the revision that each begins after

    def chance(self, who: str) -> random.Random:
        return random.Random(f"{self.seed} {who}")

    async def send(self, method: str, url: str, **more: Any) -> httpx.Response:
        self.counts["requests"] += 1
        return await self.client.request(method, url, headers=self.user.headers, **more)


@pytest.fixture
async def hands(database_url: str) -> AsyncIterator[list[asyncpg.Connection]]:
    """Connections for SQL by hand."""
    connections = [await asyncpg.connect(**parse(database_url).kwargs()) for _ in range(BY_HAND + 1)]
    yield connections
    for connection in connections:
        await connection.close()


async def write(world: World, chance: random.Random) -> None:
    """A writer through the service."""
    for _ in range(STEPS):
        url = f"{TASKS}/{chance.choice(world.ids)}"
        kind = chance.choice(("create", "create", "patch", "patch", "toggle", "delete", "restore", "erase"))
        method, path, body = {
            "create": ("POST", TASKS, {"title": f"t{chance.random()}"}),
            "patch": ("PATCH", url, {"title": f"t{chance.randrange(3)}", "priority": chance.randint(1, 5)}),
            "toggle": ("POST", f"{url}/toggle", None),
            "delete": ("DELETE", url, None),
            "restore": ("POST", f"{url}/restore", None),
            "erase": ("DELETE", f"{url}?permanent=true", None),
        }[kind]
        answer = await world.send(method, path, json=body)
        assert answer.is_success or answer.status_code == 404, answer.text
        world.counts[kind] += answer.is_success
        if kind == "create":
            world.ids.append(answer.json()["id"])


async def write_by_hand(world: World, chance: random.Random, connection: asyncpg.Connection) -> None:
    """A writer who knows of no revision: an insert, or a transaction of several statements, which may be undone."""
    for _ in range(STEPS):
        if chance.random() < 0.3:
            await by_hand("insert", world, chance, connection)
            continue
        transaction = connection.transaction()
        await transaction.start()
        await connection.execute(LOCK, world.user.id)  # the order of locks that db/SCHEMA.md asks for
        for _ in range(chance.randint(1, 4)):
            await by_hand(chance.choice(("insert", "update", "touch", "remove")), world, chance, connection)
            await asyncio.sleep(chance.choice((0, 0.002)))
        if chance.random() < 0.3:
            await transaction.rollback()
            world.counts["undone"] += 1
        else:
            await transaction.commit()


async def by_hand(kind: str, world: World, chance: random.Random, connection: asyncpg.Connection) -> None:
    some = chance.sample(world.ids, 3)
    if kind == "insert":
        made = await connection.fetch(
            "insert into tasks (user_id, title) select $1, 'by hand' from generate_series(1, $2) returning id",
            world.user.id,
            chance.randint(1, 3),
        )
        world.ids += [row["id"] for row in made]
    elif kind == "update":
        sql = "update tasks set description = $2, deleted_at = null where id = any($1)"
        await connection.execute(sql, some, str(chance.random()))
    elif kind == "touch":
        await connection.execute("update tasks set title = title where id = any($1)", some)
    else:
        await connection.execute("delete from tasks where id = any($1)", some[:1])
    world.counts[f"{kind} by hand"] += 1


async def purge(world: World, chance: random.Random, connection: asyncpg.Connection) -> None:
    """Drop tombstones now and then, as the purge by retention does, and know what may have been seen of it."""
    while world.writing:
        await asyncio.sleep(chance.uniform(0.02, 0.3))
        async with connection.transaction():
            state = await connection.fetchrow(LOCK, world.user.id)
            assert state is not None
            dropped = await connection.fetch(
                "delete from tombstones where user_id = $1 and revision <= $2 returning revision",
                world.user.id,
                chance.randint(state["purged_revision"], state["revision"]),
            )
            if dropped:
                world.dropping = max(row["revision"] for row in dropped)
                await connection.execute(
                    "update user_state set purged_revision = $2 where user_id = $1",
                    world.user.id,
                    world.dropping,
                )
        world.counts["purges"] += world.dropped != world.dropping
        world.dropped = world.dropping


class Client:
    """Keeps a copy of the tasks by the feed alone."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.world = world
        self.chance = chance
        self.tasks: dict[int, dict[str, Any]] = {}
        self.since = 0
        self.cursor: str | None = None
        self.began = (0, 0)  # between which drops the walk began
        self.saved: tuple[int, dict[int, dict[str, Any]]] = (0, {})

    async def live(self) -> None:
        while self.world.writing:
            await self.step(self.chance.choice((1, 2, 3, 5, 8, 50)))
            await asyncio.sleep(self.chance.choice((0, 0, 0, 0.01)))

    async def finish(self, limit: int) -> None:
        """Go on until all is told, with nothing lost any more."""
        while await self.step(limit, lossy=False):
            pass

    async def step(self, limit: int, *, lossy: bool = True) -> bool:
        """Ask for one page; whether there is more."""
        world, chance = self.world, self.chance
        if not self.since:
            self.tasks.clear()
        where = f"cursor={self.cursor}" if self.cursor else f"since={self.since}"
        sent = world.dropped
        answer = await world.send("GET", f"{TASKS}/changes?{where}&limit={limit}")
        if self.is_gone(answer, sent):
            self.since, self.cursor = 0, None
            return True
        page = answer.json()
        check(page, self.since, limit, "link" in answer.headers)
        world.pages.append((self.since, page))
        lost = lossy and chance.random() < 0.25
        self.take(page["items"][: chance.randrange(limit + 1)] if lost else page["items"])
        if lost:  # somewhere on the way; it is asked again
            world.counts["lost answers"] += 1
            return True
        if not self.cursor:
            self.began = (sent, world.dropping)
        self.since, self.cursor = page["revision"], page["next_cursor"]
        if lossy:
            self.forget()
        return bool(page["has_more"])

    def is_gone(self, answer: httpx.Response, sent: int) -> bool:
        """Whether it is 410, which it must be, must not be, or may be if there was a drop while it was under way."""
        world = self.world
        if self.cursor:
            must, may = sent > self.began[1], world.dropping > self.began[0]
        else:
            must, may = 0 < self.since < sent, 0 < self.since < world.dropping
        assert answer.status_code in (200, 410), answer.text
        gone = answer.status_code == 410
        assert must <= gone <= may, (self.since, self.cursor, sent, world.dropping, self.began)
        world.counts["gone"] += gone
        return gone

    def take(self, items: list[dict[str, Any]]) -> None:
        for item in items:
            known = self.tasks.pop(item["id"], item)
            assert known["revision"] <= item["revision"]
            if "erased" not in item:
                self.tasks[item["id"]] = item

    def forget(self) -> None:
        """Lose the cursor, or all that came since the last save; or save."""
        event = self.chance.random()
        if event < 0.1:
            self.cursor = None
        elif event < 0.15:
            self.since, self.tasks = self.saved[0], dict(self.saved[1])
            self.cursor = None
        elif event < 0.3:
            self.saved = (self.since, dict(self.tasks))


def check(page: dict[str, Any], since: int, limit: int, linked: bool) -> None:
    """What holds for a page by itself."""
    told = [since, *(item["revision"] for item in page["items"])]
    assert told == sorted(set(told))
    assert len(page["items"]) <= limit
    assert page["has_more"] == linked == (page["next_cursor"] is not None)
    if page["has_more"]:
        assert (len(page["items"]), page["revision"]) == (limit, told[-1])
    else:
        assert page["revision"] >= told[-1]


def row_of(item: dict[str, Any]) -> tuple[Any, ...]:
    times = {name: datetime.fromisoformat(item[name]) for name in TIMES if item[name]}
    return tuple((item | times)[name] for name in COLUMNS.split())


@pytest.mark.parametrize("seed", SEEDS, ids="seed-{}".format)
async def test_a_replayed_feed_equals_the_table(
    client: httpx.AsyncClient, user: Account, hands: list[asyncpg.Connection], seed: int
) -> None:
    world = World(seed, client, user)
    for n in range(10):
        world.ids.append((await world.send("POST", TASKS, json={"title": f"t{n}"})).json()["id"])
    clients = [Client(world, world.chance(f"client {n}")) for n in range(CLIENTS)]
    async with asyncio.TaskGroup() as others:
        for one in clients:
            others.create_task(one.live())
        others.create_task(purge(world, world.chance("purge"), hands[-1]))
        async with asyncio.TaskGroup() as writers:
            for n in range(BY_HTTP):
                writers.create_task(write(world, world.chance(f"writer {n}")))
            for n in range(BY_HAND):
                writers.create_task(write_by_hand(world, world.chance(f"hand {n}"), hands[n]))
        world.writing = False

    table = await hands[0].fetch(
        f"select {COLUMNS.replace(' ', ', ')} from tasks where user_id = $1", user.id
    )
    tombstones = await hands[0].fetch("select task_id, revision from tombstones where user_id = $1", user.id)
    revision = await hands[0].fetchval("select revision from user_state where user_id = $1", user.id)
    anew = Client(world, world.chance("anew"))
    for one, limit in ((anew, 500), (Client(world, world.chance("slow")), 3), *((one, 7) for one in clients)):
        await one.finish(limit)
        assert {row_of(item) for item in one.tasks.values()} == {tuple(row) for row in table}
        assert one.since == revision

    # What did not move since a page was told is on the page.
    settled = {(row["id"], row["revision"]) for row in table} | {tuple(row) for row in tombstones}
    for since, page in world.pages:
        told = {(item["id"], item["revision"]) for item in page["items"]}
        assert {one for one in settled if since < one[1] <= page["revision"]} <= told
    print(f"seed {seed}: {len(world.pages)} pages, {revision} revisions, {dict(world.counts)}")  # noqa: T201 (for -rP)
