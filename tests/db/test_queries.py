"""Each function of the data layer called by itself: its rows, its verdicts, and nobody else's rows."""

import uuid
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from db import statements, tasks
from db.caller import Caller
from db.errors import Refused
from db.pool import Database
from db.task import Changes, Draft, Task
from tests.db.conftest import signed_in
from tests.db.hands import contents, got, revision, revisions, someone
from tests.db.test_plans import values_for

NEWEST = tasks.Shape("live", "plain", "created_at", "desc", "without")
NOBODY = 2**62  # no task
SOON = datetime(2030, 1, 31, 12, tzinfo=UTC)
Act = Callable[[Database, Caller, int, tasks.IfMatch], Awaitable[Any]]


def told(moment: datetime) -> str:
    """A time as a task tells it."""
    return moment.isoformat().replace("+00:00", "Z")


def draft(**fields: Any) -> Draft:
    return Draft(
        **{"title": "t", "description": None, "status": "pending", "priority": 3, "due_date": None} | fields
    )


async def made(db: Database, caller: Caller, **fields: Any) -> Task:
    task = await tasks.create(db, caller, draft(**fields))
    assert task is not None
    return task


async def update(db: Database, caller: Caller, id: int, if_match: tasks.IfMatch) -> tasks.Outcome | None:
    return await tasks.update(db, caller, id, if_match, Changes(title="changed"))


async def get(db: Database, caller: Caller, id: int, _: tasks.IfMatch) -> tasks.Outcome | None:
    return await got(db, caller, id)


ACTS: dict[str, Act] = {
    "get": get,
    "update": update,
    "toggle": tasks.toggle,
    "delete": tasks.delete,
    "restore": tasks.restore,
    "erase": tasks.erase,
}
WRITES = [name for name in ACTS if name != "get"]


def verdict(outcome: Any) -> str | None:
    found: str | None = outcome if isinstance(outcome, str) else outcome and outcome.verdict
    return found


# Whose rows


DEATHS = {
    "revoked": "update sessions set revoked_at = now() where id = $1",
    "expired": "update sessions set expires_at = now() - interval '1 second' where id = $1",
    "of a deactivated user": (
        "update users set is_active = false where id = (select user_id from sessions where id = $1)"
    ),
    "deleted": "delete from sessions where id = $1",
}


@pytest.mark.parametrize("death", DEATHS)
async def test_a_dead_session_reads_and_changes_nothing(
    db: Database, connection: asyncpg.Connection, caller: Caller, death: str
) -> None:
    task = await made(db, caller)
    await connection.execute(DEATHS[death], caller.sid)
    await nothing_for(db, connection, caller, caller.user_id, task.id)


async def test_a_session_of_another_user_reads_and_changes_nothing(
    db: Database, connection: asyncpg.Connection, caller: Caller, stranger: Caller
) -> None:
    task = await made(db, caller)
    await nothing_for(db, connection, Caller(caller.user_id, stranger.sid), caller.user_id, task.id)


async def nothing_for(
    db: Database, connection: asyncpg.Connection, who: Caller, owner: str, task_id: int
) -> None:
    """No statement under a session gives this caller a row, or changes one of the owner's."""
    before = await contents(connection, owner)
    own = {"user_id": who.user_id, "sid": who.sid, "task_id": task_id, "session_id": who.sid}
    under_a_session = [s for s in statements.every() if s.takes[:2] == ("user_id text", "sid uuid")]
    assert len(under_a_session) > 150
    for statement in under_a_session:
        given = await values_for(connection, statement) | own
        rows = await db.all(statement, *(given[item.split()[0]] for item in statement.takes))
        assert rows == [], statement.name
    assert await contents(connection, owner) == before


@pytest.mark.parametrize("act", ACTS)
async def test_a_strangers_task_is_as_absent_as_an_unknown_one(
    db: Database, connection: asyncpg.Connection, caller: Caller, stranger: Caller, act: str
) -> None:
    live, gone = await made(db, caller), await made(db, caller)
    await tasks.delete(db, caller, gone.id, None)
    before = await contents(connection, caller.user_id)
    for id in (live.id, gone.id, NOBODY):
        for if_match in (None, [live.revision]):
            assert verdict(await ACTS[act](db, stranger, id, if_match)) == "absent"
    assert await contents(connection, caller.user_id) == before
    assert await revision(connection, stranger.user_id) == 0


