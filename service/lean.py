"""The lean path of the hot routes, in front of Litestar's routing, argument and response machinery.

It takes a request only where everything about it is plain: the path, the headers, a token that was verified before. All
else it leaves untouched to Litestar, whose handler of the same route it calls too; a test sends the same requests both ways
and compares the answers.
"""

import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
from litestar import Response
from litestar.datastructures import Headers, State
from litestar.types import Receive

from db.pool import Database
from service import tasks, validation
from service.calls import Call
from service.errors import Problem, handle
from service.gate import JSON
from service.lists import TaskPage
from service.settings import Settings
from service.task import TaskCreate, TaskPatch
from service.tokens import Tokens

T = TypeVar("T", bound=msgspec.Struct)

PREFIX = tasks.PATH
MAX_BODY = 64 * 1024
PAGES = 1000  # queries of lists remembered
RARE = frozenset(
    (
        b"content-encoding",
        b"expect",
        b"idempotency-key",
        b"if-match",
        b"if-none-match",
        b"origin",
        b"transfer-encoding",
    )
)
_NONE = Headers({})
_PATH = re.compile(r"(?:/([1-9][0-9]{0,17})(/toggle)?)?", re.ASCII)
_LENGTH = re.compile(rb"[1-9][0-9]{0,4}")


class Lean:
    """The hot routes of one application; its state is Litestar's."""

    def __init__(self, state: State) -> None:
        self.db: Database = state.db
        self.settings: Settings = state.settings
        self.tokens: Tokens = state.tokens
        self._pages: dict[bytes, TaskPage] = {}

    def take(  # noqa: C901 (one look at each reason to leave it)
        self, scope: Any, headers: dict[bytes, bytes], receive: Receive
    ) -> Awaitable[Response[Any]] | None:
        """The answer to a request that is plain, None for any other; nothing has been received from that one."""
        path: str = scope["path"]
        if not path.startswith(PREFIX) or len(headers) != len(scope["headers"]):
            return None
        match = _PATH.fullmatch(path, len(PREFIX))
        if match is None or not RARE.isdisjoint(headers):
            return None
        caller = self.tokens.known(headers.get(b"authorization", b""))
        if caller is None:
            return None
        scope["user"] = caller
        call = Plain(scope, self)
        id, toggle = match.groups()
        method = scope["method"]
        if method == "GET" and not toggle:
            if id is None:
                return self._list(call)
            return None if scope["query_string"] else self._answered(call, "/{id}", tasks.get_task(call, id))
        if scope["query_string"]:
            return None
        if method == "POST" and toggle:
            return self._answered(call, "/{id}/toggle", tasks.toggle_task(call, id))
        if _LENGTH.fullmatch(headers.get(b"content-length", b"")) is None:
            return None
        if headers.get(b"content-type") != JSON.encode() or int(headers[b"content-length"]) > MAX_BODY:
            return None
        if method == "POST" and id is None:
            return self._answered(call, "", self._with_body(call, receive, TaskCreate, tasks.create_task))
        if method == "PATCH" and id and not toggle:

            def update(call: Call, data: TaskPatch) -> Awaitable[Response[Any]]:
                return tasks.update_task(call, id, data)

            return self._answered(call, "/{id}", self._with_body(call, receive, TaskPatch, update))
        return None

    def _list(self, call: "Plain") -> Awaitable[Response[Any]] | None:
        raw = call.scope["query_string"]
        page = self._pages.get(raw)
        if page is None:
            try:
                page = validation.query(raw, TaskPage)
                validation.check(page, self.settings)
            except Problem:
                return None
            if len(self._pages) >= PAGES:
                self._pages.clear()
            self._pages[raw] = page
        call.scope["params"] = page  # type: ignore[typeddict-unknown-key]
        return self._answered(call, "", tasks.list_tasks(call))

    async def _with_body(
        self,
        call: Call,
        receive: Receive,
        kind: type[T],
        handler: Callable[[Call, T], Awaitable[Response[Any]]],
    ) -> Response[Any]:
        message: Any = await receive()
        raw = message.get("body", b"")
        while message.get("more_body"):
            message = await receive()
            raw += message.get("body", b"")
        return await handler(call, validation.decode(raw, kind, self.settings))

    async def _answered(
        self, call: "Plain", template: str, answer: Awaitable[Response[Any]]
    ) -> Response[Any]:
        call.scope["path_template"] = PREFIX + template
        try:
            return await answer
        except Exception as error:  # noqa: BLE001 (as Litestar does with every exception of a handler)
            return handle(call, error)


class Plain(Call):
    """A call without a header or parameter that its handler would ask for; Litestar's own making is what it saves."""

    def __init__(self, scope: Any, lean: Lean) -> None:
        self.scope = scope
        self._lean = lean

    @property
    def db(self) -> Database:
        return self._lean.db

    @property
    def settings(self) -> Settings:
        return self._lean.settings

    @property
    def headers(self) -> Headers:
        """None that a handler of these routes asks for."""
        return _NONE
