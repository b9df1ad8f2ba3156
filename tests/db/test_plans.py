"""Plans on real sizes: the promised index, nothing scanned whole, nothing read that is not needed."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest

from db import admin, batch, changes, conversations, export, imports, statements, tasks
from db.statements import Statement
from db.url import parse
from tests.db.plans import BIG, PLAN, SESSIONS, SID, custom_plans, plan, rolled_back, seed

NEWEST = tasks.Shape("live", "plain", "created_at", "desc", "without")
FIRST = {
    "after": "infinity",
    "after_id": 2**63 - 1,
    "skip": 0,
    "size": 51,
    "revision": None,
    "until": 2**63 - 1,
}
FILTERS = {field.name: field.default for field in msgspec.structs.fields(tasks.Filters)}
VALUES: dict[str, Any] = {
    "user_id": BIG,
    "sid": SID,
    "title": "a title",
    "description": "a description",
    "status": "completed",
    "priority": 4,
    "due_date": None,
    "if_match": None,
    "reopen": False,
    **{
        f"set_{name}": True
        for name in ("title", "description", "status", "priority", "due_date", "name", "email")
    },
    **FIRST,
    **FILTERS,
    "tz": "Europe/Berlin",
    "q": "TASK 5000",
    "since": 5000,
    "begun": None,
    "purged": None,
    # idempotency keys
    "route": "POST /tasks",
    "key": "k",
    "fingerprint": b"fingerprint",
    "operations": msgspec.json.encode(
        [batch.Operation(n, "update", n + 1, priority=1 + n % 5) for n in range(5000, 5400)]
        + [batch.Operation(n, "create", title="a task", status="pending", priority=3) for n in range(100)]
    ).decode(),
    # conversations
    "version": None,
    "drafts": '[{"role": "user", "content": "hello"}, {"role": "assistant", "content": "hello"}]',
    # for imports of tasks
    "who": f"{BIG}@example.com",
    "keys": '["1", "2"]',
    "count": 3,
    # accounts
    "email": "somebody.new@example.com",
    "session_id": SID,
    "name": "Somebody",
    "password_hash": "hash",
    "new_hash": None,
    "refresh_hash": b"hash",
    "presented_hash": b"hash",
    "next_hash": b"next",
    "user_agent": "pytest",
    "ip": "127.0.0.1",
    "idle": 3600,
    "ttl": 7200,
    "grace": 10,
    "issued": 1_800_000_000,
    "expires": 1_800_000_900,
    # seeds
    "id": "seeded",
    "is_admin": False,
    "completed": True,
    "due_in_days": 1,
    # admins
    "set_is_active": True,
    "is_active": False,
    "set_is_admin": True,
    "counted": False,
    # exports
    **{name: value for name, value in msgspec.structs.asdict(export.Walk()).items() if name != "task_id"},
    "octets": 10**6,
    # archive
    "word": "user5@example.com",
}
TALK = "talk 1000"  # with 10,000 messages
KEPT = ("tasks", "conversations", "messages")
# One request that travels together with nobody, as arrays.
EACH = {
    "user_ids": f"{{{BIG}}}",
    "sids": f"{{{SID}}}",
    "titles": "{title}",
    "descriptions": "{null}",
    "statuses": "{pending}",
    "priorities": "{3}",
    "due_dates": "{null}",
    "if_matches": "{null}",
    "revisions": "{null}",
    "untils": f"{{{2**63 - 1}}}",
    "skips": "{0}",
    "sizes": "{51}",
    "afters": "{infinity}",
    "after_ids": f"{{{2**63 - 1}}}",
    "reopens": "{false}",
    **{f"set_{name}": "{true}" for name in ("titles", "descriptions", "statuses", "priorities", "due_dates")},
}
OWN_SESSION = {
    "auth.register",
    "auth.login",
    "auth.open_session",
    "seed.session",
}  # statements that open the session `sid`
# What walks whole tables, in batches, has plan tests of its own: test_retention_plans.py.
RIDING = [
    statement
    for statement in statements.every()
    if statement.rides_on and not statement.member and not statement.name.startswith("purge.")
]


@pytest.fixture(scope="module")
async def planned(server: str, template: str, worker_id: str) -> AsyncIterator[asyncpg.Connection]:
    """A connection to a database of this module with the seeded sizes."""
    from tests.conftest import run, with_database

    name = f"planned_{worker_id}"
    await run(server, f"create database {name} template {template}")
    connection = await asyncpg.connect(**parse(with_database(server, name)).kwargs())
    await seed(connection)
    yield connection
    await connection.close()
    await run(server, f"drop database {name} with (force)")


async def values_for(connection: asyncpg.Connection, statement: Statement) -> dict[str, Any]:
    task_id = await connection.fetchval(
        "select id from tasks where user_id = $1 and title = 'task 5000'", BIG
    )
    talk = await connection.fetchval(
        "select id from conversations where user_id = $1 and title = $2", BIG, TALK
    )
    values = VALUES | {"task_id": task_id, "conversation_id": talk}
    if statement.member == ("asc",):
        values["after_id"] = -1
    if statement.family == "tasks.list":
        after, after_id = tasks.edge(*statement.member[2:4])  # type: ignore[arg-type]
        values |= {"after": after, "after_id": after_id}
    if statement.family == "admin.list":
        values["after"] = ""
    if statement.name == "admin.update":
        values["id"] = "user7"
    if statement.name == "export.page":
        values |= {"conversation_id": export.Walk().conversation_id}
    if statement.name.endswith("_each"):
        values |= EACH | {"task_ids": f"{{{task_id}}}"}
    if statement.family.startswith("archive."):
        values["tasks"] = '[{"id": 1, "user_id": "user1", "import_key": "key"}]'
    if statement.name in OWN_SESSION:
        values["sid"] = "00000000-0000-7000-8000-000000000001"
    return values


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("statement", RIDING, ids=[statement.name for statement in RIDING])
async def test_rides_on_its_indexes_and_scans_nothing_whole(
    planned: asyncpg.Connection, statement: Statement, mode: PLAN
) -> None:
    found = await plan(planned, statement, await values_for(planned, statement), mode)
    used = {node.index for node in found if node.index}
    assert set(statement.rides_on) <= used
    assert [node.relation for node in found if node.kind == "Seq Scan" and node.loops] == []
    assert sum(node.dropped for node in found if node.relation) <= SESSIONS


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize(
    "window",
    [{}, {"skip": 100}, {"after": "2020-01-01", "after_id": 1}, {"size": 501}],
    ids=["first", "offset", "past the end", "longest"],
)
async def test_list_reads_its_page_and_no_more(
    planned: asyncpg.Connection, window: dict[str, Any], mode: PLAN
) -> None:
    values = VALUES | window
    for total in ("without", "counted"):
        found = await plan(planned, tasks.LISTS[NEWEST._replace(total=total)], values, mode)
        ordered = [node for node in found if node.index == "tasks_user_id_created_at_id_idx"]
        assert min(node.rows for node in ordered) <= values["skip"] + values["size"]
        assert all(node.rows <= values["size"] for node in found if "Sort" in node.kind)
        if total == "without":
            assert len(ordered) == 1


HOT = [
    *(tasks.GET, tasks.CREATE, tasks.UPDATE, tasks.TOGGLE, tasks.DELETE),
    *(
        tasks.NEWEST_EACH,
        tasks.GET_EACH,
        tasks.CREATE_EACH,
        tasks.UPDATE_EACH,
        tasks.TOGGLE_EACH,
        tasks.DELETE_EACH,
    ),
    *(tasks.LISTS[NEWEST], tasks.LISTS[NEWEST._replace(way="asc")]),
]


@pytest.mark.parametrize("size", [2, 101])
@pytest.mark.parametrize("user", [BIG, "user7"])
@pytest.mark.parametrize("statement", HOT, ids=[statement.name for statement in HOT])
async def test_a_hot_statement_keeps_its_plan(
    planned: asyncpg.Connection, statement: Statement, user: str, size: int
) -> None:
    values = await values_for(planned, statement) | {"user_id": user, "size": size}
    assert await custom_plans(planned, statement, values) == 5


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_lists_in_company_read_their_pages_and_no_more(planned: asyncpg.Connection, mode: PLAN) -> None:
    three = {name: f"{{{value[1:-1]},{value[1:-1]},{value[1:-1]}}}" for name, value in EACH.items()}
    pages = three | {"sizes": "{51,11,101}", "skips": "{0,100,0}", "revisions": "{null,null,10000}"}
    found = await plan(planned, tasks.NEWEST_EACH, pages, mode)
    (read,) = [node for node in found if node.relation == "tasks"]
    assert read.index == "tasks_user_id_created_at_id_idx"
    assert read.rows + read.dropped == 51 + 111  # and nothing of the third, whose version is known


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("shape", tasks.LISTS, ids="_".join)
async def test_no_list_touches_a_task_where_its_version_is_known(
    planned: asyncpg.Connection, shape: tasks.Shape, mode: PLAN
) -> None:
    values = await values_for(planned, tasks.LISTS[shape]) | {"revision": 10_000}
    found = await plan(planned, tasks.LISTS[shape], values, mode)
    assert sum(node.rows + node.dropped for node in found if node.relation == "tasks") == 0


@pytest.mark.parametrize("shape", tasks.LISTS, ids="_".join)
async def test_every_list_reads_the_users_own_rows_at_most(
    planned: asyncpg.Connection, shape: tasks.Shape
) -> None:
    statement = tasks.LISTS[shape]
    filtered = {"statuses": "completed", "priorities": "1,2", "due_after": "2020-01-01", "overdue": "no"}
    values = await values_for(planned, statement) | (filtered if shape[1] != "plain" else {})
    found = await plan(planned, statement, values)
    assert [node.relation for node in found if node.kind == "Seq Scan"] == []
    passes = (
        1 + (shape[4] == "counted") + (shape[1] != "plain")
    )  # the page, the total, the next to be overdue
    read = [node for node in found if node.relation == "tasks" and node.kind.endswith("Scan")]
    assert sum(node.rows + node.dropped for node in read) <= 10_000 * passes


async def test_a_write_reads_one_task(planned: asyncpg.Connection) -> None:
    for statement in (tasks.UPDATE, tasks.TOGGLE, tasks.DELETE, tasks.RESTORE, tasks.ERASE):
        found = await plan(planned, statement, await values_for(planned, statement))
        scans = [node for node in found if node.relation == "tasks" and "Scan" in node.kind]
        assert {node.index for node in scans} == {"tasks_pkey"}, statement.name
        assert all(node.rows <= 1 for node in scans), statement.name


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_a_search_for_a_common_word_stops_at_its_page(planned: asyncpg.Connection, mode: PLAN) -> None:
    statement = tasks.LISTS[NEWEST._replace(rows="searched")]
    found = await plan(planned, statement, VALUES | {"q": "tas"}, mode)
    read = [node for node in found if node.index == "tasks_user_id_created_at_id_idx"]
    assert [node.rows + node.dropped for node in read] == [51]
    assert [node.rows for node in found if node.index == "task_texts_pkey"] == [4 * 51 + 1]


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize(("q", "hits"), [("task 500", 11), ("5000", 1), ("nothing", 0), ("task nothing", 0)])
@pytest.mark.parametrize("sort", ["created_at", "title"])
async def test_a_search_for_a_rare_word_reads_the_tasks_that_have_it(
    planned: asyncpg.Connection, sort: tasks.Sort, q: str, hits: int, mode: PLAN
) -> None:
    statement = tasks.LISTS[NEWEST._replace(rows="searched", sort=sort, total="counted")]
    values = await values_for(planned, statement) | {"q": q}
    found = await plan(planned, statement, values, mode)
    looked = [node for node in found if node.index == "task_texts_pkey"]
    assert [(node.kind, node.rows, node.dropped) for node in looked] == [
        ("Index Only Scan", hits, 10_000 - hits)
    ]
    read = [node for node in found if node.relation == "tasks"]
    assert sum(node.rows for node in read) == 2 * hits  # for the page and for the total
    assert all(node.index == "tasks_pkey" for node in read if node.rows)


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize(
    "window", [{}, {"skip": 100}, {"after": "2020-01-01", "after_id": 1}, {"size": 501}], ids=str
)
async def test_conversations_are_read_a_page_at_a_time(
    planned: asyncpg.Connection, window: dict[str, Any], mode: PLAN
) -> None:
    values = VALUES | window
    found = await plan(planned, conversations.LIST, values, mode)
    (read,) = [node for node in found if node.relation == "conversations"]
    assert read.index == "conversations_user_id_updated_at_id_idx"
    assert read.rows + read.dropped <= values["skip"] + values["size"]
    assert all(node.rows <= values["size"] for node in found if "Sort" in node.kind)


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize(
    "window", [{}, {"skip": 100}, {"after_id": 1}, {"after_id": 2**40}, {"size": 501}], ids=str
)
@pytest.mark.parametrize("statement", conversations.LISTS_OF_MESSAGES.values(), ids=lambda it: it.name)
async def test_messages_are_read_a_page_at_a_time(
    planned: asyncpg.Connection, statement: Statement, window: dict[str, Any], mode: PLAN
) -> None:
    values = await values_for(planned, statement) | window
    found = await plan(planned, statement, values, mode)
    assert set(statement.rides_on) <= {node.index for node in found if node.index}
    assert [node.relation for node in found if node.kind == "Seq Scan"] == []
    (read,) = [node for node in found if node.relation == "messages"]
    assert read.rows + read.dropped <= values["skip"] + values["size"]
    assert all(node.rows <= values["size"] for node in found if "Sort" in node.kind)


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_nothing_of_a_conversation_is_read_where_its_version_is_known_or_it_is_anothers(
    planned: asyncpg.Connection, mode: PLAN
) -> None:
    talks = await planned.fetchval("select conversations_revision from user_state where user_id = $1", BIG)
    found = await plan(planned, conversations.LIST, VALUES | {"revision": talks}, mode)
    assert sum(node.rows + node.dropped for node in found if node.relation == "conversations") == 0
    for statement in conversations.LISTS_OF_MESSAGES.values():
        values = await values_for(planned, statement)
        version = await planned.fetchval(
            "select version from conversations where id = $1", values["conversation_id"]
        )
        anothers = await planned.fetchval("select id from conversations where user_id = 'user7' limit 1")
        for known in ({"version": version}, {"conversation_id": anothers}):
            found = await plan(planned, statement, values | known, mode)
            assert sum(node.rows + node.dropped for node in found if node.relation == "messages") == 0


async def test_a_write_reads_one_conversation(planned: asyncpg.Connection) -> None:
    for statement in (
        conversations.UPDATE,
        conversations.DELETE,
        conversations.CREATE_MESSAGES,
        conversations.CREATE_MESSAGES_ONCE,
    ):
        found = await plan(planned, statement, await values_for(planned, statement))
        scans = [node for node in found if node.relation == "conversations" and "Scan" in node.kind]
        assert {node.index for node in scans} == {"conversations_pkey"}, statement.name
        assert all(node.rows <= 1 for node in scans), statement.name


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("size", [51, 501])
@pytest.mark.parametrize("since", [0, 5_000, 9_000, 9_990, 10_000])
async def test_changes_are_read_in_the_order_of_their_indexes(
    planned: asyncpg.Connection, since: int, size: int, mode: PLAN
) -> None:
    found = await plan(planned, changes.LIST, VALUES | {"since": since, "size": size}, mode)
    read = [node for node in found if node.relation in ("tasks", "tombstones")]
    assert [(node.kind, node.index) for node in read] == [
        ("Index Scan", "tasks_user_id_revision_idx"),
        ("Index Scan", "tombstones_user_id_revision_idx"),
    ]
    assert sum(node.rows + node.dropped for node in read) <= size + 1  # a merge looks at the next of each
    assert [node.rows <= size for node in found if "Sort" in node.kind] == [True]


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize(
    "window",
    [{"revision": 10_000, "purged": 0}, {"since": 10_001}, {"begun": 1}],
    ids=["known", "past the revision", "dropped meanwhile"],
)
async def test_no_change_is_read_where_none_is_told(
    planned: asyncpg.Connection, window: dict[str, Any], mode: PLAN
) -> None:
    found = await plan(planned, changes.LIST, VALUES | window, mode)
    read = [node for node in found if node.relation in ("tasks", "tombstones")]
    assert len(read) == 2
    assert sum(node.rows + node.dropped for node in read) == 0


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("statement", [batch.APPLY, batch.APPLY_ONCE], ids=["apply", "apply_once"])
async def test_a_batch_reads_the_tasks_it_names(
    planned: asyncpg.Connection, statement: Statement, mode: PLAN
) -> None:
    found = await plan(planned, statement, VALUES, mode)
    scans = [node for node in found if node.relation == "tasks" and "Scan" in node.kind]
    assert {node.index for node in scans} == {"tasks_pkey"}
    assert [node.rows + node.dropped for node in scans] == [400, 400]  # locked once, changed once


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize(
    ("shape", "index"), [(("everyone",), "users_pkey"), (("addressed",), "users_email_key")]
)
async def test_users_are_listed_with_their_own_tasks_counted(
    planned: asyncpg.Connection, shape: tuple[str, ...], index: str, mode: PLAN
) -> None:
    """Those of the page and no others, and from the index alone."""
    values = VALUES | {"after": "user5", "email": "user7@example.com"}
    found = await plan(planned, admin.LISTS[shape], values, mode)
    assert set(admin.LISTS[shape].rides_on) <= {node.index for node in found}
    assert [node.relation for node in found if node.kind == "Seq Scan" and node.loops] == []
    page = 1 if shape == ("addressed",) else VALUES["size"]
    assert max(node.rows for node in found if node.index == index) == page
    (count,) = (node for node in found if node.relation == "tasks")
    assert (count.kind, count.index) == ("Index Only Scan", "tasks_user_id_created_at_id_idx")
    assert (count.loops, count.rows) == (page, 50 * page)


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_nobody_but_an_admin_has_users_read(planned: asyncpg.Connection, mode: PLAN) -> None:
    sid = await planned.fetchval("select id from sessions where user_id = 'user7' limit 1")
    values = VALUES | {"user_id": "user7", "sid": sid, "after": "", "counted": True}
    found = await plan(planned, admin.LISTS["everyone",], values, mode)
    assert sum(node.rows for node in found if node.relation == "users") == 1
    assert sum(node.rows for node in found if node.relation == "tasks") == 0


@pytest.mark.parametrize("mode", ["custom", "generic"])
@pytest.mark.parametrize("place", ["tasks", "conversations", "talk"])
async def test_a_page_of_an_export_reads_little_more(
    planned: asyncpg.Connection, place: str, mode: PLAN
) -> None:
    """Five times its rows at most, and the keys of the user's conversations, wherever it begins."""
    talk = await planned.fetchval("select conversation_id from messages group by 1 having count(*) = 10000")
    last = 2**63 - 1
    walk = {
        "tasks": export.Walk(told=True, created_at=str(datetime.now(UTC) - timedelta(hours=2))),
        "conversations": export.Walk(True, "infinity", last, talk),
        "talk": export.Walk(True, "infinity", last, last, talk, 5000),
    }[place]
    values = VALUES | msgspec.structs.asdict(walk) | {"size": 100}
    found = await plan(planned, export.PAGE, values, mode)
    assert [node.relation for node in found if node.kind == "Seq Scan" and node.loops] == []
    read = [node for node in found if node.kind.endswith("Scan") and node.relation]
    by_table = {
        name: sum(node.rows + node.dropped for node in read if node.relation == name) for name in KEPT
    }
    talks = await planned.fetchval("select count(*) from conversations where user_id = $1", BIG)
    assert by_table["conversations"] <= talks + 101
    assert by_table["tasks"] <= 3 * 101
    assert by_table["messages"] <= 3 * 101


@pytest.mark.parametrize("mode", ["custom", "generic"])
async def test_an_import_looks_its_keys_up_and_no_others(planned: asyncpg.Connection, mode: PLAN) -> None:
    async with rolled_back(planned):
        await planned.execute("update tasks set import_key = id::text where user_id = $1", BIG)
        await planned.execute("analyze tasks")
        found = await plan(planned, imports.KNOWN, VALUES | {"keys": '["a", "z"]'}, mode)
    assert {node.index for node in found if node.index} == {"tasks_user_id_import_key_key"}
    assert sum(node.rows + node.dropped for node in found if node.relation == "tasks") == 0
