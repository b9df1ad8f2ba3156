"""Admins: everybody's accounts, and what each may do."""

import asyncio
import random
import uuid
from typing import Any

import asyncpg
import httpx
import pytest

from service.edge import Edge
from tests.conftest import Account, sign_up
from tests.service.accounts import (
    ME,
    USER,
    alive,
    another_session,
    blamed,
    fresh,
    log_in,
    promote,
    refresh,
)
from tests.service.admins import PATH, Alone, change, rights
from tests.service.test_users import blocked

TASKS = "/api/v1/tasks"


async def walk(client: httpx.AsyncClient, admin: Account, **query: Any) -> list[dict[str, Any]]:
    """All users, by the links from page to page."""
    found: list[dict[str, Any]] = []
    url: Any = httpx.URL(PATH, params=query)
    while url:
        answer = await client.get(url, headers=admin.headers)
        assert answer.status_code == 200, answer.text
        found += answer.json()["items"]
        assert ("next" in answer.links) == (answer.json()["next_cursor"] is not None)
        url = answer.links["next"]["url"] if "next" in answer.links else None
    return found


# The list


async def test_list_is_everybody_by_id_with_their_live_tasks(
    client: httpx.AsyncClient, admin: Account, user: Account, other: Account, connection: asyncpg.Connection
) -> None:
    for owner, number in ((user, 4), (other, 1)):
        for _ in range(number):
            assert (await client.post(TASKS, json={"title": "t"}, headers=owner.headers)).status_code == 201
    gone = (await client.get(TASKS, headers=user.headers)).json()["items"][0]["id"]
    assert (await client.delete(f"{TASKS}/{gone}", headers=user.headers)).status_code == 204
    found = await walk(client, admin, limit=500)
    assert all(list(item) == [*USER, "task_count"] for item in found)
    rows = await connection.fetch(
        "select u.id, count(t.id) as tasks from users u"
        " left join tasks t on t.user_id = u.id and t.deleted_at is null group by u.id"
    )
    assert {item["id"]: item["task_count"] for item in found} == {row["id"]: row["tasks"] for row in rows}
    assert [item["id"] for item in found] == sorted((row["id"] for row in rows), key=str.encode)
    counts = {item["id"]: item["task_count"] for item in found}
    assert (counts[user.id], counts[other.id], counts[admin.id]) == (3, 1, 0)
    (mine,) = (item for item in found if item["id"] == user.id)
    assert mine == (await client.get(ME, headers=user.headers)).json() | {"task_count": 3}


async def test_list_pages(client: httpx.AsyncClient, admin: Account, connection: asyncpg.Connection) -> None:
    for _ in range(3):
        await sign_up(client)
    ids = [row["id"] for row in await connection.fetch("select id from users order by id")]
    first = await client.get(f"{PATH}?limit=2&count=true", headers=admin.headers)
    assert list(first.json()) == ["items", "next_cursor", "total"]
    assert first.json()["total"] == len(ids)
    assert [item["id"] for item in first.json()["items"]] == ids[:2]
    assert (first.headers["cache-control"], "etag" in first.headers) == ("no-store", False)
    second = await client.get(first.links["next"]["url"], headers=admin.headers)
    assert [item["id"] for item in second.json()["items"]] == ids[2:4]
    offset = (await client.get(f"{PATH}?limit=2&offset=1", headers=admin.headers)).json()
    assert [item["id"] for item in offset["items"]] == ids[1:3]
    assert "total" not in offset
    last = (await client.get(f"{PATH}?offset={len(ids) - 1}", headers=admin.headers)).json()
    assert ([item["id"] for item in last["items"]], last["next_cursor"]) == (ids[-1:], None)
    past = (await client.get(f"{PATH}?offset={len(ids)}&count=true", headers=admin.headers)).json()
    assert past == {"items": [], "next_cursor": None, "total": len(ids)}
    assert [item["id"] for item in await walk(client, admin)] == ids


async def test_list_finds_an_email_in_any_case(
    client: httpx.AsyncClient, admin: Account, user: Account
) -> None:
    for email in (user.email, user.email.upper()):
        page = await client.get(PATH, params={"email": email, "count": True}, headers=admin.headers)
        assert [item["id"] for item in page.json()["items"]] == [user.id]
        assert (page.json()["total"], page.json()["next_cursor"]) == (1, None)
    for email in (fresh(), "", "%"):
        page = await client.get(PATH, params={"email": email, "count": True}, headers=admin.headers)
        assert page.json() == {"items": [], "next_cursor": None, "total": 0}


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("limit=0&offset=-1&count=maybe", ["limit", "offset", "count"]),
        ("limit=501", ["limit"]),
        ("cursor=abc", ["cursor"]),
        ("cursor={cursor}&offset=1", ["offset"]),
        ("cursor={cursor}&email=a@example.com", ["cursor"]),
        ("email=%00", ["email"]),
        ("sort=email&task_count=1", ["sort", "task_count"]),
    ],
)
async def test_list_refuses_and_names_the_parameters(
    client: httpx.AsyncClient, admin: Account, query: str, parameters: list[str]
) -> None:
    cursor = (await client.get(f"{PATH}?limit=1", headers=admin.headers)).json()["next_cursor"]
    answer = await client.get(f"{PATH}?{query.format(cursor=cursor)}", headers=admin.headers)
    assert answer.status_code == 422, answer.text
    assert [error["parameter"] for error in answer.json()["errors"]] == parameters


