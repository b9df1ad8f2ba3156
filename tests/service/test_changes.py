"""Incremental sync over HTTP, as `api.md` promises it; `test_replay.py` has the proof under concurrent writers."""

import base64
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from service import cursors
from service.routes import BASE
from tests.conftest import Account
from tests.service.test_http import check_problem

TASKS = f"{BASE}/tasks"
PATH = f"{TASKS}/changes"


class Feed:
    """One user's tasks and what is told of them."""

    def __init__(self, client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection) -> None:
        self.client = client
        self.user = user
        self.connection = connection

    async def get(self, query: str = "", tag: str = "", **more: Any) -> httpx.Response:
        headers = self.user.headers | ({"If-None-Match": tag} if tag else {})
        return await self.client.get(f"{PATH}?{query}", headers=headers, **more)

    async def page(self, query: str = "") -> dict[str, Any]:
        answer = await self.get(query)
        assert answer.status_code == 200, answer.text
        page: dict[str, Any] = answer.json()
        return page

    async def gone(self, query: str, tag: str = "") -> None:
        assert "start from 0" in check_problem(await self.get(query, tag), 410, "gone")["detail"]

    async def send(self, method: str, path: str, **more: Any) -> Any:
        answer = await self.client.request(method, f"{TASKS}{path}", headers=self.user.headers, **more)
        assert answer.is_success, answer.text
        return answer.json() if answer.content else None

    async def make(self, count: int = 1) -> list[dict[str, Any]]:
        return [await self.send("POST", "", json={"title": f"t{n}"}) for n in range(count)]

    async def erase(self, task: dict[str, Any]) -> None:
        await self.send("DELETE", f"/{task['id']}?permanent=true")

    async def purge(self, upto: int) -> None:
        """Drop the tombstones up to a revision, as the purge by retention does."""
        await self.connection.execute(
            "with dropped as (delete from tombstones where user_id = $1 and revision <= $2 returning revision)"
            " update user_state set purged_revision = d.top from (select max(revision) as top from dropped) d"
            " where user_id = $1 and d.top > purged_revision",
            self.user.id,
            upto,
        )

    async def restore_database(self) -> None:
        """What follows the restore of an older database: a jump that no earlier revision has reached."""
        await self.connection.execute(
            "update user_state set revision = revision + 4294967296, purged_revision = revision + 4294967296"
            " where user_id = $1",
            self.user.id,
        )


@pytest.fixture
def feed(client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection) -> Feed:
    return Feed(client, user, connection)


def revisions(page: dict[str, Any]) -> list[int]:
    return [item["revision"] for item in page["items"]]


async def test_nothing_yet(feed: Feed) -> None:
    answer = await feed.get()
    assert answer.status_code == 200
    assert list(answer.json().items()) == [
        ("items", []),
        ("revision", 0),
        ("has_more", False),
        ("next_cursor", None),
    ]
    assert "link" not in answer.headers
    await feed.gone("since=1")


async def test_every_change_by_revision(feed: Feed) -> None:
    kept, patched, toggled, deleted, restored, erased, erased_from_trash = await feed.make(7)
    patched = await feed.send("PATCH", f"/{patched['id']}", json={"description": "d", "priority": "high"})
    toggled = await feed.send("POST", f"/{toggled['id']}/toggle")
    await feed.send("DELETE", f"/{deleted['id']}")
    await feed.send("DELETE", f"/{restored['id']}")
    restored = await feed.send("POST", f"/{restored['id']}/restore")
    await feed.erase(erased)
    await feed.send("DELETE", f"/{erased_from_trash['id']}")
    await feed.erase(erased_from_trash)
    page = await feed.page("since=0")
    assert page == await feed.page()
    assert (page["revision"], page["has_more"], page["next_cursor"]) == (15, False, None)
    assert revisions(page) == [1, 8, 9, 10, 12, 13, 15]
    trashed = page["items"][3]
    assert page["items"][:3] + page["items"][4:5] == [kept, patched, toggled, restored]
    assert trashed == deleted | {
        "deleted_at": trashed["updated_at"],
        "updated_at": trashed["updated_at"],
        "revision": 10,
    }
    for item, task in zip(page["items"][5:], (erased, erased_from_trash), strict=True):
        assert item == {
            "id": task["id"],
            "revision": item["revision"],
            "deleted_at": item["deleted_at"],
            "erased": True,
        }
        assert item["deleted_at"].endswith("Z")
    assert (await feed.page("since=9"))["items"] == page["items"][3:]
    assert await feed.page("since=15") == {
        "items": [],
        "revision": 15,
        "has_more": False,
        "next_cursor": None,
    }
    await feed.gone("since=16")


