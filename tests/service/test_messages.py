"""Messages over HTTP, as `api.md` promises them."""

import asyncio
import json
import random
from collections import Counter
from typing import Any

import asyncpg
import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.routes import IDEMPOTENCY_KEY, LARGE_BODY
from tests.conftest import Account, sign_up
from tests.service.test_conversations import begin, listed, revision, say

FIELDS = ["id", "conversation_id", "user_id", "role", "content", "created_at"]
HELLO = {"role": "user", "content": "hello"}
UNKNOWN = "/api/v1/conversations/4611686018427387904"


@pytest.fixture
async def url(client: httpx.AsyncClient, user: Account) -> str:
    """A new conversation's."""
    return await begin(client, user)


async def send(
    client: httpx.AsyncClient, user: Account, url: str, body: Any, key: str | None = None
) -> httpx.Response:
    headers = user.headers | ({} if key is None else {IDEMPOTENCY_KEY: key})
    return await client.post(f"{url}/messages", json=body, headers=headers)


async def contents(client: httpx.AsyncClient, user: Account, url: str, query: str = "limit=500") -> list[str]:
    answer = await client.get(f"{url}/messages?{query}", headers=user.headers)
    assert answer.status_code == 200, answer.text
    return [message["content"] for message in answer.json()["items"]]


async def test_a_message(client: httpx.AsyncClient, user: Account, url: str) -> None:
    talk = (await client.get(url, headers=user.headers)).json()
    await begin(client, user)
    answer = await send(client, user, url, HELLO)
    message = answer.json()
    assert answer.status_code == 201
    assert answer.headers["location"] == f"{url}/messages"
    assert list(message) == FIELDS
    assert message | HELLO == message
    assert (message["conversation_id"], message["user_id"]) == (talk["id"], user.id)
    moved = await client.get(url, headers=user.headers)
    assert moved.headers["etag"] == '"3"'
    assert moved.json() == talk | {"updated_at": message["created_at"]}
    assert message["created_at"] > talk["updated_at"]
    assert (await listed(client, user))[0] == url
    page = await client.get(f"{url}/messages", headers=user.headers)
    assert page.json() == {"items": [message], "next_cursor": None}


async def test_messages_sent_together_keep_their_order(
    client: httpx.AsyncClient, user: Account, url: str
) -> None:
    said = [{"role": ("user", "assistant")[n % 2], "content": f"{n * 37 % 100}"} for n in range(100)]
    answer = await send(client, user, url, {"messages": said})
    assert (answer.status_code, list(answer.json())) == (201, ["items"])
    items = answer.json()["items"]
    assert [{"role": item["role"], "content": item["content"]} for item in items] == said
    assert [list(item) for item in items] == [FIELDS] * 100
    assert len({item["created_at"] for item in items}) == 1
    ids = [item["id"] for item in items]
    assert ids == sorted(set(ids))
    assert (await client.get(url, headers=user.headers)).headers["etag"] == '"2"'
    listed = (await client.get(f"{url}/messages?limit=500", headers=user.headers)).json()["items"]
    assert listed == items
    one = await send(client, user, url, {"messages": [HELLO]})
    assert [item["content"] for item in one.json()["items"]] == ["hello"]


@pytest.mark.parametrize(
    "content",
    [
        "x",
        " ",
        "\n",
        "\N{GRINNING FACE}" * 32_000,
        '"quoted" \\ back\\slash \\u0000 \\n',
        "a\tb\r\nc\u2028d\x7fe\x01",
        "'; drop table messages --",
        '{"role": "user"}',
        "null",
    ],
)
async def test_contents_come_back_as_they_were(
    client: httpx.AsyncClient, user: Account, url: str, content: str
) -> None:
    one = await send(client, user, url, {"role": "assistant", "content": content})
    many = await send(client, user, url, {"messages": [{"role": "user", "content": content}] * 2})
    keyed = await send(client, user, url, {"role": "assistant", "content": content}, key="k")
    found = [one.json()["content"], *(item["content"] for item in many.json()["items"])]
    assert [*found, keyed.json()["content"]] == [content] * 4
    assert await contents(client, user, url) == [content] * 4


