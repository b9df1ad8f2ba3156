"""The lean path of the hot routes, in front of the HTTP parser and of Litestar's routing, argument and response machinery.

It takes a request only where everything about it is plain: the path, the headers, a token that was verified before. All
else it leaves untouched to the parser and Litestar. It asks the same statement and has the answer made by the same function as
Litestar's handler of that route; a test sends the same requests both ways and compares the answers.
"""

import asyncio
import re
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, NamedTuple, Protocol

from litestar import Response
from litestar.datastructures import Headers, State

from db import tasks
from db.caller import Caller
from db.pool import Database
from db.task import Task
from db.together import Asked
from service import tasks as handlers
from service import validation
from service.calls import Call
from service.errors import Problem
from service.gate import JSON
from service.lists import TaskPage
from service.memory import Memory
from service.settings import Settings
from service.task import TaskCreate, TaskPatch
from service.tokens import Tokens

PREFIX = handlers.PATH
MAX_BODY = 64 * 1024
_LENGTH = re.compile(rb"0|[1-9][0-9]{0,6}")
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
END = b"\r\n\r\n"
LINE = re.compile(
    rb"(GET|POST|PATCH) (%b(?:/([1-9][0-9]{0,17})(/toggle)?)?)(?:\?([!-~]*))? HTTP/1\.1\r\n" % PREFIX.encode()
)
MEMORY, LONGEST = 2048, 2048  # heads that are remembered, and bytes of each
_NAME = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_ODD = re.compile(rb"[\x00-\x08\x0a-\x1f\x7f]")
_HOST = re.compile(rb"(?:[A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_KEPT = b"keep-alive"
_JSON = JSON.encode()
_NONE = Headers({})


class Head(NamedTuple):
    """What the header lines of a request say."""

    headers: dict[bytes, bytes]  # by lower-case names
    length: int  # of the body
    json: bool
    caller: Caller
    until: float  # seconds since 1970, to which the token is good


class Lean:
    """The hot routes of one application; its state is Litestar's."""

    def __init__(self, state: State) -> None:
        self.db: Database = state.db
        self.settings: Settings = state.settings
        self.tokens: Tokens = state.tokens
        self.memory: Memory = state.memory
        self._heads: dict[bytes, Head] = {}  # a client says the same each time
        self._pages: dict[bytes, TaskPage] = {}

    def take(self, data: bytes) -> "Plain | Literal['more'] | None":
        """The call that a request is, under way; `more` where its body is not whole; None where it is not plain, or not alone."""
        line = LINE.match(data)
        if line is None:
            return None
        at = line.end()
        end = data.find(END, at)
        if end < 0:
            return None
        head = self._heads.get(data[at:end]) or self._read(data[at:end])
        if head is None or head.until <= time.time():
            return None
        body = data[end + len(END) :]
        if head.length > MAX_BODY or len(body) > head.length:
            return None
        if len(body) < head.length:
            return "more"
        return self._asked(line, head, body)

    def _asked(self, line: re.Match[bytes], head: Head, body: bytes) -> "Plain | None":
        method, path, id, toggle, query = line.groups()
        call = Plain(self, head, method.decode(), path.decode(), query or b"")
        if method == b"GET" and not body and not toggle:
            if id is None:
                return self._list(call)
            if query is None:
                return call.asks("/{id}", tasks.get(self.db, head.caller, int(id)), handlers.read)
        elif query is not None:
            return None
        elif method == b"POST" and toggle:
            asked = tasks.toggle(self.db, head.caller, int(id), None)
            return call.asks("/{id}/toggle", asked, handlers.shown)
        elif body and head.json and not toggle:
            if method == b"POST" and id is None:
                return call.asks("", self._create(head.caller, body), handlers.made)
            if method == b"PATCH" and id:
                return call.asks("/{id}", self._update(head.caller, int(id), body), handlers.shown)
        return None

    def _read(self, block: bytes) -> Head | None:
        """Read header lines; None where anything about them is unusual."""
        headers: dict[bytes, bytes] = {}
        for line in block.split(b"\r\n"):
            name, _, value = line.partition(b":")
            name, value = name.lower(), value.strip(b" \t")
            if not _NAME.fullmatch(name) or name in headers or _ODD.search(value):
                return None
            headers[name] = value
        if not RARE.isdisjoint(headers) or not _HOST.fullmatch(headers.get(b"host", b"")):
            return None
        if headers.get(b"connection", _KEPT).lower() != _KEPT:
            return None
        known = self.tokens.known(headers.get(b"authorization", b""))
        length = headers.get(b"content-length", b"0")
        if known is None or not _LENGTH.fullmatch(length):
            return None
        head = Head(headers, int(length), headers.get(b"content-type") == _JSON, *known)
        if len(self._heads) >= MEMORY:
            self._heads.clear()
        if len(block) <= LONGEST:
            self._heads[block] = head
        return head

    def _create(self, caller: Caller, body: bytes) -> Awaitable[Task | None]:
        try:
            data = validation.decode(body, TaskCreate, self.settings)
        except Problem as problem:
            return _failed(problem)
        return tasks.create(self.db, caller, data.draft())

    def _update(self, caller: Caller, id: int, body: bytes) -> Awaitable[tasks.Outcome | None]:
        try:
            data = validation.decode(body, TaskPatch, self.settings)
        except Problem as problem:
            return _failed(problem)
        return tasks.update(self.db, caller, id, None, data.changes())

    def _list(self, call: "Plain") -> "Plain | None":
        raw = call.scope["query_string"]
        page = self._pages.get(raw)
        try:
            if page is None:
                page = validation.query(raw, TaskPage)
                validation.check(page, self.settings)
                if len(self._pages) >= PAGES:
                    self._pages.clear()
                self._pages[raw] = page
            call.scope["params"] = page
            return call.asks("", handlers.asked(call), handlers.listed)
        except Problem:
            return None


async def _failed(problem: Problem) -> Any:
    raise problem


class Plain(Call):
    """A call without a header or parameter that its handler would ask for; Litestar's own making is what it saves."""

    route: str
    rows: Awaitable[Any]  # what the database says
    answer: Callable[["Plain", Any], Response[Any]]  # what that becomes

    def __init__(self, lean: Lean, head: Head, method: str, path: str, query: bytes) -> None:
        self.scope: Any = {"path": path, "query_string": query, "user": head.caller}
        self.verb = method  # `method` and `headers` are Litestar's own
        self.given = head.headers
        self._lean = lean

    def asks(
        self, template: str, rows: Awaitable[Any], answer: Callable[[Call, Any], Response[Any]]
    ) -> "Plain":
        """The call of a route, with its statement under way."""
        self.route = PREFIX + template
        self.rows = rows
        self.answer = answer
        return self

    def then(self, tell: Callable[["Result"], None]) -> None:
        """Have it told when the database has answered."""
        if isinstance(self.rows, Asked):
            self.rows.then(tell)
        else:
            asyncio.ensure_future(self.rows).add_done_callback(tell)

    @property
    def db(self) -> Database:
        return self._lean.db

    @property
    def settings(self) -> Settings:
        return self._lean.settings

    @property
    def memory(self) -> Memory:
        return self._lean.memory

    @property
    def headers(self) -> Headers:
        """None that a handler of these routes asks for."""
        return _NONE


class Result(Protocol):
    """What the database has answered, a future or the like."""

    def result(self) -> Any: ...
