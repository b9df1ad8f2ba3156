"""Batches over HTTP: in order, all or nothing, each change with a revision of its own."""

from collections.abc import Sequence
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from service.routes import IDEMPOTENCY_KEY, LARGE_BODY
from tests.conftest import Account
from tests.service.test_idempotency import same
from tests.service.test_properties import settled
from tests.service.test_races import revisions
from tests.service.test_tasks import FIELDS, PATH, make

BATCH = f"{PATH}/batch"
NOBODYS = 4611686018427387904
Operations = Sequence[Any]


class Batches:
    """Sends batches as one user."""

    def __init__(self, client: httpx.AsyncClient, user: Account) -> None:
        self.client = client
        self.user = user

    async def __call__(self, *operations: Any, key: str | None = None) -> httpx.Response:
        headers = self.user.headers | ({IDEMPOTENCY_KEY: key} if key else {})
        return await self.client.post(BATCH, json={"operations": operations}, headers=headers)


@pytest.fixture
def batch(client: httpx.AsyncClient, user: Account) -> Batches:
    return Batches(client, user)


def on(op: str, id: Any, **more: Any) -> dict[str, Any]:
    return {"op": op, "id": id} | more


def create(**task: Any) -> dict[str, Any]:
    return {"op": "create", "task": {"title": "new"} | task}


async def rows(connection: asyncpg.Connection, *users: Account) -> list[Any]:
    """All that some users have."""
    tables = ("user_state", "tasks", "tombstones", "idempotency_keys")
    return [
        await connection.fetch(
            f"select x::text from {table} x where user_id = any($1) order by 1", [user.id for user in users]
        )
        for table in tables
    ]


def blamed(answer: httpx.Response) -> list[str]:
    return [error["pointer"] for error in answer.json()["errors"]]


async def test_every_operation_answers_with_its_task(
    client: httpx.AsyncClient, user: Account, batch: Batches
) -> None:
    one, two, three = [await make(client, user, title=title) for title in ("one", "two", "three")]
    await client.delete(f"{PATH}/{three['id']}", headers=user.headers)
    answer = await batch(
        create(title=" a ", completed=True, due_date="2027-01-01T00:00:00+01:00", priority="high"),
        on("update", one["id"], changes={"title": " b ", "description": "d"}, if_revision=1),
        on("toggle", two["id"]),
        on("delete", one["id"]),
        on("restore", three["id"]),
    )
    assert answer.status_code == 200
    body = answer.json()
    assert list(body) == ["revision", "results"]
    assert body["revision"] == 9
    results = body["results"]
    assert [list(result) for result in results] == [["op", "id", "task"]] * 5
    assert [result["op"] for result in results] == ["create", "update", "toggle", "delete", "restore"]
    assert [result["task"]["revision"] for result in results] == [5, 6, 7, 8, 9]
    tasks = [result["task"] for result in results]
    assert all(list(task) == FIELDS for task in tasks)
    assert [result["id"] for result in results] == [task["id"] for task in tasks]
    assert [task["id"] for task in tasks[1:]] == [one["id"], two["id"], one["id"], three["id"]]
    made, updated, toggled, deleted, restored = tasks
    assert (made["title"], made["status"], made["priority"]) == ("a", "completed", 4)
    assert (made["due_date"], made["completed_at"]) == ("2026-12-31T23:00:00Z", made["created_at"])
    assert updated == one | {
        "title": "b", "description": "d", "revision": 6, "updated_at": updated["updated_at"]
    }  # fmt: skip
    assert (toggled["completed"], toggled["completed_at"]) == (True, toggled["updated_at"])
    assert deleted == updated | {"deleted_at": deleted["updated_at"], "revision": 8}
    assert (restored["title"], restored["deleted_at"]) == ("three", None)
    for task in (made, toggled, restored):
        assert (await client.get(f"{PATH}/{task['id']}", headers=user.headers)).json() == task
    assert (await client.get(f"{PATH}/{one['id']}", headers=user.headers)).status_code == 404


