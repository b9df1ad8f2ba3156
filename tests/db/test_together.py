"""Requests that travel together: who shares a statement, and that nobody has to bear with another's bad luck."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, cast

import asyncpg
import pytest

from db import tasks
from db.caller import Caller
from db.errors import Refused, Unavailable, Unstorable
from db.pool import Database, PoolOptions
from db.statements import Statement
from db.task import Draft
from db.together import MOST, Shared, Together
from db.url import parse
from tests.db.hands import got


class Counted(Database):
    """A database that counts what it sends."""

    sent: Counter[str]


@pytest.fixture
async def counted(database_url: str) -> AsyncIterator[Counted]:
    """A pool of its own."""
    sent: Counter[str] = Counter()

    def observe(statement: Statement, _: float) -> None:
        sent[statement.name] += 1

    db = Counted(parse(database_url), PoolOptions(size=4, wait=5, statement=5), observe=observe)
    db.sent = sent
    await db.open()
    yield db
    await db.close()


async def enrolled(connection: asyncpg.Connection) -> Caller:
    """A new user with a session."""
    user, sid = uuid.uuid4().hex, str(uuid.uuid4())
    await connection.execute("insert into users (id, email) values ($1, $1 || '@example.com')", user)
    await connection.execute(
        "insert into sessions (id, user_id, refresh_hash, expires_at) values ($1, $2, '', now() + interval '1 day')",
        sid,
        user,
    )
    return Caller(user, sid)


def draft(title: str = "a task") -> Draft:
    return Draft(title, None, "pending", 3, None)


async def gather(*work: Any) -> list[Any]:
    return await asyncio.gather(*work, return_exceptions=True)


async def test_a_lone_request_goes_at_once_and_by_itself(
    counted: Counted, connection: asyncpg.Connection
) -> None:
    caller = await enrolled(connection)
    for _ in range(3):
        assert await tasks.create(counted, caller, draft())
    assert counted.sent == {"tasks.create": 3}


async def test_those_who_come_meanwhile_share_the_next_statement(
    counted: Counted, connection: asyncpg.Connection
) -> None:
    caller = await enrolled(connection)
    going = [asyncio.ensure_future(tasks.create(counted, caller, draft()))]
    while not counted.limiter.used:
        await asyncio.sleep(0)
    going += [asyncio.ensure_future(tasks.create(counted, caller, draft())) for _ in range(9)]
    made = await gather(*going)
    assert counted.sent == {"tasks.create": 1, "tasks.create_each": 1}
    assert [task.revision for task in made] == list(range(1, 11))


async def test_those_who_come_in_one_turn_share_one_statement(
    counted: Counted, connection: asyncpg.Connection
) -> None:
    callers = [await enrolled(connection) for _ in range(5)]
    made = await gather(*(tasks.create(counted, callers[n % 5], draft(f"task {n}")) for n in range(101)))
    assert counted.sent == {"tasks.create_each": 1}
    assert [task.title for task in made] == [f"task {n}" for n in range(101)]
    assert [task.user_id for task in made] == [callers[n % 5].user_id for n in range(101)]
    for caller in callers:
        own = [task for task in made if task.user_id == caller.user_id]
        assert [task.revision for task in own] == list(range(1, len(own) + 1))
        assert [task.id for task in own] == sorted(task.id for task in own)

    counted.sent.clear()
    found = await gather(
        *(got(counted, callers[(n + n % 2) % 5], made[n].id) for n in range(101)),
    )
    assert counted.sent == {"tasks.get_each": 1}
    for n, outcome in enumerate(found):
        assert outcome.task == (None if n % 2 else made[n]), "another user's task is absent"


async def test_pages_in_company_are_those_that_are_read_alone(
    counted: Counted, connection: asyncpg.Connection
) -> None:
    callers = [await enrolled(connection) for _ in range(4)]
    for n in range(40):
        assert await tasks.create(counted, callers[n % 3], draft(f"task {n}"))
    ended = await enrolled(connection)
    await connection.execute("update sessions set revoked_at = now() where user_id = $1", ended.user_id)
    first = tasks.edge("created_at", "desc")
    asked = [
        *((caller, tasks.Version(), tasks.Window(0, 6, *first)) for caller in (*callers, ended)),
        *(
            (caller, tasks.Version(14), tasks.Window(0, 6, *first)) for caller in callers
        ),  # known to the first
        *((caller, tasks.Version(), tasks.Window(skip, 4, *first)) for caller in callers for skip in (3, 99)),
        *(
            (callers[0], tasks.Version(), tasks.Window(0, 4, time, 5))
            for time in ("2020-01-01", "no time", "")
        ),
    ]

    def page(caller: Caller, version: tasks.Version, window: tasks.Window) -> Any:
        return tasks.list(counted, tasks.NEWEST, caller, version, window, tasks.Filters(), "")

    alone = [(await gather(page(*each)))[0] for each in asked]
    assert alone[0].lines.count("\n") == 5
    assert (alone[4], alone[5].fresh, alone[5].lines) == (None, False, None)
    assert isinstance(alone[-1], Unstorable)
    counted.sent.clear()
    together = await gather(*(page(*each) for each in asked))
    assert [repr(each) for each in together] == [repr(each) for each in alone]
    name = "tasks.list_live_plain_created_at_desc_without"
    assert counted.sent == {
        f"{name}_each": 2,
        name: len(asked) - 2 * tasks.PAGES.most - 2,
    }  # in the third are times that are none


class Held:
    """A database whose statements answer when they are let go: how many requests each has."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.let_go = asyncio.Event()

    async def one(self, _: Statement, *__: object) -> asyncpg.Record | None:
        self.sent.append(1)
        await self.let_go.wait()
        return None

    async def all(self, _: Statement, *columns: object) -> list[asyncpg.Record]:
        self.sent.append(len(cast("list[object]", columns[0])))
        await self.let_go.wait()
        return []


