"""Who is calling: the first two parameters of every statement under a token."""

import msgspec


class Caller(msgspec.Struct, frozen=True):
    """A user and the session (a UUID) that they act in."""

    user_id: str
    sid: str
