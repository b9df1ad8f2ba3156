"""Tasks over HTTP, as `api.md` promises them."""

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx
import pytest

from tests.conftest import Account

PATH = "/api/v1/tasks"
FIELDS = [
    *(
        "id",
        "user_id",
        "title",
        "description",
        "status",
        "completed",
        "priority",
        "priority_label",
        "due_date",
    ),
    *("created_at", "updated_at", "completed_at", "deleted_at", "revision"),
]


async def make(client: httpx.AsyncClient, user: Account, **fields: Any) -> dict[str, Any]:
    answer = await client.post(PATH, json={"title": "a task"} | fields, headers=user.headers)
    assert answer.status_code == 201, answer.text
    task: dict[str, Any] = answer.json()
    return task


async def test_create_needs_only_a_title(client: httpx.AsyncClient, user: Account) -> None:
    answer = await client.post(PATH, json={"title": "  Buy milk \n"}, headers=user.headers)
    task = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{PATH}/{task['id']}"
    assert answer.headers["etag"] == f'"{task["revision"]}"'
    assert list(task) == FIELDS
    assert task["created_at"] == task["updated_at"]
    assert task["created_at"].endswith("Z")
    assert abs(datetime.fromisoformat(task["created_at"]) - datetime.now(UTC)) < timedelta(minutes=1)
    del task["id"], task["created_at"], task["updated_at"]
    assert task == {
        "user_id": user.id,
        "title": "Buy milk",
        "description": None,
        "status": "pending",
        "completed": False,
        "priority": 3,
        "priority_label": "medium",
        "due_date": None,
        "completed_at": None,
        "deleted_at": None,
        "revision": 1,
    }


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        ({"priority": 5}, {"priority": 5, "priority_label": "highest"}),
        ({"priority": "lowest"}, {"priority": 1, "priority_label": "lowest"}),
        ({"status": "In_Progress"}, {"status": "in_progress", "completed": False}),
        ({"status": "COMPLETED"}, {"status": "completed", "completed": True}),
        ({"completed": True}, {"status": "completed", "completed": True}),
        ({"completed": False}, {"status": "pending", "completed": False}),
        ({"completed": False, "status": "in_progress"}, {"status": "in_progress"}),
        ({"description": ""}, {"description": ""}),
        ({"due_date": "2026-12-31T23:30:00+01:00"}, {"due_date": "2026-12-31T22:30:00Z"}),
        ({"due_date": "9999-12-31T23:59:59.999999Z"}, {"due_date": "9999-12-31T23:59:59.999999Z"}),
        ({"due_date": "0001-01-01T00:00:00Z"}, {"due_date": "0001-01-01T00:00:00Z"}),
        ({"title": "x" * 200}, {"title": "x" * 200}),
        (
            {"title": "\N{GRINNING FACE}'; drop table tasks --"},
            {"title": "\N{GRINNING FACE}'; drop table tasks --"},
        ),
    ],
)
async def test_create_takes(
    client: httpx.AsyncClient, user: Account, given: dict[str, Any], stored: dict[str, Any]
) -> None:
    task = await make(client, user, **given)
    assert {name: task[name] for name in stored} == stored
    assert (task["completed_at"] is not None) == task["completed"]
    assert (await client.get(f"{PATH}/{task['id']}", headers=user.headers)).json() == task


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({}, ["/title"]),
        ({"title": None}, ["/title"]),
        ({"title": " \t\n "}, ["/title"]),
        ({"title": "x" * 201}, ["/title"]),
        ({"title": 7}, ["/title"]),
        ({"title": "x", "description": "x" * 1001}, ["/description"]),
        ({"title": "x", "status": "done"}, ["/status"]),
        ({"title": "x", "status": None}, ["/status"]),
        ({"title": "x", "status": "completed", "completed": False}, ["/completed"]),
        ({"title": "x", "status": "pending", "completed": True}, ["/completed"]),
        ({"title": "x", "priority": 0}, ["/priority"]),
        ({"title": "x", "priority": 6}, ["/priority"]),
        ({"title": "x", "priority": 10**30}, ["/priority"]),
        ({"title": "x", "priority": "urgent"}, ["/priority"]),
        ({"title": "x", "priority": None}, ["/priority"]),
        ({"title": "x", "priority": True}, ["/priority"]),
        ({"title": "x", "due_date": "2026-12-31T00:00:00"}, ["/due_date"]),
        ({"title": "x", "due_date": "tomorrow"}, ["/due_date"]),
        ({"title": "x", "due_date": "0001-01-01T00:00:00+14:00"}, ["/due_date"]),
        ({"title": "x", "due_date": "9999-12-31T23:59:59-14:00"}, ["/due_date"]),
        ({"title": "x\x00"}, ["/title"]),
        ({"title": "x", "id": 1, "user_id": "u", "revision": 1}, ["/id", "/user_id", "/revision"]),
        (
            {"title": "x", "created_at": "2026-01-01T00:00:00Z", "deleted_at": None},
            ["/created_at", "/deleted_at"],
        ),
        ({"title": "", "priority": 9, "a/b~c": 1}, ["/a~1b~0c", "/priority", "/title"]),
        ({"title": "x", "priority_label": "high"}, ["/priority_label"]),
        ([], [""]),
        ("x", [""]),
    ],
)
async def test_create_refuses_and_names_the_fields(
    client: httpx.AsyncClient, user: Account, body: Any, pointers: list[str]
) -> None:
    answer = await client.post(PATH, json=body, headers=user.headers)
    assert answer.status_code == 422
    assert sorted(error["pointer"] for error in answer.json()["errors"]) == sorted(pointers)
    listed = (await client.get(PATH, headers=user.headers)).json()
    assert (listed["items"], listed["revision"]) == ([], 0)


