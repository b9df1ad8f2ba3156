"""Walking lists: which page, opaque cursors, the Link to the next page, and the entity tags of lists."""

import base64
import hashlib
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Annotated
from urllib.parse import parse_qsl, urlencode

import msgspec
from msgspec import UNSET, Meta, UnsetType

from service.calls import MAX_ID, Call
from service.errors import Fault, invalid
from service.settings import Settings

_TAG = re.compile(r'"([0-9]{1,19})-(?:([0-9]{1,19})-)?([0-9a-f]{16})"')


class Page(msgspec.Struct):
    """Which page of a list."""

    limit: Annotated[int, Meta(ge=1, le=500, description="Items of a page")] = 50
    offset: (
        Annotated[int, Meta(ge=0, le=MAX_ID, description="Items to pass over; not with cursor")] | UnsetType
    ) = UNSET
    cursor: (
        Annotated[str, Meta(max_length=4000, description="next_cursor of the page before; not with offset")]
        | UnsetType
    ) = UNSET

    def faults(self, settings: Settings) -> Iterator[Fault]:  # noqa: ARG002
        """What one parameter says against another."""
        if UNSET not in (self.cursor, self.offset):
            yield Fault("is not taken together with cursor", parameter="offset")


def write(walk: str, position: str, id: int) -> str:
    """A cursor: where the next page begins, in the walk (its list, filters and sort) that it belongs to."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode((_mark(walk), position, id))).decode().rstrip("=")


def read(cursor: str, walk: str) -> tuple[str, int]:
    """The position in a cursor. Raises a 422 `Problem` for one that is not ours or of another walk."""
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        mark, position, id = msgspec.msgpack.decode(raw, type=tuple[bytes, str, int])
    except (ValueError, msgspec.MsgspecError):
        raise invalid(Fault("is not one of ours", parameter="cursor")) from None
    if mark != _mark(walk) or not 0 <= id <= MAX_ID:
        raise invalid(Fault("belongs to another list, filter or sort", parameter="cursor"))
    return position, id


def link(request: Call, cursor: str) -> str:
    """The Link header (RFC 8288) to the next page of the same query."""
    kept = _kept(request.scope["query_string"])
    return f'<{request.scope["path"]}?{kept}cursor={cursor}>; rel="next"'


@lru_cache(1000)
def _kept(query: bytes) -> str:
    """What the next page's query begins with."""
    pairs = parse_qsl(query.decode(), keep_blank_values=True)
    kept = [(name, value) for name, value in pairs if name not in ("cursor", "offset", "since")]
    return urlencode(kept) + "&" if kept else ""


def tag(request: Call, revision: int, until: int | None = None) -> str:
    """The tag of a list or statistic: the user's revision, and until when it holds, bound to that user and to the query."""
    return "-".join((str(revision), *((str(until),) if until is not None else ()), _whose(request)))


def known(request: Call) -> tuple[str, int, int] | None:
    """The tag of If-None-Match that is of this very list, with its revision and until when it holds."""
    for tag in request.if_none_match() or ():
        match = _TAG.fullmatch(tag)
        if match and match[3] == _whose(request) and int(match[1]) <= MAX_ID >= int(match[2] or 0):
            return tag[1:-1], int(match[1]), int(match[2] or MAX_ID)
    return None


def _whose(request: Call) -> str:
    scope = request.scope
    text = f"{request.caller.user_id}\n{scope['path']}\n".encode() + scope["query_string"]
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _mark(walk: str) -> bytes:
    return hashlib.blake2b(walk.encode(), digest_size=6).digest()