MANY = b'{"messages": [%s]}'
GOOD = b'{"role": "user", "content": "x"}'


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        (b"{}", ["/role", "/content"]),
        (b'{"role": "user"}', ["/content"]),
        (b'{"content": "x"}', ["/role"]),
        (b'{"role": "system", "content": "x"}', ["/role"]),
        (b'{"role": "User", "content": "x"}', ["/role"]),
        (b'{"role": null, "content": null}', ["/role", "/content"]),
        (b'{"role": "user", "content": ""}', ["/content"]),
        (b'{"role": "user", "content": "' + b"x" * 32_001 + b'"}', ["/content"]),
        (b'{"role": "user", "content": "x\\u0000"}', ["/content"]),
        (b'{"role": "user", "content": "x\\udc00"}', ["/content"]),
        (b'{"role": "user", "content": 7, "id": 1, "user_id": "u"}', ["/id", "/user_id", "/content"]),
        (b'{"role": "user", "content": "x", "messages": [' + GOOD + b"]}", ["/role", "/content"]),
        (b'{"content": "x", "messages": [' + GOOD + b"]}", ["/content"]),
        (MANY % b"", ["/messages"]),
        (MANY % b", ".join([GOOD] * 101), ["/messages"]),
        (b'{"messages": {}}', ["/messages"]),
        (b'{"messages": null}', ["/messages"]),
        (MANY % (GOOD + b', {"role": "user", "content": ""}'), ["/messages/1/content"]),
        (
            MANY % (GOOD + b', {"role": "x"}, 7, {"role": "user", "content": "x", "a/b": 1}'),
            ["/messages/1/role", "/messages/1/content", "/messages/2", "/messages/3/a~1b"],
        ),
        (MANY % (b", ".join([GOOD, GOOD.replace(b"x", b"\\u0000")])), ["/messages/1/content"]),
        (b"[" + GOOD + b"]", [""]),
    ],
)
async def test_what_is_refused_is_named_and_leaves_nothing(
    client: httpx.AsyncClient,
    user: Account,
    url: str,
    connection: asyncpg.Connection,
    body: bytes,
    pointers: list[str],
) -> None:
    headers = user.headers | {"Content-Type": "application/json"}
    for more in ({}, {IDEMPOTENCY_KEY: "k"}):
        answer = await client.post(f"{url}/messages", content=body, headers=headers | more)
        assert answer.status_code == 422
        assert [error["pointer"] for error in answer.json()["errors"]] == pointers
    assert await contents(client, user, url) == []
    assert await revision(connection, user) == 1


async def test_a_body_may_have_4_mib(client: httpx.AsyncClient, user: Account, url: str) -> None:
    headers = user.headers | {"Content-Type": "application/json"}
    said = [{"role": "user", "content": "x" * 32_000}] * 99
    body = json.dumps({"messages": [*said, HELLO]}).encode()
    answer = await client.post(f"{url}/messages", content=body.ljust(LARGE_BODY), headers=headers)
    assert (answer.status_code, len(answer.json()["items"])) == (201, 100)
    answer = await client.post(f"{url}/messages", content=body.ljust(LARGE_BODY + 1), headers=headers)
    assert (answer.status_code, answer.json()["code"]) == (413, "too_large")
    patch = await client.patch(url, content=body, headers=headers)
    assert patch.status_code == 413
    assert len(await contents(client, user, url)) == 100


async def test_anothers_conversation_is_not_there(
    client: httpx.AsyncClient, user: Account, other: Account, url: str
) -> None:
    await say(client, user, url)
    bodies: list[Any] = [HELLO, {"messages": [HELLO, HELLO]}]
    for at in (url, UNKNOWN):
        answers = [await client.get(f"{at}/messages", headers=other.headers)]
        answers += [await send(client, other, at, body, key) for body in bodies for key in (None, "k", "k")]
        assert {answer.status_code for answer in answers} == {404}
        assert len({json.dumps(answer.json() | {"request_id": ""}) for answer in answers}) == 1
    assert await contents(client, user, url) == ["hello"]
    assert (await client.get(url, headers=user.headers)).headers["etag"] == '"2"'


async def test_pages_from_either_end(client: httpx.AsyncClient, user: Account, url: str) -> None:
    said = [str(n) for n in range(7)]
    for content in said:
        await say(client, user, url, content)
    assert await contents(client, user, url, "order=asc") == said
    assert await contents(client, user, url, "order=desc") == said[::-1]
    assert await contents(client, user, url, "limit=2&offset=3") == said[3:5]
    assert await contents(client, user, url, "limit=2&offset=3&order=desc") == said[::-1][3:5]
    assert await contents(client, user, url, f"offset={2**63 - 1}") == []
    for order, expected in (("asc", said), ("desc", said[::-1])):
        found = [page async for page in pages(client, user, f"{url}/messages?limit=3&order={order}")]
        assert found == [expected[:3], expected[3:6], expected[6:]]
    wrong = await client.get(f"{url}/messages?order=newest", headers=user.headers)
    assert (wrong.status_code, wrong.json()["errors"][0]["parameter"]) == (422, "order")


