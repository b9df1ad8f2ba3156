"""What holds for every request: errors, headers, limits, methods, types, and the unversioned paths."""

import json
import re
from typing import Any

import httpx
import pytest

from service.edge import API_POLICY
from service.routes import MAX_BODY
from tests.conftest import Account

TASKS = "/api/v1/tasks"
PROBLEM = {"type", "title", "status", "detail", "code", "request_id"}


def check_problem(answer: httpx.Response, status: int, code: str) -> dict[str, Any]:
    """Assert the one shape of errors."""
    body: dict[str, Any] = answer.json()
    assert (answer.status_code, body["status"], body["code"]) == (status, status, code)
    assert answer.headers["content-type"] == "application/problem+json"
    assert PROBLEM <= set(body) <= PROBLEM | {"errors"}
    assert body["request_id"] == answer.headers["x-request-id"]
    assert body["detail"]
    return body


@pytest.mark.parametrize(
    "path", ["/nope", "/api/v1/nope", "/api/v1", "/api", "/docs/nope", "/api/v1/tasks/1/nope"]
)
async def test_unknown_paths_are_404_with_or_without_a_token(
    client: httpx.AsyncClient, user: Account, path: str
) -> None:
    check_problem(await client.get(path), 404, "not_found")
    check_problem(await client.get(path, headers=user.headers), 404, "not_found")


async def test_methods(client: httpx.AsyncClient, user: Account) -> None:
    answer = await client.put(TASKS, headers=user.headers)
    check_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET, HEAD, OPTIONS, POST"
    for path, allow in [
        (TASKS, "GET, HEAD, OPTIONS, POST"),
        (f"{TASKS}/1", "DELETE, GET, HEAD, OPTIONS, PATCH"),
        (f"{TASKS}/1/toggle", "OPTIONS, POST"),
        ("/healthz", "GET, HEAD, OPTIONS"),
    ]:
        answer = await client.options(path)
        assert (answer.status_code, answer.headers["allow"], answer.content) == (204, allow, b"")
    check_problem(await client.options("/nope"), 404, "not_found")


async def test_head_is_get_without_the_body(client: httpx.AsyncClient, user: Account) -> None:
    for path in (TASKS, "/healthz", "/openapi.json", "/docs", "/"):
        got = await client.get(path, headers=user.headers)
        head = await client.head(path, headers=user.headers)
        assert (head.status_code, head.content) == (200, b"")
        for name in ("content-type", "content-length", "etag"):
            assert head.headers.get(name) == got.headers.get(name)
    assert (await client.head(f"{TASKS}/1")).status_code == 401


@pytest.mark.parametrize("given", ["abc-1.2_3", "x" * 64])
async def test_request_id_is_the_callers(client: httpx.AsyncClient, given: str) -> None:
    answer = await client.get("/nope", headers={"X-Request-Id": given})
    assert (answer.headers["x-request-id"], answer.json()["request_id"]) == (given, given)


@pytest.mark.parametrize("given", ["", "x" * 65, "a b", "a\tb", "é", "<script>"])
async def test_request_id_is_ours_where_theirs_is_odd(client: httpx.AsyncClient, given: str) -> None:
    answer = await client.get("/healthz", headers={b"X-Request-Id": given.encode()})
    assert re.fullmatch(r"[0-9a-f-]{36}", answer.headers["x-request-id"])


async def test_every_answer_carries_the_security_headers(client: httpx.AsyncClient, user: Account) -> None:
    created = await client.post(TASKS, json={"title": "x"}, headers=user.headers)
    for answer, cache in [
        (created, "private, no-cache"),
        (await client.get(TASKS, headers=user.headers), "private, no-cache"),
        (await client.get(TASKS), "no-store"),
        (await client.get("/nope"), "no-store"),
        (await client.put(TASKS), "no-store"),
        (await client.options(TASKS), "no-store"),
        (await client.get("/healthz"), "no-store"),
    ]:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["referrer-policy"] == "no-referrer"
        assert answer.headers["content-security-policy"] == API_POLICY.decode()
        assert answer.headers["cache-control"] == cache
        assert answer.headers["server"] == "roundtrip"


