"""An identity provider's tokens: what is taken, whom they speak for, and what ends them."""

import asyncio
import base64
import hmac
import inspect
import time
import uuid
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from service.settings import Settings
from service.tokens import LEEWAY, Tokens
from tests.conftest import Account
from tests.service.accounts import AUTH, ME, NEW, PASSWORD, WRONG, blamed, fresh, log_in
from tests.service.admins import PATH as ADMIN_USERS
from tests.service.provider import (
    KINDS,
    Instance,
    Key,
    Provider,
    bearer,
    coded,
    instance,
    providing,
    theirs,
    unpadded,
)

TASKS = "/api/v1/tasks"
SESSIONS = f"{AUTH}/sessions"


@pytest.fixture
async def provider() -> AsyncIterator[Provider]:
    """An identity provider that is well."""
    async with providing() as provider:
        yield provider


@pytest.fixture
def taking(settings: Settings, provider: Provider) -> Settings:
    """Settings that name it."""
    return msgspec.structs.replace(settings, identity_issuer=provider.issuer)


@pytest.fixture
async def service(taking: Settings) -> AsyncIterator[Instance]:
    """A service that takes its tokens."""
    async with instance(taking) as service:
        yield service


@pytest.fixture
async def second(taking: Settings) -> AsyncIterator[Instance]:
    """Another instance of it, on the same database."""
    async with instance(taking) as service:
        yield service


@pytest.fixture
async def who(connection: asyncpg.Connection) -> str:
    """The id of a user of the provider's."""
    return await theirs(connection)


# What is taken


@pytest.mark.parametrize("algorithm", KINDS)
async def test_a_token_is_taken(service: Instance, provider: Provider, who: str, algorithm: str) -> None:
    key = Key(algorithm)
    provider.keys.append(key)
    answer = await service.client.get(ME, headers=provider.bearer(who, key))
    assert (answer.status_code, answer.json()["id"]) == (200, who)


async def test_the_second_request_is_one_statement(service: Instance, provider: Provider, who: str) -> None:
    headers = provider.bearer(who)
    for expected in (2, 1, 1):
        service.sent.clear()
        assert (await service.client.post(TASKS, json={"title": "x"}, headers=headers)).status_code == 201
        assert len(service.sent) == expected
    service.sent.clear()
    assert await service.status(provider.bearer(who, exp=int(time.time()) + 901)) == 200
    assert len(service.sent) == 2  # another token


async def test_first_requests_at_once(service: Instance, provider: Provider, who: str) -> None:
    headers = provider.bearer(who)
    answers = await asyncio.gather(
        *(service.client.post(TASKS, json={"title": "x"}, headers=headers) for _ in range(20))
    )
    assert {answer.status_code for answer in answers} == {201}
    assert provider.asked == 1
    assert len((await service.client.get(SESSIONS, headers=headers)).json()["items"]) == 1


@pytest.mark.parametrize(
    "changes",
    [
        lambda now: {"exp": now - LEEWAY + 15},
        lambda now: {"iat": now + LEEWAY - 15},
        lambda now: {"iat": now - 86400 * 3, "exp": now + 86400 * 3},
        lambda now: {"iat": now - 0.5, "exp": now + 900.5},
        lambda _: {"aud": ["another", "ours"], "nbf": 1},
    ],
    ids=["just expired", "clock ahead", "long-lived", "fractions", "several audiences"],
)
async def test_bounds_of_a_token(
    provider: Provider, taking: Settings, who: str, changes: Callable[[int], dict[str, Any]]
) -> None:
    given = {"aud": "ours"} | changes(int(time.time()))
    async with instance(msgspec.structs.replace(taking, identity_audience="ours")) as service:
        assert await service.status(provider.bearer(who, **given)) == 200
        assert await service.status(provider.bearer(who)) == 401  # the issuer is no audience here