async def test_update_keeps_what_is_absent_and_clears_what_is_null(
    client: httpx.AsyncClient, user: Account
) -> None:
    task = await make(client, user, description="d", due_date="2027-01-01T00:00:00Z", priority=5)
    url = f"{PATH}/{task['id']}"
    answer = await client.patch(url, json={"title": " new "}, headers=user.headers)
    assert answer.status_code == 200
    changed = answer.json()
    assert changed == task | {"title": "new", "revision": 2, "updated_at": changed["updated_at"]}
    assert changed["updated_at"] > task["updated_at"]
    cleared = (
        await client.patch(url, json={"description": None, "due_date": None}, headers=user.headers)
    ).json()
    assert (cleared["description"], cleared["due_date"], cleared["revision"]) == (None, None, 3)


async def test_update_that_changes_nothing_moves_nothing(client: httpx.AsyncClient, user: Account) -> None:
    task = await make(client, user, description="d", status="in_progress")
    url = f"{PATH}/{task['id']}"
    for body in ({}, {"title": "a task"}, {"description": "d", "completed": False}, {"priority": "medium"}):
        answer = await client.patch(url, json=body, headers=user.headers)
        assert (answer.status_code, answer.json()) == (200, task)
        assert answer.headers["etag"] == '"1"'


async def test_completed_is_a_synonym_of_status(client: httpx.AsyncClient, user: Account) -> None:
    task = await make(client, user, status="in_progress")
    url = f"{PATH}/{task['id']}"
    done = (await client.patch(url, json={"completed": True}, headers=user.headers)).json()
    assert (done["status"], done["completed_at"]) == ("completed", done["updated_at"])
    again = (await client.patch(url, json={"title": "still done"}, headers=user.headers)).json()
    assert again["completed_at"] == done["completed_at"]
    reopened = (await client.patch(url, json={"completed": False}, headers=user.headers)).json()
    assert (reopened["status"], reopened["completed_at"]) == ("pending", None)


@pytest.mark.parametrize("body", [{"title": None}, {"status": None}, {"priority": None}, {"completed": None}])
async def test_update_cannot_clear_what_must_be_there(
    client: httpx.AsyncClient, user: Account, body: dict[str, Any]
) -> None:
    task = await make(client, user)
    answer = await client.patch(f"{PATH}/{task['id']}", json=body, headers=user.headers)
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["pointer"] == f"/{next(iter(body))}"


