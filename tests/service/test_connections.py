"""What a connection must bear: requests in pieces and in rows, garbage, slow readers and slow senders, and its end."""

import asyncio
import gc
import json
import logging
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from urllib.parse import urlsplit

import httpx
import pytest
from uvicorn.server import ServerState

from db.together import Asked
from service.edge import API_POLICY, Edge
from service.http import MAX_HEAD, Http
from service.lean import Plain
from service.serve import server_config
from tests.conftest import Account, listening

TASKS = "/api/v1/tasks"


class Peer:
    """A client that writes what it likes."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, user: Account) -> None:
        self.reader, self.writer = reader, writer
        self._user = user

    def request(self, method: str, path: str, body: str = "", more: str = "") -> bytes:
        kind = f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n" if body else ""
        head = f"{method} {path} HTTP/1.1\r\nHost: test\r\nAuthorization: {self._user.headers['Authorization']}\r\n"
        return f"{head}{kind}{more}\r\n{body}".encode()

    async def answer(self) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body of the next answer."""
        head = (await self.reader.readuntil(b"\r\n\r\n")).decode()
        line, *rest = head.strip().split("\r\n")
        headers = dict(field.lower().split(": ", 1) for field in rest)
        body = await self.reader.readexactly(int(headers.get("content-length", 0)))
        return int(line.split()[1]), headers, body

    async def closed(self) -> bool:
        """Whether the server ends it, with nothing more to say."""
        async with asyncio.timeout(10):
            return await self.reader.read() == b""


@asynccontextmanager
async def connected(base: str, user: Account) -> AsyncIterator[Peer]:
    where = urlsplit(base)
    reader, writer = await asyncio.open_connection(where.hostname, where.port)
    try:
        yield Peer(reader, writer, user)
    finally:
        writer.close()


@pytest.fixture
async def base(app: Edge) -> AsyncIterator[str]:
    async with listening(app) as base:
        yield base


@pytest.fixture
async def peer(base: str, client: httpx.AsyncClient, user: Account) -> AsyncIterator[Peer]:
    assert (
        await client.get(TASKS, headers=user.headers)
    ).status_code == 200  # from now on the lean path takes it
    async with connected(base, user) as peer:
        yield peer


async def test_requests_in_a_row_are_answered_in_a_row(peer: Peer) -> None:
    peer.writer.write(
        b"".join(
            [
                peer.request("POST", TASKS, '{"title": "one"}'),
                peer.request("GET", TASKS),
                peer.request("GET", "/healthz"),
                peer.request("POST", TASKS, '{"title": "two"}'),
                peer.request("GET", f"{TASKS}/999999999"),
            ]
        )
    )
    answers = [await peer.answer() for _ in range(5)]
    assert [status for status, _, _ in answers] == [201, 200, 200, 201, 404]
    assert [json.loads(answers[n][2])["title"] for n in (0, 3)] == ["one", "two"]


