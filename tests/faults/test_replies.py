"""The reply to a commit is lost: under an idempotency key it is done once, and the answer is the same."""

import uuid

import asyncpg
import httpx
import msgspec
import pytest

from db import tasks
from db.caller import Caller
from db.errors import Unavailable
from db.idempotency import Key
from db.task import Draft
from service.app import create_app
from service.routes import IDEMPOTENCY_KEY
from service.settings import Settings
from tests.conftest import Account, sign_up, started
from tests.faults.pools import opened
from tests.faults.proxy import Proxy, proxied

TIMES = 50
PATH = "/api/v1/tasks"
DRAFT = Draft("a task", None, "pending", 3, None)


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """The pool tries again at once."""
    monkeypatch.setattr("db.pool.random.uniform", lambda *_: 0)


@pytest.fixture
async def caller(user: Account, connection: asyncpg.Connection) -> Caller:
    """A user with a living session."""
    sid = await connection.fetchval("select id::text from sessions where user_id = $1", user.id)
    return Caller(user.id, sid)


def fresh() -> Key:
    return Key("POST /tasks", uuid.uuid4().hex, b"fingerprint")


async def revisions(connection: asyncpg.Connection, user_id: str) -> list[int]:
    """Those of the user's tasks, and the user's own last."""
    rows = await connection.fetch(
        "select revision from tasks where user_id = $1"
        " union all select revision from user_state where user_id = $1 order by 1",
        user_id,
    )
    return [row["revision"] for row in rows]


async def test_a_keyed_write_is_sent_again_and_done_once(
    database_url: str, caller: Caller, connection: asyncpg.Connection
) -> None:
    async with proxied(database_url) as proxy, opened(proxy.url, size=1, wait=5, statement=5) as db:
        await tasks.create_once(db, caller, fresh(), DRAFT)
        for _ in range(TIMES):
            key = fresh()
            proxy.rob()
            again = await tasks.create_once(db, caller, key, DRAFT)
            replay = await tasks.create_once(db, caller, key, DRAFT)
            assert again is not None
            assert not again.first
            assert again == replay
        assert proxy.attempts == 1 + TIMES
    assert await revisions(connection, caller.user_id) == [*range(1, TIMES + 2), TIMES + 1]


async def test_a_write_without_a_key_is_not(
    database_url: str, caller: Caller, connection: asyncpg.Connection
) -> None:
    async with proxied(database_url) as proxy, opened(proxy.url, size=1, wait=5, statement=5) as db:
        await tasks.create(db, caller, DRAFT)
        proxy.rob()
        with pytest.raises(Unavailable):
            await tasks.create(db, caller, DRAFT)
    assert await revisions(connection, caller.user_id) == [1, 2, 2]


async def test_a_keyed_write_is_sent_twice_at_most(database_url: str, caller: Caller) -> None:
    async with proxied(database_url) as proxy, opened(proxy.url, size=1, wait=5, statement=5) as db:
        await tasks.create_once(db, caller, fresh(), DRAFT)
        proxy.rob()
        proxy.turn_away = 1
        with pytest.raises(Unavailable):
            await tasks.create_once(db, caller, fresh(), DRAFT)
        assert proxy.attempts == 2


async def test_a_client_may_send_it_again(
    database_url: str, settings: Settings, connection: asyncpg.Connection
) -> None:
    async with proxied(database_url) as proxy:
        behind = msgspec.structs.replace(settings, database_url=proxy.url, database_pool_size=1)
        async with started(create_app(behind)) as edge:
            transport = httpx.ASGITransport(edge)  # type: ignore[arg-type]
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                user = await sign_up(client)
                await lose_and_repeat(client, user, proxy)
    assert await revisions(connection, user.id) == [*range(1, TIMES + 2), TIMES + 1]


async def lose_and_repeat(client: httpx.AsyncClient, user: Account, proxy: Proxy) -> None:
    """Send requests of whose first answer nothing comes through, the pool's own retry included."""
    await client.post(PATH, json={"title": "x"}, headers=user.headers | {IDEMPOTENCY_KEY: "warm"})
    for number in range(TIMES):
        headers = user.headers | {IDEMPOTENCY_KEY: str(number)}
        proxy.rob()
        proxy.turn_away = 1
        lost, *again = [await client.post(PATH, json={"title": "x"}, headers=headers) for _ in range(3)]
        assert (lost.status_code, lost.headers["retry-after"]) == (503, "1")
        assert [answer.status_code for answer in again] == [201, 201]
        assert again[0].content == again[1].content
        assert again[0].json()["revision"] == number + 2
        assert {answer.headers["idempotent-replayed"] for answer in again} == {"true"}