async def test_keys_may_be_elsewhere(provider: Provider, taking: Settings, who: str) -> None:
    other = msgspec.structs.replace(
        taking,
        identity_issuer="https://auth.example.com/",
        identity_jwks_url=f"{provider.issuer}/api/auth/jwks",
    )
    async with instance(other) as service:
        url = "https://auth.example.com/"
        assert await service.status(provider.bearer(who, iss=url, aud=url)) == 200
        assert await service.status(provider.bearer(who)) == 401


# What is forged


def hmac_under(key: bytes) -> Callable[[Provider, str], str]:
    """HS256 under the public key, which everybody knows."""

    def forge(p: Provider, user: str) -> str:
        signed = f"{coded({'alg': 'HS256', 'kid': p.key.kid})}.{coded(p.claims(user))}"
        return f"{signed}.{unpadded(hmac.digest(key or public(p, raw=True), signed.encode(), 'sha256'))}"

    return forge


def public(p: Provider, *, raw: bool) -> bytes:
    key = p.key.private.public_key()
    if raw:
        return bytes(key.public_bytes(Encoding.Raw, PublicFormat.Raw))
    return bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))


def under_pem(p: Provider, user: str) -> str:
    return hmac_under(public(p, raw=False))(p, user)


def by_hand(header: dict[str, Any], **changes: Any) -> Callable[[Provider, str], str]:
    """A token that the provider's key did sign, under another header."""

    def forge(p: Provider, user: str) -> str:
        whole = {name: value for name, value in ({"kid": p.key.kid} | header).items() if value is not None}
        signed = f"{coded(whole)}.{coded(p.claims(user, **changes))}"
        return f"{signed}.{unpadded(p.key.private.sign(signed.encode()))}"

    return forge


def unsigned(p: Provider, user: str) -> str:
    return f"{coded({'alg': 'none', 'kid': p.key.kid})}.{coded(p.claims(user))}."


def mixed(p: Provider, user: str) -> str:
    header, _, signature = p.token("nobody").split(".")
    return f"{header}.{p.token(user).split('.')[1]}.{signature}"


def deep(p: Provider, user: str) -> str:
    return f"{unpadded(b'[' * 5000)}.{p.token(user).partition('.')[2]}"


def saying(**changes: Any) -> Callable[[Provider, str], str]:
    return lambda p, user: p.token(user, **changes)


def heading(name: str, value: object) -> Callable[[Provider, str], str]:
    return by_hand({"alg": "EdDSA", name: value})


NOW = int(time.time())
FORGERIES: dict[str, Callable[[Provider, str], str]] = {
    "no algorithm": unsigned,
    "HS256 under the public key": hmac_under(b""),
    "HS256 under the public key as PEM": under_pem,
    "HS256 without a signature": lambda p, u: by_hand({"alg": "HS256"})(p, u).rpartition(".")[0] + ".",
    "ES256 by a key for EdDSA": by_hand({"alg": "ES256"}),
    "an algorithm in lower case": by_hand({"alg": "eddsa"}),
    "no algorithm named": by_hand({"alg": None}),
    "an algorithm that is no text": by_hand({"alg": ["EdDSA"]}),
    "no kid": by_hand({"alg": "EdDSA", "kid": None}),
    "another kid": by_hand({"alg": "EdDSA", "kid": "another"}),
    "a kid that is no text": by_hand({"alg": "EdDSA", "kid": 1}),
    "a key of nobody's": lambda p, u: p.token(u, Key(kid=p.key.kid)),
    "another kind of key of the same kid": lambda p, u: p.token(u, Key("ES256", kid=p.key.kid)),
    "header crit": heading("crit", ["exp"]),
    "header crit, empty": heading("crit", []),
    "header jku": heading("jku", "https://evil.example/keys"),
    "header jwk": heading("jwk", Key().jwk),
    "header x5u": heading("x5u", "https://evil.example/cert"),
    "header x5c": heading("x5c", ["AAAA"]),
    "header typ": heading("typ", "logout+jwt"),
    "another issuer": saying(iss="https://evil.example"),
    "another issuer, that begins alike": lambda p, u: p.token(u, iss=p.issuer + "/"),
    "another audience": saying(aud="something"),
    "an audience that is no text": saying(aud=1),
    "expired beyond the leeway": saying(exp=NOW - LEEWAY - 5),
    "from the future beyond the leeway": saying(iat=NOW + 86400, exp=NOW + 2 * 86400),
    "not yet valid": saying(nbf=NOW + 86400),
    "an expiry that is no number": saying(exp="tomorrow"),
    "an expiry as text": saying(exp=str(NOW + 900)),
    "no expiry ever": by_hand({"alg": "EdDSA"}, exp=float("inf")),
    "an expiry that is not a number": by_hand({"alg": "EdDSA"}, exp=float("nan")),
    "an expiry past all times": by_hand({"alg": "EdDSA"}, exp=10**30),
    "an expiry past what a row holds": by_hand({"alg": "EdDSA"}, exp=10**17),
    "issued before all times": by_hand({"alg": "EdDSA"}, iat=-(10**17)),
    "a subject that is no text": by_hand({"alg": "EdDSA"}, sub=1),
    "an empty subject": saying(sub=""),
    "a subject with a NUL": lambda p, u: p.token(u + "\x00"),
    "a subject with half a surrogate pair": by_hand({"alg": "EdDSA"}, sub="\ud800"),
    **{f"without {claim}": saying(**{claim: None}) for claim in ("iss", "aud", "sub", "iat", "exp")},
    "a part too many": lambda p, u: p.token(u) + ".AAAA",
    "another payload": mixed,
    "deeply nested": deep,
    "no header": lambda p, u: "." + p.token(u).partition(".")[2],
    "no JSON": lambda p, u: f"{unpadded(b'x')}.{p.token(u).partition('.')[2]}",
    "letters past ASCII": lambda p, u: p.token(u).replace(".", "\xe9.", 1),
}


