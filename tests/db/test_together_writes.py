"""Toggles, updates and deletes that travel together: each decided as if it had gone alone."""

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

import asyncpg
import pytest

from db import tasks
from db.caller import Caller
from db.pool import Database, PoolOptions
from db.task import Changes, Task
from db.url import parse
from tests.db.test_together import Counted, counted, draft, enrolled, gather

__all__ = ["counted"]

Act = Callable[[Database, Caller, int, tasks.IfMatch], Awaitable[tasks.Outcome | None]]


async def update(db: Database, caller: Caller, id: int, if_match: tasks.IfMatch) -> tasks.Outcome | None:
    return await tasks.update(db, caller, id, if_match, Changes(title="changed", due_date=None))


ACTS: dict[str, Act] = {"toggle": tasks.toggle, "delete": tasks.delete, "update": update}


async def of(db: Database, caller: Caller, **fields: Any) -> Task:
    task = await tasks.create(db, caller, draft(**fields))
    assert task is not None
    return task


def company(name: str) -> Counter[str]:
    """All in one."""
    return Counter({f"tasks.{name}_each": 1})


@pytest.mark.parametrize("name", ACTS)
async def test_every_verdict_in_one_statement(
    counted: Counted, connection: asyncpg.Connection, name: str
) -> None:
    act = ACTS[name]
    one, two, ended, inactive = [await enrolled(connection) for _ in range(4)]
    first, mine, other, moved, exact, theirs = [
        await of(counted, caller) for caller in (one, one, two, two, two, inactive)
    ]
    gone = await of(counted, one)
    await tasks.delete(counted, one, gone.id, None)
    of_ended = await of(counted, ended)
    await connection.execute("update sessions set revoked_at = now() where user_id = $1", ended.user_id)
    await connection.execute("update users set is_active = false where id = $1", inactive.user_id)
    counted.sent.clear()
    found = await gather(
        act(counted, one, first.id, None),
        act(counted, one, mine.id, None),
        act(counted, two, other.id, [99, other.revision]),
        act(counted, two, moved.id, [99]),
        act(counted, two, exact.id, [exact.revision]),
        act(counted, one, gone.id, None),
        act(counted, one, exact.id, None),  # somebody else's, in another statement for it is asked for twice
        act(counted, ended, of_ended.id, None),
        act(counted, inactive, theirs.id, None),
    )
    assert counted.sent == company(name) + Counter({f"tasks.{name}": 1})
    assert [outcome and outcome.verdict for outcome in found] == [
        "done", "done", "done", "moved", "done", "absent", "absent", None, None,
    ]  # fmt: skip
    assert [outcome.task.revision for outcome in found[:3]] == [5, 6, 4]
    assert found[4].task.revision == 5
    assert (found[3].task, found[5].task) == (None, None)
    rows = await connection.fetch(
        "select id, revision from tasks where user_id = any($1::text[])", [one.user_id, two.user_id]
    )
    assert {row["id"]: row["revision"] for row in rows} == {
        first.id: 5, mine.id: 6, gone.id: 4, other.id: 4, moved.id: moved.revision, exact.id: 5,
    }  # fmt: skip


async def test_an_update_in_company_sets_what_it_sets_and_no_more(
    counted: Counted, connection: asyncpg.Connection
) -> None:
    alone, caller = await enrolled(connection), await enrolled(connection)
    changes = [
        Changes(title="another"),
        Changes(description="words"),
        Changes(status="completed"),
        Changes(priority=5),
        Changes(reopen=True),
        Changes(),
        Changes(title="a task"),
        Changes(description=None, status="in_progress", priority=3),
    ]
    fields = ("title", "description", "status", "completed", "priority", "priority_label", "due_date")

    async def prepared(who: Caller, status: str) -> list[Callable[[], Awaitable[Any]]]:
        made = [await of(counted, who) for _ in changes]
        for task in made if status == "completed" else ():
            await tasks.toggle(counted, who, task.id, None)
        return [
            partial(tasks.update, counted, who, task.id, None, each)
            for task, each in zip(made, changes, strict=True)
        ]

    for status in ("pending", "completed"):
        singly = [await one() for one in await prepared(alone, status)]
        going = await prepared(caller, status)
        counted.sent.clear()
        together = await gather(*(one() for one in going))
        assert counted.sent == company("update")
        for one, other in zip(singly, together, strict=True):
            assert one.verdict == other.verdict
            assert [getattr(one.task, name) for name in fields] == [
                getattr(other.task, name) for name in fields
            ]
            assert (one.task.completed_at is None) == (other.task.completed_at is None)
            assert one.task.revision == other.task.revision


