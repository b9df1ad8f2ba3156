"""Migrations while the service runs: no request fails for them, and nobody waits long for a lock."""

import asyncio
from collections import Counter
from typing import Any

import asyncpg
import httpx
import pytest

from db import statements
from service.app import create_app
from service.settings import Settings
from tests.conftest import migrate, run, sign_up, started
from tests.db.hands import connected
from tests.db.migrating import REVISIONS, papers

TASKS = "/api/v1/tasks"
# A statement of the service that waits longer for a lock fails, and its request is a 500.
LONGEST = "2s"
SEED = """
insert into users (id, email) select n, n || '@example.com' from generate_series(1, 50) n;
insert into tasks (user_id, title, deleted_at)
select 1 + n % 50, 'task ' || n, case when n % 4 = 0 then now() end from generate_series(1, 20000) n;
"""


class Traffic:
    """Requests of every kind, again and again, until `over`; none may fail. `kept` are tasks that must be there then."""

    def __init__(self, client: httpx.AsyncClient) -> None:
        self.client = client
        self.answers: Counter[str] = Counter()
        self.kept: set[int] = set()
        self.over = False

    async def flow(self) -> None:
        while not self.over:
            user = await sign_up(self.client)
            for _ in range(5):
                await self.work(user.headers)
            spent = {"refresh_token": user.tokens["refresh_token"]}
            await self.ask({}, "POST", "/api/v1/auth/refresh", json=spent)
            await self.ask(user.headers, "POST", "/api/v1/auth/logout")

    async def work(self, headers: dict[str, str]) -> None:
        made = [await self.ask(headers, "POST", TASKS, json={"title": f"task {n}"}) for n in range(4)]
        changed, toggled, trashed, erased = (answer.json()["id"] for answer in made)
        await self.ask(headers, "GET", TASKS, params={"count": "true", "status": "pending"})
        await self.ask(headers, "PATCH", f"{TASKS}/{changed}", json={"completed": True})
        await self.ask(headers, "POST", f"{TASKS}/{toggled}/toggle")
        await self.ask(headers, "DELETE", f"{TASKS}/{trashed}")
        await self.ask(headers, "GET", TASKS, params={"deleted": "true"})
        await self.ask(headers, "POST", f"{TASKS}/{trashed}/restore")
        await self.ask(headers, "DELETE", f"{TASKS}/{erased}", params={"permanent": "true"})
        await self.ask(headers, "GET", f"{TASKS}/stats")
        await self.ask(headers, "GET", "/api/v1/users/me")
        self.kept |= {changed, toggled, trashed}

    async def ask(self, headers: dict[str, str], method: str, path: str, **more: Any) -> httpx.Response:
        answer = await self.client.request(method, path, headers=headers, **more)
        self.answers[f"{method} {answer.status_code}"] += 1
        assert answer.status_code < 300, f"{method} {path}: {answer.text}"
        return answer


async def go(url: str, revision: str) -> None:
    """In a process of its own, as a deployment does."""
    done = await asyncio.to_thread(migrate, url, "to", revision)
    assert done.returncode == 0, done.stdout + done.stderr


async def servable(url: str) -> list[str]:
    """The revisions that this code can serve on, from the last one down: its statements can be prepared there."""
    found = []
    for revision in REVISIONS[: REVISIONS.index("0003") - 1 : -1]:  # the triggers make a user's state
        await go(url, revision)
        async with connected(url) as connection:
            try:
                for statement in statements.every():
                    await connection.prepare(statement.sql)
            except asyncpg.PostgresError:
                break
        found.append(revision)
    await go(url, "head")
    return found


@pytest.fixture
async def busy(migrated_database: str) -> str:
    """A database with rows, where nobody waits long for a lock."""
    name = migrated_database.rsplit("/", 1)[1].split("?", maxsplit=1)[0]
    await run(migrated_database, SEED)
    await run(migrated_database, f"alter database {name} set lock_timeout = '{LONGEST}'")
    return migrated_database


async def test_the_last_migrations_go_down_and_up_under_traffic(busy: str) -> None:
    settings = Settings(
        database_url=busy, secret_key="a secret for tests, 32 bytes or more", rate_limits="off"
    )
    before, down = await papers(busy), await servable(busy)
    assert len(down) > 1
    async with started(create_app(settings)) as edge:
        transport = httpx.ASGITransport(edge)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            traffic = Traffic(client)
            flows = asyncio.gather(*(traffic.flow() for _ in range(4)))
            try:
                for revision in (*down[1:], *down[-2::-1]):
                    seen = traffic.answers.total()
                    await go(busy, revision)
                    while traffic.answers.total() < seen + 20 and not flows.done():
                        await asyncio.sleep(0.05)
            finally:
                traffic.over = True
            await flows
    assert await papers(busy) == before
    async with connected(busy) as connection:
        rows = await connection.fetch("select id, user_id, revision from tasks where deleted_at is null")
        assert traffic.kept <= {row["id"] for row in rows}
        assert len({(row["user_id"], row["revision"]) for row in rows}) == len(rows)
        late = "select count(*) from tasks t join user_state us using (user_id) where t.revision not between 1 and us.revision"
        assert await connection.fetchval(late) == 0
