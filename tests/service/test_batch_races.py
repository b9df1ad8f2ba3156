"""Batches under concurrency, on two instances: revisions unique and gapless, no deadlock, one effect under a key."""

import asyncio
import random
from collections import Counter
from typing import Any

import asyncpg

from service.settings import Settings
from tests.conftest import sign_up
from tests.service.test_batch import Batches, create, on
from tests.service.test_idempotency import applications, one_first
from tests.service.test_races import revisions
from tests.service.test_tasks import PATH


async def test_batches_amid_other_writes_lose_nothing_and_leave_no_gap(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async with applications(settings, 2) as clients:
        user = await sign_up(clients[0])
        made = (await Batches(clients[0], user)(*(create(title="0") for _ in range(12)))).json()["results"]
        ids = [result["id"] for result in made]
        chance = random.Random(5)
        told = [("create", result["task"]) for result in made]

        async def one(number: int) -> None:
            client, headers = clients[number % 2], user.headers
            if number % 3 == 0:
                answer = await client.post(f"{PATH}/{chance.choice(ids)}/toggle", headers=headers)
                told.append(("toggle", answer.json()))
            elif number % 3 == 1:
                body = {"title": f"{number}"}
                answer = await client.patch(f"{PATH}/{chance.choice(ids)}", json=body, headers=headers)
                told.append(("title", answer.json()))
            else:
                kinds = [chance.choice(["toggle", "description", "create"]) for _ in range(1 + number % 11)]
                asked = [operation(kind, chance.choice(ids), number) for kind in kinds]
                answer = await Batches(client, user)(*asked, key=f"{number}" if number % 2 else None)
                tasks = [result["task"] for result in answer.json()["results"]]
                told.extend(zip(kinds, tasks, strict=True))
            assert answer.status_code == 200, answer.text

        await asyncio.gather(*(one(number) for number in range(450)))
    state, found = await revisions(connection, user)
    told.reverse()  # the first with a revision is the one that took it; what changed nothing came after
    by_revision = {task["revision"]: (kind, task) for kind, task in told}
    assert sorted(by_revision) == list(range(1, state + 1))
    assert len(set(found)) == len(found)
    last = dict[int, dict[str, Any]]()
    for _, (kind, task) in sorted(by_revision.items()):
        assert follows(kind, task, last.get(task["id"]))
        last[task["id"]] = task
    assert sorted(task["revision"] for task in last.values()) == found


def operation(kind: str, id: int, number: int) -> dict[str, Any]:
    """One that changes what its kind says."""
    if kind == "description":
        return on("update", id, changes={"description": f"of {number}"})
    return create() if kind == "create" else on(kind, id)


def follows(kind: str, task: dict[str, Any], before: dict[str, Any] | None) -> bool:
    """Whether a task is what the one before it became by one change of a kind, and nothing else."""
    if before is None:
        return kind == "create"
    changed = {name for name in ("title", "description", "completed") if task[name] != before[name]}
    return changed == {"completed" if kind == "toggle" else kind}


async def test_batches_in_opposite_order_do_not_deadlock(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async with applications(settings, 2) as clients:
        user = await sign_up(clients[0])
        made = (await Batches(clients[0], user)(*(create() for _ in range(20)))).json()["results"]
        ids = [result["id"] for result in made]
        calls = []
        for number in range(60):
            order = ids if number % 2 else ids[::-1]
            calls.append(Batches(clients[number % 2], user)(*(on("toggle", id) for id in order)))
        answers = await asyncio.gather(*calls)
    assert Counter(answer.status_code for answer in answers) == {200: 60}
    state, found = await revisions(connection, user)
    assert (state, found) == (20 + 60 * 20, list(range(state - 19, state + 1)))


async def test_the_same_batches_under_keys_at_once(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async with applications(settings, 2) as clients:
        user = await sign_up(clients[0])
        made = (await Batches(clients[0], user)(*(create() for _ in range(10)))).json()["results"]
        bodies = {
            f"k{n}": [create(title=f"t{n}"), on("toggle", made[n]["id"]), on("delete", made[n]["id"])]
            for n in range(10)
        }
        calls = [(key, Batches(clients[n % 2], user)) for key in bodies for n in range(32)]
        random.Random(2).shuffle(calls)
        answers = await asyncio.gather(*(post(*bodies[key], key=key) for key, post in calls))
    for key in bodies:
        assert one_first([answer for (of, _), answer in zip(calls, answers, strict=True) if of == key]), key
    state, found = await revisions(connection, user)
    assert (state, len(found)) == (10 + 30, 20)