async def test_pages_by_cursor_and_by_link(feed: Feed) -> None:
    tasks = await feed.make(6)
    await feed.erase(tasks[1])
    whole = await feed.page()
    for limit, since in ((1, 0), (2, 0), (3, 2), (5, 0), (6, 0), (500, 0)):
        items: list[Any] = []
        url: str | None = f"{PATH}?since={since}&limit={limit}"
        while url:
            answer = await feed.client.get(url, headers=feed.user.headers)
            page = answer.json()
            items += page["items"]
            assert revisions({"items": items}) == sorted({item["revision"] for item in items})
            link = answer.links["next"]["url"] if "next" in answer.links else None
            assert page["has_more"] == (page["next_cursor"] is not None) == (link is not None)
            assert page["revision"] == (page["items"][-1]["revision"] if page["has_more"] else 7)
            by_cursor = f"cursor={page['next_cursor']}&limit={limit}"
            if link:
                assert await feed.page(by_cursor) == await feed.page(link.partition("?")[2])
            url = link
        assert items == [item for item in whole["items"] if item["revision"] > since]


async def test_what_moves_during_a_walk_comes_again(feed: Feed) -> None:
    first, second, third = await feed.make(3)
    page = await feed.page("limit=1")
    assert (page["items"], page["revision"]) == ([first], 1)
    first = await feed.send("POST", f"/{first['id']}/toggle")
    second = await feed.send("POST", f"/{second['id']}/toggle")
    page = await feed.page(f"cursor={page['next_cursor']}&limit=1")
    assert (page["items"], page["revision"]) == ([third], 3)
    page = await feed.page(f"cursor={page['next_cursor']}")
    assert (page["items"], page["revision"], page["has_more"]) == ([first, second], 5, False)


async def test_sql_by_hand_is_told(feed: Feed) -> None:
    tasks = await feed.make(3)
    await feed.connection.execute("insert into tasks (user_id, title) values ($1, 'by hand')", feed.user.id)
    await feed.connection.execute("update tasks set priority = 5 where id = $1", tasks[0]["id"])
    await feed.connection.execute("delete from tasks where id = $1", tasks[1]["id"])
    page = await feed.page("since=3")
    assert page["revision"] == 6
    made, changed, erased = page["items"]
    assert (made["title"], changed["priority"], changed["id"]) == ("by hand", 5, tasks[0]["id"])
    assert (erased["id"], erased["erased"]) == (tasks[1]["id"], True)


async def test_each_user_is_told_of_their_own(feed: Feed, other: Account) -> None:
    await feed.make(2)
    theirs = Feed(feed.client, other, feed.connection)
    await theirs.erase((await theirs.make(3))[0])
    assert {item["user_id"] for item in (await feed.page())["items"]} == {feed.user.id}
    page = await theirs.page("limit=1")
    assert (revisions(page), (await theirs.page())["revision"]) == ([2], 4)
    answer = await feed.get(f"cursor={page['next_cursor']}")
    assert check_problem(answer, 422, "invalid")["errors"][0]["parameter"] == "cursor"


async def test_what_was_dropped_past_since_is_gone(feed: Feed) -> None:
    tasks = await feed.make(4)
    await feed.erase(tasks[0])
    await feed.erase(tasks[1])
    await feed.purge(5)
    for since in (1, 4):
        await feed.gone(f"since={since}")
    assert revisions(await feed.page("since=5")) == [6]
    assert revisions(await feed.page("since=0")) == [3, 4, 6]
    await feed.purge(6)
    await feed.gone("since=5")
    assert await feed.page("since=6") == {
        "items": [],
        "revision": 6,
        "has_more": False,
        "next_cursor": None,
    }


