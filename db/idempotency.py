"""What a keyed statement takes beside its own parameters, and what it gives."""

import msgspec


class Key(msgspec.Struct, frozen=True):
    """An idempotency key of the caller for one route (its template), and a hash of the request that came with it."""

    route: str
    key: str
    fingerprint: bytes


class Kept(msgspec.Struct):
    """What the key holds now; `first` where this very request had the effect.

    `fingerprint` is of the request that had it. `result` is None where the request was refused, which keeps nothing.
    """

    first: bool
    fingerprint: bytes
    status: int
    result: str | None
