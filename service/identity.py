"""Access tokens of an identity provider (Better Auth, or any whose JWTs are signed with a key of its JWKS).

Issuer and subject together name a user: only one issuer is believed, and its subject is `users.id`, of users without a
password of ours. The first request under a token opens a session for it. From then on the token is like one of ours:
every statement asks whether its session lives, so all that ends sessions ends it.
"""

import hashlib
import uuid
from typing import Any

import jwt
import msgspec
from litestar.datastructures import Headers

from db import auth
from db.caller import Caller
from db.errors import Unstorable
from db.pool import Database
from service.calls import whence
from service.jwks import ALGORITHMS, Keys
from service.tokens import LEEWAY, InvalidToken, Tokens

# A header may not say where its key is, nor ask for what we do not know.
FORBIDDEN = frozenset(("crit", "jku", "jwk", "x5c", "x5u"))
TYPES = frozenset(("JWT", "AT+JWT", "APPLICATION/AT+JWT"))
CLAIMS = ["iss", "aud", "sub", "iat", "exp"]


class Claims(msgspec.Struct):
    """What is read of a token that was verified; times in seconds since 1970, which may have fractions."""

    sub: str
    iat: float
    exp: float


class Identity:
    """The one provider whose tokens are taken."""

    def __init__(self, issuer: str, audience: str, keys: Keys, tokens: Tokens, db: Database) -> None:
        self.keys = keys
        self._issuer = issuer
        self._audience = audience
        self._tokens = tokens
        self._db = db

    async def caller(self, token: str, headers: Headers, address: str) -> Caller:
        """Whom a token speaks for, its session open and the token remembered.

        Raises `InvalidToken`, or a 503 `Problem` where there are no keys to verify it with.
        """
        claims = await self._verified(token)
        caller = Caller(claims.sub, _session(token))
        until = int(claims.exp) + LEEWAY
        foreign = auth.Foreign(caller.sid, caller.user_id, *whence(headers, address), int(claims.iat), until)
        try:
            opened = await auth.open_session(self._db, foreign)
        except Unstorable:  # a subject that no row can have
            opened = None
        if opened is None:
            raise InvalidToken
        self._tokens.remember(token, caller, until)
        return caller

    async def _verified(self, token: str) -> Claims:
        try:
            header = jwt.get_unverified_header(token)
        except jwt.PyJWTError as error:
            raise InvalidToken from error
        kid = _key_named(header)
        key = await self.keys.get(kid)
        if key is None or header["alg"] != key.algorithm_name:
            raise InvalidToken
        try:
            payload = jwt.decode(
                token,
                key,
                algorithms=[key.algorithm_name],
                issuer=self._issuer,
                audience=self._audience,
                leeway=LEEWAY,
                options={"require": CLAIMS},
            )
            return msgspec.convert(payload, Claims)
        except (jwt.PyJWTError, ValueError) as error:
            raise InvalidToken from error


def _key_named(header: dict[str, Any]) -> str:
    """The `kid` of a header that has nothing to object to, before any key is asked for."""
    kid = header.get("kid")
    if not FORBIDDEN.isdisjoint(header) or str(header.get("typ", "JWT")).upper() not in TYPES:
        raise InvalidToken
    if not isinstance(kid, str) or header.get("alg") not in ALGORITHMS.values():
        raise InvalidToken
    return kid


def _session(token: str) -> str:
    """The id of a token's session. Of what is signed alone: a signature can be written in more than one way."""
    signed = token.rpartition(".")[0]
    return str(uuid.UUID(bytes=hashlib.sha256(signed.encode()).digest()[:16], version=4))
