"""The outermost layer, one ASGI middleware around Litestar: what every request gets and every answer carries.

Request id, client address, HEAD and OPTIONS, security headers, metrics, the access log, the last word on a crash,
and whether requests are under way (so that a SIGTERM can wait for them).
"""

import ipaddress
import re
import time
from collections.abc import Callable, Mapping
from typing import Any

import structlog
import uuid_utils
from litestar import Litestar
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.types import Message, Receive, Scope, Send

from service import logs
from service.errors import Problem, refusal
from service.lean import Lean, Plain, Result
from service.metrics import Metrics
from service.settings import Settings

log = structlog.get_logger("access")

_REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
API_POLICY = b"default-src 'none'; frame-ancestors 'none'"
PAGE_POLICY = (
    b"default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; img-src 'self' data:; "
    b"connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
QUIET = frozenset(("/healthz", "/readyz", "/metrics"))


class Edge:
    """The ASGI application that the server runs."""

    def __init__(self, app: Litestar, settings: Settings, metrics: Metrics) -> None:
        self.app = app
        self.metrics = metrics
        self.lean = Lean(app.state)
        self._proxies = [ipaddress.ip_network(item, strict=False) for item in settings.trusted_proxies]
        self._cors = bool(settings.cors_origins)
        self._always = [
            (b"server", b"roundtrip"),
            (b"x-content-type-options", b"nosniff"),
            (b"referrer-policy", b"no-referrer"),
        ]
        if settings.hsts:
            self._always.append((b"strict-transport-security", b"max-age=63072000; includeSubDomains"))
        same = (*self._always, (b"content-security-policy", API_POLICY))
        self._same = (
            b"".join(b"%b: %b\r\n" % header for header in same) + b"\r\n"
        )  # what ends the head of each plain answer

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request; other scopes pass on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        scope["request_id"] = request_id = self._request_id(headers)
        scope["address"] = address = self._address(scope.get("client"), headers)
        method = scope["method"]
        status = 0
        self.metrics.in_flight += 1
        head = method == "HEAD"
        scope["head"] = head
        if head:
            scope = {
                **scope,
                "method": "GET",
            }  # the server's own stays: by its method it knows that no body follows

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = self._dressed(message, request_id.encode())
            elif head and message["type"] == "http.response.body":
                message["body"] = b""
            await send(message)

        try:
            if method == "OPTIONS" and not (self._cors and b"access-control-request-method" in headers):
                await self._options(scope, receive, sending)
            else:
                await self.app(scope, receive, sending)
        except Exception as error:
            log.exception("crash", exc_info=error)
            if not status:
                await _send(sending, 500, Problem(500).body(scope["request_id"]))
        finally:
            route = scope.get("path_template") or "none"
            self._done(method, route, scope["path"], status, started, request_id, address)

    def _done(
        self, method: str, route: str, path: str, status: int, started: float, request_id: str, address: str
    ) -> None:
        """Count an answered request, and tell of it."""
        took = time.perf_counter() - started
        self.metrics.in_flight -= 1
        self.metrics.answered(method, route, status, took)
        if route not in QUIET:
            logs.access(method, path, status, took, request_id, address)

    def plain(self, call: Plain, client: tuple[str, int] | None, tell: Callable[[int, bytes], None]) -> None:
        """Answer a request of the lean path: tell the status, and all that follows the status line."""
        started = time.perf_counter()
        request_id = self._request_id(call.given)
        address = self._address(client, call.given)
        self.metrics.in_flight += 1

        def told(rows: Result) -> None:
            try:
                found = call.answer(call, rows.result())
            except Exception as error:  # noqa: BLE001 (as Litestar does with every exception of a handler)
                found = refusal(error, request_id)
            status = found.status_code or 200
            path = call.scope["path"]
            self._done(call.verb, call.route, path, status, started, request_id, address)
            tell(status, self._wire(found.media_type or "", found.headers, found.content, request_id))

        call.then(told)

    def refusal(self, problem: Problem) -> tuple[int, bytes]:
        """The answer to what could not be read as a request."""
        request_id = str(uuid_utils.uuid7())
        self.metrics.answered("none", "none", problem.status, 0)
        body = problem.body(request_id)
        return problem.status, self._wire("application/problem+json", {}, body, request_id)

    def _wire(self, kind: str, headers: Mapping[str, str], body: bytes, request_id: str) -> bytes:
        own = "".join([f"{name}: {value}\r\n" for name, value in headers.items()])
        cache = "private, no-cache" if "ETag" in headers else "no-store"
        head = (
            f"content-type: {kind}\r\n{own}content-length: {len(body)}\r\n"
            f"x-request-id: {request_id}\r\ncache-control: {cache}\r\n"
        )
        return b"".join((head.encode(), self._same, body))

    def _request_id(self, headers: dict[bytes, bytes]) -> str:
        """The client's own, or a new one."""
        given = headers.get(b"x-request-id")
        if given is not None and _REQUEST_ID.fullmatch(given):
            return given.decode()
        return str(uuid_utils.uuid7())

    def _address(self, client: tuple[str, int] | None, headers: dict[bytes, bytes]) -> str:
        """The client's address; X-Forwarded-For is read from the right, for as long as those who say so are ours."""
        address = client[0] if client else ""
        if self._proxies and (forwarded := headers.get(b"x-forwarded-for")):
            for hop in reversed(forwarded.decode("latin-1").split(",")):
                if not self._trusted(address):
                    break
                address = hop.strip()
        return address

    def _trusted(self, address: str) -> bool:
        try:
            parsed = ipaddress.ip_address(address)
        except ValueError:
            return False
        return any(parsed in network for network in self._proxies)

    async def _options(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Tell the methods of a path, token or not."""
        allowed = self._allowed(scope["path"])
        if allowed:
            await _send(send, 204, b"", (b"allow", allowed.encode()))
        else:
            await self.app(scope, receive, send)

    def _allowed(self, path: str) -> str:
        try:
            self.app.asgi_router.handle_routing(path=path.rstrip("/") or "/", method="TRACE")
        except MethodNotAllowedException as error:
            return _with_head((error.headers or {}).get("allow", ""))
        except HTTPException:
            pass
        return ""

    def _dressed(self, message: Any, request_id: bytes) -> list[tuple[bytes, bytes]]:
        headers = [(name.lower(), value) for name, value in message["headers"]]
        names = {name for name, _ in headers}
        if message["status"] == 405:  # noqa: PLR2004
            headers = [(n, _with_head(v.decode()).encode() if n == b"allow" else v) for n, v in headers]
        headers.append((b"x-request-id", request_id))
        headers += self._always
        if b"content-security-policy" not in names:
            headers.append((b"content-security-policy", API_POLICY))
        if b"cache-control" not in names:
            tagged = b"etag" in names
            headers.append((b"cache-control", b"private, no-cache" if tagged else b"no-store"))
        return headers


def _with_head(allow: str) -> str:
    methods = {method.strip() for method in allow.split(",") if method.strip()}
    if "GET" in methods:
        methods.add("HEAD")
    return ", ".join(sorted(methods | {"OPTIONS"}))


async def _send(send: Send, status: int, body: bytes, *headers: tuple[bytes, bytes]) -> None:
    kind = [(b"content-type", b"application/problem+json")] if body else []
    length = [(b"content-length", str(len(body)).encode())] if status != 204 else []  # noqa: PLR2004
    await send({"type": "http.response.start", "status": status, "headers": [*kind, *length, *headers]})
    await send({"type": "http.response.body", "body": body, "more_body": False})
