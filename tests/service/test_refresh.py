"""Refresh tokens: single use with a grace, one live branch, and the end of a family whose token was used again."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import httpx
import pytest

from service.app import create_app
from service.edge import Edge
from service.settings import Settings
from tests.conftest import Account, sign_up, started
from tests.service.accounts import AUTH, TOKENS, alive, another_session, refresh


async def renewed(client: httpx.AsyncClient, token: str) -> dict[str, Any]:
    answer = await refresh(client, token)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


async def session(connection: asyncpg.Connection, user: Account) -> asyncpg.Record:
    row = await connection.fetchrow("select s.* from sessions s where user_id = $1", user.id)
    assert row is not None
    return row


async def back(connection: asyncpg.Connection, user: Account, column: str, seconds: float) -> None:
    """Move a time of the user's session into the past."""
    sql = f"update sessions set {column} = {column} - make_interval(secs => $2) where user_id = $1"
    assert await connection.execute(sql, user.id, seconds) == "UPDATE 1"


def known_by(token: str) -> bytes:
    return hashlib.sha256(token.encode()).digest()


@pytest.fixture(scope="module")
async def second(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of another instance on the same database."""
    async with started(create_app(settings)) as edge:
        transport = httpx.ASGITransport(edge)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            yield client


async def test_a_refresh_gives_a_new_pair_of_the_same_session(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection, settings: Settings
) -> None:
    first = user.tokens["refresh_token"]
    await back(connection, user, "expires_at", 3600)
    before = await session(connection, user)
    tokens = await renewed(client, first)
    after = await session(connection, user)
    assert list(tokens) == TOKENS
    assert tokens["user"] == user.tokens["user"]
    assert tokens["refresh_token"] != first
    assert await alive(client, tokens)
    assert await alive(client, user.tokens)  # an access token lives to its end
    assert after["id"] == before["id"]
    assert after["last_used_at"] == after["rotated_at"] > before["last_used_at"]
    assert after["expires_at"] == after["rotated_at"] + timedelta(seconds=settings.refresh_token_idle)
    assert (after["previous_hash"], after["refresh_hash"]) == (
        known_by(first),
        known_by(tokens["refresh_token"]),
    )
    assert first not in str(dict(after))
    for _ in range(3):
        tokens = await renewed(client, tokens["refresh_token"])
    assert await alive(client, tokens)


async def test_again_within_the_grace_gives_the_same_successor(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection, settings: Settings
) -> None:
    first = await renewed(client, user.tokens["refresh_token"])
    row = await session(connection, user)
    again = await renewed(client, user.tokens["refresh_token"])
    assert again["refresh_token"] == first["refresh_token"]
    assert await alive(client, again)
    assert await session(connection, user) == row
    await back(connection, user, "rotated_at", settings.refresh_token_grace - 5)
    assert (await renewed(client, user.tokens["refresh_token"]))["refresh_token"] == first["refresh_token"]
    assert await alive(client, await renewed(client, first["refresh_token"]))


async def test_reuse_after_the_grace_ends_the_family_at_once(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection, settings: Settings
) -> None:
    elsewhere = await another_session(client, user)
    sid = await connection.fetchval("select id from sessions where user_id = $1 order by id limit 1", user.id)
    heir = await renewed(client, user.tokens["refresh_token"])
    sql = "update sessions set rotated_at = rotated_at - make_interval(secs => $2) where id = $1"
    await connection.execute(sql, sid, settings.refresh_token_grace + 1)
    reused = await refresh(client, user.tokens["refresh_token"])
    assert (reused.status_code, reused.json()["code"]) == (401, "unauthenticated")
    assert not any([await alive(client, tokens) for tokens in (user.tokens, heir)])
    assert (await refresh(client, heir["refresh_token"])).status_code == 401
    assert await connection.fetchval("select revoked_at from sessions where id = $1", sid) is not None
    assert await alive(client, elsewhere)  # another family


async def test_an_older_token_ends_the_family_even_within_the_grace(
    client: httpx.AsyncClient, user: Account
) -> None:
    second = await renewed(client, user.tokens["refresh_token"])
    third = await renewed(client, second["refresh_token"])
    assert await alive(client, third)
    assert (await refresh(client, user.tokens["refresh_token"])).status_code == 401
    assert not await alive(client, third)
    assert (await refresh(client, third["refresh_token"])).status_code == 401


async def test_one_live_branch_of_32_on_two_instances(
    client: httpx.AsyncClient, second: httpx.AsyncClient, connection: asyncpg.Connection
) -> None:
    for _ in range(5):
        user = await sign_up(client)
        first = user.tokens["refresh_token"]
        pairs = await asyncio.gather(*(renewed(c, first) for c in (client, second) * 16))
        assert len({tokens["refresh_token"] for tokens in pairs}) == 1
        assert all([await alive(client, tokens) for tokens in pairs])
        row = await session(connection, user)
        assert (row["previous_hash"], row["refresh_hash"]) == (
            known_by(first),
            known_by(pairs[0]["refresh_token"]),
        )
        assert row["revoked_at"] is None
        assert await alive(second, await renewed(second, pairs[0]["refresh_token"]))


async def test_a_thief_and_the_owner_cannot_both_go_on(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    """Both at once with the old token and its successor: whoever comes too late ends it for both."""
    heir = await renewed(client, user.tokens["refresh_token"])
    await back(connection, user, "rotated_at", 3600)
    answers = await asyncio.gather(
        *(refresh(client, token) for token in (heir["refresh_token"], user.tokens["refresh_token"]) * 8)
    )
    assert {answer.status_code for answer in answers} <= {200, 401}
    assert (await session(connection, user))["revoked_at"] is not None
    assert not await alive(client, heir)
    for answer in answers:
        if answer.status_code == 200:
            assert (await refresh(client, answer.json()["refresh_token"])).status_code == 401


async def test_an_unused_session_expires(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection, settings: Settings
) -> None:
    await back(connection, user, "expires_at", settings.refresh_token_idle)
    assert (await refresh(client, user.tokens["refresh_token"])).status_code == 401
    assert not await alive(client, user.tokens)


async def test_a_used_session_expires_too(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection, settings: Settings
) -> None:
    await back(connection, user, "created_at", settings.refresh_token_ttl - 60)
    tokens = await renewed(client, user.tokens["refresh_token"])
    row = await session(connection, user)
    assert row["expires_at"] == row["created_at"] + timedelta(seconds=settings.refresh_token_ttl)
    assert row["expires_at"] < datetime.now(UTC) + timedelta(seconds=90)
    await back(connection, user, "created_at", 120)
    await renewed(client, tokens["refresh_token"])  # not past its time when it was asked for, and the last
    assert not await alive(client, tokens)


@pytest.mark.parametrize(
    "sql",
    [
        "update users set is_active = false where id = $1",
        "delete from users where id = $1",
        "update sessions set revoked_at = now() where user_id = $1",
        "delete from sessions where user_id = $1",
    ],
)
async def test_no_refresh_where_the_session_is_over(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection, sql: str
) -> None:
    await connection.execute(sql, user.id)
    assert (await refresh(client, user.tokens["refresh_token"])).status_code == 401


async def test_one_answer_to_every_token_that_is_refused(
    client: httpx.AsyncClient, user: Account, other: Account, app: Edge, connection: asyncpg.Connection
) -> None:
    token = user.tokens["refresh_token"]
    await connection.execute("update sessions set revoked_at = now() where user_id = $1", other.id)
    before = await session(connection, user)
    refused = [
        "",
        "garbage",
        "🐎",
        token[:-1],
        token + "A",
        ("B" if token[0] == "A" else "A") + token[1:],
        user.tokens["access_token"],
        app.app.state.tokens.first_refresh().successor,
        other.tokens["refresh_token"],
    ]
    seen = set()
    for text in refused:
        answer = await refresh(client, text)
        seen.add((answer.status_code, answer.text.replace(answer.headers["x-request-id"], "")))
    assert len(seen) == 1
    assert seen.pop()[0] == 401
    assert await session(connection, user) == before  # garbage ends nobody's session


@pytest.mark.parametrize(
    "body", [{}, {"refresh_token": None}, {"refresh_token": 1}, {"refresh_token": ["x"]}]
)
async def test_refresh_without_its_field(client: httpx.AsyncClient, body: dict[str, Any]) -> None:
    answer = await client.post(f"{AUTH}/refresh", json=body)
    assert answer.status_code == 422
    assert [error["pointer"] for error in answer.json()["errors"]] == ["/refresh_token"]