@pytest.mark.parametrize(
    ("content", "kind", "status", "code"),
    [
        (b"{", "application/json", 400, "malformed_request"),
        (b"", "application/json", 400, "malformed_request"),
        (b"\xff\xfe", "application/json", 400, "malformed_request"),
        (b'{"title":"\xff"}', "application/json", 400, "malformed_request"),
        (b'{"title": NaN}', "application/json", 400, "malformed_request"),
        (b'{"title": "x"} x', "application/json", 400, "malformed_request"),
        (b"[" * 33 + b"]" * 33, "application/json", 400, "malformed_request"),
        (b"[" * 60_000, "application/json", 400, "malformed_request"),
        (b'{"title":' + b"9" * 5000 + b"}", "application/json", 400, "malformed_request"),
        (b'{"title":"\\ud800"}', "application/json", 422, "invalid"),
        (b'{"title":"\xed\xa0\x80"}', "application/json", 422, "invalid"),
        (b'{"title":"\\u0000"}', "application/json", 422, "invalid"),
        (b'{"title":"x","\\u0000":1}', "application/json", 422, "invalid"),
        (b'{"title":1e999}', "application/json", 422, "invalid"),
        (b'{"title":"x"}', None, 415, "unsupported_media_type"),
        (b'{"title":"x"}', "text/plain", 415, "unsupported_media_type"),
        (b'{"title":"x"}', "application/json; charset=latin-1", 415, "unsupported_media_type"),
        (b'{"title":"x"}', "application/jsonp", 415, "unsupported_media_type"),
        (b'{"title":"' + b"x" * MAX_BODY + b'"}', "application/json", 413, "too_large"),
    ],
)
async def test_bodies_that_cannot_be_taken(
    client: httpx.AsyncClient, user: Account, content: bytes, kind: str | None, status: int, code: str
) -> None:
    headers = user.headers | ({"Content-Type": kind} if kind else {})
    check_problem(await client.post(TASKS, content=content, headers=headers), status, code)
    assert (await client.get(TASKS, headers=user.headers)).json()["items"] == []


@pytest.mark.parametrize(
    "kind", ["application/json", "Application/JSON ; charset=UTF-8", 'application/json;charset="utf-8"']
)
async def test_types_that_can(client: httpx.AsyncClient, user: Account, kind: str) -> None:
    text = '{"title":"' + "[{" * 40 + '\\\\u0000 \\"[[ \\\\"}'
    answer = await client.post(TASKS, content=text, headers=user.headers | {"Content-Type": kind})
    assert answer.status_code == 201
    assert answer.json()["title"] == json.loads(text)["title"]


