"""What the tests of signing in and of accounts share."""

import uuid
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from typing import Any

import asyncpg
import httpx
import pytest

from service.edge import Edge
from tests.conftest import Account

AUTH = "/api/v1/auth"
ME = "/api/v1/users/me"
PASSWORD = "correct horse battery"
WRONG = "wrong horse battery"
NEW = "another horse battery"
TOKENS = ["access_token", "token_type", "expires_in", "refresh_token", "user"]
USER = ["id", "email", "name", "is_active", "is_admin", "created_at", "updated_at", "last_login_at"]


def fresh() -> str:
    """An e-mail address that nobody has."""
    return f"{uuid.uuid4().hex}@example.com"


def bearer(tokens: dict[str, Any]) -> dict[str, str]:
    return {"Authorization": f"Bearer {tokens['access_token']}"}


def blamed(answer: httpx.Response) -> list[str]:
    """The fields that a 422 names."""
    assert answer.status_code == 422, answer.text
    return [error["pointer"] for error in answer.json()["errors"]]


async def promote(connection: asyncpg.Connection, *users: Account) -> None:
    """Make users admins."""
    await connection.execute(
        "update users set is_admin = true where id = any($1)", [user.id for user in users]
    )


async def log_in(client: httpx.AsyncClient, email: str, password: str) -> httpx.Response:
    return await client.post(f"{AUTH}/login", json={"email": email, "password": password})


async def another_session(client: httpx.AsyncClient, user: Account, **headers: str) -> dict[str, Any]:
    """The tokens of one more login."""
    body = {"email": user.email, "password": user.password}
    answer = await client.post(f"{AUTH}/login", json=body, headers=headers)
    assert answer.status_code == 200, answer.text
    tokens: dict[str, Any] = answer.json()
    return tokens


async def refresh(client: httpx.AsyncClient, token: str) -> httpx.Response:
    return await client.post(f"{AUTH}/refresh", json={"refresh_token": token})


async def alive(client: httpx.AsyncClient, tokens: dict[str, Any]) -> bool:
    """Whether an access token is taken."""
    answer = await client.get(ME, headers=bearer(tokens))
    assert answer.status_code in (200, 401)
    return answer.status_code == 200


@contextmanager
def meanwhile(app: Edge, happen: Callable[[], Awaitable[object]]) -> Iterator[None]:
    """Have something happen between the two statements of a request, while its password is verified."""
    passwords = app.app.state.passwords
    verify = passwords.verify

    async def verified(stored: str | None, password: str) -> bool:
        right: bool = await verify(stored, password)
        await happen()
        return right

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(passwords, "verify", verified)
        yield