async def pages(client: httpx.AsyncClient, user: Account, at: str | None) -> Any:
    """The pages of a walk by Link, each the contents of its messages."""
    while at:
        answer = await client.get(at, headers=user.headers)
        assert answer.status_code == 200, answer.text
        assert list(answer.json()) == ["items", "next_cursor"]
        yield [message["content"] for message in answer.json()["items"]]
        at = answer.links["next"]["url"] if "next" in answer.links else None
        assert (at is None) == (answer.json()["next_cursor"] is None)


async def test_list_tags_are_exact(
    client: httpx.AsyncClient, user: Account, url: str, connection: asyncpg.Connection
) -> None:
    await say(client, user, url)
    id = int(url.rsplit("/", 1)[1])
    at = f"{url}/messages"

    async def read(tag: str) -> httpx.Response:
        return await client.get(at, headers=user.headers | {"If-None-Match": tag})

    answer = await read('"none"')
    same = await read(answer.headers["etag"])
    assert (same.status_code, same.content, same.headers["etag"]) == (304, b"", answer.headers["etag"])
    for query in ("?order=desc", "?limit=1"):
        headers = user.headers | {"If-None-Match": answer.headers["etag"]}
        assert (await client.get(f"{at}{query}", headers=headers)).status_code == 200
    await say(client, user, await begin(client, user))  # elsewhere
    assert (await read(answer.headers["etag"])).status_code == 304
    for change in (
        client.post(at, json=HELLO, headers=user.headers),
        connection.execute("update messages set content = 'x' where conversation_id = $1", id),
        connection.execute(
            "insert into messages (conversation_id, user_id, role, content) values ($1, $2, 'user', 'x')",
            id,
            user.id,
        ),
        connection.execute("delete from messages where conversation_id = $1", id),
    ):
        await change
        newer = await read(answer.headers["etag"])
        assert (newer.status_code, newer.json() != answer.json()) == (200, True)
        answer = newer
    assert answer.json()["items"] == []
    await client.delete(url, headers=user.headers)
    assert (await read(answer.headers["etag"])).status_code == 404


# Idempotency keys, beyond what holds for every route that takes one (test_idempotency.py)


async def test_a_key_has_one_effect_among_32(
    client: httpx.AsyncClient, user: Account, url: str, connection: asyncpg.Connection
) -> None:
    body = {"messages": [HELLO | {"content": str(n)} for n in range(3)]}
    answers = await asyncio.gather(*(send(client, user, url, body, key="k") for _ in range(32)))
    assert {(answer.status_code, answer.content) for answer in answers} == {(201, answers[0].content)}
    replayed = [answer.headers.get("idempotent-replayed") for answer in answers]
    assert Counter(replayed) == {"true": 31, None: 1}
    assert await contents(client, user, url) == ["0", "1", "2"]
    assert await revision(connection, user) == 2
    page = await client.get(f"{url}/messages", headers=user.headers)
    assert page.json()["items"] == answers[0].json()["items"]
    assert (await send(client, user, url, HELLO, key="k")).status_code == 422


async def test_an_answer_outlives_its_conversation(
    client: httpx.AsyncClient, user: Account, url: str, connection: asyncpg.Connection
) -> None:
    made = await client.post(
        "/api/v1/conversations", json={"title": "x"}, headers=user.headers | {IDEMPOTENCY_KEY: "k"}
    )
    for body in (HELLO, {"messages": [HELLO]}):
        first = await send(client, user, url, body, key=str(len(body)))
        assert first.status_code == 201
    for gone in (url, made.headers["location"]):
        assert (await client.delete(gone, headers=user.headers)).status_code == 204
    count = await revision(connection, user)
    again = await send(client, user, url, {"messages": [HELLO]}, key="1")
    assert (again.status_code, again.content) == (201, first.content)
    assert again.headers["idempotent-replayed"] == "true"
    remade = await client.post(
        "/api/v1/conversations", json={"title": "x"}, headers=user.headers | {IDEMPOTENCY_KEY: "k"}
    )
    assert (remade.content, remade.headers["etag"]) == (made.content, made.headers["etag"])
    assert (await send(client, user, url, HELLO, key="new")).status_code == 404
    assert await listed(client, user) == []
    assert await revision(connection, user) == count


async def test_a_refused_key_may_be_used_anew(client: httpx.AsyncClient, user: Account, url: str) -> None:
    assert (await send(client, user, UNKNOWN, HELLO, key="k")).status_code == 404
    answer = await send(client, user, url, HELLO, key="k")
    assert (answer.status_code, "idempotent-replayed" in answer.headers) == (201, False)