async def test_merge_patch_is_a_type_of_patch_only(client: httpx.AsyncClient, user: Account) -> None:
    task = await make(client, user)
    headers = user.headers | {"Content-Type": "application/merge-patch+json"}
    answer = await client.patch(f"{PATH}/{task['id']}", content=b'{"title":"x"}', headers=headers)
    assert answer.json()["title"] == "x"
    assert (await client.post(PATH, content=b'{"title":"x"}', headers=headers)).status_code == 415


async def test_toggle(client: httpx.AsyncClient, user: Account) -> None:
    task = await make(client, user, status="in_progress")
    url = f"{PATH}/{task['id']}/toggle"
    states = [(await client.post(url, headers=user.headers)).json() for _ in range(3)]
    assert [state["status"] for state in states] == ["completed", "pending", "completed"]
    assert [state["revision"] for state in states] == [2, 3, 4]
    assert states[1]["completed_at"] is None


async def test_trash_and_restore(client: httpx.AsyncClient, user: Account) -> None:
    task = await make(client, user)
    url = f"{PATH}/{task['id']}"
    gone = await client.delete(url, headers=user.headers)
    assert (gone.status_code, gone.content, gone.headers["etag"]) == (204, b"", '"2"')
    for method, path in (("GET", url), ("PATCH", url), ("DELETE", url), ("POST", f"{url}/toggle")):
        answer = await client.request(
            method, path, json={} if method == "PATCH" else None, headers=user.headers
        )
        assert answer.status_code == 404, method
    assert (await client.get(PATH, headers=user.headers)).json()["items"] == []
    restore = f"{url}/restore"
    stale = await client.post(restore, headers=user.headers | {"If-Match": '"1"'})
    assert stale.status_code == 412
    back = await client.post(restore, headers=user.headers | {"If-Match": gone.headers["etag"]})
    assert back.json() == task | {"revision": 3, "updated_at": back.json()["updated_at"]}
    again = await client.post(restore, headers=user.headers)
    assert (again.status_code, again.json()) == (200, back.json())


@pytest.mark.parametrize("trashed", [False, True])
async def test_permanent_delete(
    client: httpx.AsyncClient, user: Account, connection: Any, trashed: bool
) -> None:
    task = await make(client, user)
    url = f"{PATH}/{task['id']}"
    if trashed:
        await client.delete(url, headers=user.headers)
    answer = await client.delete(f"{url}?permanent=true", headers=user.headers)
    assert (answer.status_code, "etag" in answer.headers) == (204, False)
    assert (await client.delete(f"{url}?permanent=true", headers=user.headers)).status_code == 404
    assert (await client.post(f"{url}/restore", headers=user.headers)).status_code == 404
    graves = await connection.fetch("select task_id, revision from tombstones where user_id = $1", user.id)
    assert [tuple(grave) for grave in graves] == [(task["id"], 3 if trashed else 2)]
    assert await connection.fetchval("select count(*) from tasks where user_id = $1", user.id) == 0


async def test_if_match(client: httpx.AsyncClient, user: Account) -> None:
    task = await make(client, user)
    url = f"{PATH}/{task['id']}"
    for tag, status in [
        ('"9"', 412),
        ('W/"1"', 412),
        ('"9", "x"', 412),
        ('"1-abc"', 412),
        ('"99999999999999999999"', 412),
        ("1", 422),
        ('"1', 422),
        ('"9", "1"', 200),
        ("*", 200),
    ]:
        answer = await client.patch(url, json={}, headers=user.headers | {"If-Match": tag})
        assert answer.status_code == status, tag
        if status == 422:
            assert answer.json()["errors"][0]["header"] == "if-match"
    missing = await client.patch(
        f"{PATH}/{task['id'] + 10**9}", json={}, headers=user.headers | {"If-Match": "*"}
    )
    assert missing.status_code == 404