async def test_cursors_of_tasks_are_not_of_users(client: httpx.AsyncClient, admin: Account) -> None:
    for _ in range(2):
        await client.post(TASKS, json={"title": "t"}, headers=admin.headers)
    cursors = [
        (await client.get(f"{path}?limit=1", headers=admin.headers)).json()["next_cursor"]
        for path in (TASKS, PATH)
    ]
    for path, cursor in zip((PATH, TASKS), cursors, strict=True):
        answer = await client.get(f"{path}?cursor={cursor}", headers=admin.headers)
        assert (answer.status_code, answer.json()["errors"][0]["parameter"]) == (422, "cursor")


async def test_a_walk_neither_repeats_nor_skips_while_users_come_and_go(alone: Alone) -> None:
    chance = random.Random(11)
    (admin,) = await alone.admins(1)
    insert = (
        "insert into users (id, email) select v, v || '@example.com' from unnest($1::text[]) v returning id"
    )
    ids = [row["id"] for row in await alone.connection.fetch(insert, [uuid.uuid4().hex for _ in range(60)])]
    stayed = {*ids, admin.id}
    seen: list[str] = []
    url = f"{PATH}?limit=3"
    while url:
        answer = await alone.client.get(url, headers=admin.headers)
        seen += [item["id"] for item in answer.json()["items"]]
        url = answer.links["next"]["url"] if "next" in answer.links else ""
        await alone.connection.fetch(insert, [uuid.uuid4().hex for _ in range(2)])
        gone = chance.choice(ids)
        stayed.discard(gone)
        await alone.connection.execute("delete from users where id = $1", gone)
    assert len(seen) == len(set(seen))
    assert stayed <= set(seen)
    assert len(stayed) > 30


async def test_a_page_of_five_hundred_is_one_statement(alone: Alone) -> None:
    (admin,) = await alone.admins(1)
    await alone.connection.execute(
        "insert into users (id, email) select 'user' || n, n || '@example.com' from generate_series(1, 600) n"
    )
    await alone.connection.execute(
        "insert into tasks (user_id, title) select 'user' || n, 't' from generate_series(1, 600) n, generate_series(1, n % 4)"
    )
    alone.sent.clear()
    answer = await alone.client.get(f"{PATH}?limit=500&count=true", headers=admin.headers)
    assert len(alone.sent) == 1
    assert (len(answer.json()["items"]), answer.json()["total"]) == (500, 601)
    for item in answer.json()["items"]:
        number = int(item["id"].removeprefix("user")) if item["id"].startswith("user") else 0
        assert item["task_count"] == number % 4


# What a user may do


async def test_rights_are_given_and_taken(
    client: httpx.AsyncClient, admin: Account, user: Account, connection: asyncpg.Connection
) -> None:
    await client.post(TASKS, json={"title": "t"}, headers=user.headers)
    before = user.tokens["user"] | {"task_count": 1}
    answer = await change(client, admin, user, is_admin=True)
    assert (answer.status_code, list(answer.json())) == (200, [*USER, "task_count"])
    made = answer.json()
    assert made == before | {"is_admin": True, "updated_at": made["updated_at"]}
    assert made["updated_at"] > before["updated_at"]
    assert (await client.get(PATH, headers=user.headers)).status_code == 200
    merge = admin.headers | {"Content-Type": "application/merge-patch+json"}
    answer = await client.patch(f"{PATH}/{user.id}", content=b'{"is_admin":false}', headers=merge)
    assert answer.json()["is_admin"] is False
    assert (await client.get(PATH, headers=user.headers)).status_code == 403
    assert (await client.get(ME, headers=user.headers)).json()["is_admin"] is False
    assert await rights(connection, user) == (True, False)


@pytest.mark.parametrize("body", [{}, {"is_active": True}, {"is_active": True, "is_admin": False}])
async def test_what_changes_nothing_is_answered_unchanged(
    client: httpx.AsyncClient,
    admin: Account,
    user: Account,
    connection: asyncpg.Connection,
    body: dict[str, Any],
) -> None:
    state = "select us::text, u::text from user_state us join users u on u.id = us.user_id where u.id = $1"
    before = await connection.fetchrow(state, user.id)
    answer = await change(client, admin, user, **body)
    assert (answer.status_code, answer.json()) == (200, user.tokens["user"] | {"task_count": 0})
    assert await connection.fetchrow(state, user.id) == before
    assert await alive(client, user.tokens)


