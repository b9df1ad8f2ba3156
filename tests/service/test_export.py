"""The export: all of one user, none of another, at the client's pace and at nobody else's cost."""

import asyncio
import json
import random
import tracemalloc
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
import structlog

from db.errors import Unavailable
from service import export
from service.edge import API_POLICY, Edge
from service.settings import Settings
from tests.conftest import Account, sign_up
from tests.faults.pools import eventually
from tests.service.accounts import AUTH, ME, USER
from tests.service.admins import Alone, alone_with

PATH = "/api/v1/users/me/export"
TASKS = "/api/v1/tasks"
CONVERSATION = ["id", "user_id", "title", "created_at", "updated_at"]
MESSAGE = ["id", "conversation_id", "user_id", "role", "content", "created_at"]


class Download:
    """A client of one request that takes its chunks at a pace of its own, and may go."""

    def __init__(self, app: Edge, user: Account, pace: Callable[[], Awaitable[object]] | None = None) -> None:
        self.app, self.user, self.pace = app, user, pace
        self.status = 0
        self.chunks = self.octets = 0
        self.complete = False
        self.left = asyncio.Event()

    async def run(self) -> None:
        """Ask, and take until the service is done."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0"},
            "http_version": "1.1",
            "method": "GET",
            "scheme": "http",
            "path": PATH,
            "raw_path": PATH.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": [(b"host", b"test"), (b"authorization", self.user.headers["Authorization"].encode())],
            "client": ("127.0.0.1", 1),
            "server": ("test", 80),
        }
        await self.app(scope, self._receive, self._send)

    async def _receive(self) -> Any:
        await self.left.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: Any) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            return
        self.chunks += 1
        self.octets += len(message["body"])
        if self.pace:
            await self.pace()
        self.complete = not message.get("more_body", False)


async def fill(
    connection: asyncpg.Connection, user: Account, tasks: int, conversations: int, messages: int
) -> None:
    """Give somebody tasks, every third in the trash, many made at the same moment; and talks."""
    await connection.execute(
        "insert into tasks (user_id, title, description, created_at, deleted_at, due_date)"
        " select $1, 'task ' || n, case when n % 2 = 0 then 'line' || chr(10) || n end,"
        " now() - make_interval(secs => n % 50), case when n % 3 = 0 then now() end,"
        " case when n % 5 = 0 then now() + make_interval(hours => n) end from generate_series(1, $2::int) n",
        user.id,
        tasks,
    )
    await connection.execute(
        "with v as (insert into conversations (user_id, title, updated_at)"
        " select $1, 'talk ' || n, now() - make_interval(secs => n * 7919 % 1000) from generate_series(1, $2::int) n"
        " returning id)"
        " insert into messages (conversation_id, user_id, role, content)"
        " select v.id, $1, case when n % 2 = 0 then 'user' else 'assistant' end, 'said \u00e9 ' || n"
        " from generate_series(1, $3::int) n join (select id, row_number() over (order by id desc) as place from v) v"
        " on v.place = case when n % 2 = 0 then 1 else 1 + n % $2::int end",
        user.id,
        conversations,
        messages,
    )


def lines(answer: httpx.Response) -> dict[str, list[dict[str, Any]]]:
    """The data of each kind; asserts what holds for every export."""
    assert answer.status_code == 200, answer.text
    assert answer.text.endswith("\n")
    found: dict[str, list[dict[str, Any]]] = {"user": [], "task": [], "conversation": [], "message": []}
    talks = set()
    for text in answer.text.splitlines():
        line = json.loads(text)
        assert list(line) == ["type", "data"]
        found[line["type"]].append(line["data"])
        if line["type"] == "conversation":
            talks.add(line["data"]["id"])
        if line["type"] == "message":
            assert line["data"]["conversation_id"] in talks
    assert "argon2" not in answer.text
    assert "hash" not in answer.text
    return found


async def listed(client: httpx.AsyncClient, user: Account, **query: Any) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    url: Any = httpx.URL(TASKS, params={"limit": 500, "sort": "created_at"} | query)
    while url:
        answer = await client.get(url, headers=user.headers)
        found += answer.json()["items"]
        url = answer.links["next"]["url"] if "next" in answer.links else None
    return found


async def stored(connection: asyncpg.Connection, user: Account, table: str, columns: list[str]) -> list[Any]:
    """A table's rows of somebody as JSON would have them."""
    rows = await connection.fetch(f"select {', '.join(columns)} from {table} where user_id = $1", user.id)
    return [json.loads(msgspec.json.encode(dict(row))) for row in rows]


