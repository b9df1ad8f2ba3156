"""The public keys of an identity provider (a JWKS, RFC 7517): fetched when a token asks for one, and kept.

Nobody outside can make us fetch more often than every `PAUSE` seconds, and whatever the provider does, the last good
keys stay.
"""

import asyncio
import math
import ssl
import time

import httpx
import msgspec
import structlog
from jwt import PyJWK, PyJWTError

from service.errors import Problem

log = structlog.get_logger("service")

FRESH = 3600  # seconds; older keys are fetched again while they are used
PAUSE = 30  # seconds from one fetch to the next
DEADLINE = 5.0  # seconds of a fetch, and of whoever waits for it
MAX_BYTES, MAX_KEYS = 256 * 1024, 32
RSA_BITS = range(2048, 8193)
# What a key is says how it signs; a token has no say in it.
ALGORITHMS = {("OKP", "Ed25519"): "EdDSA", ("EC", "P-256"): "ES256", ("RSA", ""): "RS256"}


class Jwk(msgspec.Struct, omit_defaults=True):
    """The public part of a key; what else a provider tells of it, its private part even, is passed over."""

    kid: str
    kty: str
    crv: str = ""
    alg: str | None = None
    use: str | None = None
    x: str | None = None
    y: str | None = None
    n: str | None = None
    e: str | None = None


class JwkSet(msgspec.Struct):
    """A provider's answer; each key is read by itself, for some may be of kinds that we do not know."""

    keys: list[msgspec.Raw]


class Keys:
    """The keys of one address, by `kid`."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.clock = time.monotonic
        self._keys: dict[str, PyJWK] = {}
        self._fetched = self._asked = -math.inf
        self._fetching: asyncio.Task[None] | None = None
        self._context = ssl.create_default_context()

    async def get(self, kid: str) -> PyJWK | None:
        """A key; None where the provider has none of that name. Raises a 503 `Problem` where it never told any."""
        known = self._keys.get(kid)
        if known is not None:
            if self.clock() > self._fetched + FRESH:
                self._fetch()
            return known
        if fetching := self._fetch():
            await asyncio.wait([fetching], timeout=DEADLINE)
        if not self._keys:
            wait = max(1, math.ceil(self._asked + PAUSE - self.clock()))
            detail = (
                "The identity provider's keys cannot be had now; try again after the seconds in Retry-After."
            )
            raise Problem(503, detail, headers={"Retry-After": str(wait)})
        return self._keys.get(kid)

    async def close(self) -> None:
        """Give up a fetch under way."""
        if self._fetching:
            self._fetching.cancel()
            await asyncio.wait([self._fetching])

    def _fetch(self) -> asyncio.Task[None] | None:
        """The fetch under way, or a new one; None where the last began less than `PAUSE` seconds ago."""
        if self._fetching is None or self._fetching.done():
            if self.clock() < self._asked + PAUSE:
                return None
            self._asked = self.clock()
            self._fetching = asyncio.create_task(self._renew())
        return self._fetching

    async def _renew(self) -> None:
        try:
            async with asyncio.timeout(DEADLINE):
                keys = usable(await self._read())
        except Exception as error:  # noqa: BLE001 (a provider may fail in any way; the last good keys stay)
            reason = f"{type(error).__name__} {error}".strip()
            log.warning("the identity provider's keys cannot be read", url=self.url, reason=reason)
            return
        self._keys = keys
        self._fetched = self.clock()

    async def _read(self) -> bytes:
        """The answer as it is: no redirect is followed, nothing is unpacked."""
        async with (
            httpx.AsyncClient(verify=self._context, timeout=DEADLINE, trust_env=False) as client,
            client.stream("GET", self.url, headers={"Accept-Encoding": "identity"}) as answer,
        ):
            if answer.status_code != httpx.codes.OK:
                raise ValueError(f"the answer is {answer.status_code}")
            body = b""
            async for part in answer.aiter_raw():
                body += part
                if len(body) > MAX_BYTES:
                    raise ValueError(f"the answer has more than {MAX_BYTES} bytes")
        return body


def usable(body: bytes) -> dict[str, PyJWK]:
    """The keys of a set that we can verify with, by `kid`; raises `ValueError` where there are none, or too many."""
    listed = msgspec.json.decode(body, type=JwkSet).keys
    if len(listed) > MAX_KEYS:
        raise ValueError(f"it has {len(listed)} keys, at most {MAX_KEYS} are taken")
    keys: dict[str, PyJWK] = {}
    for raw in listed:
        if key := _key(raw):
            keys.setdefault(str(key.key_id), key)
    if not keys:
        raise ValueError("it has no key that can be used")
    return keys


def _key(raw: msgspec.Raw) -> PyJWK | None:
    try:
        jwk = msgspec.json.decode(raw, type=Jwk)
        algorithm = ALGORITHMS.get((jwk.kty, jwk.crv))
        if algorithm is None or jwk.alg not in (None, algorithm) or jwk.use not in (None, "sig"):
            return None
        key = PyJWK(msgspec.to_builtins(jwk), algorithm)
    except (ValueError, PyJWTError):
        return None
    return key if jwk.kty != "RSA" or key.key.key_size in RSA_BITS else None
