"""The account: reading and changing it, its password, and its end."""

import asyncio
import logging
from collections import Counter
from typing import Any

import asyncpg
import httpx
import pytest
import structlog

from db import auth
from service.edge import Edge
from service.passwords import Passwords
from service.throttle import Throttle
from tests.conftest import Account, sign_up
from tests.service.accounts import (
    AUTH,
    ME,
    NEW,
    USER,
    WRONG,
    alive,
    another_session,
    blamed,
    fresh,
    log_in,
    meanwhile,
    refresh,
)

TASKS = "/api/v1/tasks"


def confirming(user: Account, password: str) -> dict[str, tuple[str, str, dict[str, Any], str]]:
    """The three requests that need the password, each with the pointer to it."""
    change = {"current_password": password, "new_password": NEW}
    return {
        "e-mail": ("PATCH", ME, {"email": fresh(), "password": password}, "/password"),
        "password": ("POST", f"{ME}/password", change, "/current_password"),
        "deletion": ("DELETE", ME, {"password": password}, "/password"),
    }


CONFIRMING = pytest.mark.parametrize("kind", ["e-mail", "password", "deletion"])


async def patch(client: httpx.AsyncClient, user: Account, **body: Any) -> httpx.Response:
    return await client.patch(ME, json=body, headers=user.headers)


async def stored(connection: asyncpg.Connection, user: Account) -> str:
    return str(await connection.fetchval("select u::text from users u where id = $1", user.id))


async def test_get(client: httpx.AsyncClient, user: Account) -> None:
    answer = await client.get(ME, headers=user.headers)
    assert (answer.status_code, list(answer.json())) == (200, USER)
    assert answer.json() == user.tokens["user"]


async def test_a_name_is_trimmed_kept_and_cleared(client: httpx.AsyncClient, user: Account) -> None:
    named = await patch(client, user, name="  Ada Lovelace\n")
    assert (named.status_code, named.json()["name"]) == (200, "Ada Lovelace")
    assert named.json()["updated_at"] > user.tokens["user"]["updated_at"]
    for body in ({}, {"name": "Ada Lovelace"}, {"name": " Ada Lovelace "}):
        assert (await patch(client, user, **body)).json() == named.json()
    assert (await client.get(ME, headers=user.headers)).json() == named.json()
    cleared = await patch(client, user, name=None)
    assert cleared.json()["name"] is None
    assert cleared.json()["updated_at"] > named.json()["updated_at"]
    assert (await patch(client, user, name="x" * 255)).json()["name"] == "x" * 255


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"name": " "}, ["/name"]),
        ({"name": "x" * 256}, ["/name"]),
        ({"name": 1, "email": None, "password": None}, ["/name", "/email", "/password"]),
        ({"email": "no", "name": "", "password": "correct horse battery"}, ["/email", "/name"]),
        ({"email": "a b@c", "password": "correct horse battery"}, ["/email"]),
        ({"name": "x", "is_admin": True, "updated_at": None}, ["/is_admin", "/updated_at"]),
        ({"email": "new@example.com"}, ["/password"]),
        ({"email": "new@example.com", "password": WRONG}, ["/password"]),
        ({"name": "x", "password": WRONG}, ["/password"]),
        ({"password": ""}, ["/password"]),
    ],
)
async def test_update_refuses(
    client: httpx.AsyncClient,
    user: Account,
    connection: asyncpg.Connection,
    body: dict[str, Any],
    pointers: list[str],
) -> None:
    before = await stored(connection, user)
    answer = await patch(client, user, **body)
    assert blamed(answer) == pointers
    assert WRONG not in answer.text
    assert await stored(connection, user) == before


