"""Keys of an identity provider: asked for seldom, never waited for long, and kept while it fails."""

import asyncio
import gzip
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import asyncpg
import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from jwt.algorithms import RSAAlgorithm

from service import jwks
from service.jwks import DEADLINE, FRESH, MAX_BYTES, MAX_KEYS, PAUSE, usable
from service.settings import Settings
from tests.service.accounts import ME
from tests.service.provider import Instance, Key, Provider, instance, providing, response, theirs

PATIENCE = 60


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    async with providing() as provider:
        yield provider


@pytest.fixture
async def service(settings: Settings, provider: Provider) -> AsyncIterator[Instance]:
    async with instance(msgspec.structs.replace(settings, identity_issuer=provider.issuer)) as service:
        yield service


@pytest.fixture
async def who(connection: asyncpg.Connection) -> str:
    return await theirs(connection)


async def fetched(service: Instance) -> None:
    """Wait until no fetch is under way."""
    keys = service.edge.app.state.identity.keys
    if keys._fetching:
        async with asyncio.timeout(PATIENCE):
            await asyncio.wait([keys._fetching])


# How often


async def test_keys_are_not_asked_for_before_they_are_needed(
    service: Instance, provider: Provider, who: str
) -> None:
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": "Basic x"}):
        assert await service.status(headers) == 401
    assert provider.asked == 0
    assert await service.status(provider.bearer(who)) == 200
    assert provider.asked == 1


async def test_one_fetch_for_all_who_wait(service: Instance, provider: Provider, who: str) -> None:
    go = asyncio.Event()

    async def slow() -> bytes:
        await go.wait()
        return await provider.good()

    provider.answer = slow
    asking = [
        asyncio.create_task(service.status(provider.bearer(who, exp=2_000_000_000 + n))) for n in range(20)
    ]
    async with asyncio.timeout(PATIENCE):
        while not provider.asked:
            await asyncio.sleep(0.01)
    go.set()
    assert await asyncio.gather(*asking) == [200] * 20
    assert provider.asked == 1


async def test_unknown_kids_fetch_once_in_a_while(service: Instance, provider: Provider, who: str) -> None:
    assert await service.status(provider.bearer(who)) == 200
    for expected in (1, 2, 3):
        for _ in range(2):
            strangers = [service.status(provider.bearer(who, Key())) for _ in range(5)]
            assert await asyncio.gather(*strangers) == [401] * 5
        assert provider.asked == expected
        service.clock.past += PAUSE + 1
    assert PAUSE == 30


async def test_a_new_key_is_found_and_an_old_one_forgotten(
    service: Instance, provider: Provider, who: str
) -> None:
    old = provider.key
    seen = provider.bearer(who)
    assert await service.status(seen) == 200
    provider.rotate()
    assert await service.status(provider.bearer(who)) == 401  # for half a minute
    service.clock.past += PAUSE + 1
    assert await service.status(provider.bearer(who)) == 200
    assert await service.status(provider.bearer(who, old, exp=2_000_000_000)) == 401
    assert await service.status(seen) == 200  # it has a session
    assert provider.asked == 2


async def test_old_keys_are_renewed_behind_the_back(service: Instance, provider: Provider, who: str) -> None:
    assert await service.status(provider.bearer(who)) == 200
    go = asyncio.Event()

    async def slow() -> bytes:
        await go.wait()
        return await provider.good()

    provider.answer = slow
    old = provider.key
    provider.rotate()
    service.clock.past += FRESH - 60
    assert await service.status(provider.bearer(who, old, exp=2_000_000_000)) == 200
    assert provider.asked == 1
    service.clock.past += 120
    for n in range(1, 4):  # the provider has not answered yet
        assert await service.status(provider.bearer(who, old, exp=2_000_000_000 + n)) == 200
    go.set()
    await fetched(service)
    assert provider.asked == 2
    assert await service.status(provider.bearer(who)) == 200
    assert await service.status(provider.bearer(who, old, exp=2_000_000_009)) == 401
    assert provider.asked == 2


