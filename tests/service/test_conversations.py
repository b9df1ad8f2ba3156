"""Conversations over HTTP, as `api.md` promises them."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from typing import Any

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.conftest import Account, sign_up

PATH = "/api/v1/conversations"
FIELDS = ["id", "user_id", "title", "created_at", "updated_at"]
HELLO = {"role": "user", "content": "hello"}


async def begin(client: httpx.AsyncClient, user: Account, title: str | None = None) -> str:
    """The URL of a new conversation."""
    answer = await client.post(PATH, json={"title": title}, headers=user.headers)
    assert answer.status_code == 201, answer.text
    return str(answer.headers["location"])


async def say(client: httpx.AsyncClient, user: Account, url: str, content: str = "hello") -> None:
    message = {"role": "user", "content": content}
    answer = await client.post(f"{url}/messages", json=message, headers=user.headers)
    assert answer.status_code == 201, answer.text


async def listed(client: httpx.AsyncClient, user: Account) -> list[str]:
    """The URLs of the user's conversations in their order."""
    answer = await client.get(f"{PATH}?limit=500", headers=user.headers)
    return [f"{PATH}/{talk['id']}" for talk in answer.json()["items"]]


async def revision(connection: asyncpg.Connection, user: Account) -> int:
    """The number of changes of the user's conversations."""
    sql = "select conversations_revision from user_state where user_id = $1"
    return int(await connection.fetchval(sql, user.id))


async def test_create_needs_nothing(client: httpx.AsyncClient, user: Account) -> None:
    answer = await client.post(PATH, json={}, headers=user.headers)
    talk = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{PATH}/{talk['id']}"
    assert list(talk) == FIELDS
    assert (talk["user_id"], talk["title"]) == (user.id, None)
    assert talk["created_at"] == talk["updated_at"]
    assert talk["created_at"].endswith("Z")
    read = await client.get(answer.headers["location"], headers=user.headers)
    assert (read.status_code, read.content) == (200, answer.content)
    assert read.headers["etag"] == answer.headers["etag"] == '"1"'


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        (None, None),
        ("  Groceries \n", "Groceries"),
        ("x" * 200, "x" * 200),
        (" " + "\N{GRINNING FACE}" * 200 + " ", "\N{GRINNING FACE}" * 200),
        ("'; drop table conversations --", "'; drop table conversations --"),
    ],
)
async def test_titles_are_taken_trimmed(
    client: httpx.AsyncClient, user: Account, given: str | None, stored: str | None
) -> None:
    url = await begin(client, user, given)
    assert (await client.get(url, headers=user.headers)).json()["title"] == stored
    other = await begin(client, user, "another")
    assert (await client.patch(other, json={"title": given}, headers=user.headers)).json()["title"] == stored


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        (b'{"title": ""}', ["/title"]),
        (b'{"title": " \\t\\n "}', ["/title"]),
        (b'{"title": "' + b"x" * 201 + b'"}', ["/title"]),
        (b'{"title": 7}', ["/title"]),
        (b'{"title": "x\\u0000"}', ["/title"]),
        (b'{"title": "x\\ud800"}', ["/title"]),
        (b'{"title": "x", "id": 1, "user_id": "u", "version": 1}', ["/id", "/user_id", "/version"]),
        (b'{"titel": "x", "created_at": null}', ["/titel", "/created_at"]),
        (b"[]", [""]),
        (b'"x"', [""]),
    ],
)
@pytest.mark.parametrize("method", ["POST", "PATCH"])
async def test_what_is_refused_is_named_and_leaves_nothing(
    client: httpx.AsyncClient, user: Account, method: str, body: bytes, pointers: list[str]
) -> None:
    url = await begin(client, user, "there")
    answer = await client.request(
        method,
        PATH if method == "POST" else url,
        content=body,
        headers=user.headers | {"Content-Type": "application/json"},
    )
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == pointers
    assert await listed(client, user) == [url]
    assert (await client.get(url, headers=user.headers)).json()["title"] == "there"


