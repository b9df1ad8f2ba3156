"""Idempotency keys: a request that is sent again has its effect once, and the same answer."""

import hashlib
import re
from typing import TypeVar

import msgspec

from db.idempotency import Kept, Key
from service.calls import Call
from service.errors import Fault, invalid

HEADER = "Idempotency-Key"
REPLAYED = "Idempotent-Replayed"
KEY = "^[ -~]{1,255}$"  # printable ASCII
T = TypeVar("T")

_NAME = HEADER.lower()
_KEY = re.compile(KEY)


async def key(request: Call) -> Key | None:
    """The key of a request with its fingerprint, None without the header; raises a 422 `Problem` for an unfit one.

    The path is a part of the fingerprint as the client wrote it: the alias of a route shares its keys, but is another path.
    """
    given = [text.strip(" \t") for text in request.headers.getall(_NAME, [])]
    if not given:
        return None
    if len(given) > 1 or not _KEY.fullmatch(given[0]):
        raise invalid(Fault("must be one key of 1 to 255 printable ASCII characters", header=_NAME))
    scope = request.scope
    sent = msgspec.msgpack.encode((scope["path"], scope["query_string"], await request.body()))
    return Key(request.route_handler.opt["route"], given[0], hashlib.blake2b(sent, digest_size=32).digest())


def check(key: Key, kept: Kept) -> None:
    """Raise a 422 `Problem` where the key is another request's."""
    if kept.fingerprint != key.fingerprint:
        raise invalid(Fault("was used with another path, query or body in the last 24 hours", header=_NAME))


def read(kept: Kept, kind: type[T]) -> tuple[T, int, dict[str, str]]:
    """The answer that a key holds: its body, status and headers.

    The first answer and its replays all come from here, for Postgres and msgspec write times differently.
    """
    assert kept.result is not None
    headers = {} if kept.first else {REPLAYED: "true"}
    return msgspec.json.decode(kept.result, type=kind), kept.status, headers