# Tasks


@pytest.mark.parametrize(
    ("act", "live", "completed", "trashed", "unknown"),
    [
        ("get", "same", "same", "absent", "absent"),
        ("update", "done", "done", "absent", "absent"),
        ("toggle", "done", "done", "absent", "absent"),
        ("delete", "done", "done", "absent", "absent"),
        ("restore", "same", "same", "done", "absent"),
        ("erase", "done", "done", "done", "absent"),
    ],
)
async def test_verdicts(
    db: Database,
    connection: asyncpg.Connection,
    caller: Caller,
    act: str,
    live: str,
    completed: str,
    trashed: str,
    unknown: str,
) -> None:
    ids = [(await made(db, caller)).id, (await made(db, caller, status="completed")).id]
    ids += [(await made(db, caller)).id, NOBODY]
    await tasks.delete(db, caller, ids[2], None)
    moved = await revision(connection, caller.user_id)
    for id, expected in zip(ids, (live, completed, trashed, unknown), strict=True):
        assert verdict(await ACTS[act](db, caller, id, None)) == expected
        moved += expected == "done"
        assert await revision(connection, caller.user_id) == moved
    found = await revisions(connection, caller.user_id)
    assert len(found) == len(set(found)) == 3


@pytest.mark.parametrize("act", WRITES)
async def test_if_match(db: Database, connection: asyncpg.Connection, caller: Caller, act: str) -> None:
    task = await made(db, caller)
    if act == "restore":
        outcome = await tasks.delete(db, caller, task.id, None)
        assert outcome
        assert outcome.task
        task = outcome.task
    before = await contents(connection, caller.user_id)
    for missed in ([], [task.revision + 1], [0, 2**63 - 1]):
        assert verdict(await ACTS[act](db, caller, task.id, missed)) == "moved"
        assert await contents(connection, caller.user_id) == before
    assert verdict(await ACTS[act](db, caller, task.id, [7, task.revision])) == "done"
    assert await revision(connection, caller.user_id) == task.revision + 1


async def test_create_gives_the_row_it_made(db: Database, caller: Caller) -> None:
    plain = await made(db, caller, title="Buy milk")
    assert (plain.user_id, plain.title, plain.description) == (caller.user_id, "Buy milk", None)
    assert (plain.status, plain.completed, plain.priority_label, plain.revision) == (
        "pending", False, "medium", 1,
    )  # fmt: skip
    assert plain.created_at == plain.updated_at
    assert (plain.due_date, plain.completed_at, plain.deleted_at) == (None, None, None)
    done = await made(db, caller, description="", status="completed", priority=5, due_date=SOON)
    assert (done.description, done.completed, done.priority_label) == ("", True, "highest")
    assert (done.due_date, done.completed_at, done.revision) == (told(SOON), done.created_at, 2)
    assert await got(db, caller, done.id) == tasks.Outcome("same", done)


@pytest.mark.parametrize("edge", [datetime.min, datetime.max])
async def test_the_first_and_the_last_time_are_no_infinities(
    db: Database, caller: Caller, edge: datetime
) -> None:
    edge = edge.replace(tzinfo=UTC)
    task = await made(db, caller, due_date=edge)
    assert task.due_date == told(edge)
    outcome = await tasks.update(db, caller, task.id, None, Changes(due_date=edge))
    assert outcome == tasks.Outcome("same", task)


@pytest.mark.parametrize(
    ("fields", "constraint"),
    [
        ({"title": " "}, "tasks_title_length"),
        ({"priority": 6}, "tasks_priority_range"),
        ({"status": "done"}, "tasks_status_valid"),
        ({"description": "x" * 20_001}, "tasks_description_length"),
    ],
)
async def test_what_the_schema_refuses_takes_no_revision(
    db: Database, connection: asyncpg.Connection, caller: Caller, fields: dict[str, Any], constraint: str
) -> None:
    task = await made(db, caller)
    with pytest.raises(Refused, match=constraint):
        await made(db, caller, **fields)
    with pytest.raises(Refused, match=constraint):
        await tasks.update(db, caller, task.id, None, Changes(**fields))
    assert await revision(connection, caller.user_id) == 1
    assert await got(db, caller, task.id) == tasks.Outcome("same", task)