async def test_update_sets_clears_and_keeps(client: httpx.AsyncClient, user: Account) -> None:
    url = await begin(client, user)
    talk = (await client.get(url, headers=user.headers)).json()
    answers = [
        await client.patch(url, json=body, headers=user.headers)
        for body in ({}, {"title": None}, {"title": "new"}, {"title": " new "}, {}, {"title": None})
    ]
    assert {answer.status_code for answer in answers} == {200}
    assert [answer.headers["etag"] for answer in answers] == ['"1"', '"1"', '"2"', '"2"', '"2"', '"3"']
    found = [answer.json() for answer in answers]
    assert [item["title"] for item in found] == [None, None, "new", "new", "new", None]
    assert found[0] == found[1] == talk
    assert found[2] == found[3] == found[4] == talk | {"title": "new", "updated_at": found[2]["updated_at"]}
    assert talk["updated_at"] < found[2]["updated_at"] < found[5]["updated_at"]


async def test_merge_patch_is_a_type_of_patch_only(client: httpx.AsyncClient, user: Account) -> None:
    url = await begin(client, user)
    headers = user.headers | {"Content-Type": "application/merge-patch+json"}
    assert (await client.patch(url, content=b'{"title":"x"}', headers=headers)).json()["title"] == "x"
    assert (await client.post(PATH, content=b'{"title":"x"}', headers=headers)).status_code == 415


async def test_if_match(client: httpx.AsyncClient, user: Account) -> None:
    url = await begin(client, user)
    refused = [('"9"', 412), ('W/"1"', 412), ('"9", "x"', 412), ('"99999999999999999999"', 412), ("1", 422)]
    for tag, status in [*refused, ('"9", "1"', 200), ("*", 200)]:
        answer = await client.patch(url, json={}, headers=user.headers | {"If-Match": tag})
        assert answer.status_code == status, tag
        if status != 200:
            gone = await client.delete(url, headers=user.headers | {"If-Match": tag})
            assert gone.status_code == status, tag
    await say(client, user, url)
    assert (await client.delete(url, headers=user.headers | {"If-Match": '"1"'})).status_code == 412
    tag = (await client.get(url, headers=user.headers)).headers["etag"]
    assert (await client.delete(url, headers=user.headers | {"If-Match": tag})).status_code == 204
    for method in ("PATCH", "DELETE"):
        headers = user.headers | {"If-Match": "*"}
        missing = await client.request(method, url, json={} if method == "PATCH" else None, headers=headers)
        assert missing.status_code == 404


async def test_if_none_match(client: httpx.AsyncClient, user: Account) -> None:
    url = await begin(client, user)
    for tag, status in [('"1"', 304), ('W/"1"', 304), ('"7", "1"', 304), ("*", 304), ('"2"', 200)]:
        answer = await client.get(url, headers=user.headers | {"If-None-Match": tag})
        assert (answer.status_code, answer.headers["etag"]) == (status, '"1"'), tag
        assert bool(answer.content) == (status == 200)