async def test_operations_see_what_those_before_them_did(
    client: httpx.AsyncClient, user: Account, batch: Batches
) -> None:
    task = await make(client, user, status="in_progress")
    id = task["id"]
    answer = await batch(
        on("toggle", id),
        on("toggle", id),
        on("update", id, changes={"completed": False}),
        on("update", id, changes={"title": "a task", "completed": True}),
        on("delete", id),
        on("restore", id),
        on("restore", id),
    )
    states = [
        (task["status"], task["deleted_at"] is not None, task["revision"])
        for task in (result["task"] for result in answer.json()["results"])
    ]
    assert states == [
        ("completed", False, 2),
        ("pending", False, 3),
        ("pending", False, 3),
        ("completed", False, 4),
        ("completed", True, 5),
        ("completed", False, 6),
        ("completed", False, 6),
    ]
    assert answer.json()["revision"] == 6
    last = answer.json()["results"][-1]["task"]
    assert (await client.get(f"{PATH}/{id}", headers=user.headers)).json() == last


async def test_what_changes_nothing_takes_no_revision(
    client: httpx.AsyncClient, user: Account, batch: Batches, connection: asyncpg.Connection
) -> None:
    task = await make(client, user)
    before = await rows(connection, user)
    answer = await batch(on("restore", task["id"]), on("update", task["id"], changes={"title": "a task"}))
    assert answer.json()["revision"] == 1
    assert [result["task"] for result in answer.json()["results"]] == [task, task]
    assert await rows(connection, user) == before


async def test_ids_follow_the_order_of_operations(batch: Batches) -> None:
    results = (await batch(*(create(title=f"t{n}") for n in range(50)))).json()["results"]
    ids = [result["id"] for result in results]
    assert ids == sorted(ids)
    assert [result["task"]["title"] for result in results] == [f"t{n}" for n in range(50)]


async def test_a_revision_is_compared_with_the_state_before_the_batch(
    client: httpx.AsyncClient, user: Account, batch: Batches
) -> None:
    task = await make(client, user)
    for op in ("toggle", "delete", "restore"):
        moved = await batch(create(), on(op, task["id"], if_revision=2))
        assert (moved.status_code, moved.json()["code"]) == (412, "precondition_failed")
        assert blamed(moved) == ["/operations/1/if_revision"]
    done = await batch(
        on("toggle", task["id"], if_revision=1),
        on("update", task["id"], changes={"title": "b"}, if_revision=1),
        on("delete", task["id"], if_revision=1),
        on("restore", task["id"], if_revision=1),
    )
    assert (done.status_code, done.json()["revision"]) == (200, 5)
    for revision in (1, 4, 6, 0, -1, 2**63, -(2**70)):
        answer = await batch(on("update", task["id"], changes={}, if_revision=revision))
        assert answer.status_code == 412, revision
    both = await batch(on("delete", task["id"]), on("update", task["id"], changes={}, if_revision=5))
    assert both.status_code == 404  # it is not there, whatever its revision


@pytest.mark.parametrize("id", [0, -1, NOBODYS, 2**63 - 1, 2**63, 10**30])
@pytest.mark.parametrize("op", ["update", "toggle", "delete", "restore"])
async def test_ids_of_nothing_are_absent(
    client: httpx.AsyncClient, user: Account, batch: Batches, connection: asyncpg.Connection, op: str, id: int
) -> None:
    task = await make(client, user)
    before = await rows(connection, user)
    more = {"changes": {"title": "x"}} if op == "update" else {}
    answer = await batch(on("toggle", task["id"]), create(), on(op, id, **more), on("toggle", NOBODYS))
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    assert blamed(answer) == ["/operations/2/id"]
    assert await rows(connection, user) == before