async def test_update_changes_what_is_set(db: Database, caller: Caller) -> None:
    task = await made(db, caller, description="d", due_date=SOON)
    steps: list[tuple[Changes, dict[str, Any]]] = [
        (Changes(title="two"), {"title": "two"}),
        (Changes(description=None, due_date=None), {"description": None, "due_date": None}),
        (Changes(priority=1), {"priority": 1, "priority_label": "lowest"}),
        (Changes(status="completed"), {"status": "completed", "completed": True}),
        (Changes(title="three"), {"title": "three"}),
        (Changes(reopen=True), {"status": "pending", "completed": False, "completed_at": None}),
        (Changes(status="in_progress"), {"status": "in_progress"}),
    ]
    for changes, expected in steps:
        outcome = await tasks.update(db, caller, task.id, [task.revision], changes)
        assert outcome
        now = outcome.task
        assert now
        assert outcome.verdict == "done"
        assert now.updated_at >= task.updated_at
        if changes.status == "completed":
            expected["completed_at"] = now.updated_at
        fields = {name: getattr(task, name) for name in task.__struct_fields__}
        moved = {"revision": task.revision + 1, "updated_at": now.updated_at}
        assert now == Task(**fields | expected | moved)
        task = now
    for changes in (Changes(), Changes(title="three", status="in_progress"), Changes(reopen=True)):
        assert await tasks.update(db, caller, task.id, None, changes) == tasks.Outcome("same", task)


async def test_toggle_delete_and_restore_give_the_row_as_it_is_then(db: Database, caller: Caller) -> None:
    task = await made(db, caller, status="in_progress")
    for act, status, gone in [
        (tasks.toggle, "completed", False), (tasks.toggle, "pending", False), (tasks.delete, "pending", True),
        (tasks.restore, "pending", False),
    ]:  # fmt: skip
        outcome = await act(db, caller, task.id, [task.revision])
        assert outcome
        now = outcome.task
        assert now
        assert (now.status, now.completed_at is not None) == (status, status == "completed")
        assert (now.deleted_at is not None, now.revision) == (gone, task.revision + 1)
        task = now


async def test_erase_leaves_a_bare_tombstone_each_time(
    db: Database, connection: asyncpg.Connection, caller: Caller
) -> None:
    task = await made(db, caller, title="a secret")
    assert await tasks.erase(db, caller, task.id, None) == "done"
    assert "a secret" not in str(await contents(connection, caller.user_id))
    # Put back by hand under its id, say from a backup, and erased again.
    await connection.execute(
        "insert into tasks (id, user_id, title) values ($1, $2, 'back')", task.id, caller.user_id
    )
    assert await tasks.erase(db, caller, task.id, None) == "done"
    graves = await connection.fetch(
        "select task_id, revision from tombstones where user_id = $1", caller.user_id
    )
    assert [tuple(grave) for grave in graves] == [(task.id, 4)]
    assert await revision(connection, caller.user_id) == 4


# Lists and statistics


def read(found: tasks.Listed) -> list[Task]:
    """The tasks of a page."""
    return [msgspec.json.decode(line, type=Task) for line in found.lines.split("\n")] if found.lines else []


async def listed(
    db: Database,
    caller: Caller,
    shape: tasks.Shape = NEWEST,
    *,
    begin: tuple[str, int] = ("infinity", 2**63 - 1),
    skip: int = 0,
    size: int = 51,
    q: str = "",
    **filters: Any,
) -> tasks.Listed:
    window = tasks.Window(skip, size, *begin)
    found = await tasks.list(db, shape, caller, tasks.Version(), window, tasks.Filters(**filters), q)
    assert found is not None
    return found


async def test_a_list_has_its_revision_and_the_users_own_rows(
    db: Database, caller: Caller, stranger: Caller
) -> None:
    empty = await listed(db, caller)
    assert (empty.revision, empty.fresh, empty.total, read(empty)) == (0, True, None, [])
    mine = [await made(db, caller, title=f"task {n}") for n in range(3)]
    await made(db, stranger)
    await tasks.delete(db, caller, mine[1].id, None)
    live = await listed(db, caller)
    assert (live.revision, read(live)) == (4, [mine[2], mine[0]])
    trash = await listed(db, caller, NEWEST._replace(scope="trash", total="counted"))
    assert ([task.id for task in read(trash)], trash.total) == ([mine[1].id], 1)