@pytest.mark.parametrize(
    "path", ["/healthz", f"{TASKS}?limit=1", "/api/v1/nowhere", "/api/v1/users/me/export"]
)
async def test_no_body_follows_a_head(peer: Peer, path: str) -> None:
    for _ in range(2):
        peer.writer.write(peer.request("HEAD", path) + peer.request("GET", path))
        head = (await peer.reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        plain = (await peer.reader.readuntil(b"\r\n\r\n")).decode().lower().split("\r\n")
        assert _lasting(head) == _lasting(plain)
        length = [line for line in plain if line.startswith("content-length: ")]
        if length:
            await peer.reader.readexactly(int(length[0].split()[1]))
        else:
            await peer.reader.readuntil(b"0\r\n\r\n")


def _lasting(head: list[str]) -> list[str]:
    return [line for line in head if not line.startswith(("date: ", "x-request-id: ", "transfer-encoding: "))]


async def test_answered_requests_leave_nothing_to_the_garbage_collector(peer: Peer) -> None:
    made = peer.request("POST", TASKS, '{"title": "one"}')
    peer.writer.write(made)
    id = json.loads((await peer.answer())[2])["id"]
    requests = [
        made,
        peer.request("GET", f"{TASKS}/{id}"),
        peer.request("GET", f"{TASKS}?limit=1"),
        peer.request("POST", f"{TASKS}/{id}/toggle"),
        peer.request("PATCH", f"{TASKS}/{id}", '{"title": "two"}'),
    ]
    gc.collect()
    gc.disable()
    gc.set_debug(gc.DEBUG_SAVEALL)
    try:
        for request in requests:
            peer.writer.write(request)
            assert (await peer.answer())[0] < 300
        gc.collect()
        left = [thing for thing in gc.garbage if isinstance(thing, Plain | Asked)]
    finally:
        gc.set_debug(0)
        gc.garbage.clear()
        gc.enable()
    assert left == []


async def test_what_comes_while_an_answer_is_made_is_kept(peer: Peer) -> None:
    for n in range(30):
        peer.writer.write(peer.request("POST", TASKS, f'{{"title": "task {n}"}}'))
        if n % 3 == 0:
            peer.writer.write(peer.request("GET", "/healthz"))
        await asyncio.sleep(0)
    titles = []
    for _ in range(40):
        _, _, body = await peer.answer()
        titles += [json.loads(body)["title"]] if b"title" in body else []
    assert titles == [f"task {n}" for n in range(30)]


@pytest.mark.parametrize("size", [1, 7, 100])
async def test_a_request_in_pieces(peer: Peer, size: int) -> None:
    whole = peer.request("POST", TASKS, '{"title": "pieces"}') + peer.request("GET", TASKS)
    for at in range(0, len(whole), size):
        peer.writer.write(whole[at : at + size])
        await peer.writer.drain()
        await asyncio.sleep(0)
    status, _, body = await peer.answer()
    assert (status, json.loads(body)["title"]) == (201, "pieces")
    status, _, body = await peer.answer()
    assert (status, len(json.loads(body)["items"])) == (200, 1)


async def test_a_body_after_its_head(peer: Peer) -> None:
    head, _, body = peer.request("POST", TASKS, '{"title": "later"}').partition(b"\r\n\r\n")
    for piece in (head + b"\r\n\r\n", body[:5], body[5:]):
        peer.writer.write(piece)
        await asyncio.sleep(0.05)
    assert (await peer.answer())[0] == 201


async def test_a_reader_who_is_slow_gets_all_of_it(
    peer: Peer, client: httpx.AsyncClient, user: Account
) -> None:
    made = [{"op": "create", "task": {"title": "x" * 200, "description": "y" * 1000}} for _ in range(200)]
    done = await client.post(f"{TASKS}/batch", json={"operations": made}, headers=user.headers)
    assert done.status_code == 200
    for _ in range(40):
        peer.writer.write(peer.request("GET", f"{TASKS}?limit=200"))  # 300 kB each
    await asyncio.sleep(1)
    for _ in range(40):
        status, _, body = await peer.answer()
        assert (status, len(json.loads(body)["items"])) == (200, 200)


@pytest.mark.parametrize(
    "text",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/3.0\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nContent-Length: x\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n",
        b"GET /healthz HTTP/1.1\r\nX\x00: y\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
    ],
)
async def test_what_is_not_http_is_refused_and_closed(peer: Peer, text: bytes) -> None:
    peer.writer.write(text)
    status, headers, body = await peer.answer()
    assert (status, json.loads(body)["code"]) == (400, "malformed_request")
    assert headers["content-type"] == "application/problem+json"
    assert headers["content-security-policy"] == API_POLICY.decode()
    assert (headers["connection"], headers["x-request-id"]) == ("close", json.loads(body)["request_id"])
    assert await peer.closed()