async def test_the_first_that_fails_names_itself(
    client: httpx.AsyncClient, user: Account, batch: Batches, connection: asyncpg.Connection
) -> None:
    one, two = [await make(client, user) for _ in range(2)]
    before = await rows(connection, user)
    wrong = {
        404: on("toggle", NOBODYS),
        412: on("toggle", two["id"], if_revision=1),
    }
    for status, other in ((404, 412), (412, 404)):
        answer = await batch(on("delete", one["id"]), create(), wrong[status], create(), wrong[other])
        assert answer.status_code == status
        assert answer.json()["errors"][0]["pointer"].startswith("/operations/2/")
    for operation in (
        on("update", one["id"], changes={}),
        on("toggle", one["id"]),
        on("delete", one["id"]),
    ):
        answer = await batch(on("delete", one["id"]), operation)
        assert (answer.status_code, blamed(answer)) == (404, ["/operations/1/id"])
    assert await rows(connection, user) == before


async def test_trashed_tasks_are_absent_but_to_restore(
    client: httpx.AsyncClient, user: Account, batch: Batches
) -> None:
    task = await make(client, user)
    await client.delete(f"{PATH}/{task['id']}", headers=user.headers)
    for operation in (
        on("update", task["id"], changes={}),
        on("toggle", task["id"]),
        on("delete", task["id"]),
    ):
        assert (await batch(operation)).status_code == 404
    answer = await batch(on("restore", task["id"], if_revision=2), on("toggle", task["id"]))
    assert (answer.status_code, answer.json()["revision"]) == (200, 4)


@pytest.mark.parametrize("key", [None, "k"])
async def test_another_users_task_is_absent(
    client: httpx.AsyncClient,
    user: Account,
    other: Account,
    batch: Batches,
    connection: asyncpg.Connection,
    key: str | None,
) -> None:
    mine, theirs = await make(client, user), await make(client, other)
    before = await rows(connection, user, other)
    for operation in (
        on("update", theirs["id"], changes={"title": "x"}),
        on("toggle", theirs["id"]),
        on("toggle", theirs["id"], if_revision=theirs["revision"] + 1),
        on("delete", theirs["id"]),
        on("restore", theirs["id"]),
    ):
        answer = await batch(on("toggle", mine["id"]), create(), operation, key=key)
        nobodys = await batch(on("toggle", mine["id"]), create(), operation | {"id": NOBODYS}, key=key)
        assert (answer.status_code, nobodys.status_code) == (404, 404)
        told = [msgspec.structs.asdict(msgspec.convert(a.json(), Told)) for a in (answer, nobodys)]
        assert told[0] == told[1]
    assert (await rows(connection, user, other))[:3] == before[:3]


class Told(msgspec.Struct):
    """A problem without the id of its request."""

    type: str
    title: str
    status: int
    detail: str
    code: str
    errors: list[dict[str, str]]