async def test_a_line_says_what_the_columns_say(db: Database, connection: asyncpg.Connection) -> None:
    caller = await signed_in(
        connection, await someone(connection, id='auth0|"ada\\\u2028"' + uuid.uuid4().hex)
    )
    odd = [*map(chr, range(1, 160)), "\u2028", "\u2029", "\ufeff", "\U0001f600", "\\n", '\\"', "</script>"]
    one = await made(db, caller, title="".join(odd), description="\n".join(odd), due_date=SOON)
    two = await made(
        db, caller, title="t", status="completed", priority=5, due_date=SOON.replace(microsecond=120)
    )
    found = await listed(db, caller)
    assert read(found) == [two, one]
    assert found.lines is not None
    assert [[*msgspec.json.decode(line)] for line in found.lines.split("\n")] == [
        [*Task.__struct_fields__]
    ] * 2


async def test_a_list_goes_on_at_a_position_and_skips(db: Database, caller: Caller) -> None:
    mine = [await made(db, caller, title=f"task {n}") for n in range(5)][::-1]
    first = await listed(db, caller, size=2)
    assert read(first) == mine[:2]
    assert first.position is not None
    assert first.last_id == mine[0].id
    rest = await listed(db, caller, begin=(first.position, first.last_id))
    assert read(rest) == mine[1:]
    assert (rest.position, rest.last_id) == (None, None)
    assert read(await listed(db, caller, skip=4)) == mine[4:]
    up = NEWEST._replace(sort="title", way="asc", total="counted")
    found = await listed(db, caller, up, begin=tasks.edge("title", "asc"), size=3)
    assert (read(found), found.total) == (mine[:1:-1], 5)


async def test_a_list_takes_what_its_filters_and_words_let_through(db: Database, caller: Caller) -> None:
    late = await made(db, caller, title="Pay rent", due_date=SOON - timedelta(days=9999), priority=5)
    done = await made(db, caller, title="Pay taxes", status="completed", due_date=SOON)
    await made(db, caller, title="Sleep", description="unpaid")
    filtered, searched = NEWEST._replace(rows="filtered"), NEWEST._replace(rows="searched")
    assert read(await listed(db, caller, filtered, overdue="yes")) == [late]
    assert read(await listed(db, caller, filtered, statuses="completed", priorities="3")) == [done]
    dated = await listed(db, caller, filtered, without_due_date=False, due_after=SOON.isoformat())
    assert read(dated) == [done]
    assert read(await listed(db, caller, searched, q="PAY r")) == [late]
    assert read(await listed(db, caller, searched, q="pay", overdue="no")) == [done]
    assert read(await listed(db, caller, searched, q="p_y %")) == []


async def test_nothing_is_read_where_the_version_is_known(db: Database, caller: Caller) -> None:
    await made(db, caller)
    for version, fresh in [
        (tasks.Version(1), False), (tasks.Version(0), True), (tasks.Version(None), True), (tasks.Version(1, 0), True),
    ]:  # fmt: skip
        found = await tasks.list(
            db, NEWEST, caller, version, tasks.Window(0, 51, "infinity", 2**63 - 1), tasks.Filters(), ""
        )
        assert found
        assert (found.revision, found.fresh, found.lines is not None) == (1, fresh, fresh)
        counted = await tasks.stats(db, caller, version, "UTC")
        assert counted
        assert (counted.revision, counted.stats is not None) == (1, fresh)


async def test_statistics_count_live_tasks_and_the_trash(
    db: Database, caller: Caller, stranger: Caller
) -> None:
    now = datetime.now(UTC)
    await made(db, stranger)
    for fields in (
        {"due_date": now - timedelta(days=3), "priority": 1},
        {"due_date": now - timedelta(days=3), "status": "completed"},
        {"status": "in_progress", "due_date": now},
        {},
    ):
        await made(db, caller, **fields)
    gone = await made(db, caller, due_date=now - timedelta(days=3))
    await tasks.delete(db, caller, gone.id, None)
    found = await tasks.stats(db, caller, tasks.Version(), "Pacific/Kiritimati")
    assert found
    assert found.stats
    stats = found.stats
    assert (stats.total, stats.pending, stats.in_progress, stats.completed) == (4, 2, 1, 1)
    assert (stats.overdue, stats.due_today, stats.trashed) == (2, 1, 1)
    assert (stats.priority_1, stats.priority_3) == (1, 3)