@pytest.mark.parametrize("id", ["0", "-1", "abc", "1.0", "007", "9223372036854775808", "١", "1%00"])
async def test_what_is_no_id_is_not_there(client: httpx.AsyncClient, user: Account, id: str) -> None:
    for url in (f"{PATH}/{id}", f"{PATH}/{id}/messages"):
        answer = await client.get(url, headers=user.headers)
        assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_delete_takes_the_messages_along(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    url, other = [await begin(client, user) for _ in range(2)]
    await say(client, user, url)
    await say(client, user, other)
    answer = await client.delete(url, headers=user.headers)
    assert (answer.status_code, answer.content, "etag" in answer.headers) == (204, b"", False)
    for method, path in (("GET", url), ("PATCH", url), ("DELETE", url), ("GET", f"{url}/messages")):
        again = await client.request(
            method, path, json={} if method == "PATCH" else None, headers=user.headers
        )
        assert again.status_code == 404, method
    assert (await client.post(f"{url}/messages", json=HELLO, headers=user.headers)).status_code == 404
    assert await listed(client, user) == [other]
    assert await connection.fetchval("select count(*) from messages where user_id = $1", user.id) == 1
    assert await revision(connection, user) == 5


async def test_methods(client: httpx.AsyncClient, user: Account) -> None:
    url = await begin(client, user)
    for path, methods in (
        (PATH, "GET, HEAD, OPTIONS, POST"),
        (url, "DELETE, GET, HEAD, OPTIONS, PATCH"),
        (f"{url}/messages", "GET, HEAD, OPTIONS, POST"),
    ):
        assert (await client.options(path)).headers["allow"] == methods
        read = await client.get(path, headers=user.headers)
        head = await client.head(path, headers=user.headers)
        assert (head.status_code, head.content, head.headers["etag"]) == (200, b"", read.headers["etag"])
        refused = await client.put(path, json={}, headers=user.headers)
        assert (refused.status_code, refused.headers["allow"]) == (405, methods)


# Lists


async def test_list_is_newest_activity_first(client: httpx.AsyncClient, user: Account) -> None:
    one, two, three = [await begin(client, user, title) for title in ("one", "two", "three")]
    answer = await client.get(PATH, headers=user.headers)
    assert list(answer.json()) == ["items", "next_cursor"]
    assert [list(talk) for talk in answer.json()["items"]] == [FIELDS] * 3
    assert (answer.json()["next_cursor"], "link" in answer.headers) == (None, False)
    assert await listed(client, user) == [three, two, one]
    await say(client, user, one)
    assert await listed(client, user) == [one, three, two]
    await client.patch(two, json={"title": "changed"}, headers=user.headers)
    await client.patch(three, json={"title": "three"}, headers=user.headers)  # changes nothing
    assert await listed(client, user) == [two, one, three]


async def test_pages_by_cursor_link_and_offset(client: httpx.AsyncClient, user: Account) -> None:
    there = [await begin(client, user) for _ in range(5)][::-1]
    assert [page async for page in pages(client, user, f"{PATH}?limit=2")] == [
        there[:2],
        there[2:4],
        there[4:],
    ]
    page = (await client.get(f"{PATH}?limit=2&offset=1", headers=user.headers)).json()
    assert [f"{PATH}/{talk['id']}" for talk in page["items"]] == there[1:3]
    beyond = (await client.get(f"{PATH}?offset={2**63 - 1}", headers=user.headers)).json()
    assert beyond == {"items": [], "next_cursor": None}


async def pages(client: httpx.AsyncClient, user: Account, url: str | None) -> Any:
    """The pages of a walk by Link, each the URLs of its conversations."""
    while url:
        answer = await client.get(url, headers=user.headers)
        assert answer.status_code == 200, answer.text
        yield [f"{PATH}/{talk['id']}" for talk in answer.json()["items"]]
        cursor = answer.json()["next_cursor"]
        url = answer.links["next"]["url"] if "next" in answer.links else None
        assert (cursor is None) == (url is None)
        assert url is None or httpx.URL(url).params["cursor"] == cursor


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("limit=0", ["limit"]),
        ("limit=501", ["limit"]),
        ("limit=1&limit=2", ["limit"]),
        ("offset=-1", ["offset"]),
        (f"offset={2**63}", ["offset"]),
        ("cursor=abc", ["cursor"]),
        ("cursor=%00", ["cursor"]),
        ("cursor=abc&offset=1", ["offset"]),
        ("count=true&sort=title", ["count", "sort"]),
    ],
)
async def test_lists_refuse_and_name_the_parameters(
    client: httpx.AsyncClient, user: Account, query: str, parameters: list[str]
) -> None:
    for url in (PATH, f"{await begin(client, user)}/messages"):
        answer = await client.get(f"{url}?{query}", headers=user.headers)
        assert answer.status_code == 422
        assert sorted(error["parameter"] for error in answer.json()["errors"]) == parameters


async def test_a_cursor_belongs_to_its_list(client: httpx.AsyncClient, user: Account) -> None:
    urls = [await begin(client, user) for _ in range(2)]
    for url in urls:
        await say(client, user, url)
        await say(client, user, url)
        await client.post("/api/v1/tasks", json={"title": "t"}, headers=user.headers)
    lists = [PATH, "/api/v1/tasks", *(f"{url}/messages" for url in urls), f"{urls[0]}/messages?order=desc"]
    for source in lists:
        first = await client.get(
            source, params=httpx.URL(source).params.set("limit", 1), headers=user.headers
        )
        cursor = first.json()["next_cursor"]
        for target in lists:
            params = httpx.URL(target).params.set("cursor", cursor)
            answer = await client.get(target, params=params, headers=user.headers)
            assert answer.status_code == (200 if target == source else 422), (source, target)