async def test_two_about_one_task_are_decided_one_after_the_other(
    counted: Counted, connection: asyncpg.Connection
) -> None:
    caller = await enrolled(connection)
    blocker, task = await of(counted, caller), await of(counted, caller)
    found = await gather(
        tasks.toggle(counted, caller, blocker.id, None),
        *(tasks.toggle(counted, caller, task.id, [task.revision]) for _ in range(5)),
    )
    assert Counter(outcome.verdict for outcome in found) == {"done": 2, "moved": 4}
    found = await gather(
        tasks.toggle(counted, caller, blocker.id, None),
        *(tasks.toggle(counted, caller, task.id, None) for _ in range(5)),
    )
    told = sorted((outcome.task.revision, outcome.task.status) for outcome in found[1:])
    assert [status for _, status in told] == ["pending", "completed", "pending", "completed", "pending"]


async def test_a_user_who_is_held_elsewhere_holds_up_nobody(
    counted: Counted, connection: asyncpg.Connection
) -> None:
    held, free = await enrolled(connection), await enrolled(connection)
    theirs, mine = await of(counted, held), [await of(counted, free) for _ in range(4)]
    async with connection.transaction():
        await connection.execute("select from user_state where user_id = $1 for update", held.user_id)
        first = asyncio.ensure_future(tasks.toggle(counted, free, mine[0].id, None))
        waits = asyncio.ensure_future(tasks.toggle(counted, held, theirs.id, None))
        others = [asyncio.ensure_future(tasks.toggle(counted, free, task.id, None)) for task in mine[1:]]
        assert all(await asyncio.gather(first, *others))
        assert not waits.done()
    outcome = await waits
    assert outcome is not None
    assert (outcome.verdict, outcome.task and outcome.task.revision) == ("done", 2)


async def test_a_thousand_toggles_of_one_task_alternate(
    counted: Counted, connection: asyncpg.Connection
) -> None:
    caller = await enrolled(connection)
    task, others = await of(counted, caller), [await of(counted, caller) for _ in range(9)]
    found = await asyncio.gather(
        *(tasks.toggle(counted, caller, other.id, None) for other in others),
        *(tasks.toggle(counted, caller, task.id, None) for _ in range(1001)),
    )
    told = sorted((o.task.revision, o.task.status) for o in found if o and o.task and o.task.id == task.id)
    assert [status for _, status in told] == ["completed" if n % 2 == 0 else "pending" for n in range(1001)]
    assert sorted(o.task.revision for o in found if o and o.task) == list(range(11, 11 + 1010))


async def test_two_instances_amid_each_other_leave_no_gap_and_hold_up_nobody(
    counted: Counted, database_url: str, connection: asyncpg.Connection
) -> None:
    second = Database(parse(database_url), PoolOptions(size=4, wait=20, statement=20))
    await second.open()
    callers = [await enrolled(connection) for _ in range(4)]
    made = {caller: [await of(counted, caller) for _ in range(6)] for caller in callers}
    dice = random.Random(7)
    wanted = [(dice.choice(callers), dice.randrange(6), dice.choice([*ACTS, "toggle"])) for _ in range(300)]

    async def instance(db: Database, order: list[tuple[Caller, int, str]]) -> list[tasks.Outcome | None]:
        return await asyncio.gather(*(ACTS[act](db, who, made[who][n].id, None) for who, n, act in order))

    told = await asyncio.gather(instance(counted, wanted), instance(second, wanted[::-1]))
    await second.close()
    assert counted.sent["tasks.toggle_each"] > 0
    for caller in callers:
        of_theirs = [o for found in told for o in found if o and o.task and o.task.user_id == caller.user_id]
        taken = sorted(o.task.revision for o in of_theirs if o.task and o.verdict == "done")
        assert taken == list(range(7, 7 + len(taken)))
        state = await connection.fetchval(
            "select revision from user_state where user_id = $1", caller.user_id
        )
        assert state == taken[-1]
