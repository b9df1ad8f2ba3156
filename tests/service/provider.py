"""An identity provider for tests: keys of every kind that is taken, tokens as they may come, and an address that may fail."""

import asyncio
import base64
import json
import time
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import jwt
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1
from cryptography.hazmat.primitives.asymmetric.ec import generate_private_key as generate_ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key as generate_rsa
from jwt.algorithms import ECAlgorithm, OKPAlgorithm, RSAAlgorithm

from service.app import create_app
from service.edge import Edge
from service.settings import Settings
from tests.conftest import quiet, started, turn
from tests.db.hands import someone

JWKS = "/api/auth/jwks"
KINDS: dict[str, tuple[Callable[[], Any], Callable[[Any], Any]]] = {
    "EdDSA": (Ed25519PrivateKey.generate, lambda key: OKPAlgorithm.to_jwk(key, as_dict=True)),
    "ES256": (lambda: generate_ec(SECP256R1()), lambda key: ECAlgorithm.to_jwk(key, as_dict=True)),
    "RS256": (lambda: generate_rsa(65537, 2048), lambda key: RSAAlgorithm.to_jwk(key, as_dict=True)),
}


class Key:
    """A key pair; `jwk` is its public part as a provider shows it."""

    def __init__(self, algorithm: str = "EdDSA", kid: str | None = None) -> None:
        make, show = KINDS[algorithm]
        self.algorithm = algorithm
        self.kid = kid or uuid.uuid4().hex
        self.private = make()
        shown = show(self.private.public_key())
        self.jwk: dict[str, Any] = {k: v for k, v in shown.items() if k != "key_ops"}
        self.jwk |= {"alg": algorithm, "kid": self.kid}


class Provider:
    """Answers whoever asks for its keys; `answer` may be changed, `asked` counts."""

    def __init__(self) -> None:
        self.key = Key()
        self.keys = [self.key]
        self.asked = 0
        self.answer: Callable[[], Awaitable[bytes]] = self.good
        self.issuer = ""

    async def good(self) -> bytes:
        """The answer of a provider that is well."""
        return response(json.dumps({"keys": [key.jwk for key in self.keys]}).encode())

    def rotate(self) -> None:
        """Sign with another key from now on, and show no other."""
        self.key = Key()
        self.keys = [self.key]

    def claims(self, user_id: str, **changes: Any) -> dict[str, Any]:
        """What a good token says; None leaves a claim out."""
        now = int(time.time())
        good = {"iss": self.issuer, "aud": self.issuer, "sub": user_id, "iat": now, "exp": now + 900}
        good |= {"email": "somebody@example.com", "name": "Somebody"}
        return {name: value for name, value in (good | changes).items() if value is not None}

    def token(self, user_id: str, key: Key | None = None, headers: Any = None, **changes: Any) -> str:
        """A token that is good but for what is given."""
        key = key or self.key
        header = {"kid": key.kid} | (headers or {})
        return jwt.encode(
            self.claims(user_id, **changes), key.private, key.algorithm, headers={"typ": None} | header
        )

    def bearer(self, user_id: str, key: Key | None = None, **changes: Any) -> dict[str, str]:
        """A header with a token."""
        return bearer(self.token(user_id, key, **changes))

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            self.asked += 1
            assert request.startswith(f"GET {JWKS} HTTP/1.1\r\n".encode())
            writer.write(await self.answer())
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # whoever asked had enough
        finally:
            writer.close()


def response(body: bytes, status: str = "200 OK", *headers: str) -> bytes:
    head = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", "Connection: close", *headers]
    return "\r\n".join(head).encode() + b"\r\n\r\n" + body


def bearer(token: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {token}"}


def coded(part: dict[str, Any]) -> str:
    """A part of a token."""
    return unpadded(json.dumps(part).encode())


def unpadded(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


@asynccontextmanager
async def providing() -> AsyncIterator[Provider]:
    """A provider on a port of its own."""
    provider = Provider()
    server = await asyncio.start_server(provider.serve, "127.0.0.1", 0)
    provider.issuer = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield provider
    finally:
        server.close()


class Clock:
    """A clock that tests set forward."""

    def __init__(self) -> None:
        self.past = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.past


class Instance:
    """A service that takes a provider's tokens; `sent` are its statements, `clock` is that of its keys."""

    def __init__(self, edge: Edge, client: httpx.AsyncClient, sent: list[str], clock: Clock) -> None:
        self.edge = edge
        self.client = client
        self.sent = sent
        self.clock = clock

    async def status(self, headers: dict[str, str], path: str = "/api/v1/users/me") -> int:
        """What a request is answered with."""
        return (await self.client.get(path, headers=headers)).status_code


@asynccontextmanager
async def instance(settings: Settings) -> AsyncIterator[Instance]:
    """A service under settings that name a provider."""
    sent: list[str] = []

    async def log(connection: Any) -> None:
        connection.add_query_logger(lambda record: sent.append(record.query))

    edge = create_app(settings, init=log)
    clock = edge.app.state.identity.keys.clock = Clock()
    async with started(edge):
        transport = httpx.ASGITransport(edge, raise_app_exceptions=False, client=("192.0.2.7", 1))  # type: ignore[arg-type]
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", event_hooks={"response": [turn]}
        ) as client:
            await quiet(client, sent)
            sent.clear()
            yield Instance(edge, client, sent, clock)


async def theirs(connection: asyncpg.Connection, **columns: Any) -> str:
    """A user as a provider inserts them: without a password of ours, the id 32 letters."""
    return await someone(connection, **columns)
