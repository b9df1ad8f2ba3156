"""The lean path against Litestar's: the same requests both ways, the same answers, byte for byte."""

import re
import time
from typing import Any

import asyncpg
import httpx
import pytest

from db.tasks import Outcome
from service.edge import Edge
from service.lean import Lean, Plain
from tests.conftest import Account, sign_up

TASKS = "/api/v1/tasks"
JSON = {"Content-Type": "application/json"}
NOT_YET = "00000000-0000-7000-8000-000000000001"
VARYING = re.compile(
    r'"(id|user_id|created_at|updated_at|completed_at|request_id|next_cursor)":(?:"[^"]*"|\d+)|tasks/\d+'
    r'|cursor=[^>&]*|^"\d+-(?:\d+-)?[0-9a-f]{16}"$'
)

# Requests in order; {0} is the id of the first task. The last of each: whether the lean path takes it.
REQUESTS: list[tuple[str, str, Any, dict[str, str], bool]] = [
    ("POST", "", b'{"title": "Buy milk", "priority": "high"}', JSON, True),
    (
        "POST",
        "",
        b'{"title": "\\u00e9cole", "due_date": "2030-01-01T00:00:00+02:00", "completed": true}',
        JSON,
        True,
    ),
    ("POST", "", b'{"title": "last", "due_date": "9999-12-31T23:59:59.999999Z"}', JSON, True),
    ("POST", "", b'{"titel": "x", "priority": 9, "due_date": "soon"}', JSON, True),
    ("POST", "", b'{"title": " "}', JSON, True),
    ("POST", "", b'{"title": "a\\u0000b"}', JSON, True),
    ("POST", "", b'{"title": "a", "status": "pending", "completed": true}', JSON, True),
    ("POST", "", b"{", JSON, True),
    ("POST", "", b"\xff", JSON, True),
    ("POST", "", b"[" * 40, JSON, True),
    ("POST", "", b"", JSON, False),
    ("POST", "", b'{"title": "x"}', {"Content-Type": "text/plain"}, False),
    ("POST", "", b'{"title": "x"}', {"Content-Type": "application/json; charset=utf-8"}, False),
    ("POST", "", b'{"title": "' + b"x" * 70_000 + b'"}', JSON, False),
    ("POST", "?x=1", b'{"title": "x"}', JSON, False),
    ("GET", "/{0}", None, {}, True),
    ("GET", "/{0}", None, {"If-None-Match": '"1"'}, False),
    ("GET", "/{0}?x=1", None, {}, False),
    ("GET", "/{0}/", None, {}, False),
    ("GET", "/0", None, {}, False),
    ("GET", "/9223372036854775808", None, {}, False),
    ("GET", "/999999999999999999", None, {}, True),
    ("HEAD", "/{0}", None, {}, False),
    ("PUT", "/{0}", b"{}", JSON, False),
    ("PATCH", "/{0}", b'{"title": "Buy tea"}', JSON, True),
    ("PATCH", "/{0}", b'{"title": "Buy tea"}', JSON, True),
    ("PATCH", "/{0}", b'{"title": null, "description": null}', JSON, True),
    ("PATCH", "/{0}", b'{"status": "COMPLETED"}', {"Content-Type": "application/merge-patch+json"}, False),
    ("PATCH", "/{0}", b'{"title": "x"}', JSON | {"If-Match": '"1"'}, False),
    ("PATCH", "/999999999999999999", b'{"title": "x"}', JSON, True),
    ("POST", "/{0}/toggle", None, {}, True),
    ("POST", "/{0}/toggle", None, {"If-Match": '"1"'}, False),
    ("POST", "/999999999999999999/toggle", None, {}, True),
    ("GET", "", None, {}, True),
    ("GET", "?limit=1", None, {}, True),
    ("GET", "?limit=2&sort=title&count=true&status=pending&overdue=false", None, {}, True),
    ("GET", "?q=buy", None, {}, True),
    ("GET", "?limit=0&foo=1", None, {}, False),
    ("GET", "?limit=%ff", None, {}, False),
    ("GET", "/stats", None, {}, False),
    ("DELETE", "/{0}", None, {}, False),
    ("GET", "/{0}", None, {}, True),
    ("GET", "", None, {"Origin": "https://example.com"}, False),
    ("GET", "", None, {"X-Request-Id": "mine", "Accept": "*/*"}, True),
]


