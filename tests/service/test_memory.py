"""Lists and statistics from memory: the bytes that the database would give, at any moment, to nobody else."""

import asyncio
import random
from collections.abc import AsyncIterator

import asyncpg
import httpx
import msgspec
import pytest

from service.app import create_app
from service.edge import Edge
from service.settings import Settings
from tests.conftest import Account, listening, sign_up, started

TASKS = "/api/v1/tasks"
QUERIES = [
    "",
    "?limit=2",
    "?limit=3&offset=1",
    "?status=pending&count=true",
    "?overdue=true",
    "?q=milk",
    "?sort=title",
    "?deleted=true",
    "/stats",
    "/stats?tz=Asia/Tokyo",
]


@pytest.fixture(scope="module")
async def forgetful(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """Another instance, which remembers nothing."""
    async with (
        started(create_app(msgspec.structs.replace(settings, cache_size=0))) as edge,
        listening(edge) as base,
        httpx.AsyncClient(base_url=base) as client,
    ):
        yield client
        assert not edge.app.state.memory._kept


def told(answer: httpx.Response) -> tuple[int, bytes, dict[str, str]]:
    headers = {name: value for name, value in answer.headers.items() if name != "x-request-id"}
    return answer.status_code, answer.content, headers


@pytest.mark.parametrize("seed", range(5))
async def test_memory_and_database_tell_the_same(
    app: Edge, client: httpx.AsyncClient, forgetful: httpx.AsyncClient, user: Account, seed: int
) -> None:
    draw = random.Random(seed)
    instances = [client, forgetful]
    ids: list[int] = []
    memory = app.app.state.memory
    hits = memory.hits
    for _ in range(60):
        at = draw.choice(instances)  # whoever writes
        match draw.randrange(7):
            case 0 | 1:
                due = draw.choice([None, "2020-01-01T00:00:00Z", "2099-01-01T00:00:00Z"])
                title = draw.choice(["Buy milk", "Call Ada"])
                made = await at.post(TASKS, json={"title": title, "due_date": due}, headers=user.headers)
                ids.append(made.json()["id"])
            case 2 if ids:
                await at.post(f"{TASKS}/{draw.choice(ids)}/toggle", headers=user.headers)
            case 3 if ids:
                await at.delete(f"{TASKS}/{draw.choice(ids)}", headers=user.headers)
            case 4 if ids:
                body = {"title": draw.choice(["milk", "tea"])}
                await at.patch(f"{TASKS}/{draw.choice(ids)}", json=body, headers=user.headers)
            case _:
                pass
        for query in draw.sample(QUERIES, 4):
            found = [told(await one.get(TASKS + query, headers=user.headers)) for one in instances]
            assert found[0][0] == 200, query
            assert found[0] == found[1], query
    assert memory.hits - hits > 30


async def test_nothing_is_read_for_what_is_remembered(
    app: Edge, client: httpx.AsyncClient, user: Account
) -> None:
    await client.post(TASKS, json={"title": "x"}, headers=user.headers)
    memory = app.app.state.memory
    for query in ("", "?q=x", "/stats"):
        first = await client.get(TASKS + query, headers=user.headers)
        hits = memory.hits
        assert told(await client.get(TASKS + query, headers=user.headers)) == told(first)
        assert memory.hits == hits + 1
        known = {"If-None-Match": first.headers["etag"]}
        assert (await client.get(TASKS + query, headers=user.headers | known)).status_code == 304
        assert memory.hits == hits + 1
    text = (await client.get("/metrics")).text
    assert 'roundtrip_cache_total{from="memory"}' in text


async def test_a_session_that_has_ended_is_told_nothing(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    for _ in range(2):
        assert (await client.get(TASKS, headers=user.headers)).status_code == 200
    await connection.execute("update sessions set revoked_at = now() where user_id = $1", user.id)
    assert (await client.get(TASKS, headers=user.headers)).status_code == 401


async def test_who_signs_up_again_under_the_id_finds_nothing_of_before(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection, app: Edge
) -> None:
    await client.post(TASKS, json={"title": "of the first"}, headers=user.headers)
    assert "of the first" in (await client.get(TASKS, headers=user.headers)).text
    await connection.execute("delete from users where id = $1", user.id)
    await connection.execute("insert into users (id, email) values ($1, $1 || '@example.com')", user.id)
    sid = "00000000-0000-7000-8000-00000000abcd"
    await connection.execute(
        "insert into sessions (id, user_id, refresh_hash, expires_at) values ($1, $2, '', now() + interval '1 day')",
        sid,
        user.id,
    )
    headers = {"Authorization": f"Bearer {app.lean.tokens.access(user.id, sid)}"}
    await client.post(TASKS, json={"title": "of the second"}, headers=headers)
    page = (await client.get(TASKS, headers=headers)).json()
    assert ([task["title"] for task in page["items"]], page["revision"]) == (["of the second"], 1)


async def test_time_alone_ends_it(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    soon = await connection.fetchval(
        "select to_char(now() at time zone 'utc' + interval '1.5 s', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"')"
    )
    await client.post(TASKS, json={"title": "x", "due_date": soon}, headers=user.headers)
    query = f"{TASKS}?overdue=true"
    for _ in range(2):
        assert (await client.get(query, headers=user.headers)).json()["items"] == []
    await asyncio.sleep(1.6)
    for _ in range(2):
        assert len((await client.get(query, headers=user.headers)).json()["items"]) == 1


async def test_it_is_bounded_and_forgets_what_was_asked_for_longest_ago(
    settings: Settings, client: httpx.AsyncClient, user: Account
) -> None:
    text = "y" * 1000
    made = [{"op": "create", "task": {"title": "x", "description": text}} for _ in range(100)]
    assert (
        await client.post(f"{TASKS}/batch", json={"operations": made}, headers=user.headers)
    ).status_code == 200
    async with (
        started(create_app(msgspec.structs.replace(settings, cache_size=1))) as edge,
        listening(edge) as base,
        httpx.AsyncClient(base_url=base) as near,
    ):
        memory = edge.app.state.memory

        async def ask(limit: int) -> None:
            answer = await near.get(f"{TASKS}?limit={limit}", headers=user.headers)
            assert len(answer.json()["items"]) == min(limit, 100)

        for limit in range(60, 100):  # 60 to 130 kB each
            await ask(limit)
            await ask(60)
            held = sum(len(kept.content) for kept in memory._kept.values())
            assert held <= memory._used <= 1 << 20
        assert memory.hits == 40
        assert len(memory._kept) < 16
        others = [await sign_up(client) for _ in range(3)]
        for other in others:
            assert (await near.get(TASKS, headers=other.headers)).json()["items"] == []