async def test_the_id_that_a_create_will_get_is_absent(
    batch: Batches, connection: asyncpg.Connection, user: Account
) -> None:
    next_id = await connection.fetchval("select nextval('tasks_id_seq')")
    ahead = [on("toggle", next_id + n) for n in range(1, 9)]
    for operation in ahead:
        assert (await batch(create(), operation)).status_code == 404
    assert await connection.fetchval("select count(*) from tasks where user_id = $1", user.id) == 0


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/operations"]),
        ({"operations": []}, ["/operations"]),
        ({"operations": None}, ["/operations"]),
        ({"operations": {}}, ["/operations"]),
        ({"operations": [create()] * 501}, ["/operations"]),
        ({"operations": [{}] * 501}, ["/operations"]),
        ({"operations": [create()], "atomic": True}, ["/atomic"]),
        ({"operations": [create(), 7, None, []]}, [f"/operations/{n}" for n in (1, 2, 3)]),
        (
            {"operations": [{}, {"op": "erase", "id": 1}, {"op": 7}, {"op": None}, {"op": ["create"]}]},
            [f"/operations/{n}/op" for n in range(5)],
        ),
        ({"operations": [{"op": "create"}]}, ["/operations/0/task"]),
        ({"operations": [{"op": "create", "task": None}]}, ["/operations/0/task"]),
        ({"operations": [{"op": "create", "task": {}}]}, ["/operations/0/task/title"]),
        ({"operations": [create(id=1)]}, ["/operations/0/task/id"]),
        ({"operations": [create() | {"id": 1}]}, ["/operations/0/id"]),
        ({"operations": [on("toggle", 1, changes={})]}, ["/operations/0/changes"]),
        ({"operations": [{"op": "toggle"}]}, ["/operations/0/id"]),
        ({"operations": [{"op": "update", "id": 1}]}, ["/operations/0/changes"]),
        ({"operations": [{"op": "toggle", "id": id} for id in ("1", 1.5, None, True, [1])]},
         [f"/operations/{n}/id" for n in range(5)]),
        ({"operations": [on("toggle", 1, if_revision=r) for r in ("1", 1.5, None)]},
         [f"/operations/{n}/if_revision" for n in range(3)]),
        (
            {
                "operations": [
                    create(title="", description="x" * 1001, priority=9),
                    on("update", 1, changes={"title": None, "status": "done", "a/b~c": 1}),
                    create(),
                    create(title="x" * 201),
                    on("update", 1, changes={"status": "pending", "completed": True}),
                    create(due_date="9999-12-31T23:59:59-14:00"),
                    on("delete", "x", foo=1),
                ]
            },
            [
                "/operations/0/task/priority",
                "/operations/0/task/title",
                "/operations/0/task/description",
                "/operations/1/changes/a~1b~0c",
                "/operations/1/changes/title",
                "/operations/1/changes/status",
                "/operations/3/task/title",
                "/operations/4/changes/completed",
                "/operations/5/task/due_date",
                "/operations/6/foo",
                "/operations/6/id",
            ],
        ),
        ({"operations": [create(), create(title="x" * 201)]}, ["/operations/1/task/title"]),
        ({"operations": [create(), create(title="x\x00")]}, ["/operations/1/task/title"]),
    ],
)  # fmt: skip
async def test_faults_are_all_named_where_they_are(
    client: httpx.AsyncClient, user: Account, body: Any, pointers: list[str], connection: asyncpg.Connection
) -> None:
    before = await rows(connection, user)
    answer = await client.post(BATCH, json=body, headers=user.headers)
    assert answer.status_code == 422
    assert blamed(answer) == pointers
    assert await rows(connection, user) == before


async def test_bodies_may_be_large(client: httpx.AsyncClient, user: Account, batch: Batches) -> None:
    operations = [create(title="t" * 200, description="\N{GRINNING FACE}" * 1000) for _ in range(500)]
    answer = await batch(*operations)
    assert (answer.status_code, answer.json()["revision"]) == (200, 500)
    content = b'{"operations":[' + b" " * LARGE_BODY + b"]}"
    headers = user.headers | {"Content-Type": "application/json"}
    assert (await client.post(BATCH, content=content, headers=headers)).status_code == 413
    assert (await client.post(PATH, content=content[: LARGE_BODY // 2], headers=headers)).status_code == 413


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"[" * 1_000_000, 400),
        (b'{"operations":' * 100_000, 400),
        (b'{"operations":[' + b"{}," * 1_000_000, 422),
        (b'{"operations":["' + b'","' * 1_000_000, 422),
        (b"{" + b",".join(b'"%d":1' % n for n in range(300_000)) + b"}", 422),
        (b'"' * 4_000_000, 400),
    ],
    ids=["deep", "deep objects", "many", "strings", "fields", "quotes"],
)
async def test_large_bodies_that_cannot_be_taken_have_small_answers(
    client: httpx.AsyncClient, user: Account, content: bytes, status: int
) -> None:
    headers = user.headers | {"Content-Type": "application/json"}
    answer = await client.post(BATCH, content=content, headers=headers)
    assert (answer.status_code, len(answer.content) < 100_000) == (status, True)


@pytest.mark.parametrize("kind", ["distinct", "same"])
async def test_five_hundred_operations(
    client: httpx.AsyncClient, user: Account, batch: Batches, connection: asyncpg.Connection, kind: str
) -> None:
    made = (await batch(*(create(title=f"t{n}") for n in range(500)))).json()["results"]
    ids = [result["id"] for result in made]
    answer = await batch(*(on("toggle", id if kind == "distinct" else ids[0]) for id in ids))
    assert answer.json()["revision"] == 1000
    assert [r["task"]["revision"] for r in answer.json()["results"]] == list(range(501, 1001))
    state, found = await revisions(connection, user)
    expected = list(range(501, 1001)) if kind == "distinct" else [*range(2, 501), 1000]
    assert (state, found) == (1000, expected)


