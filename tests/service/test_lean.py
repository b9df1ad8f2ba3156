"""The lean path against Litestar's: the same requests both ways, the same answers, byte for byte."""

import re
from typing import Any

import asyncpg
import httpx
import pytest

from service.edge import Edge
from service.lean import Lean
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

    def watched(self: Lean, *args: Any) -> Any:
        found = take(self, *args) if lean else None
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
    assert app.lean.tokens.known(header.encode("latin-1")) is None


async def test_an_expired_token_is_left_to_the_gate(app: Edge) -> None:
    tokens = app.lean.tokens
    token = tokens.access("ada", NOT_YET)
    tokens.verify(token)
    header = f"Bearer {token}".encode()
    assert tokens.known(header) is not None
    tokens._verified[token] = (tokens.verify(token), 0)
    assert tokens.known(header) is None