async def test_a_drop_during_a_walk_is_gone(feed: Feed) -> None:
    tasks = await feed.make(4)
    from_0, from_1 = await feed.page("limit=1"), await feed.page("since=1&limit=1")
    await feed.erase(tasks[0])
    assert revisions(await feed.page(f"cursor={from_0['next_cursor']}")) == [2, 3, 4, 5]
    await feed.purge(5)
    for page in (from_0, from_1):
        await feed.gone(f"cursor={page['next_cursor']}")


async def test_a_drop_of_what_the_walk_has_told_of_is_gone_too(feed: Feed) -> None:
    tasks = await feed.make(1)
    await feed.erase(tasks[0])
    await feed.make(3)
    page = await feed.page("limit=2")
    assert revisions(page) == [2, 3]
    await feed.purge(2)
    await feed.gone(f"cursor={page['next_cursor']}")
    assert revisions(await feed.page(f"since={page['revision']}")) == [4, 5]


async def test_a_first_sync_is_not_refused_for_what_was_dropped_before_it(feed: Feed) -> None:
    tasks = await feed.make(4)
    await feed.erase(tasks[3])
    await feed.purge(5)
    told: list[int] = []
    query = "since=0&limit=1"
    while query:
        page = await feed.page(query)
        told += revisions(page)
        assert told == sorted(set(told))
        query = f"cursor={page['next_cursor']}&limit=1" if page["has_more"] else ""
        await feed.purge(5)  # again, of nothing
    assert (told, page["revision"]) == ([1, 2, 3], 5)
    assert (await feed.page(f"since={page['revision']}"))["items"] == []


async def test_after_a_restore_of_the_database_everybody_starts_from_0(feed: Feed) -> None:
    tasks = await feed.make(3)
    await feed.erase(tasks[0])
    whole = await feed.get()
    cursors = [(await feed.page(query))["next_cursor"] for query in ("limit=1", "since=1&limit=1")]
    tags = [whole.headers["etag"], (await feed.get("since=2")).headers["etag"]]
    await feed.restore_database()
    for query in ("since=1", "since=4", *(f"cursor={cursor}" for cursor in cursors)):
        await feed.gone(query)
    await feed.gone("since=2", tags[1])
    anew = await feed.get("", tags[0])
    assert anew.status_code == 200
    assert anew.json() == whole.json() | {"revision": 4 + 2**32}
    (task,) = await feed.make(1)
    page = await feed.page(f"since={4 + 2**32}")
    assert (page["items"], page["revision"]) == ([task], 5 + 2**32)


async def test_a_restore_without_the_jump_is_noticed_where_it_can_be(feed: Feed) -> None:
    await feed.make(3)
    page = await feed.page("limit=2")
    await feed.connection.execute("delete from tasks where user_id = $1", feed.user.id)
    await feed.connection.execute("update user_state set revision = 1 where user_id = $1", feed.user.id)
    await feed.gone("since=3")
    await feed.gone(f"cursor={page['next_cursor']}")


async def test_tags(feed: Feed, other: Account) -> None:
    tasks = await feed.make(3)
    answer = await feed.get("limit=2")
    tag = answer.headers["etag"]
    for given in (tag, f"W/{tag}", f'"1", {tag}'):
        same = await feed.get("limit=2", given)
        assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", tag)
    for url, who in ((f"{PATH}?limit=2&since=0", feed.user), (f"{PATH}?limit=2", other)):
        got = await feed.client.get(url, headers=who.headers | {"If-None-Match": tag})
        assert got.status_code == 200
    assert (await feed.get("limit=2", '"3"')).status_code == 200
    await feed.erase(tasks[0])
    answer = await feed.get("limit=2", tag)
    assert (answer.status_code, answer.headers["etag"] != tag) == (200, True)


async def test_a_tag_changes_with_a_drop_that_moves_no_revision(feed: Feed) -> None:
    tasks = await feed.make(2)
    await feed.erase(tasks[0])
    before = {query: await feed.get(query) for query in ("since=0", "since=2", "since=3")}
    await feed.purge(3)
    after = await feed.get("since=0", before["since=0"].headers["etag"])
    assert (after.status_code, revisions(after.json())) == (200, [2])
    assert after.headers["etag"] != before["since=0"].headers["etag"]
    await feed.gone("since=2", before["since=2"].headers["etag"])
    assert (await feed.get("since=3", before["since=3"].headers["etag"])).status_code == 200