@pytest.mark.parametrize(
    ("body", "pointers"),
    [
        ({"is_active": None}, ["/is_active"]),
        ({"is_active": "false", "is_admin": 1}, ["/is_active", "/is_admin"]),
        ({"is_admin": True, "email": "a@example.com", "password_hash": ""}, ["/email", "/password_hash"]),
        ([], [""]),
    ],
)
async def test_update_refuses(
    client: httpx.AsyncClient,
    admin: Account,
    user: Account,
    connection: asyncpg.Connection,
    body: Any,
    pointers: list[str],
) -> None:
    answer = await client.patch(f"{PATH}/{user.id}", json=body, headers=admin.headers)
    assert blamed(answer) == pointers
    assert await rights(connection, user) == (True, False)


@pytest.mark.parametrize("id", ["nobody", "%00", "a%00b", "%F0%9F%98%80", "x" * 5000, "1"])
async def test_an_unknown_user_is_404(client: httpx.AsyncClient, admin: Account, id: str) -> None:
    answer = await client.patch(f"{PATH}/{id}", json={"is_admin": True}, headers=admin.headers)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")


async def test_who_is_no_admin_changes_nothing(
    client: httpx.AsyncClient, user: Account, other: Account, connection: asyncpg.Connection
) -> None:
    for whom in (user, other):
        for body in ({}, {"is_admin": True}, {"is_active": False}):
            answer = await change(client, user, whom, **body)
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
        assert await rights(connection, whom) == (True, False)


async def test_a_demoted_admin_is_403_and_a_deactivated_one_401_at_the_next_request(
    client: httpx.AsyncClient, admin: Account, user: Account, connection: asyncpg.Connection
) -> None:
    second = await sign_up(client)
    await promote(connection, second)
    assert (await client.get(PATH, headers=second.headers)).status_code == 200
    assert (await change(client, admin, second, is_admin=False)).status_code == 200
    assert (await client.get(PATH, headers=second.headers)).status_code == 403
    assert (await change(client, second, user, is_admin=True)).status_code == 403
    assert (await change(client, admin, second, is_admin=True)).status_code == 200
    assert (await client.get(PATH, headers=second.headers)).status_code == 200
    assert (await change(client, admin, second, is_active=False)).status_code == 200
    assert (await client.get(PATH, headers=second.headers)).status_code == 401
    assert (await change(client, second, user, is_admin=True)).status_code == 401
    assert await rights(connection, user) == (True, False)


async def test_deactivation_ends_access_and_every_session(
    client: httpx.AsyncClient, admin: Account, user: Account, connection: asyncpg.Connection
) -> None:
    others = [await another_session(client, user) for _ in range(2)]
    answer = await change(client, admin, user, is_active=False)
    assert (answer.status_code, answer.json()["is_active"]) == (200, False)
    for tokens in (user.tokens, *others):
        assert not await alive(client, tokens)
        assert (await refresh(client, tokens["refresh_token"])).status_code == 401
    assert (await log_in(client, user.email, user.password)).status_code == 401
    ended = "select bool_and(revoked_at is not null) from sessions where user_id = $1"
    assert await connection.fetchval(ended, user.id)
    answer = await change(client, admin, user, is_active=True)
    assert (answer.status_code, answer.json()["is_active"]) == (200, True)
    for tokens in (user.tokens, *others):
        assert not await alive(client, tokens)
    again = await log_in(client, user.email, user.password)
    assert await alive(client, again.json())
    state = await connection.fetchrow(
        "select us.is_active, us.tokens_valid_from = u.updated_at as stamped"
        " from user_state us join users u on u.id = us.user_id where u.id = $1",
        user.id,
    )
    assert state is not None
    assert tuple(state) == (True, True)


async def test_a_login_that_a_deactivation_could_not_see_does_not_outlive_it(
    client: httpx.AsyncClient, admin: Account, user: Account, app: Edge, connection: asyncpg.Connection
) -> None:
    """It opened its session before, and committed while the deactivation waited for it."""
    sid = str(uuid.uuid4())
    async with connection.transaction():
        await connection.execute("update users set last_login_at = now() where id = $1", user.id)
        await connection.execute(
            "insert into sessions (id, user_id, refresh_hash, expires_at) values ($1, $2, '', now() + interval '1 day')",
            sid,
            user.id,
        )
        deactivation = asyncio.create_task(change(client, admin, user, is_active=False))
        await blocked(connection)
    assert (await deactivation).status_code == 200
    tokens = {"access_token": app.app.state.tokens.access(user.id, sid)}
    assert await connection.fetchval("select revoked_at is null from sessions where id = $1", sid)
    assert not await alive(client, tokens)
    assert (await change(client, admin, user, is_active=True)).status_code == 200
    assert not await alive(client, tokens)