def by_id(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(rows, key=lambda row: int(row["id"]))


# What is in it


@pytest.mark.parametrize("size", [(0, 0, 0), (1, 1, 1), (20, 3, 9), (1300, 700, 1600)], ids=str)
async def test_export_is_everything_of_mine_and_nothing_of_others(
    alone: Alone, size: tuple[int, int, int]
) -> None:
    user, other = await sign_up(alone.client), await sign_up(alone.client)
    for owner in (other, user, other):
        await fill(alone.connection, owner, *(size if owner is user else (10, 3, 9)))
    alone.sent.clear()
    answer = await alone.client.get(PATH, headers=user.headers)
    assert len(alone.sent) == -(-(1 + sum(size)) // export.SIZE)
    found = lines(answer)
    assert [len(rows) for rows in found.values()] == [1, *size]
    assert list(found["user"][0]) == USER
    assert found["user"] == [(await alone.client.get(ME, headers=user.headers)).json()]
    live = await listed(alone.client, user)
    trash = await listed(alone.client, user, deleted=True)
    assert by_id(found["task"]) == by_id(live + trash)
    assert found["task"] == sorted(found["task"], key=lambda task: (task["created_at"], task["id"]))
    for kind, columns in (("conversation", CONVERSATION), ("message", MESSAGE)):
        assert by_id(found[kind]) == by_id(await stored(alone.connection, user, f"{kind}s", columns))
        assert all(list(row) == columns for row in found[kind])
    everything = answer.text
    assert other.id not in everything
    decoder: msgspec.json.Decoder[Any] = msgspec.json.Decoder(export.Line)
    assert len(decoder.decode_lines(everything)) == 1 + sum(size)


async def test_ids_times_and_texts_at_their_edges(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "insert into tasks (id, user_id, title, description, created_at, due_date) values"
        " (-5000000000 - $2::int, $1, $3, $4, '0001-01-01 00:00:00+00', '9999-12-31 23:59:59.999999+00')",
        user.id,
        random.randrange(10**9),
        '"\\ \x85\u2028\u2029 \U0001f600',
        "x" * 20_000,
    )
    (task,) = lines(await client.get(PATH, headers=user.headers))["task"]
    assert (task["title"], len(task["description"])) == ('"\\ \x85\u2028\u2029 \U0001f600', 20_000)
    assert (task["created_at"], task["due_date"]) == ("0001-01-01T00:00:00Z", "9999-12-31T23:59:59.999999Z")


async def test_long_texts_make_short_pages(alone: Alone) -> None:
    """In octets, not characters; none is left out, and a page is never empty."""
    user = await sign_up(alone.client)
    await fill(alone.connection, user, 5, 4, 0)
    content = "\U0001f600" * 32_000
    await alone.connection.execute(
        "insert into messages (conversation_id, user_id, role, content)"
        " select id, user_id, 'user', $2 from conversations, generate_series(1, 10) where user_id = $1",
        user.id,
        content,
    )
    one = len(content.encode())
    pages: list[int] = []
    encode = export._text

    def measured(page: Any) -> bytes:
        text = encode(page)
        pages.append(len(text))
        return text

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(export, "_text", measured)
        found = lines(await alone.client.get(PATH, headers=user.headers))
    assert [message["content"] == content for message in found["message"]] == [True] * 40
    assert max(pages) <= export.OCTETS + one + 10_000
    assert min(pages) > one
    assert len(pages) == -(-40 // (export.OCTETS // one + 1))


async def test_the_media_type_and_the_headers(client: httpx.AsyncClient, user: Account) -> None:
    answer = await client.get(PATH, headers=user.headers | {"X-Request-Id": "mine"})
    assert answer.headers["content-type"] == "application/x-ndjson"
    assert answer.headers["content-disposition"] == 'attachment; filename="roundtrip-export.ndjson"'
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["content-security-policy"] == API_POLICY.decode()
    assert answer.headers["x-request-id"] == "mine"
    assert "content-length" not in answer.headers


async def test_head_reads_one_page_and_gives_the_same_headers(alone: Alone) -> None:
    user = await sign_up(alone.client)
    await fill(alone.connection, user, 1100, 1, 1)
    got = await alone.client.get(PATH, headers=user.headers)
    alone.sent.clear()
    head = await alone.client.head(PATH, headers=user.headers)
    assert (head.status_code, head.content, len(alone.sent)) == (200, b"", 1)
    own = {"x-request-id"}
    assert {k: v for k, v in head.headers.items() if k not in own} == {
        k: v for k, v in got.headers.items() if k not in own
    }
    assert (await alone.client.head(PATH)).status_code == 401


async def test_what_is_wrong_at_the_start_is_a_problem(
    client: httpx.AsyncClient, user: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def away(*_: object) -> None:
        raise Unavailable("gone", retry_after=3)

    with monkeypatch.context() as patch:
        patch.setattr("db.export.page", away)
        answer = await client.get(PATH, headers=user.headers)
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert (answer.headers["retry-after"], "content-disposition" in answer.headers) == ("3", False)
    assert (await client.post(f"{AUTH}/logout", headers=user.headers)).status_code == 204
    answer = await client.get(PATH, headers=user.headers)
    assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")


# While it is under way


async def test_what_is_there_all_along_comes_once_whatever_happens(
    client: httpx.AsyncClient,
    app: Edge,
    user: Account,
    connection: asyncpg.Connection,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(export, "SIZE", 7)
    chance = random.Random(3)
    await fill(connection, user, 120, 15, 120)
    seen: Counter[tuple[str, int]] = Counter()
    encode = export._text

    def noted(page: Any) -> bytes:
        for line in encode(page).splitlines():
            read = json.loads(line)
            seen[read["type"], read["data"]["id"]] += 1
        return b"."

    monkeypatch.setattr(export, "_text", noted)
    rows = {
        kind: [
            row["id"] for row in await connection.fetch(f"select id from {kind}s where user_id = $1", user.id)
        ]
        for kind in ("task", "conversation", "message")
    }
    stayed = {(kind, id) for kind, ids in rows.items() for id in ids} | {("user", user.id)}

    async def meddle() -> None:
        """Between any two pages: tasks into the trash and out of it, changed, made and erased; talks gone on with."""
        ids = [chance.choice(rows["task"]) for _ in range(12)]
        flip = "update tasks set deleted_at = case when deleted_at is null then now() end where id = any($1)"
        await connection.execute(flip, ids)
        await connection.execute("update tasks set title = title || '.' where id = any($1)", ids[:3])
        await connection.execute("delete from tasks where id = $1", ids[5])
        stayed.discard(("task", ids[5]))
        await fill(connection, user, 1, 1, 1)
        talk = chance.choice(rows["conversation"])
        await connection.execute(
            "insert into messages (conversation_id, user_id, role, content) values ($1, $2, 'user', 'x')",
            talk,
            user.id,
        )
        await connection.execute("update conversations set updated_at = now() where id = $1", talk)

    download = Download(app, user, meddle)
    await download.run()
    assert download.complete
    assert download.chunks > 30
    assert len(stayed) > 200
    assert set(seen.values()) == {1}
    assert stayed <= set(seen)


async def test_memory_stays_flat_while_a_reader_is_slow(
    app: Edge, user: Account, connection: asyncpg.Connection
) -> None:
    await connection.execute(
        "insert into tasks (user_id, title, description)"
        " select $1, 'task ' || n, repeat('words ', 150) from generate_series(1, 20000) n",
        user.id,
    )

    async def slowly() -> None:
        for _ in range(20):
            await asyncio.sleep(0)

    download = Download(app, user, slowly)
    tracemalloc.start()
    try:
        before, _ = tracemalloc.get_traced_memory()
        await download.run()
        after, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert download.complete
    assert download.octets > 25_000_000
    assert peak - before < 6_000_000
    assert after - before < 1_000_000


async def test_a_reader_who_never_reads_holds_no_connection(
    settings: Settings, migrated_database: str
) -> None:
    one = msgspec.structs.replace(settings, database_pool_size=1)
    async with alone_with(one, migrated_database) as alone:
        user = await sign_up(alone.client)
        await fill(alone.connection, user, 2000, 1, 1)
        never = asyncio.Event()
        downloads = [Download(alone.app, user, never.wait) for _ in range(5)]
        tasks = [asyncio.create_task(download.run()) for download in downloads]
        await eventually(lambda: all(download.chunks == 1 for download in downloads))
        await asyncio.sleep(0)  # asyncpg tells of a statement one turn after its rows
        alone.sent.clear()
        assert alone.app.app.state.db.limiter.used == 0
        answer = await alone.client.post(TASKS, json={"title": "x"}, headers=user.headers)
        assert answer.status_code == 201
        assert len(alone.sent) == 1
        for download in downloads:
            download.left.set()
        never.set()
        await asyncio.gather(*tasks)
        assert len(alone.sent) <= 1 + len(downloads)


async def test_a_client_who_goes_leaves_nothing_behind(alone: Alone) -> None:
    user = await sign_up(alone.client)
    await fill(alone.connection, user, 3000, 1, 1)
    before = asyncio.all_tasks()
    for last in (0, 1, 3):
        alone.sent.clear()
        download = Download(alone.app, user)

        async def go(download: Download = download, last: int = last) -> None:
            if download.chunks > last:
                download.left.set()
                await asyncio.sleep(0)

        download.pace = go
        await download.run()
        assert (download.status, download.complete, download.chunks) == (200, False, last + 1)
        assert len(alone.sent) <= last + 2
        await eventually(lambda: asyncio.all_tasks() <= before)
        assert alone.app.app.state.db.limiter.used == 0
    assert "roundtrip_requests_in_flight 1.0" in (await alone.client.get("/metrics")).text


@pytest.mark.parametrize("fault", ["session", "user", "database"])
async def test_what_cannot_go_on_is_incomplete(
    alone: Alone, monkeypatch: pytest.MonkeyPatch, fault: str
) -> None:
    user = await sign_up(alone.client)
    await fill(alone.connection, user, 2000, 1, 1)
    download = Download(alone.app, user)

    async def away(*_: object) -> None:
        raise Unavailable("gone")

    async def strike() -> None:
        if download.chunks == 2 and fault == "session":
            await alone.client.post(f"{AUTH}/logout", headers=user.headers)
        elif download.chunks == 2 and fault == "user":
            await alone.connection.execute("delete from users where id = $1", user.id)
        elif download.chunks == 2:
            monkeypatch.setattr("db.export.page", away)

    download.pace = strike
    with structlog.testing.capture_logs() as told:
        await download.run()
    assert (download.status, download.chunks, download.complete) == (200, 2, False)
    (line,) = (line for line in told if line["event"] == "stream cut short")
    assert line["status"] == (503 if fault == "database" else 401)
    assert "crash" not in {line["event"] for line in told}
