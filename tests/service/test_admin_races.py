"""Admins at the same moment: somebody is left who decides, and nobody's own writers are in the way."""

import asyncio
import random
import uuid
from collections import Counter
from collections.abc import Iterator

import asyncpg
import httpx
import pytest

from service.admin import LAST, ONESELF
from tests.conftest import Account, sign_up
from tests.service.accounts import AUTH, ME, alive, another_session
from tests.service.admins import PATH, RIGHTS, Alone, change, rights
from tests.service.test_users import blocked

TASKS = "/api/v1/tasks"


@pytest.fixture
def no_deadlock(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """The pool sends again what the server undid, and says so."""
    caplog.set_level("INFO", logger="db")
    yield
    told = [record.getMessage() for record in caplog.get_records("call")]
    assert [line for line in told if "again" in line] == []


# Somebody is left who decides


async def test_nobody_deactivates_themselves(
    client: httpx.AsyncClient, admin: Account, connection: asyncpg.Connection
) -> None:
    for is_admin in (True, False):
        answer = await change(client, admin, admin, is_active=False, is_admin=is_admin)
        assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
        assert answer.json()["detail"] == ONESELF
    assert await rights(connection, admin) == (True, True)
    assert (await change(client, admin, admin)).status_code == 200
    assert (await change(client, admin, admin, is_active=True, is_admin=True)).status_code == 200
    assert await alive(client, admin.tokens)


async def test_the_last_active_admin_remains_one(alone: Alone) -> None:
    first, second = await alone.admins(2)
    third = await sign_up(alone.client)
    assert (await change(alone.client, first, second, is_active=False)).status_code == 200
    answer = await change(alone.client, first, first, is_admin=False)  # the second is one, but not active
    assert (answer.status_code, answer.json()["code"]) == (409, "conflict")
    assert answer.json()["detail"] == LAST
    assert await rights(alone.connection, first) == (True, True)
    assert (await change(alone.client, first, third, is_admin=True)).status_code == 200
    answer = await change(alone.client, first, first, is_admin=False)
    assert (answer.status_code, answer.json()["is_admin"]) == (200, False)
    assert (await alone.client.get(PATH, headers=first.headers)).status_code == 403
    assert (await alone.client.get(PATH, headers=third.headers)).status_code == 200


@pytest.mark.usefixtures("no_deadlock")
@pytest.mark.parametrize("right", RIGHTS)
async def test_of_two_admins_who_disarm_each_other_one_is_left(alone: Alone, right: str) -> None:
    one, two = await alone.admins(2)
    for _ in range(30):
        answers = await asyncio.gather(
            change(alone.client, one, two, **{right: False}),
            change(alone.client, two, one, **{right: False}),
        )
        refused = 403 if right == "is_admin" else 401
        assert sorted(answer.status_code for answer in answers) == [200, refused]
        assert await alone.left() == 1
        await alone.again()


@pytest.mark.usefixtures("no_deadlock")
async def test_of_admins_who_all_give_up_at_once_one_is_left(alone: Alone) -> None:
    admins = await alone.admins(5)
    for _ in range(20):
        answers = await asyncio.gather(*(change(alone.client, one, one, is_admin=False) for one in admins))
        assert Counter(answer.status_code for answer in answers) == {200: 4, 409: 1}
        assert await alone.left() == 1
        await alone.again()


@pytest.mark.usefixtures("no_deadlock")
async def test_whatever_admins_do_to_each_other_one_is_left(alone: Alone) -> None:
    chance = random.Random(5)
    admins = await alone.admins(4)
    for _ in range(20):
        pairs = [chance.choices(admins, k=2) for _ in range(16)]
        answers = await asyncio.gather(
            *(change(alone.client, by, whom, **{chance.choice(RIGHTS): False}) for by, whom in pairs)
        )
        assert {answer.status_code for answer in answers} <= {200, 401, 403, 409}
        assert await alone.left() >= 1
        await alone.again()


# Amid that user's own writers


async def test_a_change_locks_the_state_before_anything_else(
    client: httpx.AsyncClient, admin: Account, user: Account, connection: asyncpg.Connection
) -> None:
    """As that user's writers do, who then need the row of users: in another order they would deadlock."""
    async with connection.transaction():
        await connection.execute("select from user_state where user_id = $1 for no key update", user.id)
        waiting = asyncio.create_task(change(client, admin, user, is_active=False))
        await blocked(connection)
        for row in (user, admin):
            await connection.execute("select from users where id = $1 for no key update nowait", row.id)
    assert (await waiting).status_code == 200


async def test_a_write_that_waits_for_a_deactivation_is_refused(
    client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    async with connection.transaction():
        await connection.execute("select from user_state where user_id = $1 for no key update", user.id)
        await connection.execute("update users set is_active = false where id = $1", user.id)
        write = asyncio.create_task(client.post(TASKS, json={"title": "t"}, headers=user.headers))
        await blocked(connection)
    assert (await write).status_code == 401


async def write(
    client: httpx.AsyncClient, user: Account, n: int, token: str, stop: asyncio.Event
) -> set[int]:
    """Write on and on, the n-th writer in the n-th way; the statuses seen."""
    seen: set[int] = set()
    while not stop.is_set():
        if n % 5 == 0:
            answer = await client.post(TASKS, json={"title": "t"}, headers=user.headers)
        elif n % 5 == 1:
            answer = await client.patch(ME, json={"name": uuid.uuid4().hex}, headers=user.headers)
        elif n % 5 == 2:
            answer = await client.post(f"{AUTH}/refresh", json={"refresh_token": token})
            token = answer.json().get("refresh_token", token)
        elif n % 5 == 3:
            body = {"email": user.email, "password": user.password}
            answer = await client.post(f"{AUTH}/login", json=body)
        else:
            body = {"current_password": user.password, "new_password": user.password}
            answer = await client.post(f"{ME}/password", json=body, headers=user.headers)
        seen.add(answer.status_code)
    return seen


@pytest.mark.usefixtures("no_deadlock")
async def test_deactivations_amid_that_users_writers_never_deadlock(alone: Alone) -> None:
    (admin,) = await alone.admins(1)
    user = await sign_up(alone.client)
    for n in range(60):
        answers = await asyncio.gather(
            *(alone.client.patch(ME, json={"name": f"{n} {k}"}, headers=user.headers) for k in range(4)),
            change(alone.client, admin, user, is_active=False),
            *(alone.client.patch(ME, json={"name": f"{k} {n}"}, headers=user.headers) for k in range(4)),
        )
        assert answers[4].status_code == 200
        assert {answer.status_code for answer in answers} <= {200, 401}
        assert not await alive(alone.client, user.tokens)
        await alone.again()


@pytest.mark.usefixtures("no_deadlock")
async def test_changes_amid_all_writers_of_that_user_never_deadlock(
    client: httpx.AsyncClient, admin: Account, connection: asyncpg.Connection
) -> None:
    for _ in range(2):
        user = await sign_up(client)
        tokens = [(await another_session(client, user))["refresh_token"] for _ in range(2)]
        stop = asyncio.Event()
        writers = [asyncio.create_task(write(client, user, n, tokens[n // 5], stop)) for n in range(10)]
        for n in range(40):
            answer = await change(client, admin, user, is_admin=n % 2 == 0)
            assert answer.status_code == 200, answer.text
        for n in range(10):
            answer = await change(client, admin, user, is_active=n % 2 == 1)
            assert answer.status_code == 200, answer.text
        stop.set()
        seen = set().union(*await asyncio.gather(*writers))
        assert {200, 201, 401} <= seen <= {200, 201, 204, 401, 422}
        assert await rights(connection, user) == (True, False)
        assert not await alive(client, user.tokens)
