"""The outermost layer, one ASGI middleware around Litestar: what every request gets and every answer carries.

Request id, client address, HEAD and OPTIONS, security headers, metrics, the access log, the last word on a crash,
and whether requests are under way (so that a SIGTERM can wait for them).
"""

import ipaddress
import re
import time
from typing import Any

import structlog
import uuid_utils
from litestar import Litestar, Response
from litestar.exceptions import HTTPException, MethodNotAllowedException
from litestar.types import Message, Receive, Scope, Send

from service import logs
from service.errors import Problem
from service.lean import Lean
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

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Serve one request; other scopes pass on."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        started = time.perf_counter()
        headers: dict[bytes, bytes] = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given if _REQUEST_ID.fullmatch(given) else str(uuid_utils.uuid7()).encode()
        scope["request_id"] = request_id.decode()
        scope["address"] = self._address(scope, headers)
        method = scope["method"]
        status = 0
        self.metrics.in_flight.inc()
        if (plain := self.lean.take(scope, headers, receive)) is not None:
            try:
                status = await self._plain(await plain, request_id, send)
            finally:
                self._done(scope, method, status, started)
            return
        head = method == "HEAD"
        scope["head"] = head
        if head:
            scope["method"] = "GET"

        async def sending(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = self._dressed(message, request_id)
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
            self._done(scope, method, status, started)

    def _done(self, scope: Any, method: str, status: int, started: float) -> None:
        """Count an answered request, and tell of it."""
        took = time.perf_counter() - started
        self.metrics.in_flight.dec()
        route = scope.get("path_template") or "none"
        self.metrics.answered(method, route, status, took)
        if route not in QUIET:
            logs.access(method, scope["path"], status, took, scope["request_id"], scope["address"])

    async def _plain(self, answer: Response[Any], request_id: bytes, send: Send) -> int:
        """Send what the lean path made, dressed like any other answer."""
        body: bytes = answer.content
        status = answer.status_code or 200
        headers = [(b"content-type", (answer.media_type or "").encode())]
        headers += [(name.lower().encode(), value.encode()) for name, value in answer.headers.items()]
        headers.append((b"content-length", str(len(body)).encode()))
        headers.append((b"x-request-id", request_id))
        headers += self._always
        headers.append((b"content-security-policy", API_POLICY))
        tagged = "ETag" in answer.headers
        headers.append((b"cache-control", b"private, no-cache" if tagged else b"no-store"))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": body, "more_body": False})
        return status

    def _address(self, scope: Scope, headers: dict[bytes, bytes]) -> str:
        """The client's address; X-Forwarded-For is read from the right, for as long as those who say so are ours."""
        client = scope.get("client")
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