# Many at once


async def test_posts_at_once_lose_nothing_and_stay_together(
    client: httpx.AsyncClient, user: Account, url: str, connection: asyncpg.Connection
) -> None:
    bodies = [{"messages": [HELLO | {"content": f"{n}.{part}"} for part in range(3)]} for n in range(64)]
    answers = await asyncio.gather(
        *(send(client, user, url, body, key=str(n) if n % 2 else None) for n, body in enumerate(bodies))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert (await client.get(url, headers=user.headers)).headers["etag"] == '"65"'
    assert await revision(connection, user) == 65
    rows = await connection.fetch(
        "select content, created_at from messages where user_id = $1 order by id", user.id
    )
    assert [row["content"].split(".")[1] for row in rows] == ["0", "1", "2"] * 64
    assert len({row["content"].split(".")[0] for row in rows}) == 64
    assert len({row["content"] for row in rows}) == 192
    times = [row["created_at"] for row in rows]
    assert times == sorted(times)
    moved = (await client.get(url, headers=user.headers)).json()["updated_at"]
    last = (await client.get(f"{url}/messages?order=desc&limit=1", headers=user.headers)).json()["items"]
    assert moved == last[0]["created_at"]


async def test_a_version_stands_for_what_was_said(client: httpx.AsyncClient, user: Account, url: str) -> None:
    """Each post takes one number: under the version that a page tells, there are as many messages as posts."""
    done = False

    async def write() -> None:
        for n in range(20):
            await say(client, user, url, str(n))

    async def read() -> None:
        last: list[str] = []
        while not done:
            answer = await client.get(f"{url}/messages?limit=500", headers=user.headers)
            found = [message["content"] for message in answer.json()["items"]]
            assert len(found) == int(answer.headers["etag"].strip('"').split("-")[0]) - 1
            assert found[: len(last)] == last
            last = found

    readers = [asyncio.create_task(read()) for _ in range(2)]
    await asyncio.gather(*(write() for _ in range(3)))
    done = True
    await asyncio.gather(*readers)
    assert len(await contents(client, user, url)) == 60


async def test_posting_to_what_is_deleted_meanwhile(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    urls = [await begin(client, user) for _ in range(8)]
    calls = [client.delete(url, headers=user.headers) for url in urls]
    calls += [client.patch(url, json={"title": "x"}, headers=user.headers) for url in urls]
    for n in range(12):
        calls += [send(client, user, url, HELLO, key=f"{n % 6} {url}" if n % 2 else None) for url in urls]
    random.Random(5).shuffle(calls)
    answers = await asyncio.gather(*calls)
    assert {answer.status_code for answer in answers} <= {200, 201, 204, 404}
    assert sum(answer.status_code == 204 for answer in answers) == 8
    assert await connection.fetchval("select count(*) from messages where user_id = $1", user.id) == 0
    effects = sum(
        answer.status_code in (200, 201, 204) and "idempotent-replayed" not in answer.headers
        for answer in answers
    )
    assert await revision(connection, user) == len(urls) + effects


steps = st.lists(st.sampled_from(["page", "page", "say", "forget", "title"]), max_size=30)


@settings(deadline=None, suppress_health_check=list(HealthCheck), max_examples=25)
@given(count=st.integers(0, 12), limit=st.integers(1, 5), order=st.sampled_from(["asc", "desc"]), steps=steps)
async def test_a_walk_neither_repeats_nor_skips(
    client: httpx.AsyncClient,
    connection: asyncpg.Connection,
    count: int,
    limit: int,
    order: str,
    steps: list[str],
) -> None:
    user = await sign_up(client)
    url = await begin(client, user)
    there = [str(n) for n in range(count)]
    if there:
        await send(client, user, url, {"messages": [HELLO | {"content": content} for content in there]})
    stayed, said, seen = set(there), list(there), list[str]()
    walk = pages(client, user, f"{url}/messages?limit={limit}&order={order}")
    for step in (*steps, *["page"] * (count + len(steps))):
        if step == "page":
            page = await anext(walk, None)
            if page is None:
                break
            assert len(page) <= limit
            seen += page
        elif step == "say":
            said.append(f"late {len(said)}")
            await say(client, user, url, said[-1])
        elif step == "title":
            await client.patch(url, json={"title": f"{len(seen)} {len(said)}"}, headers=user.headers)
        elif there:
            gone = there.pop(len(seen) % len(there))
            stayed.discard(gone)
            forget = "delete from messages where user_id = $1 and content = $2"
            await connection.execute(forget, user.id, gone)
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)
    assert seen == sorted(seen, key=said.index, reverse=order == "desc")