async def test_if_none_match(client: httpx.AsyncClient, user: Account) -> None:
    task = await make(client, user)
    url = f"{PATH}/{task['id']}"
    for tag, status in [
        ('"1"', 304),
        ('W/"1"', 304),
        ('"7", "1"', 304),
        ("*", 304),
        ('"2"', 200),
        ('"1-x"', 200),
    ]:
        answer = await client.get(url, headers=user.headers | {"If-None-Match": tag})
        assert (answer.status_code, answer.headers["etag"]) == (status, '"1"'), tag
        assert bool(answer.content) == (status == 200)


@pytest.mark.parametrize(
    "id", ["0", "-1", "abc", "1.0", "007", "+1", "9223372036854775808", "١", "1%00", "%20 1"]
)
async def test_what_is_no_id_is_not_there(client: httpx.AsyncClient, user: Account, id: str) -> None:
    answer = await client.get(f"{PATH}/{id}", headers=user.headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_list_is_newest_first_with_its_revision(client: httpx.AsyncClient, user: Account) -> None:
    made = [await make(client, user, title=f"t{n}") for n in range(5)]
    answer = await client.get(PATH, headers=user.headers)
    assert answer.json() == {"items": made[::-1], "next_cursor": None, "revision": 5}
    assert "link" not in answer.headers
    page = (await client.get(f"{PATH}?limit=2&offset=1", headers=user.headers)).json()
    assert [task["title"] for task in page["items"]] == ["t3", "t2"]


async def test_list_by_cursor_and_by_link(client: httpx.AsyncClient, user: Account) -> None:
    for n in range(5):
        await make(client, user, title=f"t{n}")
    titles: list[str] = []
    url: str | None = f"{PATH}?limit=2"
    while url:
        answer = await client.get(url, headers=user.headers)
        titles += [task["title"] for task in answer.json()["items"]]
        link = answer.headers.get("link", "")
        assert (answer.json()["next_cursor"] is not None) == bool(link)
        assert not link or link.endswith('; rel="next"')
        url = link.split(">")[0][1:] if link else None
    assert titles == ["t4", "t3", "t2", "t1", "t0"]


async def test_list_tags(client: httpx.AsyncClient, user: Account, other: Account) -> None:
    await make(client, user)
    await make(client, other)
    answer = await client.get(PATH, headers=user.headers)
    tag = answer.headers["etag"]
    same = await client.get(PATH, headers=user.headers | {"If-None-Match": tag})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    for url, who in ((f"{PATH}?limit=1", user), (PATH, other)):
        assert (await client.get(url, headers=who.headers | {"If-None-Match": tag})).status_code == 200
    await make(client, user)
    assert (await client.get(PATH, headers=user.headers | {"If-None-Match": tag})).status_code == 200


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("limit=0", ["limit"]),
        ("limit=501", ["limit"]),
        ("limit=x", ["limit"]),
        ("limit=", ["limit"]),
        ("limit=1&limit=2", ["limit"]),
        ("offset=-1", ["offset"]),
        ("offset=null", ["offset"]),
        (f"offset={2**63}", ["offset"]),
        ("cursor=", ["cursor"]),
        ("cursor=abc", ["cursor"]),
        ("cursor=%00", ["cursor"]),
        ("foo=1&limit=0&B%C3%A4r=", ["B\u00e4r", "foo", "limit"]),
        ("permanent=true", ["permanent"]),
    ],
)
async def test_list_refuses_and_names_the_parameters(
    client: httpx.AsyncClient, user: Account, query: str, parameters: list[str]
) -> None:
    answer = await client.get(f"{PATH}?{query}", headers=user.headers)
    assert answer.status_code == 422
    assert sorted(error["parameter"] for error in answer.json()["errors"]) == parameters


async def test_cursor_and_offset_exclude_each_other(client: httpx.AsyncClient, user: Account) -> None:
    for _ in range(2):
        await make(client, user)
    cursor = (await client.get(f"{PATH}?limit=1", headers=user.headers)).json()["next_cursor"]
    answer = await client.get(f"{PATH}?cursor={cursor}&offset=1", headers=user.headers)
    assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "offset")