async def test_head_and_the_users_own_path(feed: Feed) -> None:
    await feed.make(2)
    got = await feed.get("limit=1")
    head = await feed.client.head(f"{PATH}?limit=1", headers=feed.user.headers)
    assert (head.status_code, head.content) == (200, b"")
    for name in ("etag", "link", "content-type", "content-length"):
        assert head.headers[name] == got.headers[name]
    own = PATH.replace(BASE, f"/api/{feed.user.id}")
    answer = await feed.client.get(f"{own}?limit=1", headers=feed.user.headers)
    assert answer.json() == got.json()
    assert answer.links["next"]["url"].startswith(f"{own}?")
    rest = await feed.client.get(answer.links["next"]["url"], headers=feed.user.headers)
    assert revisions(rest.json()) == [2]


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("since=-1", ["since"]),
        ("since=x", ["since"]),
        ("since=", ["since"]),
        ("since=1.5", ["since"]),
        (f"since={2**63}", ["since"]),
        ("since=1&since=2", ["since"]),
        ("limit=0", ["limit"]),
        ("limit=501", ["limit"]),
        ("cursor=", ["cursor"]),
        ("cursor=abc", ["cursor"]),
        ("cursor=%00", ["cursor"]),
        ("since=0&cursor=abc", ["since"]),
        ("offset=1&sort=id&count=true", ["count", "offset", "sort"]),
    ],
)
async def test_refuses_and_names_the_parameters(feed: Feed, query: str, parameters: list[str]) -> None:
    problem = check_problem(await feed.get(query), 422, "invalid")
    assert sorted(error["parameter"] for error in problem["errors"]) == parameters


async def test_the_largest_since_is_only_gone(feed: Feed) -> None:
    await feed.gone(f"since={2**63 - 1}")


async def test_cursors_that_are_not_of_this_walk(feed: Feed) -> None:
    await feed.make(2)
    of_list = (await feed.send("GET", "?limit=1"))["next_cursor"]
    of_changes = (await feed.page("limit=1"))["next_cursor"]
    walk = repr(("changes", feed.user.id))
    assert of_changes == cursors.write(walk, "0", 1)
    forged = [
        cursors.write(walk, begun, 1)
        for begun in ("", "x", "-1", "1.0", " 1", "\u0661", "null", "infinity", str(2**63), "9" * 400)
    ]
    forged += [cursors.write(walk, "0", since) for since in (-1, 2**63, 2**64 - 1)]
    forged += [
        base64.urlsafe_b64encode(msgspec.msgpack.encode(parts)).decode().rstrip("=")
        for parts in (
            [cursors._mark(walk), 0, 1],
            [cursors._mark(walk), "0"],
            [cursors._mark(walk), "0", 1.5],
        )
    ]
    for cursor in (of_list, *forged):
        problem = check_problem(await feed.get(f"cursor={cursor}"), 422, "invalid")
        assert problem["errors"][0]["parameter"] == "cursor", cursor
    listed = await feed.client.get(f"{TASKS}?cursor={of_changes}", headers=feed.user.headers)
    assert check_problem(listed, 422, "invalid")["errors"][0]["parameter"] == "cursor"
    await feed.gone(f"cursor={cursors.write(walk, str(2**63 - 1), 1)}")
    await feed.gone(f"cursor={cursors.write(walk, '0', 2**63 - 1)}")


async def test_the_document_tells_both_forms(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    operation = document["paths"][PATH]["get"]
    assert set(operation["responses"]) == {"200", "304", "400", "401", "410", "422", "500", "503"}
    schemas = document["components"]["schemas"]
    forms = [
        form["$ref"].rpartition("/")[2]
        for form in schemas["TaskChanges"]["properties"]["items"]["items"]["anyOf"]
    ]
    assert forms == ["Task", "ErasedTask"]
    assert set(schemas["ErasedTask"]["required"]) == {"id", "revision", "deleted_at", "erased"}
    assert schemas["ErasedTask"]["properties"]["erased"]["enum"] == [True]
