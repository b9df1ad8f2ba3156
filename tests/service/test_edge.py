"""What settings make of the edge: CORS, trusted proxies, HSTS."""

from collections.abc import AsyncIterator

import httpx
import msgspec
import pytest

from service.app import create_app
from service.edge import Edge
from service.settings import Settings
from tests.conftest import started

ORIGIN = "https://app.example.com"
TASKS = "/api/v1/tasks"


@pytest.fixture(scope="module")
async def edge(settings: Settings) -> AsyncIterator[Edge]:
    """An application behind a proxy, for one origin, where TLS ends."""
    changed = msgspec.structs.replace(
        settings, cors_origins=(ORIGIN,), trusted_proxies=("127.0.0.1", "10.0.0.0/8"), hsts=True
    )
    async with started(create_app(changed)) as edge:
        yield edge


@pytest.fixture(scope="module")
async def near(edge: Edge) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(edge)  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        yield client


async def test_cors_is_for_exact_origins(near: httpx.AsyncClient) -> None:
    asks = {
        "Access-Control-Request-Method": "PATCH",
        "Access-Control-Request-Headers": "authorization, if-match",
    }
    preflight = await near.options(TASKS, headers={"Origin": ORIGIN} | asks)
    assert preflight.status_code == 204
    assert preflight.headers["access-control-allow-origin"] == ORIGIN
    assert "PATCH" in preflight.headers["access-control-allow-methods"]
    answer = await near.get(TASKS, headers={"Origin": ORIGIN})
    assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (401, ORIGIN)
    assert "etag" in answer.headers["access-control-expose-headers"].lower()
    assert "origin" in answer.headers["vary"].lower()
    assert "access-control-allow-credentials" not in answer.headers
    for other in ("https://app.example.com.evil.org", "http://app.example.com", "https://evil.org", "null"):
        refused = await near.options(TASKS, headers={"Origin": other} | asks)
        answer = await near.get(TASKS, headers={"Origin": other})
        assert "access-control-allow-origin" not in refused.headers, other
        assert "access-control-allow-origin" not in answer.headers, other


async def test_without_origins_there_is_no_cors(client: httpx.AsyncClient) -> None:
    answer = await client.get(TASKS, headers={"Origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]


async def test_hsts_where_tls_ends_here(near: httpx.AsyncClient, client: httpx.AsyncClient) -> None:
    assert (await near.get("/nope")).headers["strict-transport-security"].startswith("max-age=")
    assert "strict-transport-security" not in (await client.get("/nope")).headers


@pytest.mark.parametrize(
    ("client", "forwarded", "address"),
    [
        ("127.0.0.1", "203.0.113.7", "203.0.113.7"),
        ("127.0.0.1", "203.0.113.7, 10.1.2.3", "203.0.113.7"),
        ("127.0.0.1", "198.51.100.1, 203.0.113.7, 10.1.2.3", "203.0.113.7"),
        ("127.0.0.1", "nonsense", "nonsense"),
        ("203.0.113.9", "198.51.100.1", "203.0.113.9"),
        ("127.0.0.1", None, "127.0.0.1"),
    ],
)
async def test_forwarded_addresses_are_believed_from_proxies_only(
    edge: Edge, client: str, forwarded: str | None, address: str
) -> None:
    headers = {} if forwarded is None else {b"x-forwarded-for": forwarded.encode()}
    assert edge._address((client, 1), headers) == address


async def test_nobody_is_believed_by_default(app: Edge) -> None:
    headers = {b"x-forwarded-for": b"198.51.100.1"}
    assert app._address(("127.0.0.1", 1), headers) == "127.0.0.1"
