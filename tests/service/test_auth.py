"""Signing up, in and out, and the sessions that come of it."""

import asyncio
import threading
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import argon2
import asyncpg
import bcrypt
import httpx
import pytest

from service.edge import Edge
from service.passwords import Passwords
from service.settings import Settings
from service.throttle import Throttle
from tests.conftest import Account, sign_up
from tests.service.accounts import (
    AUTH,
    ME,
    PASSWORD,
    TOKENS,
    USER,
    WRONG,
    alive,
    another_session,
    bearer,
    blamed,
    fresh,
    log_in,
    meanwhile,
    refresh,
)

SESSION = ["id", "user_agent", "ip", "created_at", "last_used_at", "expires_at", "current"]


async def sessions(client: httpx.AsyncClient, headers: dict[str, str]) -> list[dict[str, Any]]:
    answer = await client.get(f"{AUTH}/sessions", headers=headers)
    assert answer.status_code == 200
    items: list[dict[str, Any]] = answer.json()["items"]
    return items


async def test_register_signs_in(client: httpx.AsyncClient, connection: asyncpg.Connection) -> None:
    email = f"Ada.{fresh()}"
    body = {"email": email, "password": PASSWORD, "name": "  Ada Lovelace "}
    answer = await client.post(f"{AUTH}/register", json=body)
    assert (answer.status_code, answer.headers["location"]) == (201, ME)
    assert answer.headers["cache-control"] == "no-store"
    tokens = answer.json()
    assert list(tokens) == TOKENS
    assert (tokens["token_type"], tokens["expires_in"]) == ("bearer", 900)
    user = tokens["user"]
    assert list(user) == USER
    assert (user["email"], user["name"]) == (email, "Ada Lovelace")
    assert (user["is_active"], user["is_admin"]) == (True, False)
    assert user["created_at"] == user["last_login_at"]
    assert user["created_at"].endswith("Z")
    assert (await client.get(ME, headers=bearer(tokens))).json() == user
    stored = await connection.fetchval("select password_hash from users where id = $1", user["id"])
    assert stored.startswith("$argon2id$")


@pytest.mark.parametrize(
    "email",
    [
        "a@b",
        "a+b.c-d@example.co.uk",
        "ünï@пример.рф",
        "';drop/**/table/**/users--@x",
        "%_@x",
        "x" * 253 + "@y",
    ],
)
async def test_register_takes_an_email_as_it_is(client: httpx.AsyncClient, email: str) -> None:
    email = email if len(email) == 255 else f"{uuid.uuid4().hex}{email}"
    answer = await client.post(f"{AUTH}/register", json={"email": email, "password": PASSWORD})
    assert (answer.status_code, answer.json()["user"]["email"]) == (201, email)
    assert answer.json()["user"]["name"] is None


@pytest.mark.parametrize(
    "email",
    [
        "",
        "@",
        "a@",
        "@b",
        "ab",
        "a@b@c",
        "a b@c",
        " a@b",
        "a@b ",
        "a@b\n",
        "a\u00a0@b",
        "\u2003a@b",
        "x" * 254 + "@y",
    ],
)
async def test_register_refuses_what_is_no_email(client: httpx.AsyncClient, email: str) -> None:
    answer = await client.post(f"{AUTH}/register", json={"email": email, "password": PASSWORD})
    assert blamed(answer) == ["/email"]


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"email": "no", "password": "short", "name": " "}, ["/email", "/name", "/password"]),
        ({"email": "a@b", "password": "password1", "name": "x" * 256}, ["/name", "/password"]),
        ({}, ["/email", "/password"]),
        ({"email": None, "password": 5, "name": 7}, ["/email", "/password", "/name"]),
        ({"email": "a@b", "password": PASSWORD, "is_admin": True}, ["/is_admin"]),
        ({"email": "a@b", "password": "x" * 129}, ["/password"]),
        ({"email": "a\u00a0@b", "password": "x"}, ["/email", "/password"]),
    ],
)
async def test_register_names_every_fault(
    client: httpx.AsyncClient, body: dict[str, Any], pointers: list[str]
) -> None:
    answer = await client.post(f"{AUTH}/register", json=body)
    assert blamed(answer) == pointers
    for value in body.values():
        if isinstance(value, str) and len(value) > 4:
            assert value not in answer.text


