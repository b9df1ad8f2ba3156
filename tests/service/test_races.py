"""The statements of tasks under concurrency: revisions unique and gapless, one winner, nothing lost."""

import asyncio
import random
from collections import Counter
from typing import Any

import asyncpg
import httpx

from tests.conftest import Account

PATH = "/api/v1/tasks"


async def revisions(connection: asyncpg.Connection, user: Account) -> tuple[int, list[int]]:
    """The user's revision, and those of every task and tombstone."""
    state = await connection.fetchval("select revision from user_state where user_id = $1", user.id)
    rows = await connection.fetch(
        "select revision from tasks where user_id = $1 union all select revision from tombstones where user_id = $1",
        user.id,
    )
    return state, sorted(row["revision"] for row in rows)


async def create(client: httpx.AsyncClient, user: Account) -> dict[str, Any]:
    answer = await client.post(PATH, json={"title": "t", "description": "0"}, headers=user.headers)
    assert answer.status_code == 201
    task: dict[str, Any] = answer.json()
    return task


async def test_creates_take_each_number_once(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    tasks = await asyncio.gather(*(create(client, user) for _ in range(300)))
    assert sorted(task["revision"] for task in tasks) == list(range(1, 301))
    assert await revisions(connection, user) == (300, list(range(1, 301)))


async def test_toggles_alternate(client: httpx.AsyncClient, user: Account) -> None:
    task = await create(client, user)
    answers = await asyncio.gather(
        *(client.post(f"{PATH}/{task['id']}/toggle", headers=user.headers) for _ in range(101))
    )
    by_revision = sorted((a.json()["revision"], a.json()["status"]) for a in answers)
    assert [revision for revision, _ in by_revision] == list(range(2, 103))
    assert [status for _, status in by_revision] == ["completed", "pending"] * 50 + ["completed"]


async def test_if_match_has_one_winner_a_revision(client: httpx.AsyncClient, user: Account) -> None:
    task = await create(client, user)
    url = f"{PATH}/{task['id']}"
    won = 0
    for round in range(5):
        seen = (await client.get(url, headers=user.headers)).json()
        total = str(int(seen["description"]) + 1)
        headers = user.headers | {"If-Match": f'"{seen["revision"]}"'}
        answers = await asyncio.gather(
            *(client.patch(url, json={"description": total}, headers=headers) for _ in range(64))
        )
        assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 63}, round
        won += 1
    final = (await client.get(url, headers=user.headers)).json()
    assert (final["description"], final["revision"]) == (str(won), won + 1)


async def test_identical_patches_change_once(client: httpx.AsyncClient, user: Account) -> None:
    task = await create(client, user)
    answers = await asyncio.gather(
        *(
            client.patch(f"{PATH}/{task['id']}", json={"title": "same"}, headers=user.headers)
            for _ in range(64)
        )
    )
    assert {(answer.status_code, answer.json()["revision"]) for answer in answers} == {(200, 2)}


async def test_mixed_writes_leave_no_gap(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    tasks = [await create(client, user) for _ in range(5)]
    chance = random.Random(7)

    async def step(n: int) -> int:
        url = f"{PATH}/{chance.choice(tasks)['id']}"
        kind = chance.randrange(6)
        if kind == 0:
            return (await client.post(PATH, json={"title": "t"}, headers=user.headers)).status_code
        if kind == 1:
            return (await client.patch(url, json={"title": f"t{n % 3}"}, headers=user.headers)).status_code
        if kind == 2:
            return (await client.post(f"{url}/toggle", headers=user.headers)).status_code
        if kind == 3:
            return (await client.delete(url, headers=user.headers)).status_code
        if kind == 4:
            return (await client.post(f"{url}/restore", headers=user.headers)).status_code
        return (await client.get(PATH, headers=user.headers)).status_code

    statuses = Counter(await asyncio.gather(*(step(n) for n in range(400))))
    assert set(statuses) <= {200, 201, 204, 404}
    state, found = await revisions(connection, user)
    assert len(set(found)) == len(found)
    assert found[-1] == state
    clock = await connection.fetch(
        "select revision, updated_at from tasks where user_id = $1 order by 1", user.id
    )
    assert all(row["updated_at"] is not None for row in clock)


async def test_erasing_and_writing_the_same_task(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    tasks = [await create(client, user) for _ in range(10)]
    calls = []
    for task in tasks:
        url = f"{PATH}/{task['id']}"
        calls += [client.post(f"{url}/toggle", headers=user.headers) for _ in range(5)]
        calls += [client.delete(f"{url}?permanent=true", headers=user.headers) for _ in range(3)]
    random.Random(3).shuffle(calls)
    answers = await asyncio.gather(*calls)
    assert Counter(a.status_code for a in answers if a.request.method == "DELETE") == {204: 10, 404: 20}
    toggled = sum(a.status_code == 200 for a in answers if a.request.method == "POST")
    state, found = await revisions(connection, user)
    assert (state, len(found), found[-1]) == (10 + 10 + toggled, 10, max(found))


async def test_reads_see_what_was_acknowledged(client: httpx.AsyncClient, user: Account) -> None:
    task = await create(client, user)
    url = f"{PATH}/{task['id']}"
    acknowledged = 1

    async def write() -> None:
        nonlocal acknowledged
        for n in range(30):
            answer = await client.patch(url, json={"title": f"v{n}"}, headers=user.headers)
            acknowledged = max(acknowledged, answer.json()["revision"])

    async def read() -> None:
        last = 0
        for _ in range(60):
            floor = acknowledged
            page = (await client.get(PATH, headers=user.headers)).json()
            assert page["revision"] >= max(floor, last)
            assert page["items"][0]["revision"] == page["revision"]
            last = page["revision"]

    await asyncio.gather(write(), *(read() for _ in range(4)))
