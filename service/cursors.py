"""Walking lists: opaque cursors, the Link to the next page, and the entity tags of lists."""

import base64
import hashlib
import re
from typing import Any
from urllib.parse import parse_qsl, urlencode

import msgspec
from msgspec import UNSET, UnsetType

from service.calls import MAX_ID, Call
from service.errors import Fault, invalid

_TAG = re.compile(r'"([0-9]{1,19})-([0-9a-f]{16})"')


def write(walk: str, *position: object) -> str:
    """A cursor: where the next page begins, in the walk (its list, filters and sort) that it belongs to."""
    return base64.urlsafe_b64encode(msgspec.msgpack.encode((_mark(walk), *position))).decode().rstrip("=")


def read(cursor: str | UnsetType, walk: str, *kinds: Any) -> Any:
    """The position in a cursor, as values of `kinds`; None for none. Raises a 422 `Problem` for one not of this walk."""
    if cursor is UNSET:
        return None
    try:
        raw = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        shape: Any = tuple.__class_getitem__((bytes, *kinds))
        mark, *position = msgspec.msgpack.decode(raw, type=shape)
    except (ValueError, msgspec.MsgspecError):
        raise invalid(Fault("is not one of ours", parameter="cursor")) from None
    if mark != _mark(walk) or any(isinstance(v, int) and not 0 <= v <= MAX_ID for v in position):
        raise invalid(Fault("belongs to another list, filter or sort", parameter="cursor"))
    return tuple(position)


def link(request: Call, cursor: str) -> str:
    """The Link header (RFC 8288) to the next page of the same query."""
    pairs = parse_qsl(request.scope["query_string"].decode(), keep_blank_values=True)
    kept = [(name, value) for name, value in pairs if name not in ("cursor", "offset")]
    return f'<{request.scope["path"]}?{urlencode([*kept, ("cursor", cursor)])}>; rel="next"'


def list_tag(request: Call, revision: int) -> str:
    """The tag of a list: the user's revision, bound to that user and to the query."""
    return f"{revision}-{_whose(request)}"


def known_revision(request: Call) -> int | None:
    """The revision that If-None-Match knows this very list at."""
    for tag in request.if_none_match() or ():
        match = _TAG.fullmatch(tag)
        if match and match[2] == _whose(request) and int(match[1]) <= MAX_ID:
            return int(match[1])
    return None


def _whose(request: Call) -> str:
    scope = request.scope
    text = f"{request.caller.user_id}\n{scope['path']}\n".encode() + scope["query_string"]
    return hashlib.blake2b(text, digest_size=8).hexdigest()


def _mark(walk: str) -> bytes:
    return hashlib.blake2b(walk.encode(), digest_size=6).digest()
