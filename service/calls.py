"""What every handler works with: the call it got and the answer it gives."""

import ipaddress
import re
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import msgspec
from litestar import Request, Response
from litestar.datastructures import Cookie, Headers, State

from db.caller import Caller
from db.pool import Database
from service.errors import Fault, Problem, invalid
from service.passwords import Passwords
from service.settings import Settings
from service.throttle import Throttle
from service.tokens import Tokens

if TYPE_CHECKING:  # it is about calls
    from service.memory import Memory

T = TypeVar("T")
MAX_ID = 2**63 - 1
MAX_USER_AGENT = 500

_ID = re.compile(r"[1-9][0-9]{0,18}", re.ASCII)
_TAG = re.compile(r'(?:W/)?"[\x21\x23-\x7e\x80-\xff]*"')
_REVISION_TAG = re.compile(r'"([0-9]{1,19})"')
_encode = msgspec.json.Encoder().encode


class Call(Request[Caller, None, State]):
    """A request, with what the application has for its handlers."""

    @property
    def caller(self) -> Caller:
        """Whose access token came with it, as the gate found."""
        return self.scope["user"]  # type: ignore[no-any-return]

    @property
    def params(self) -> Any:
        """The query, read by the gate into the Struct that the route names."""
        return self.scope["params"]  # type: ignore[typeddict-item]

    @property
    def head(self) -> bool:
        """Whether it came as HEAD, and its body goes nowhere."""
        return self.scope["head"]  # type: ignore[typeddict-item, no-any-return]

    @property
    def address(self) -> str:
        """The client's address, behind trusted proxies too."""
        return self.scope["address"]  # type: ignore[typeddict-item, no-any-return]

    @property
    def db(self) -> Database:
        return self.app.state.db  # type: ignore[no-any-return]

    @property
    def settings(self) -> Settings:
        return self.app.state.settings  # type: ignore[no-any-return]

    @property
    def memory(self) -> "Memory":
        return self.app.state.memory  # type: ignore[no-any-return]

    @property
    def tokens(self) -> Tokens:
        return self.app.state.tokens  # type: ignore[no-any-return]

    @property
    def passwords(self) -> Passwords:
        return self.app.state.passwords  # type: ignore[no-any-return]

    @property
    def throttle(self) -> Throttle:
        return self.app.state.throttle  # type: ignore[no-any-return]

    def if_match(self) -> list[int] | None:
        """The revisions that If-Match allows, None for any (RFC 9110, 13.1.1: strong comparison).

        A tag that is not a revision matches nothing. Raises a 422 `Problem` where the header is no list of tags.
        """
        tags = self._tags("if-match")
        if tags is None:
            return None
        found = (_REVISION_TAG.fullmatch(tag) for tag in tags)
        return [revision for match in found if match and (revision := int(match[1])) <= MAX_ID]

    def if_none_match(self) -> frozenset[str] | None:
        """The tags of If-None-Match without their weakness, None without the header, `{"*"}` for any."""
        if "if-none-match" not in self.headers:
            return None
        tags = self._tags("if-none-match")
        return frozenset(("*",)) if tags is None else frozenset(tag.removeprefix("W/") for tag in tags)

    def _tags(self, header: str) -> list[str] | None:
        text = ", ".join(self.headers.getall(header, [])).strip()
        if text in ("", "*"):
            return None
        parts = [part.strip() for part in re.findall(r'(?:W/)?"[^"]*"|[^,]+', text)]
        tags = [part for part in parts if part]
        if not all(_TAG.fullmatch(tag) for tag in tags):
            raise invalid(Fault('must be * or a list of tags such as "12"', header=header))
        return tags


def whence(headers: Headers, address: str) -> tuple[str | None, str | None]:
    """The user agent and the address that a session remembers; there is none behind a Unix socket."""
    agent = headers.get("user-agent", "").replace("\x00", "")[:MAX_USER_AGENT]
    try:
        return agent or None, str(ipaddress.ip_address(address))
    except ValueError:
        return agent or None, None


def number(id: str) -> int:
    """A task's, conversation's or message's id out of a path; what cannot be one is 404."""
    if _ID.fullmatch(id) and int(id) <= MAX_ID:
        return int(id)
    raise Problem(404)


def signed_in(row: T | None) -> T:
    """What a statement under a token gave; no row at all means that the session has ended."""
    if row is None:
        raise Problem(401)
    return row


class Json(Response[bytes]):
    """An answer of JSON that is encoded already; made here, for Litestar's own making costs ten times as much."""

    media_type = "application/json"
    background = None
    cookies: ClassVar[list[Cookie]] = []  # type: ignore[misc]
    encoding = "utf-8"
    response_type_encoders: ClassVar[dict[Any, Any]] = {}  # type: ignore[misc]

    def __init__(self, content: bytes, status: int, headers: dict[str, str]) -> None:
        self.content = content
        self.status_code = status
        self.headers = headers


def answer(
    body: object, status: int = 200, *, tag: str | int | None = None, headers: dict[str, str] | None = None
) -> Response[Any]:
    """A JSON answer, with its entity tag where it has one."""
    headers = headers or {}
    if tag is not None:
        headers["ETag"] = f'"{tag}"'
    return Json(_encode(body), status, headers)


def empty(status: int = 204, *, tag: str | int | None = None) -> Response[None]:
    """An answer without a body: 204 or 304."""
    return Response(None, status_code=status, headers={} if tag is None else {"ETag": f'"{tag}"'})


def unchanged(call: Call, tag: str | int) -> bool:
    """Whether If-None-Match says that the client has this version."""
    known = call.if_none_match()
    return known is not None and ("*" in known or f'"{tag}"' in known)