async def told(
    client: httpx.AsyncClient, headers: dict[str, str], monkeypatch: pytest.MonkeyPatch, *, lean: bool
) -> tuple[list[object], list[bool]]:
    """What the requests are answered, without what is of the moment; and which of them the lean path took."""
    took: list[bool] = []
    take = Lean.take

    def watched(self: Lean, data: bytes) -> Any:
        found = take(self, data) if lean else None
        if found != "more":
            took.append(found is not None)
        return found

    monkeypatch.setattr(Lean, "take", watched)
    answers: list[object] = []
    first = ""
    for method, path, body, more, _ in REQUESTS:
        answer = await client.request(
            method, TASKS + path.format(first), content=body, headers=headers | more
        )
        first = first or str(answer.json()["id"])
        kept = {name: VARYING.sub("...", value) for name, value in answer.headers.items()}
        if more.get("X-Request-Id") != kept.pop("x-request-id"):
            assert "X-Request-Id" not in more
        length = kept.pop("content-length", None)  # times end with as many digits as they have
        assert length in (None, str(len(answer.content))) or method == "HEAD"
        answers.append((answer.status_code, sorted(kept.items()), VARYING.sub("...", answer.text)))
    monkeypatch.setattr(Lean, "take", take)
    return answers, took


async def test_both_ways_answer_alike(client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch) -> None:
    lengths = []
    both = []
    for lean in (True, False):
        account = await sign_up(client)
        answers, took = await told(client, account.headers, monkeypatch, lean=lean)
        both.append(answers)
        lengths.append(took)
    expected = [plain for *_, plain in REQUESTS]
    expected[0] = False  # the token was not verified before
    assert lengths[0] == expected
    assert not any(lengths[1])
    for request, one, other in zip(REQUESTS, *both, strict=True):
        assert one == other, request