async def test_list_tags_are_exact(
    client: httpx.AsyncClient, user: Account, other: Account, connection: asyncpg.Connection
) -> None:
    url = await begin(client, user)
    await begin(client, other)

    async def tag() -> str:
        return str((await client.get(PATH, headers=user.headers)).headers["etag"])

    first = await tag()
    same = await client.get(PATH, headers=user.headers | {"If-None-Match": f'"x", W/{first}'})
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", first)
    for path, who in ((f"{PATH}?limit=1", user), (PATH, other), (f"{url}/messages", user)):
        assert (await client.get(path, headers=who.headers | {"If-None-Match": first})).status_code == 200
    seen = [first]
    for change in changes(client, user, connection, url):
        await change
        seen.append(await tag())
    assert len(set(seen)) == len(seen)
    await client.patch(url, json={"title": "hand"}, headers=user.headers)  # what it is already
    await client.post("/api/v1/tasks", json={"title": "t"}, headers=user.headers)
    assert await tag() == seen[-1]
    await client.delete(url, headers=user.headers)
    assert await tag() not in seen
    assert (await client.get(PATH, headers=user.headers)).json()["items"] == []


def changes(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection, url: str
) -> Iterator[Any]:
    """Whatever may happen to a conversation, by the service and by hand."""
    id = int(url.rsplit("/", 1)[1])
    yield client.post(f"{url}/messages", json=HELLO, headers=user.headers)
    yield client.patch(url, json={"title": "changed"}, headers=user.headers)
    yield connection.execute("update messages set content = 'x' where conversation_id = $1", id)
    yield connection.execute(
        "insert into messages (conversation_id, user_id, role, content) values ($1, $2, 'user', 'x')",
        id,
        user.id,
    )
    yield connection.execute("delete from messages where conversation_id = $1", id)
    yield connection.execute("update conversations set title = 'hand' where id = $1", id)


# Many at once


async def test_creates_take_each_number_once(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    answers = await asyncio.gather(*(client.post(PATH, json={}, headers=user.headers) for _ in range(64)))
    tags = sorted(int(answer.headers["etag"].strip('"')) for answer in answers)
    assert tags == list(range(1, 65))
    assert await revision(connection, user) == 64


async def test_if_match_has_one_winner_a_version(client: httpx.AsyncClient, user: Account) -> None:
    url = await begin(client, user)
    for _ in range(4):
        tag = (await client.get(url, headers=user.headers)).headers["etag"]
        headers = user.headers | {"If-Match": tag}
        answers = await asyncio.gather(
            *(client.patch(url, json={"title": f"{tag} {n}"}, headers=headers) for n in range(32))
        )
        assert Counter(answer.status_code for answer in answers) == {200: 1, 412: 31}
        (won,) = [answer for answer in answers if answer.status_code == 200]
        assert (await client.get(url, headers=user.headers)).content == won.content
    gone = await asyncio.gather(*(client.delete(url, headers=user.headers) for _ in range(32)))
    assert Counter(answer.status_code for answer in gone) == {204: 1, 404: 31}


async def test_identical_patches_change_once(client: httpx.AsyncClient, user: Account) -> None:
    url = await begin(client, user)
    answers = await asyncio.gather(
        *(client.patch(url, json={"title": "same"}, headers=user.headers) for _ in range(32))
    )
    assert {(answer.status_code, answer.headers["etag"]) for answer in answers} == {(200, '"2"')}


steps = st.lists(st.sampled_from(["page", "page", "create", "delete", "say"]), max_size=30)


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=25)
@given(count=st.integers(0, 12), limit=st.integers(1, 5), steps=steps)
async def test_a_walk_neither_repeats_nor_skips(
    client: httpx.AsyncClient, count: int, limit: int, steps: list[str]
) -> None:
    user = await sign_up(client)
    there = [await begin(client, user) for _ in range(count)]
    stayed = set(there)  # neither deleted nor moved to the front
    seen: list[str] = []
    walk = pages(client, user, f"{PATH}?limit={limit}")
    for step in (*steps, *["page"] * (count + len(steps))):
        if step == "page":
            page = await anext(walk, None)
            if page is None:
                break
            assert len(page) <= limit
            seen += page
        elif step == "create":
            await begin(client, user)
        elif there:
            url = there.pop(len(seen) % len(there))
            stayed.discard(url)
            await (client.delete(url, headers=user.headers) if step == "delete" else say(client, user, url))
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)