async def test_another_statement_leaves_beside_those_in_flight_where_enough_wait_for_it() -> None:
    held = Held()
    reads = Together(held, Shared(tasks.GET, tasks.GET_EACH, str, most=4, lanes=3, least=3), 5)
    asked = []
    for number, sent in ((1, [1]), (2, [1]), (1, [1, 3]), (2, [1, 3]), (4, [1, 3, 4]), (9, [1, 3, 4])):
        asked += [reads.ask(n) for n in range(number)]
        await asyncio.sleep(0.01)
        assert held.sent == sent
    held.let_go.set()
    assert await gather(*asked) == ["None"] * 19
    assert held.sent == [1, 3, 4, 4, 4, 3]


async def test_a_statement_carries_so_many_and_no_more(
    counted: Counted, connection: asyncpg.Connection
) -> None:
    caller = await enrolled(connection)
    made = await gather(*(tasks.create(counted, caller, draft()) for _ in range(2 * MOST + 2)))
    assert sorted(task.revision for task in made) == list(range(1, 2 * MOST + 3))
    assert counted.sent == {"tasks.create_each": 3}


async def test_each_is_asked_for_its_own_session(counted: Counted, connection: asyncpg.Connection) -> None:
    alive, ended, inactive, thief = [await enrolled(connection) for _ in range(4)]
    await connection.execute("update sessions set revoked_at = now() where user_id = $1", ended.user_id)
    await connection.execute("update users set is_active = false where id = $1", inactive.user_id)
    stolen = Caller(alive.user_id, thief.sid)
    callers = [alive, ended, inactive, stolen, alive]
    made = await gather(*(tasks.create(counted, caller, draft()) for caller in callers))
    assert [task is not None for task in made] == [True, False, False, False, True]
    found = await gather(*(tasks.get(counted, caller, made[0].id) for caller in callers))
    assert [outcome is not None for outcome in found] == [True, False, False, False, True]
    assert counted.sent["tasks.create_each"] == counted.sent["tasks.get_each"] == 1