async def test_a_body_of_unknown_length_is_bounded_too(client: httpx.AsyncClient, user: Account) -> None:
    async def chunks() -> Any:
        for _ in range(MAX_BODY // 1024 + 1):
            yield b"x" * 1024

    headers = user.headers | {"Content-Type": "application/json"}
    check_problem(await client.post(TASKS, content=chunks(), headers=headers), 413, "too_large")


@pytest.mark.parametrize("query", ["limit=%ff", "limit=%ED%A0%80", "limit=1%00", "&".join(["a=1"] * 201)])
async def test_queries_that_cannot_be_taken(client: httpx.AsyncClient, user: Account, query: str) -> None:
    check_problem(await client.get(f"{TASKS}?{query}", headers=user.headers), 422, "invalid")


async def test_a_crash_is_a_500_that_tells_nothing(
    client: httpx.AsyncClient, user: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise RuntimeError("select secret from /etc/passwd")

    monkeypatch.setattr("db.tasks.get", crash)
    answer = await client.get(f"{TASKS}/1", headers=user.headers)
    check_problem(answer, 500, "internal")
    assert "secret" not in answer.text


async def test_a_crash_outside_the_framework_is_the_same(
    app: Any, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def crash(*_: object) -> None:
        raise RuntimeError("secret")

    monkeypatch.setattr(app, "app", crash)
    check_problem(await client.get("/healthz"), 500, "internal")


@pytest.mark.parametrize("host", ["bad host", "a/b", "\x01"])
async def test_odd_hosts_are_4xx(client: httpx.AsyncClient, host: str) -> None:
    assert (await client.get("/healthz", headers={b"Host": host.encode()})).status_code in (200, 400)


async def test_health_and_readiness(
    app: Any, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert (await client.get("/healthz")).json() == {"status": "ok"}
    assert (await client.get("/readyz")).json() == {"status": "ready"}
    monkeypatch.setattr("db.system.SCHEMA", "9999")
    answer = await client.get("/readyz")
    assert "roundtrip migrate" in check_problem(answer, 503, "unavailable")["detail"]
    monkeypatch.setattr(app.app.state, "draining", True, raising=False)
    answer = await client.get("/readyz")
    assert "shutting down" in check_problem(answer, 503, "unavailable")["detail"]
    assert answer.headers["retry-after"] == "5"
    app.app.state.draining = False


async def test_metrics_count_requests_by_route(client: httpx.AsyncClient, user: Account) -> None:
    await client.get(f"{TASKS}/12345", headers=user.headers)
    text = (await client.get("/metrics")).text
    assert 'method="GET",route="/api/v1/tasks/{id}",status="404"' in text
    assert 'roundtrip_statement_seconds_count{statement="tasks.get"}' in text
    assert "12345" not in text
    assert user.id not in text


@pytest.mark.parametrize("path", ["/", "/docs"])
async def test_pages_need_no_other_host(client: httpx.AsyncClient, path: str) -> None:
    page = await client.get(path)
    assert page.headers["content-type"].startswith("text/html")
    assert "//" not in re.sub(r"<!doctype.*?>", "", page.text).replace("</", "")
    for source in re.findall(r'(?:src|href)="(/[^"]*)"', page.text):
        answer = await client.get(source)
        assert answer.status_code == 200, source
        assert answer.content


async def test_errors_of_the_database_say_unavailable(
    client: httpx.AsyncClient, user: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    from db.errors import Unavailable, Unstorable

    async def away(*_: object) -> None:
        raise Unavailable("host 10.0.0.1 is gone", retry_after=3)

    async def odd(*_: object) -> None:
        raise Unstorable("the value 'secret'")

    monkeypatch.setattr("db.tasks.get", away)
    answer = await client.get(f"{TASKS}/1", headers=user.headers)
    assert "10.0.0.1" not in check_problem(answer, 503, "unavailable")["detail"]
    assert answer.headers["retry-after"] == "3"
    monkeypatch.setattr("db.tasks.get", odd)
    answer = await client.get(f"{TASKS}/1", headers=user.headers)
    assert "secret" not in check_problem(answer, 422, "invalid")["detail"]


async def test_times_that_are_counted_together_are_counted(app: Any, client: httpx.AsyncClient) -> None:
    from prometheus_client import CollectorRegistry, Histogram, generate_latest

    from service.metrics import MANY, SECONDS, Metrics

    metrics = Metrics(shared=False)
    registry = CollectorRegistry()
    singly = Histogram(
        "roundtrip_request_seconds",
        "Time from request to answer",
        ("method", "route", "status"),
        buckets=SECONDS,
        registry=registry,
    )
    times = [n * n / 10_000 for n in range(MANY + 100)] + [*SECONDS, 99.0]
    for seconds in times:
        metrics.answered("GET", "/x", 200, seconds)
        singly.labels("GET", "/x", "200").observe(seconds)

    def told(text: bytes) -> dict[str, float]:
        lines = [line.rsplit(" ", 1) for line in text.decode().splitlines()]
        return {
            name: round(float(value), 6)
            for name, value in lines
            if name.startswith("roundtrip_request_seconds_") and "_created" not in name
        }

    assert told(metrics.render(app.lean.db)) == told(generate_latest(registry))