async def test_forged(
    service: Instance, provider: Provider, who: str, connection: asyncpg.Connection
) -> None:
    for name, forge in FORGERIES.items():
        given = httpx.Headers({"Authorization": f"Bearer {forge(provider, who)}"}, encoding="latin-1")
        for _ in range(2):  # nor is a refused one remembered
            answer = await service.client.get(ME, headers=given)
            assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated"), name
            assert answer.headers["www-authenticate"] == 'Bearer error="invalid_token"'
    assert await connection.fetchval("select count(*) from sessions where user_id = $1", who) == 0
    assert await service.status(bearer(by_hand({"alg": "EdDSA", "typ": "at+jwt"})(provider, who))) == 200


async def test_our_own_tokens_are_no_providers(service: Instance, provider: Provider, user: Account) -> None:
    """And are taken as before, without a look at the provider."""
    assert await service.status(user.headers) == 200
    tokens: Tokens = service.edge.app.state.tokens
    assert await service.status(bearer(tokens.access(user.id, str(uuid.uuid4()), now=1000))) == 401
    assert provider.asked == 0
    assert not inspect.iscoroutinefunction(tokens.verify)


async def test_who_names_no_provider_takes_no_token(
    client: httpx.AsyncClient, provider: Provider, who: str
) -> None:
    assert (await client.get(ME, headers=provider.bearer(who))).status_code == 401
    assert provider.asked == 0


# Whom it speaks for


async def test_a_subject_is_an_id_and_nothing_else(
    service: Instance, provider: Provider, connection: asyncpg.Connection
) -> None:
    email = fresh()
    await theirs(connection, email=email, email_verified=True)
    users = "select count(*) from users"
    before = await connection.fetchval(users)
    for subject in (email, uuid.uuid4().hex):
        assert await service.status(provider.bearer(subject, email=email, email_verified=True)) == 401
    assert await connection.fetchval(users) == before


async def test_an_account_with_a_password_of_ours_is_not_theirs(
    service: Instance, provider: Provider, user: Account, connection: asyncpg.Connection
) -> None:
    sessions = "select count(*) from sessions where user_id = $1"
    assert await service.status(provider.bearer(user.id, email=user.email)) == 401
    assert await connection.fetchval(sessions, user.id) == 1