async def test_under_the_users_own_path(client: httpx.AsyncClient, user: Account, other: Account) -> None:
    body = {"operations": [create()]}
    answer = await client.post(f"/api/{user.id}/tasks/batch", json=body, headers=user.headers)
    assert (answer.status_code, answer.json()["revision"]) == (200, 1)
    theirs = await client.post(f"/api/{other.id}/tasks/batch", json=body, headers=user.headers)
    assert theirs.status_code == 404
    assert (await client.post(BATCH, json=body)).status_code == 401


# Under a key


async def test_a_key_gives_the_same_answer_as_none(
    client: httpx.AsyncClient, user: Account, other: Account
) -> None:
    answers = []
    for account, key in ((user, None), (other, "k")):
        batch = Batches(client, account)
        id = (await make(client, account, description='"\\\u2028\N{GRINNING FACE}'))["id"]
        answer = await batch(
            create(title="x", completed=True, due_date="0001-01-01T00:00:00Z"),
            on("update", id, changes={"due_date": "9999-12-31T23:59:59.999999Z", "priority": 5}),
            on("delete", id),
            on("restore", id),
            on("restore", id),
            key=key,
        )
        assert answer.status_code == 200
        answers.append(answer.json())
        last = answers[-1]["results"][-1]["task"]
        assert (await client.get(f"{PATH}/{id}", headers=account.headers)).json() == last
    for keyed, plain in zip(answers[1]["results"], answers[0]["results"], strict=True):
        assert list(keyed["task"]) == list(plain["task"])
        assert settled(keyed["task"] | {"id": 0, "user_id": ""}).keys() == settled(plain["task"]).keys()
        timed = ("id", "user_id", "created_at", "updated_at", "completed_at", "deleted_at")
        for name in set(FIELDS) - set(timed):
            assert keyed["task"][name] == plain["task"][name], name
        for name in timed:
            assert (keyed["task"][name] is None) == (plain["task"][name] is None), name


async def test_a_replay_is_not_judged_anew(
    client: httpx.AsyncClient, user: Account, batch: Batches, connection: asyncpg.Connection
) -> None:
    task = await make(client, user)
    operations = [on("toggle", task["id"], if_revision=1), on("delete", task["id"])]
    first = await batch(*operations, key="k")
    assert first.status_code == 200
    before = await rows(connection, user)
    assert same(await batch(*operations, key="k"), first)  # the task is in the trash and has another revision
    assert (await batch(*operations)).status_code == 404
    assert await rows(connection, user) == before
    nothing = [on("restore", (await make(client, user))["id"])]
    assert same(await batch(*nothing, key="n"), await batch(*nothing, key="n")) is False
    assert same(await batch(*nothing, key="n"), await batch(*nothing, key="o"))


async def test_what_was_refused_may_be_sent_again(
    client: httpx.AsyncClient, user: Account, batch: Batches, connection: asyncpg.Connection
) -> None:
    task = await make(client, user)
    for _ in range(2):
        refused = await batch(on("delete", task["id"]), on("toggle", task["id"]), key="k")
        assert (refused.status_code, blamed(refused)) == (404, ["/operations/1/id"])
        moved = await batch(on("delete", task["id"], if_revision=7), key="k")
        assert (moved.status_code, blamed(moved)) == (412, ["/operations/0/if_revision"])
    stored = "select result from idempotency_keys where user_id = $1"
    assert await connection.fetchval(stored, user.id) is None
    first = await batch(on("delete", task["id"]), key="k")
    assert first.status_code == 200
    assert same(await batch(on("delete", task["id"]), key="k"), first)
    other = await batch(on("toggle", NOBODYS), key="k")
    assert (other.status_code, other.json()["errors"][0]["header"]) == (422, "idempotency-key")