async def test_a_new_email_needs_the_password(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    await connection.execute("update users set email_verified = true where id = $1", user.id)
    email = f"New.{fresh()}"
    body = {"email": email, "password": user.password, "name": "Ada"}
    merge = user.headers | {"Content-Type": "application/merge-patch+json"}
    answer = await client.patch(ME, content=httpx.Response(200, json=body).content, headers=merge)
    assert (answer.status_code, list(answer.json())) == (200, USER)
    assert (answer.json()["email"], answer.json()["name"]) == (email, "Ada")
    assert await connection.fetchval("select email_verified from users where id = $1", user.id) is False
    assert await alive(client, user.tokens)
    assert (await log_in(client, user.email, user.password)).status_code == 401
    assert (await log_in(client, email, user.password)).status_code == 200


async def test_the_present_email_is_no_new_one(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    await connection.execute("update users set email_verified = true where id = $1", user.id)
    before = (await client.get(ME, headers=user.headers)).json()
    for body in ({"email": user.email}, {"email": user.email, "password": user.password}):
        answer = await patch(client, user, **body)
        assert (answer.status_code, answer.json()) == (200, before)
    named = await patch(client, user, email=user.email, name="Ada")
    assert named.json()["name"] == "Ada"
    assert await connection.fetchval("select email_verified from users where id = $1", user.id) is True
    assert blamed(await patch(client, user, email=user.email.upper())) == ["/password"]
    shouted = await patch(client, user, email=user.email.upper(), password=user.password)
    assert shouted.json()["email"] == user.email.upper()


async def test_a_taken_email_is_a_conflict_in_any_case(
    client: httpx.AsyncClient, user: Account, other: Account, connection: asyncpg.Connection
) -> None:
    before = await stored(connection, user)
    for email in (other.email, other.email.upper()):
        answer = await patch(client, user, email=email, name="Eve", password=user.password)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert answer.json()["errors"] == [{"detail": "is taken", "pointer": "/email"}]
        assert blamed(await patch(client, user, email=email, password=WRONG)) == ["/password"]
    assert await stored(connection, user) == before


async def test_a_new_password_ends_the_other_sessions_and_not_this_one(
    client: httpx.AsyncClient, user: Account, other: Account, connection: asyncpg.Connection
) -> None:
    others = [await another_session(client, user) for _ in range(3)]
    body = {"current_password": user.password, "new_password": NEW}
    answer = await client.post(f"{ME}/password", json=body, headers=user.headers)
    assert (answer.status_code, answer.content) == (204, b"")
    assert await alive(client, user.tokens)
    for tokens in others:
        assert not await alive(client, tokens)
        spent = await refresh(client, tokens["refresh_token"])
        assert spent.status_code == 401
    assert (await refresh(client, user.tokens["refresh_token"])).status_code == 200
    assert await alive(client, other.tokens)
    assert (await log_in(client, user.email, user.password)).status_code == 401
    assert (await log_in(client, user.email, NEW)).status_code == 200
    state = await connection.fetchrow(
        "select us.tokens_valid_from, u.created_at, u.updated_at"
        " from user_state us join users u on u.id = us.user_id where u.id = $1",
        user.id,
    )
    assert state is not None
    assert min(state["tokens_valid_from"], state["updated_at"]) > state["created_at"]


@pytest.mark.parametrize(
    ("current", "new", "pointers"),
    [
        (WRONG, NEW, ["/current_password"]),
        ("", NEW, ["/current_password"]),
        ("correct horse battery", "short", ["/new_password"]),
        ("correct horse battery", "password1", ["/new_password"]),
        ("correct horse battery", "x" * 129, ["/new_password"]),
        (WRONG, "short", ["/new_password"]),
        (1, None, ["/current_password", "/new_password"]),
    ],
)
async def test_change_password_refuses(
    client: httpx.AsyncClient,
    user: Account,
    connection: asyncpg.Connection,
    current: Any,
    new: Any,
    pointers: list[str],
) -> None:
    before = await stored(connection, user)
    second = await another_session(client, user)
    before = await stored(connection, user)
    body = {"current_password": current, "new_password": new}
    answer = await client.post(f"{ME}/password", json=body, headers=user.headers)
    assert blamed(answer) == pointers
    assert await stored(connection, user) == before
    assert await alive(client, second)


async def blocked(connection: asyncpg.Connection) -> None:
    """Wait until a statement waits for this connection's transaction."""
    sql = "select exists (select from pg_locks where not granted and pg_backend_pid() = any(pg_blocking_pids(pid)))"
    async with asyncio.timeout(30):
        while not await connection.fetchval(sql):
            await asyncio.sleep(0.01)


async def test_a_login_with_the_old_password_does_not_outlive_a_new_one(
    client: httpx.AsyncClient, user: Account, app: Edge, connection: asyncpg.Connection
) -> None:
    """Even one that commits while the change waits for its lock, with a session that the change cannot see."""
    tokens, settings = app.app.state.tokens, app.app.state.settings
    old = await connection.fetchval("select password_hash from users where id = $1", user.id)
    first = tokens.first_refresh()
    opening = (
        first.sid,
        first.successor_hash,
        None,
        None,
        settings.refresh_token_idle,
        settings.refresh_token_ttl,
    )
    body = {"current_password": user.password, "new_password": NEW}
    transaction = connection.transaction()
    await transaction.start()
    assert await connection.fetchrow(auth.LOGIN.sql, user.id, old, None, *opening)
    change = asyncio.create_task(client.post(f"{ME}/password", json=body, headers=user.headers))
    await blocked(connection)
    await transaction.commit()
    assert (await change).status_code == 204
    live = "select id::text from sessions where user_id = $1 and revoked_at is null"
    assert [row["id"] for row in await connection.fetch(live, user.id)] != []
    assert first.sid not in [row["id"] for row in await connection.fetch(live, user.id)]
    assert not await alive(client, {"access_token": tokens.access(user.id, first.sid)})
    assert await alive(client, user.tokens)
    assert (await log_in(client, user.email, NEW)).status_code == 200


async def test_logins_and_password_changes_at_once(client: httpx.AsyncClient, user: Account) -> None:
    body = {"current_password": user.password, "new_password": NEW}
    changes = [client.post(f"{ME}/password", json=body, headers=user.headers) for _ in range(4)]
    logins = [log_in(client, user.email, user.password) for _ in range(12)]
    answers = await asyncio.gather(*logins, *changes)
    assert Counter(answer.status_code for answer in answers[12:]) == {204: 1, 422: 3}
    assert {answer.status_code for answer in answers[:12]} <= {200, 401}
    for answer in answers[:12]:
        assert answer.status_code == 401 or not await alive(client, answer.json())
    assert await alive(client, user.tokens)


@CONFIRMING
async def test_a_wrong_password(client: httpx.AsyncClient, user: Account, app: Edge, kind: str) -> None:
    passwords: Passwords = app.app.state.passwords
    for wrong in (WRONG, "", f"{user.password} ", user.password + "x" * 60_000):
        method, path, body, pointer = confirming(user, wrong)[kind]
        before = passwords.verifications
        answer = await client.request(method, path, json=body, headers=user.headers)
        assert blamed(answer) == [pointer]
        assert passwords.verifications == before + 1
    assert await alive(client, user.tokens)


@CONFIRMING
async def test_without_a_password_hash_no_password_fits(
    client: httpx.AsyncClient, user: Account, app: Edge, connection: asyncpg.Connection, kind: str
) -> None:
    await connection.execute("update users set password_hash = null where id = $1", user.id)
    method, path, body, pointer = confirming(user, user.password)[kind]
    before = app.app.state.passwords.verifications
    answer = await client.request(method, path, json=body, headers=user.headers)
    assert blamed(answer) == [pointer]
    assert app.app.state.passwords.verifications == before + 1
    assert await alive(client, user.tokens)


@CONFIRMING
@pytest.mark.parametrize("change", ["password_hash = 'another'", "password_hash = null", "is_active = false"])
async def test_what_changes_while_the_password_is_verified(
    client: httpx.AsyncClient,
    user: Account,
    connection: asyncpg.Connection,
    app: Edge,
    kind: str,
    change: str,
) -> None:
    method, path, body, pointer = confirming(user, user.password)[kind]
    with meanwhile(app, lambda: connection.execute(f"update users set {change} where id = $1", user.id)):
        answer = await client.request(method, path, json=body, headers=user.headers)
    if change.startswith("is_active"):
        assert answer.status_code == 401
    else:
        assert blamed(answer) == [pointer]
    row = await connection.fetchrow("select email, password_hash from users where id = $1", user.id)
    assert row is not None
    assert row["email"] == user.email


@CONFIRMING
async def test_guessing_is_throttled(
    client: httpx.AsyncClient,
    user: Account,
    other: Account,
    app: Edge,
    monkeypatch: pytest.MonkeyPatch,
    kind: str,
) -> None:
    monkeypatch.setattr(app.app.state, "throttle", Throttle(on=True))
    method, path, body, pointer = confirming(user, WRONG)[kind]
    for _ in range(20):
        assert blamed(await client.request(method, path, json=body, headers=user.headers)) == [pointer]
    before = app.app.state.passwords.verifications
    method, path, body, _ = confirming(user, user.password)[kind]
    answer = await client.request(method, path, json=body, headers=user.headers)
    assert (answer.status_code, answer.json()["code"]) == (429, "rate_limited")
    assert app.app.state.passwords.verifications == before
    method, path, body, _ = confirming(other, other.password)[kind]
    assert (await client.request(method, path, json=body, headers=other.headers)).is_success


async def leftovers(connection: asyncpg.Connection, user: Account) -> dict[str, int]:
    tables = await connection.fetch(
        "select table_name as name from information_schema.columns where table_schema = 'public' and column_name = 'user_id'"
    )
    names = {row["name"] for row in tables}
    assert {"user_state", "sessions", "tasks", "tombstones"} <= names
    counted = {
        name: await connection.fetchval(f"select count(*) from {name} where user_id = $1", user.id)
        for name in names
    }
    return {name: count for name, count in counted.items() if count}


async def test_deletion_takes_everything_at_once(
    client: httpx.AsyncClient, user: Account, other: Account, connection: asyncpg.Connection
) -> None:
    second = await another_session(client, user)
    for n in range(3):
        made = await client.post(TASKS, json={"title": "x"}, headers=user.headers)
        await client.delete(f"{TASKS}/{made.json()['id']}?permanent={n == 0}".lower(), headers=user.headers)
    assert {"tasks", "tombstones"} <= set(await leftovers(connection, user))
    body = {"password": user.password}
    answer = await client.request("DELETE", ME, json=body, headers=user.headers)
    assert (answer.status_code, answer.content) == (204, b"")
    assert not await alive(client, user.tokens)
    assert not await alive(client, second)
    assert await leftovers(connection, user) == {}
    assert await connection.fetchval("select count(*) from users where id = $1", user.id) == 0
    assert (await log_in(client, user.email, user.password)).status_code == 401
    assert (await client.request("DELETE", ME, json=body, headers=user.headers)).status_code == 401
    again = await client.post(f"{AUTH}/register", json={"email": user.email, "password": user.password})
    assert again.status_code == 201
    assert again.json()["user"]["id"] != user.id
    assert await alive(client, other.tokens)


async def write(client: httpx.AsyncClient, user: Account, n: int, until: int, token: str = "") -> set[int]:
    """Write on and on, the n-th writer in the n-th way; the statuses seen until one is 401."""
    seen: list[int] = []
    url = f"{TASKS}/0"
    while 401 not in seen and len(seen) < until:
        answer = await client.post(TASKS, json={"title": "x"}, headers=user.headers)
        seen.append(answer.status_code)
        url = answer.headers.get("location", url)
        if n % 6 == 0:
            answer = await client.post(f"{url}/toggle", headers=user.headers)
        elif n % 6 == 1:
            answer = await client.patch(url, json={"title": "y"}, headers=user.headers)
        elif n % 6 == 2:
            answer = await client.delete(url, headers=user.headers)
        elif n % 6 == 3:
            answer = await patch(client, user, name=url)
        elif n % 6 == 4:
            answer = await log_in(client, user.email, user.password)
        else:
            answer = await refresh(client, token)
            token = answer.json().get("refresh_token", token)
        seen.append(answer.status_code)
    return set(seen)


async def test_deletion_amid_that_users_writes(
    client: httpx.AsyncClient, other: Account, connection: asyncpg.Connection
) -> None:
    for _ in range(3):
        user = await sign_up(client)
        sessions = [(await another_session(client, user))["refresh_token"] for _ in range(4)]
        undisturbed = asyncio.create_task(write(client, other, 1, 40))
        writers = [asyncio.create_task(write(client, user, n, 10_000, sessions[n // 6])) for n in range(24)]
        async with asyncio.timeout(30):
            while await connection.fetchval("select count(*) from tasks where user_id = $1", user.id) < 30:
                await asyncio.sleep(0.01)
        body = {"password": user.password}
        deletion = await client.request("DELETE", ME, json=body, headers=user.headers)
        assert deletion.status_code == 204
        for seen in await asyncio.gather(*writers):
            assert {401} <= seen <= {200, 201, 204, 401, 404}
        assert await undisturbed == {200, 201}
        assert await leftovers(connection, user) == {}


async def test_deletion_locks_the_state_before_anything_else(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    """As every writer does, who then needs the user's row for a foreign key: in another order they would deadlock."""
    async with connection.transaction():
        await connection.execute("select from user_state where user_id = $1 for no key update", user.id)
        deletion = asyncio.create_task(
            client.request("DELETE", ME, json={"password": user.password}, headers=user.headers)
        )
        await blocked(connection)
        await connection.execute("select from users where id = $1 for key share nowait", user.id)
        await connection.execute("insert into tasks (user_id, title) values ($1, 'x')", user.id)
    assert (await deletion).status_code == 204
    assert await leftovers(connection, user) == {}


async def test_no_secret_in_any_log(
    client: httpx.AsyncClient, caplog: pytest.LogCaptureFixture, connection: asyncpg.Connection
) -> None:
    caplog.set_level(logging.DEBUG)
    with structlog.testing.capture_logs() as lines:
        user = await sign_up(client)
        row = await connection.fetchrow(
            "select u.password_hash, s.refresh_hash from users u join sessions s on s.user_id = u.id where u.id = $1",
            user.id,
        )
        assert row is not None
        for password in (user.password, WRONG):
            await log_in(client, user.email, password)
            await client.post(f"{AUTH}/register", json={"email": user.email, "password": password})
            for kind in ("e-mail", "password", "deletion"):
                method, path, body, _ = confirming(user, password)[kind]
                await client.request(method, path, json=body | {"odd": password}, headers=user.headers)
                await client.request(method, path, json=body, headers=user.headers)
        await refresh(client, user.tokens["refresh_token"])
    told = repr(lines) + "".join(record.getMessage() + str(record.exc_info) for record in caplog.records)
    assert ME in told
    assert "asyncio" not in {record.name for record in caplog.records if record.levelno > logging.INFO}
    secrets = [
        user.password,
        WRONG,
        NEW,
        user.email,
        row["password_hash"],
        "$argon2",
        user.tokens["access_token"],
        user.tokens["refresh_token"],
        row["refresh_hash"].hex(),
        str(row["refresh_hash"]),
    ]
    assert [secret for secret in secrets if secret in told] == []