async def test_what_one_row_breaks_is_done_again_one_by_one(
    counted: Counted, connection: asyncpg.Connection
) -> None:
    caller = await enrolled(connection)
    titles = ["first", "good", " ", "better"]
    made = await gather(*(tasks.create(counted, caller, draft(title)) for title in titles))
    assert isinstance(made[2], Refused)
    assert made[2].constraint == "tasks_title_length"
    assert [made[n].title for n in (0, 1, 3)] == ["first", "good", "better"]
    assert sorted(made[n].revision for n in (0, 1, 3)) == [1, 2, 3]


async def test_a_user_who_is_held_elsewhere_holds_up_nobody(
    counted: Counted, connection: asyncpg.Connection
) -> None:
    held, free = await enrolled(connection), await enrolled(connection)
    async with connection.transaction():
        await connection.execute("select from user_state where user_id = $1 for update", held.user_id)
        first = asyncio.ensure_future(tasks.create(counted, free, draft()))
        waits = asyncio.ensure_future(tasks.create(counted, held, draft()))
        others = [asyncio.ensure_future(tasks.create(counted, free, draft())) for _ in range(5)]
        await asyncio.gather(first, *others)
        later = [await tasks.create(counted, free, draft()) for _ in range(3)]
        assert all(later)
        assert not waits.done()
    made = await waits
    assert made is not None
    assert (made.user_id, made.revision) == (held.user_id, 1)


async def test_who_goes_away_takes_nobody_along(counted: Counted, connection: asyncpg.Connection) -> None:
    caller = await enrolled(connection)
    going = [asyncio.ensure_future(tasks.create(counted, caller, draft("0")))]
    while not counted.limiter.used:
        await asyncio.sleep(0)
    going += [asyncio.ensure_future(tasks.create(counted, caller, draft(f"{n}"))) for n in range(1, 6)]
    await asyncio.sleep(0)
    going[0].cancel()  # the one in flight
    going[3].cancel()  # one of those who gather
    made = await gather(*going)
    assert [isinstance(task, asyncio.CancelledError) for task in made] == [
        True, False, False, True, False, False,
    ]  # fmt: skip
    assert "3" not in {
        row["title"]
        for row in await connection.fetch("select title from tasks where user_id = $1", caller.user_id)
    }
    assert await tasks.create(counted, caller, draft())


async def test_what_may_have_happened_is_not_sent_again(
    counted: Counted, connection: asyncpg.Connection
) -> None:
    caller = await enrolled(connection)
    async with connection.transaction():
        await connection.execute("lock table tasks in access exclusive mode")
        going = [asyncio.ensure_future(tasks.create(counted, caller, draft())) for _ in range(4)]
        await asyncio.sleep(0.3)
        pids = await connection.fetch(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where wait_event_type = 'Lock' and datname = current_database() and application_name = 'roundtrip'"
        )
        assert pids
        first = await gather(going[0])
        assert isinstance(first[0], Unavailable)
        await asyncio.sleep(0.3)
        await connection.execute(
            "select pg_terminate_backend(pid) from pg_stat_activity"
            " where wait_event_type = 'Lock' and datname = current_database() and application_name = 'roundtrip'"
        )
        rest = await gather(*going[1:])
        assert all(isinstance(error, Unavailable) for error in rest)
        assert len({id(error) for error in rest}) == 3
    assert await connection.fetchval("select count(*) from tasks where user_id = $1", caller.user_id) == 0
    assert await tasks.create(counted, caller, draft())


async def test_many_writers_of_few_users_leave_no_gap(
    counted: Counted, connection: asyncpg.Connection
) -> None:
    callers = [await enrolled(connection) for _ in range(7)]

    async def client(n: int) -> list[int]:
        caller = callers[n % 7]
        made = []
        for _ in range(10):
            task = await tasks.create(counted, caller, draft())
            assert task is not None
            changed = await tasks.toggle(counted, caller, task.id, None)
            assert changed is not None
            assert changed.task is not None
            made += [task.revision, changed.task.revision]
        return made

    told = await asyncio.gather(*(client(n) for n in range(42)))
    for who in range(7):
        revisions = sorted(revision for n in range(who, 42, 7) for revision in told[n])
        assert revisions == list(range(1, 6 * 20 + 1))
    assert counted.sent["tasks.create_each"] > 0