async def test_an_inactive_user(
    service: Instance, provider: Provider, connection: asyncpg.Connection
) -> None:
    assert await service.status(provider.bearer(await theirs(connection, is_active=False))) == 401


async def test_without_a_password_no_password_is_right(
    service: Instance, provider: Provider, connection: asyncpg.Connection
) -> None:
    email = fresh()
    who = await theirs(connection, email=email)
    client, headers = service.client, provider.bearer(who)
    change = {"current_password": PASSWORD, "new_password": NEW}
    gone = await client.request("DELETE", ME, json={"password": WRONG}, headers=headers)
    assert blamed(gone) == ["/password"]
    changed = await client.post(f"{ME}/password", json=change, headers=headers)
    assert blamed(changed) == ["/current_password"]
    moved = await client.patch(ME, json={"email": fresh(), "password": PASSWORD}, headers=headers)
    assert blamed(moved) == ["/password"]
    assert (await log_in(client, email, PASSWORD)).status_code == 401
    taken = await client.post(f"{AUTH}/register", json={"email": email, "password": PASSWORD})
    assert taken.status_code == 409
    named = await client.patch(ME, json={"name": "Ada"}, headers=headers)
    assert (named.status_code, named.json()["name"]) == (200, "Ada")


# What ends it


async def test_it_has_a_session_like_any_other(service: Instance, provider: Provider, who: str) -> None:
    expires = int(time.time()) + 500
    phone = provider.bearer(who, exp=expires)
    laptop = provider.bearer(who, exp=expires + 1)
    for headers, agent in ((phone, "phone"), (laptop, "laptop")):
        assert await service.status(headers | {"User-Agent": agent}) == 200
    items = (await service.client.get(SESSIONS, headers=laptop)).json()["items"]
    shown = [(item["user_agent"], item["ip"], item["current"]) for item in items]
    assert shown == [("laptop", "192.0.2.7", True), ("phone", "192.0.2.7", False)]
    assert datetime.fromisoformat(items[1]["expires_at"]) == datetime.fromtimestamp(expires + LEEWAY, UTC)
    ended = await service.client.delete(f"{SESSIONS}/{items[1]['id']}", headers=laptop)
    assert ended.status_code == 204
    assert [await service.status(headers) for headers in (phone, laptop)] == [401, 200]


async def test_it_ends_with_its_time(
    service: Instance, provider: Provider, who: str, connection: asyncpg.Connection
) -> None:
    expires = int(time.time()) + 500
    token = provider.token(who, exp=expires)
    assert await service.status(bearer(token)) == 200
    tokens: Tokens = service.edge.app.state.tokens
    caller, until = tokens._verified[token]
    assert until == expires + LEEWAY
    await connection.execute("update sessions set expires_at = now() where id = $1", caller.sid)
    assert await service.status(bearer(token)) == 401
    late = provider.token(who, exp=int(time.time()) - LEEWAY - 1)
    tokens.remember(late, caller, time.time() - 1)
    assert await service.status(bearer(late)) == 401


async def ended(service: Instance, second: Instance, headers: dict[str, str]) -> None:
    """Nothing is answered any more, neither where the token is known nor where it was never seen."""
    for one in (service, second, service):
        assert await one.status(headers) == 401
        assert await one.status(headers, TASKS) == 401


async def test_logout(service: Instance, second: Instance, provider: Provider, who: str) -> None:
    token = provider.token(who)
    other = provider.bearer(who, exp=int(time.time()) + 500)
    for headers in (bearer(token), other):
        assert await service.status(headers) == 200
    assert (await service.client.post(f"{AUTH}/logout", headers=bearer(token))).status_code == 204
    await ended(service, second, bearer(token))
    assert await service.status(other) == 200


