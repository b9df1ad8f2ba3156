"""What the tests of admins share, and a service with a database of its own."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import httpx
import msgspec

from db.url import parse
from service.app import create_app
from service.edge import Edge
from service.settings import Settings
from tests.conftest import Account, quiet, sign_up, started, turn
from tests.service.accounts import promote

PATH = "/api/v1/admin/users"
RIGHTS = ("is_active", "is_admin")


class Alone(msgspec.Struct):
    """A service with a database of its own, where no other test has admins; `sent` are its statements."""

    app: Edge
    client: httpx.AsyncClient
    connection: asyncpg.Connection
    sent: list[str]

    async def admins(self, number: int) -> list[Account]:
        """New users who are admins."""
        accounts = [await sign_up(self.client) for _ in range(number)]
        await promote(self.connection, *accounts)
        return accounts

    async def again(self) -> None:
        """Make everybody an active admin, signed in as before."""
        await self.connection.execute("update users set is_active = true, is_admin = true")
        await self.connection.execute("update sessions set revoked_at = null")

    async def left(self) -> int:
        """How many active admins there are."""
        sql = "select count(*) from users where is_admin and is_active"
        return int(await self.connection.fetchval(sql))


@asynccontextmanager
async def alone_with(settings: Settings, url: str) -> AsyncIterator[Alone]:
    """Serve a database of a test's own."""
    sent: list[str] = []

    async def log(connection: Any) -> None:
        connection.add_query_logger(lambda record: sent.append(record.query))

    edge = create_app(msgspec.structs.replace(settings, database_url=url), init=log)
    connection = await asyncpg.connect(**parse(url).kwargs())
    async with started(edge):
        transport = httpx.ASGITransport(edge)  # type: ignore[arg-type]
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", event_hooks={"response": [turn]}
        ) as client:
            await quiet(client, sent)
            yield Alone(edge, client, connection, sent)
    await connection.close()


async def change(client: httpx.AsyncClient, by: Account, whom: Account, **rights: Any) -> httpx.Response:
    """Change what somebody may do."""
    return await client.patch(f"{PATH}/{whom.id}", json=rights, headers=by.headers)


async def rights(connection: asyncpg.Connection, user: Account) -> tuple[bool, bool]:
    """Whether somebody is active, and an admin."""
    row = await connection.fetchrow("select is_active, is_admin from users where id = $1", user.id)
    assert row is not None
    return row["is_active"], row["is_admin"]
