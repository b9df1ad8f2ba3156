"""Who else the tests over HTTP need: an admin, and a service where there is no other."""

from collections.abc import AsyncIterator

import asyncpg
import httpx
import pytest

from service.settings import Settings
from tests.conftest import Account, sign_up
from tests.service.accounts import promote
from tests.service.admins import Alone, alone_with


@pytest.fixture
async def admin(client: httpx.AsyncClient, connection: asyncpg.Connection) -> Account:
    """Somebody new who is an admin."""
    account = await sign_up(client)
    await promote(connection, account)
    return account


@pytest.fixture
async def alone(settings: Settings, migrated_database: str) -> AsyncIterator[Alone]:
    """A service with a database of this test alone."""
    async with alone_with(settings, migrated_database) as alone:
        yield alone