async def test_a_token_signed_anew_opens_nothing_anew(
    service: Instance, provider: Provider, who: str, connection: asyncpg.Connection
) -> None:
    """What is signed is the token: of ES256 one signature makes another, and each signing gives another."""
    key = Key("ES256")
    provider.keys.append(key)
    claims = provider.claims(who)
    token = provider.token(who, key, **claims)
    again = provider.token(who, key, **claims)
    tokens = {token, again, mirrored(token), mirrored(again)}
    assert len(tokens) == 4
    for one in tokens:
        assert await service.status(bearer(one)) == 200
    assert (await service.client.post(f"{AUTH}/logout", headers=bearer(token))).status_code == 204
    later = mirrored(provider.token(who, key, **claims))
    for one in (*tokens, later, f"{token}=", token[:-1] + letter_after(token[-1])):
        assert await service.status(bearer(one)) == 401
    assert await connection.fetchval("select count(*) from sessions where user_id = $1", who) == 1


def mirrored(token: str) -> str:
    """The same token under the other signature of ES256 that is right."""
    order = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
    signed, _, signature = token.rpartition(".")
    raw = base64.urlsafe_b64decode(signature + "==")
    return f"{signed}.{unpadded(raw[:32] + (order - int.from_bytes(raw[32:])).to_bytes(32))}"


def letter_after(letter: str) -> str:
    """A letter that base64 reads the same at the end of a signature, where it leaves bits unread."""
    letters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    return letters[letters.index(letter) ^ 1]


async def test_logout_all(
    service: Instance,
    second: Instance,
    provider: Provider,
    who: str,
    connection: asyncpg.Connection,
) -> None:
    now = int(time.time())
    seen, unseen, other = (provider.bearer(who, iat=now - n) for n in (0, 1, 2))
    for headers in (seen, other):
        assert await service.status(headers) == 200
    assert (await service.client.post(f"{AUTH}/logout-all", headers=seen)).status_code == 204
    for headers in (seen, other, unseen):
        await ended(service, second, headers)
    refused = await connection.fetchval("select tokens_valid_from from user_state where user_id = $1", who)
    second_of_it = int(refused.timestamp())
    assert await service.status(provider.bearer(who, iat=second_of_it)) == 401
    assert await service.status(provider.bearer(who, iat=second_of_it + 1)) == 200


async def test_deactivation(
    service: Instance, second: Instance, provider: Provider, who: str, admin: Account
) -> None:
    headers, unseen = provider.bearer(who), provider.bearer(who, exp=int(time.time()) + 500)
    for one in (service, second):
        assert await one.status(headers) == 200
    for active in (False, True):
        changed = await service.client.patch(
            f"{ADMIN_USERS}/{who}", json={"is_active": active}, headers=admin.headers
        )
        assert changed.status_code == 200
        await ended(service, second, headers)
        await ended(service, second, unseen)
    assert await service.status(provider.bearer(who, iat=int(time.time()) + 2)) == 200


async def test_deletion(
    service: Instance, second: Instance, provider: Provider, who: str, connection: asyncpg.Connection
) -> None:
    headers = provider.bearer(who)
    for one in (service, second):
        assert await one.status(headers) == 200
    await connection.execute("delete from users where id = $1", who)
    await ended(service, second, headers)
    await ended(service, second, provider.bearer(who, exp=int(time.time()) + 500))


async def test_a_password_of_ours_ends_what_was_not_seen_yet(
    service: Instance, provider: Provider, who: str, connection: asyncpg.Connection
) -> None:
    assert await service.status(provider.bearer(who)) == 200
    await connection.execute("update users set password_hash = 'hash' where id = $1", who)
    assert await service.status(provider.bearer(who, exp=int(time.time()) + 500)) == 401


async def test_nothing_of_a_token_is_logged(
    service: Instance, provider: Provider, who: str, capfd: pytest.CaptureFixture[str]
) -> None:
    token = provider.token(who)
    assert await service.status(bearer(token)) == 200
    assert await service.status(bearer(token + "A")) == 401
    provider.answer = broken
    service.clock.past += 31
    assert await service.status(provider.bearer(who, Key())) == 401
    shown = capfd.readouterr()
    text = shown.out + shown.err
    assert "cannot be read" in text
    assert "canary" not in text
    assert all(part not in text for part in token.split("."))


async def broken() -> bytes:
    return b"HTTP/1.1 500 canary\r\nContent-Length: 6\r\n\r\ncanary"