async def test_an_email_has_one_account_in_any_case(
    client: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    email = fresh()
    bodies = [{"email": text, "password": PASSWORD} for text in (email, email.upper()) * 4]
    answers = await asyncio.gather(*(client.post(f"{AUTH}/register", json=body) for body in bodies))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7
    refused = next(answer for answer in answers if answer.status_code == 409)
    assert refused.json()["errors"] == [{"detail": "is taken", "pointer": "/email"}]
    rows = "select count(*) from users u join sessions s on s.user_id = u.id where lower(u.email) = $1"
    assert await connection.fetchval(rows, email) == 1


async def test_login_in_any_case(client: httpx.AsyncClient, user: Account) -> None:
    before = user.tokens["user"]
    body = {"email": user.email.upper(), "password": user.password}
    answer = await client.post(f"{AUTH}/login", json=body)
    assert answer.status_code == 200
    tokens = answer.json()
    assert list(tokens) == TOKENS
    assert tokens["user"] | {"last_login_at": None} == before | {"last_login_at": None}
    assert tokens["user"]["last_login_at"] > before["last_login_at"]
    assert tokens["refresh_token"] != user.tokens["refresh_token"]
    assert await alive(client, tokens)
    assert await alive(client, user.tokens)


async def test_a_failed_login_does_not_tell_why(
    client: httpx.AsyncClient, app: Edge, connection: asyncpg.Connection
) -> None:
    wrong, inactive, hashless, old = [await sign_up(client) for _ in range(4)]
    await connection.execute("update users set is_active = false where id = $1", inactive.id)
    await connection.execute("update users set password_hash = null where id = $1", hashless.id)
    weak = bcrypt.hashpw(b"another password", bcrypt.gensalt(4)).decode()
    await connection.execute("update users set password_hash = $2 where id = $1", old.id, weak)
    passwords: Passwords = app.app.state.passwords
    answers = []
    for email, password in [
        (fresh(), PASSWORD),
        (wrong.email, WRONG),
        (wrong.email, ""),
        (wrong.email, f"{PASSWORD} "),
        (wrong.email, PASSWORD + "x" * 50_000),
        (inactive.email, PASSWORD),
        (hashless.email, PASSWORD),
        (old.email, PASSWORD),
        ("no address", PASSWORD),
        ("x" * 300 + "@y", PASSWORD),
        ("%", PASSWORD),
    ]:
        before = passwords.verifications
        answers.append(await client.post(f"{AUTH}/login", json={"email": email, "password": password}))
        assert passwords.verifications == before + 1, email
    seen = {
        (
            answer.status_code,
            tuple((name, value) for name, value in answer.headers.items() if name != "x-request-id"),
            answer.text.replace(answer.headers["x-request-id"], ""),
        )
        for answer in answers
    }
    assert len(seen) == 1
    assert (answers[0].status_code, answers[0].json()["code"]) == (401, "unauthenticated")
    assert "www-authenticate" in answers[0].headers


async def test_a_huge_body_is_refused_unread(client: httpx.AsyncClient, app: Edge, user: Account) -> None:
    before = app.app.state.passwords.verifications
    body = {"email": user.email, "password": "x" * 1_000_000}
    assert (await client.post(f"{AUTH}/login", json=body)).status_code == 413
    assert app.app.state.passwords.verifications == before


@pytest.mark.parametrize(
    "body", [{}, {"email": 1, "password": ["canary"]}, {"email": "a@b", "password": None}]
)
async def test_login_without_its_fields(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await client.post(f"{AUTH}/login", json=body)
    assert "/password" in blamed(answer)
    assert "canary" not in answer.text


@pytest.mark.parametrize("kind", ["bcrypt", "weak argon2id", "strong argon2id"])
async def test_login_rehashes_what_is_weaker(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection, kind: str
) -> None:
    stored = {
        "bcrypt": lambda: bcrypt.hashpw(user.password.encode(), bcrypt.gensalt(4)).decode(),
        "weak argon2id": lambda: argon2.PasswordHasher(1, 8 * 1024, 1).hash(user.password),
        "strong argon2id": lambda: argon2.PasswordHasher(3, 32 * 1024, 1).hash(user.password),
    }[kind]()
    await connection.execute("update users set password_hash = $2 where id = $1", user.id, stored)
    await another_session(client, user)
    now = await connection.fetchval("select password_hash from users where id = $1", user.id)
    assert (now == stored) == (kind == "strong argon2id")
    found = argon2.extract_parameters(now)
    assert found.type is argon2.Type.ID
    assert (found.time_cost, found.memory_cost) >= (2, 19 * 1024)
    await another_session(client, user)
    assert await connection.fetchval("select password_hash from users where id = $1", user.id) == now


@pytest.mark.parametrize(
    "change", ["password_hash = 'another'", "password_hash = null", "is_active = false", "gone"]
)
async def test_login_fails_where_the_user_changes_while_the_password_is_verified(
    client: httpx.AsyncClient,
    user: Account,
    connection: asyncpg.Connection,
    app: Edge,
    change: str,
) -> None:
    sql = (
        "delete from users where id = $1" if change == "gone" else f"update users set {change} where id = $1"
    )
    with meanwhile(app, lambda: connection.execute(sql, user.id)):
        answer = await log_in(client, user.email, user.password)
    wrong = await log_in(client, fresh(), user.password)
    assert (answer.status_code, answer.json()["detail"]) == (401, wrong.json()["detail"])
    count = await connection.fetchval("select count(*) from sessions where user_id = $1", user.id)
    assert count == (0 if change == "gone" else 1)


async def test_a_storm_of_logins_leaves_reads_alone(
    client: httpx.AsyncClient, app: Edge, user: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    storm = Passwords(queue=4)
    monkeypatch.setattr(app.app.state, "passwords", storm)
    hold = threading.Event()
    cores = storm._threads._max_workers
    for _ in range(cores):
        storm._threads.submit(hold.wait, 30)
    body = {"email": user.email, "password": WRONG}
    logins = [asyncio.create_task(client.post(f"{AUTH}/login", json=body)) for _ in range(cores + 4 + 20)]
    async with asyncio.timeout(30):
        while sum(task.done() for task in logins) < 20:
            await asyncio.sleep(0.01)
        assert await alive(client, user.tokens)
    hold.set()
    answers = await asyncio.gather(*logins)
    assert sorted(answer.status_code for answer in answers) == [401] * (cores + 4) + [503] * 20
    refused = next(answer for answer in answers if answer.status_code == 503)
    assert (refused.json()["code"], refused.headers["retry-after"]) == ("unavailable", "2")
    storm.close()


async def test_guessing_is_throttled_without_locking_the_owner_out(
    client: httpx.AsyncClient, app: Edge, user: Account, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app.app.state, "throttle", Throttle(on=True))
    passwords: Passwords = app.app.state.passwords
    wrong = {"email": user.email, "password": WRONG}
    for email in (user.email, user.email.upper()) * 10:
        answer = await client.post(f"{AUTH}/login", json=wrong | {"email": email})
        assert answer.status_code == 401
    before = passwords.verifications
    refused = await client.post(f"{AUTH}/login", json=wrong)
    assert (refused.status_code, refused.json()["code"]) == (429, "rate_limited")
    assert int(refused.headers["retry-after"]) > 0
    assert passwords.verifications == before
    assert await alive(client, user.tokens)
    transport = httpx.ASGITransport(app, client=("2001:db8::1", 1))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as elsewhere:
        await another_session(elsewhere, user)


async def test_signing_up_is_throttled(
    client: httpx.AsyncClient, app: Edge, monkeypatch: pytest.MonkeyPatch
) -> None:
    throttle = Throttle(on=True)
    monkeypatch.setattr(app.app.state, "throttle", throttle)
    for _ in range(99):
        throttle.sign_up("127.0.0.1")
    await sign_up(client)
    answer = await client.post(f"{AUTH}/register", json={"email": fresh(), "password": PASSWORD})
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")


async def test_logout_ends_this_session_at_once(client: httpx.AsyncClient, user: Account) -> None:
    second = await another_session(client, user)
    answer = await client.post(f"{AUTH}/logout", headers=user.headers)
    assert (answer.status_code, answer.content) == (204, b"")
    assert not await alive(client, user.tokens)
    assert (await client.post(f"{AUTH}/logout", headers=user.headers)).status_code == 401
    spent = await refresh(client, user.tokens["refresh_token"])
    assert spent.status_code == 401
    assert await alive(client, second)


async def test_logout_all_ends_every_session_at_once(
    client: httpx.AsyncClient, user: Account, other: Account, connection: asyncpg.Connection
) -> None:
    before = datetime.now(UTC)
    every = [user.tokens, *[await another_session(client, user) for _ in range(3)]]
    assert (await client.post(f"{AUTH}/logout-all", headers=bearer(every[2]))).status_code == 204
    for tokens in every:
        assert not await alive(client, tokens)
        spent = await refresh(client, tokens["refresh_token"])
        assert spent.status_code == 401
    assert await alive(client, other.tokens)
    assert await alive(client, await another_session(client, user))
    valid_from = "select tokens_valid_from from user_state where user_id = $1"
    assert await connection.fetchval(valid_from, user.id) > before - timedelta(seconds=30)
    assert await connection.fetchval(valid_from, other.id) == datetime.fromtimestamp(0, UTC)


async def test_sessions_are_listed_latest_use_first(
    client: httpx.AsyncClient, user: Account, other: Account, settings: Settings
) -> None:
    phone = await another_session(client, user, **{"User-Agent": "phone"})
    await another_session(client, user, **{"User-Agent": "laptop"})
    renewed = await refresh(client, phone["refresh_token"])
    items = await sessions(client, bearer(renewed.json()))
    assert [list(item) for item in items] == [SESSION] * 3
    assert [(item["user_agent"], item["current"]) for item in items] == [
        ("phone", True),
        ("laptop", False),
        (f"python-httpx/{httpx.__version__}", False),
    ]
    assert items[0]["last_used_at"] > items[1]["last_used_at"] > items[0]["created_at"]
    lifetime = datetime.fromisoformat(items[1]["expires_at"]) - datetime.fromisoformat(items[1]["created_at"])
    assert lifetime == timedelta(seconds=settings.refresh_token_idle)


@pytest.mark.parametrize(
    ("address", "agent", "ip", "stored"),
    [
        ("192.0.2.7", "x" * 600, "192.0.2.7", "x" * 500),
        ("2001:DB8::7", "caf\u00e9", "2001:db8::7", "caf\u00e9"),
        ("fe80::1%eth0", "a\x00b", "fe80::1", "ab"),
        ("unix", "", None, None),
    ],
)
async def test_a_session_remembers_whence(
    app: Edge, user: Account, address: str, agent: str, ip: str | None, stored: str | None
) -> None:
    transport = httpx.ASGITransport(app, client=(address, 1))  # type: ignore[arg-type]
    async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
        body = {"email": user.email, "password": user.password}
        answer = await client.post(
            f"{AUTH}/login", json=body, headers=httpx.Headers({"User-Agent": agent}, encoding="latin-1")
        )
        mine = next(item for item in await sessions(client, bearer(answer.json())) if item["current"])
    assert (mine["ip"], mine["user_agent"]) == (ip, stored)


async def test_ending_a_session(client: httpx.AsyncClient, user: Account) -> None:
    second = await another_session(client, user)
    ids = {item["current"]: item["id"] for item in await sessions(client, user.headers)}
    ended = await client.delete(f"{AUTH}/sessions/{ids[False]}", headers=user.headers)
    assert (ended.status_code, ended.content) == (204, b"")
    assert not await alive(client, second)
    assert [item["id"] for item in await sessions(client, user.headers)] == [ids[True]]
    again = await client.delete(f"{AUTH}/sessions/{ids[False]}", headers=user.headers)
    assert again.status_code == 404
    own = await client.delete(f"{AUTH}/sessions/{ids[True].upper()}", headers=user.headers)
    assert own.status_code == 204
    assert not await alive(client, user.tokens)


async def test_an_expired_session_is_none(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    second = await another_session(client, user)
    ids = {item["current"]: item["id"] for item in await sessions(client, user.headers)}
    await connection.execute("update sessions set expires_at = now() where id = $1", ids[False])
    assert [item["id"] for item in await sessions(client, user.headers)] == [ids[True]]
    ended = await client.delete(f"{AUTH}/sessions/{ids[False]}", headers=user.headers)
    assert ended.status_code == 404
    assert not await alive(client, second)


@pytest.mark.parametrize("id", ["1", "x", "%00", "{id}x", "urn:uuid:{id}", "{{{id}}}", "{hex}", "{id}0"])
async def test_what_is_no_session_id_is_not_found(client: httpx.AsyncClient, user: Account, id: str) -> None:
    real = (await sessions(client, user.headers))[0]["id"]
    named = id.format(id=real, hex=real.replace("-", ""))
    assert (await client.delete(f"{AUTH}/sessions/{named}", headers=user.headers)).status_code == 404
    assert await alive(client, user.tokens)
