"""The gate, between routing and the handlers: who is calling, and whether the request can be read at all.

It refuses with 401 without a valid access token (the public routes are one literal list, and every other route
refuses by default), 415 for a body of another type, and 422 for a query with anything that the route does not know.
"""

from typing import TYPE_CHECKING, Any

import msgspec
from litestar.datastructures import Headers
from litestar.types import ASGIApp, Receive, Send

from db.caller import Caller
from service import validation
from service.errors import Problem
from service.tokens import InvalidToken, Tokens

if TYPE_CHECKING:  # it loads what only a service with an identity provider needs
    from service.identity import Identity

PUBLIC = frozenset(
    (
        "/",
        "/api/v1/auth/login",
        "/api/v1/auth/refresh",
        "/api/v1/auth/register",
        "/docs",
        "/docs/{file}",
        "/healthz",
        "/metrics",
        "/openapi.json",
        "/readyz",
    )
)
JSON = "application/json"
MERGE_PATCH = "application/merge-patch+json"


class NoQuery(msgspec.Struct):
    """The query of routes that take none."""


class Gate:
    """ASGI middleware behind Litestar's router; leaves `user` and `params` in the scope."""

    def __init__(self, app: ASGIApp, tokens: Tokens, identity: "Identity | None") -> None:
        self.app = app
        self.tokens = tokens
        self.identity = identity

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        route: Any = scope["route_handler"]
        if scope["type"] != "http" or scope["method"] == "OPTIONS":
            await self.app(scope, receive, send)
            return
        headers = Headers.from_scope(scope)
        if scope["path_template"] not in PUBLIC:
            token = _bearer(headers)
            try:
                caller = self.tokens.verify(token)
            except InvalidToken:
                caller = await self._foreign(token, headers, scope["address"])
            scope["user"] = caller
            if scope["path_params"].get("user_id", caller.user_id) != caller.user_id:
                raise Problem(404)
        if route.parsed_data_field:
            _check_type(headers.get("content-type", ""), patch=scope["method"] == "PATCH")
        if scope["path"].startswith("/api/"):
            scope["params"] = params = validation.query(
                scope["query_string"], route.opt.get("query", NoQuery)
            )
            validation.check(params, scope["litestar_app"].state.settings)
        await self.app(scope, receive, send)

    async def _foreign(self, token: str, headers: Headers, address: str) -> Caller:
        """Whom a token speaks for that is not ours, or ours no longer."""
        try:
            if self.identity is None:
                raise InvalidToken
            return await self.identity.caller(token, headers, address)
        except InvalidToken:
            raise Problem(401, headers={"WWW-Authenticate": 'Bearer error="invalid_token"'}) from None


def _bearer(headers: Headers) -> str:
    scheme, _, token = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not token:
        raise Problem(401)
    return token


def _check_type(given: str, *, patch: bool) -> None:
    kind, *parameters = (part.strip().lower() for part in given.split(";"))
    if kind != JSON and not (patch and kind == MERGE_PATCH):
        also = f" or {MERGE_PATCH}" if patch else ""
        raise Problem(415, f"The body must be {JSON}{also}; say so in Content-Type.")
    charsets = [
        part.removeprefix("charset=").strip('"') for part in parameters if part.startswith("charset=")
    ]
    if any(charset not in ("utf-8", "utf8") for charset in charsets):
        raise Problem(415, "The body must be in UTF-8.")