@pytest.mark.parametrize("line", [b"GET /" + b"x" * 1000, b"X: " + b"y" * 1000 + b"\r\n", b"Z" * 1000])
async def test_a_head_without_end_is_refused(peer: Peer, line: bytes) -> None:
    if not line.startswith(b"GET"):
        peer.writer.write(b"GET /healthz HTTP/1.1\r\n")
    for _ in range(2 * MAX_HEAD // 1000):
        peer.writer.write(line if not line.startswith(b"GET") else line[5:])
    status, headers, body = await peer.answer()
    assert (status, json.loads(body)["code"]) in ((431, "too_large"), (400, "malformed_request"))
    assert headers["connection"] == "close"


async def test_long_heads_that_end_are_taken(peer: Peer) -> None:
    peer.writer.write(peer.request("GET", "/healthz", more=f"X: {'y' * (MAX_HEAD // 2)}\r\n"))
    assert (await peer.answer())[0] == 200


async def test_an_upgrade_is_not_taken_and_does_no_harm(peer: Peer) -> None:
    more = (
        "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"
    )
    peer.writer.write(peer.request("GET", TASKS, more=more))
    assert (await peer.answer())[0] == 200


async def test_expect_100_continue(peer: Peer) -> None:
    head, _, body = peer.request("POST", TASKS, '{"title": "x"}', "Expect: 100-continue\r\n").partition(
        b"\r\n\r\n"
    )
    peer.writer.write(head + b"\r\n\r\n")
    assert await peer.reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    peer.writer.write(body)
    assert (await peer.answer())[0] == 201


@pytest.mark.parametrize("close", ["Connection: close\r\n", "Connection: Close, TE\r\n"])
async def test_close_is_heard(peer: Peer, close: str) -> None:
    peer.writer.write(peer.request("GET", TASKS, more=close))
    status, headers, _ = await peer.answer()
    assert (status, headers["connection"]) == (200, "close")
    assert await peer.closed()


async def test_who_leaves_before_the_answer_disturbs_nobody(
    base: str, peer: Peer, user: Account, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    for _ in range(20):
        async with connected(base, user) as leaving:
            leaving.writer.write(leaving.request("GET", TASKS))
            await asyncio.sleep(0)
            leaving.writer.transport.abort()
    async with connected(base, user) as leaving:  # in the middle of a body
        leaving.writer.write(
            b"POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{"
        )
        await asyncio.sleep(0.05)
        leaving.writer.transport.abort()
    peer.writer.write(peer.request("GET", TASKS))
    assert (await peer.answer())[0] == 200
    await asyncio.sleep(0.1)
    assert not caplog.records


@pytest.mark.parametrize(
    "begun",
    [
        "",
        "GET /healthz HT",
        "POST /api/v1/auth/login HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{",
        "POST {tasks} HTTP/1.1\r\nHost: x\r\nAuthorization: {token}\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{{",
    ],
)
async def test_who_is_too_slow_is_hung_up_on(app: Edge, user: Account, begun: str) -> None:
    config = server_config(app, app.lean.settings)
    config.load()
    config.timeout_keep_alive = 1
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: Http(config, state, {}), "127.0.0.1", 0)
    base = "http://{}:{}".format(*server.sockets[0].getsockname())
    begun = (
        begun.replace("{tasks}", TASKS).replace("{token}", user.headers["Authorization"]).replace("{{", "{")
    )
    async with connected(base, user) as slow, connected(base, user) as busy:
        busy.writer.write(busy.request("GET", TASKS))
        assert (await busy.answer())[0] == 200
        slow.writer.write(begun.encode())
        for n in range(12):
            if n == 6 and begun:
                slow.writer.write(b" ")  # a byte now and then does not help
            busy.writer.write(busy.request("GET", TASKS))
            assert (await busy.answer())[0] == 200
            await asyncio.sleep(0.2)
        assert await slow.closed()
    server.close()


async def ended(
    base: str, user: Account, begin: Callable[[Peer], bytes], end: Callable[[Peer], bytes], state: ServerState
) -> int:
    async with connected(base, user) as peer:
        peer.writer.write(begin(peer))
        await asyncio.sleep(0.2)
        for connection in [*state.connections]:
            connection.shutdown()
        peer.writer.write(end(peer))
        status, headers, _ = await peer.answer()
        assert headers["connection"] == "close"
        assert await peer.closed()
        return status


async def test_the_end_waits_for_a_body_and_for_an_answer(
    app: Edge, client: httpx.AsyncClient, user: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    await client.get(TASKS, headers=user.headers)
    config = server_config(app, app.lean.settings)
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(lambda: Http(config, state, {}), "127.0.0.1", 0)
    base = "http://{}:{}".format(*server.sockets[0].getsockname())

    def whole(peer: Peer) -> bytes:
        return peer.request("POST", TASKS, '{"title": "the last"}')

    assert await ended(base, user, lambda p: whole(p)[:-5], lambda p: whole(p)[-5:], state) == 201
    run = app.lean.db.one

    async def slowly(*args: object) -> object:
        await asyncio.sleep(0.5)
        return await run(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(app.lean.db, "one", slowly)
    assert await ended(base, user, whole, lambda _: b"", state) == 201
    server.close()
    titles = (await client.get(TASKS, headers=user.headers)).text
    assert len(re.findall("the last", titles)) == 2