async def test_the_proxy_of_the_environment_is_not_asked(
    service: Instance, provider: Provider, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:1")
    monkeypatch.delenv("NO_PROXY", raising=False)
    assert await service.status(provider.bearer(who)) == 200


# A provider that fails


def a_set(*keys: dict[str, Any]) -> bytes:
    return json.dumps({"keys": keys}).encode()


def saying(body: bytes, status: str = "200 OK", *headers: str) -> Callable[[Provider], Awaitable[bytes]]:
    async def answer(provider: Provider) -> bytes:
        return response(body, status, *headers)

    return answer


def others(number: int = 1) -> bytes:
    """A good set, which would take the place of the one before."""
    return a_set(*(Key().jwk for _ in range(number)))


async def elsewhere(provider: Provider) -> bytes:
    return response(b"", "302 Found", f"Location: {provider.issuer}/api/auth/jwks")


async def zipped(provider: Provider) -> bytes:
    return response(gzip.compress(others()), "200 OK", "Content-Encoding: gzip")


async def endless(provider: Provider) -> bytes:
    return b"HTTP/1.1 200 OK\r\n\r\n" + b" " * MAX_BYTES + others()


async def cut(provider: Provider) -> bytes:
    return (await provider.good()).replace(b"Content-Length: ", b"Content-Length: 9")


async def many(provider: Provider) -> bytes:
    return response(others(MAX_KEYS + 1))


async def sorry(provider: Provider) -> bytes:
    return response(others(), "500 Internal Server Error")


async def accepted(provider: Provider) -> bytes:
    return response(others(), "202 Accepted")


FAILURES: dict[str, Callable[[Provider], Awaitable[bytes]]] = {
    "nothing": saying(b"", ""),
    "an error": sorry,
    "another success": accepted,
    "a redirect, to itself even": elsewhere,
    "no JSON": saying(b"<html>canary</html>"),
    "no set": saying(b'{"key": []}'),
    "no list": saying(b'{"keys": {}}'),
    "no text": saying(b"\xff\xfe"),
    "deeply nested": saying(b'{"keys": ' + b"[" * 100_000),
    "no keys": saying(b'{"keys": []}'),
    "no usable key": saying(b'{"keys": [{}, 1, null, {"kid": "x", "kty": "oct", "k": "AAAA"}]}'),
    "too many keys": many,
    "too many bytes": endless,
    "packed": zipped,
    "cut off": cut,
}


def failing(provider: Provider, how: str) -> None:
    async def answer() -> bytes:
        return await FAILURES[how](provider)

    provider.answer = answer


@pytest.mark.parametrize("how", FAILURES)
async def test_the_last_good_keys_stay(service: Instance, provider: Provider, who: str, how: str) -> None:
    assert await service.status(provider.bearer(who)) == 200
    failing(provider, how)
    for round in (1, 2):
        service.clock.past += FRESH + 60
        assert await service.status(provider.bearer(who, exp=2_000_000_000 + round)) == 200
        await fetched(service)
        assert await service.status(provider.bearer(who, Key())) == 401
        assert provider.asked == 1 + round
        assert await service.status(provider.bearer(who, exp=2_000_000_010 + round)) == 200
    provider.answer = provider.good
    provider.rotate()
    service.clock.past += PAUSE + 1
    assert await service.status(provider.bearer(who)) == 200


@pytest.mark.parametrize("how", ["an error", "no JSON", "no keys"])
async def test_without_keys_it_is_unavailable(
    service: Instance, provider: Provider, who: str, how: str
) -> None:
    failing(provider, how)
    for _ in range(3):
        answer = await service.client.get(ME, headers=provider.bearer(who))
        assert (answer.status_code, answer.json()["code"]) == (503, "unavailable")
        assert 1 <= int(answer.headers["retry-after"]) <= PAUSE
    assert provider.asked == 1
    assert await service.status({"Authorization": "Bearer x"}) == 401
    provider.answer = provider.good
    service.clock.past += int(answer.headers["retry-after"]) + 1
    assert await service.status(provider.bearer(who)) == 200


async def test_nobody_there(settings: Settings, who: str) -> None:
    async with providing() as provider:
        pass  # its port is free again
    async with instance(msgspec.structs.replace(settings, identity_issuer=provider.issuer)) as service:
        assert await service.status(provider.bearer(who)) == 503


async def test_nobody_waits_longer_than_the_deadline(
    service: Instance,
    provider: Provider,
    who: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert DEADLINE == 5
    monkeypatch.setattr(jwks, "DEADLINE", 0.2)
    seen = provider.bearer(who)
    hanging = asyncio.Event()

    async def never() -> bytes:
        await hanging.wait()
        return b""

    provider.answer = never
    async with asyncio.timeout(PATIENCE):
        assert await service.status(seen) == 503
        await fetched(service)
        provider.answer = provider.good
        service.clock.past += PAUSE + 1
        monkeypatch.undo()
        assert await service.status(seen) == 200
        monkeypatch.setattr(jwks, "DEADLINE", 0.2)
        provider.answer = never
        service.clock.past += PAUSE + 1
        assert await service.status(provider.bearer(who, Key())) == 401
    assert provider.asked == 3
    hanging.set()


async def test_a_slow_drip_is_no_answer(
    service: Instance, provider: Provider, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(jwks, "DEADLINE", 0.3)

    async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
            while True:
                writer.write(b" ")
                await writer.drain()
                await asyncio.sleep(0.02)
        except OSError:
            writer.close()

    server = await asyncio.start_server(drip, "127.0.0.1", 0)
    keys = service.edge.app.state.identity.keys
    keys.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/api/auth/jwks"
    async with asyncio.timeout(PATIENCE):
        assert await service.status(provider.bearer(who)) == 503
        await fetched(service)
    server.close()


async def test_stopping_does_not_wait_for_a_provider(
    settings: Settings, provider: Provider, who: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    hanging = asyncio.Event()

    async def never() -> bytes:
        await hanging.wait()
        return b""

    async with asyncio.timeout(PATIENCE):
        async with instance(msgspec.structs.replace(settings, identity_issuer=provider.issuer)) as service:
            assert await service.status(provider.bearer(who)) == 200
            provider.answer = never
            service.clock.past += FRESH + 1
            assert await service.status(provider.bearer(who, exp=2_000_000_000)) == 200
            keys = service.edge.app.state.identity.keys
        assert keys._fetching.cancelled()
    hanging.set()


# Which keys


def test_a_key_says_itself_how_it_signs() -> None:
    keys = [Key(algorithm) for algorithm in ("EdDSA", "ES256", "RS256")]
    for key in keys:
        del key.jwk["alg"]
    found = usable(a_set(*(key.jwk for key in keys)))
    assert {kid: key.algorithm_name for kid, key in found.items()} == {key.kid: key.algorithm for key in keys}


def short() -> dict[str, Any]:
    jwk = RSAAlgorithm.to_jwk(generate_private_key(65537, 1024).public_key(), as_dict=True)
    return {key: value for key, value in jwk.items() if key != "key_ops"} | {"kid": "short"}


def but(algorithm: str = "EdDSA", **changes: Any) -> Callable[[], dict[str, Any]]:
    """A good key but for what is given; None leaves a member out."""

    def made() -> dict[str, Any]:
        changed = Key(algorithm).jwk | changes
        return {name: value for name, value in changed.items() if value is not None}

    return made


UNUSABLE: dict[str, Callable[[], dict[str, Any]]] = {
    "OKP that says HS256": but(alg="HS256"),
    "RSA that says RS512": but("RS256", alg="RS512"),
    "RSA that says HS256": but("RS256", alg="HS256"),
    "another curve named": but("ES256", crv="P-384"),
    "a curve that we do not take": but("ES256", crv="secp256k1", alg="ES256K"),
    "a curve for agreement": but(crv="X25519"),
    "for encryption": but(use="enc"),
    "a kid that is no text": but(kid=1),
    "no kid": but(kid=None),
    "too short": but(x="AAAA"),
    "without its point": but(x=None),
    "a point off the curve": but("ES256", y="A" * 43),
    "a secret": but(kty="oct", k="AAAA", crv=None, alg="HS256"),
    "RSA of 1,024 bits": short,
}


@pytest.mark.parametrize("kind", UNUSABLE)
def test_a_key_that_is_not_taken(kind: str) -> None:
    jwk, good = UNUSABLE[kind](), Key()
    assert list(usable(a_set(jwk, good.jwk))) == [good.kid]
    with pytest.raises(ValueError, match="no key"):
        usable(a_set(jwk))


def test_a_private_part_is_passed_over() -> None:
    key = Key()
    private = key.jwk | {"d": "A" * 43, "p": 1, "key_ops": ["sign"]}
    assert not hasattr(usable(a_set(private))[key.kid].key, "sign")


def test_the_first_of_a_kid_stays() -> None:
    first, again = Key(kid="x"), Key("ES256", kid="x")
    assert usable(a_set(first.jwk, again.jwk))["x"].algorithm_name == "EdDSA"


def test_as_many_keys_as_are_taken() -> None:
    assert len(usable(a_set(*(Key().jwk for _ in range(MAX_KEYS))))) == MAX_KEYS == 32
    with pytest.raises(ValueError, match="at most 32"):
        usable(a_set(*(Key().jwk for _ in range(MAX_KEYS + 1))))
