"""Access tokens (JWT, RFC 7519, HS256) and refresh tokens (opaque, with a MAC of their own).

Ours are signed and read by a few lines of the standard library: PyJWT, which reads an identity provider's
(`service/identity.py`), would load `cryptography` into every process.
"""

import base64
import hashlib
import hmac
import secrets
import time
import uuid
from dataclasses import dataclass

import msgspec
import uuid_utils

from db.caller import Caller

ISSUER = "roundtrip"
AUDIENCE = "roundtrip-api"
LEEWAY = 30  # seconds that clocks may differ
REMEMBERED = 50_000  # verified tokens kept; about 500 bytes each


_NOBODY: tuple[Caller | None, float] = (None, 0)


class InvalidToken(Exception):
    """A token that is not ours, not whole, or past its time."""


class Claims(msgspec.Struct, forbid_unknown_fields=True):
    """Everything that our access tokens say, and nothing else."""

    iss: str
    aud: str
    sub: str
    sid: str
    iat: int
    exp: int


@dataclass(frozen=True, slots=True)
class Refresh:
    """A refresh token taken apart: whose session, and what the database knows it by."""

    sid: str
    hash: bytes
    successor: str
    successor_hash: bytes


class Tokens:
    """Issues and verifies tokens under one secret; verified access tokens are remembered until they expire."""

    def __init__(self, secret: str, *, ttl: int) -> None:
        self.ttl = ttl
        self._key = _derived(secret, b"access")
        self._mac_key = _derived(secret, b"refresh")
        self._next_key = _derived(secret, b"successor")
        self._verified: dict[str, tuple[Caller, float]] = {}

    def access(self, user_id: str, sid: str, *, now: float | None = None) -> str:
        """A new access token for a session; `now` in seconds since 1970."""
        issued = int(time.time() if now is None else now)
        claims = Claims(ISSUER, AUDIENCE, user_id, sid, issued, issued + self.ttl)
        signed = HEADER + _base64(msgspec.json.encode(claims))
        return f"{signed}.{self._signature(signed)}"

    def verify(self, token: str) -> Caller:
        """Who an access token speaks for; raises `InvalidToken`. Whether the session lives, the statement tells."""
        known = self._verified.get(token)
        if known is not None:
            caller, until = known
            if time.time() < until:
                return caller
            del self._verified[token]
        signed, _, signature = token.rpartition(".")
        if not (signed.startswith(HEADER) and token.isascii()):
            raise InvalidToken
        if not hmac.compare_digest(self._signature(signed), signature):
            raise InvalidToken
        try:
            claims = msgspec.json.decode(_bytes(signed.removeprefix(HEADER)), type=Claims)
            caller = Caller(claims.sub, str(uuid.UUID(claims.sid)))
        except ValueError as error:  # msgspec's are too
            raise InvalidToken from error
        now = time.time()
        if (claims.iss, claims.aud) != (ISSUER, AUDIENCE):
            raise InvalidToken
        if claims.exp + LEEWAY <= now or claims.iat - LEEWAY > now:
            raise InvalidToken
        self.remember(token, caller, claims.exp + LEEWAY)
        return caller

    def remember(self, token: str, caller: Caller, until: float) -> None:
        """Take a token from now on without a look at it, `until` seconds since 1970."""
        if len(self._verified) >= REMEMBERED:
            del self._verified[next(iter(self._verified))]
        self._verified[token] = (caller, until)

    def known(self, authorization: bytes) -> tuple[Caller, float] | None:
        """Who a header speaks for whose token was verified before, and until when, seconds since 1970; None for any other."""
        if not authorization.startswith(b"Bearer "):
            return None
        return self._verified.get(authorization[7:].decode("latin-1"))

    def first_refresh(self) -> Refresh:
        """The first refresh token of a new session, as its own `successor`."""
        sid = str(uuid_utils.uuid7())
        token = self._seal(sid, secrets.token_bytes(32))
        return Refresh(sid, b"", token, _hash(token))

    def read_refresh(self, token: str) -> Refresh:
        """Take a refresh token apart; raises `InvalidToken` where we did not make it, so that garbage ends no session.

        The successor is an HMAC of the token, so that whoever asks again within the grace gets the same one,
        though only hashes are stored.
        """
        try:
            raw = _bytes(token)
            if len(raw) != 64:  # noqa: PLR2004 (16 of the session, 32 of secret, 16 of MAC)
                raise ValueError
            sid, secret = str(uuid.UUID(bytes=raw[:16])), raw[16:48]
        except ValueError:
            raise InvalidToken from None
        if not hmac.compare_digest(self._seal(sid, secret), token):
            raise InvalidToken
        successor = self._seal(sid, hmac.digest(self._next_key, raw, "sha256"))
        return Refresh(sid, _hash(token), successor, _hash(successor))

    def _seal(self, sid: str, secret: bytes) -> str:
        open_part = uuid.UUID(sid).bytes + secret
        mac = hmac.digest(self._mac_key, open_part, "sha256")[:16]
        return _base64(open_part + mac)

    def _signature(self, signed: str) -> str:
        return _base64(hmac.digest(self._key, signed.encode(), "sha256"))


def _derived(secret: str, purpose: bytes) -> bytes:
    """A key of its own for each purpose, so that no kind of token can pass for another."""
    return hmac.digest(secret.encode(), b"roundtrip " + purpose, "sha256")


def _hash(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


def _base64(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


def _bytes(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


# What we sign has one header, byte for byte; a token with any other was not made here.
HEADER = _base64(b'{"alg":"HS256","typ":"JWT"}') + "."