async def test_a_dead_session_is_refused_alike(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    made = await client.post(TASKS, json={"title": "x"}, headers=user.headers)
    await connection.execute("update sessions set revoked_at = now() where user_id = $1", user.id)
    for method, path in (("GET", TASKS), ("GET", f"{TASKS}/{made.json()['id']}"), ("POST", TASKS)):
        body = {"title": "x"} if method == "POST" else None
        answer = await client.request(method, path, json=body, headers=user.headers)
        plainly = await client.request(method, path, json=body, headers=user.headers | {"Origin": "x"})
        assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
        assert VARYING.sub("", answer.text) == VARYING.sub("", plainly.text)


@pytest.mark.parametrize("header", ["", "Basic x", "Bearer", "Bearer ", "bearer x", "Bearer x\xff"])
async def test_a_header_that_is_no_known_token_is_left_to_the_gate(app: Edge, header: str) -> None:
    assert app.lean.take(request(header)) is None


async def test_an_expired_token_is_left_to_the_gate(app: Edge) -> None:
    tokens = app.lean.tokens
    token = tokens.access("ada", NOT_YET)
    tokens.verify(token)
    taken = app.lean.take(request(f"Bearer {token}"))
    assert isinstance(taken, Plain)
    with pytest.raises(TypeError, match="NoneType"):  # nobody is ada: no row
        Outcome(*(await taken.rows))
    until = time.time()
    app.lean._heads = {block: head._replace(until=until) for block, head in app.lean._heads.items()}
    assert app.lean.take(request(f"Bearer {token}")) is None


HEADERS = "Host: test\r\nAuthorization: Bearer {token}\r\n"


@pytest.mark.parametrize(
    "text",
    [
        "GET {path} HTTP/1.1\r\n" + HEADERS,  # not whole
        "GET {path} HTTP/1.0\r\n" + HEADERS + "\r\n",
        "GET  {path} HTTP/1.1\r\n" + HEADERS + "\r\n",
        "GET {path} HTTP/1.1\n" + HEADERS + "\r\n",
        "get {path} HTTP/1.1\r\n" + HEADERS + "\r\n",
        "GET http://test{path} HTTP/1.1\r\n" + HEADERS + "\r\n",
        "GET {path}#x HTTP/1.1\r\n" + HEADERS + "\r\n",
        "GET {path}%20 HTTP/1.1\r\n" + HEADERS + "\r\n",
        "GET {path}/01 HTTP/1.1\r\n" + HEADERS + "\r\n",
        "GET {path}?limit=\xe9 HTTP/1.1\r\n" + HEADERS + "\r\n",
        "GET {path} HTTP/1.1\r\n" + HEADERS + "\r\nGET {path} HTTP/1.1\r\n" + HEADERS + "\r\n",  # not alone
        "GET {path} HTTP/1.1\r\n" + HEADERS + "host: test\r\n\r\n",
        "GET {path} HTTP/1.1\r\n" + HEADERS + "X : y\r\n\r\n",
        "GET {path} HTTP/1.1\r\n" + HEADERS + "X: y\r\n folded\r\n\r\n",
        "GET {path} HTTP/1.1\r\n" + HEADERS + "X: y\nZ: z\r\n\r\n",
        "GET {path} HTTP/1.1\r\n" + HEADERS + "X: \x00\r\n\r\n",
        "GET {path} HTTP/1.1\r\n" + HEADERS + "no colon\r\n\r\n",
        "GET {path} HTTP/1.1\r\n" + HEADERS + "Connection: close\r\n\r\n",
        "GET {path} HTTP/1.1\r\n" + HEADERS + "Connection: upgrade\r\nUpgrade: h2c\r\n\r\n",
        "GET {path} HTTP/1.1\r\n" + HEADERS + "Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "GET {path} HTTP/1.1\r\nAuthorization: Bearer {token}\r\n\r\n",  # no Host
        "GET {path} HTTP/1.1\r\nHost: a b\r\nAuthorization: Bearer {token}\r\n\r\n",
        "GET {path} HTTP/1.1\r\n" + HEADERS + "Content-Length: 2\r\n\r\n{{}}",
        "GET {path}/1/toggle HTTP/1.1\r\n" + HEADERS + "\r\n",
        "POST {path} HTTP/1.1\r\n" + HEADERS + "Content-Length: +2\r\n\r\n{{}}",
        "POST {path} HTTP/1.1\r\n" + HEADERS + "Content-Length: 02\r\n\r\n{{}}",
        "POST {path} HTTP/1.1\r\n" + HEADERS + "Content-Length: 1\r\n\r\n{{}}",
        "POST {path} HTTP/1.1\r\n" + HEADERS + "Content-Length: 65537\r\n\r\n",
        "POST {path} HTTP/1.1\r\n"
        + HEADERS
        + "Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n",
        "PATCH {path} HTTP/1.1\r\n"
        + HEADERS
        + "Content-Type: application/json\r\nContent-Length: 2\r\n\r\n{{}}",
        "DELETE {path}/1 HTTP/1.1\r\n" + HEADERS + "\r\n",
        "\r\nGET {path} HTTP/1.1\r\n" + HEADERS + "\r\n",
        "\x16\x03\x01",
        "",
    ],
)
async def test_what_is_not_plain_is_left_to_the_parser(app: Edge, text: str) -> None:
    token = app.lean.tokens.access("ada", NOT_YET)
    app.lean.tokens.verify(token)
    data = text.format(path=TASKS, token=token).encode("latin-1")
    assert app.lean.take(data) is None


async def test_a_body_may_come_later(app: Edge) -> None:
    token = app.lean.tokens.access("ada", NOT_YET)
    app.lean.tokens.verify(token)
    head = f"POST {TASKS} HTTP/1.1\r\n{HEADERS.format(token=token)}Content-Type: application/json\r\nContent-Length: 13\r\n\r\n"
    assert app.lean.take(head.encode()) == "more"
    assert app.lean.take(head.encode() + b'{"title":"x"') == "more"
    assert isinstance(app.lean.take(head.encode() + b'{"title":"x"}'), Plain)


async def test_heads_are_remembered_and_few(app: Edge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("service.lean.MEMORY", 3)
    monkeypatch.setattr(app.lean, "_heads", {})
    token = app.lean.tokens.access("ada", NOT_YET)
    app.lean.tokens.verify(token)
    for n in range(10):
        assert app.lean.take(request(f"Bearer {token}", f"X-Request-Id: {n}\r\n"))
        assert 1 <= len(app.lean._heads) <= 3
    assert app.lean.take(request(f"Bearer {token}", f"X: {'x' * 3000}\r\n"))
    assert all(len(block) <= 2048 for block in app.lean._heads)


def request(authorization: str, more: str = "") -> bytes:
    text = f"GET {TASKS}/1 HTTP/1.1\r\nHost: test\r\nAuthorization: {authorization}\r\n{more}\r\n"
    return text.encode("latin-1")
