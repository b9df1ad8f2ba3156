"""Idempotency keys on every route that takes one: one effect, one answer, for a day, for one user."""

import asyncio
import random
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from db.url import parse
from service.app import create_app
from service.gate import PUBLIC
from service.routes import BASE, IDEMPOTENCY_KEY, ROUTES, Route
from service.settings import Settings
from tests.conftest import Account, run, sign_up, started
from tests.service.test_routes import KEYED, body, every, path

TASKS = f"{BASE}/tasks"
KEPT = ("content-type", "etag", "location", "cache-control")


class Sender:
    """Posts as one user."""

    def __init__(self, client: httpx.AsyncClient, user: Account) -> None:
        self.client = client
        self.user = user

    async def __call__(self, url: str, json: Any, key: str | None = "k", **headers: str) -> httpx.Response:
        content = json if isinstance(json, bytes) else msgspec.json.encode(json)
        given = {"Content-Type": "application/json"} | ({} if key is None else {IDEMPOTENCY_KEY: key})
        return await self.client.post(url, content=content, headers=self.user.headers | given | headers)


@pytest.fixture
def post(client: httpx.AsyncClient, user: Account) -> Sender:
    return Sender(client, user)


def same(answer: httpx.Response, first: httpx.Response) -> bool:
    """Whether an answer repeats the first one and says so."""
    told = [{name: reply.headers.get(name) for name in KEPT} for reply in (answer, first)]
    return (
        (answer.status_code, answer.content) == (first.status_code, first.content)
        and told[0] == told[1]
        and answer.headers.get("idempotent-replayed") == "true"
        and "idempotent-replayed" not in first.headers
    )


def spaced(json: Any) -> bytes:
    """A body that says the same in other bytes: another request."""
    return msgspec.json.format(msgspec.json.encode(json))


async def effects(connection: asyncpg.Connection, user: Account) -> tuple[Any, ...]:
    """All that a user's requests have left, keys apart."""
    tables = ("user_state", "tasks", "conversations", "messages")
    return tuple(
        [
            await connection.fetch(f"select x::text from {table} x where user_id = $1 order by 1", user.id)
            for table in tables
        ]
    )


def refused(answer: httpx.Response, status: int = 422) -> bool:
    return (answer.status_code, answer.json()["errors"][0]["header"]) == (status, "idempotency-key")


def test_every_post_under_a_token_that_creates_takes_a_key() -> None:
    creating = {
        route.path
        for route in ROUTES
        if route.method == "POST" and route.status == 201 and BASE + route.path not in PUBLIC
    }
    assert creating <= {route.path for route in KEYED}


@every(KEYED)
async def test_a_request_sent_again_has_no_second_effect(
    route: Route, post: Sender, client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    url, json = await path(route, client, user), body(route, user)
    first = await post(url, json)
    assert first.status_code == route.status
    left = await effects(connection, user)
    for _ in range(3):
        assert same(await post(url, json), first)
    assert await effects(connection, user) == left
    another = await post(url, json, "another")
    assert another.status_code == route.status
    assert "idempotent-replayed" not in another.headers
    assert await effects(connection, user) != left


@every(KEYED)
async def test_a_key_changes_nothing_in_the_answer(
    route: Route, post: Sender, client: httpx.AsyncClient, other: Account, user: Account
) -> None:
    plain = await post(await path(route, client, user), body(route, user), None)
    keyed = await Sender(client, other)(await path(route, client, other), body(route, other))
    assert shape(plain.json()) == shape(keyed.json())
    assert (plain.status_code, set(plain.headers)) == (keyed.status_code, set(keyed.headers))


def shape(value: Any) -> Any:
    """An answer with types in the place of values, in its order."""
    if isinstance(value, dict):
        return [(name, shape(item)) for name, item in value.items()]
    return [shape(item) for item in value] if isinstance(value, list) else type(value)


@every(KEYED)
async def test_the_same_key_with_another_request_is_refused(
    route: Route, post: Sender, client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    url, json = await path(route, client, user), body(route, user)
    first = await post(url, json)
    left = await effects(connection, user)
    assert refused(await post(url, spaced(json)))
    assert await effects(connection, user) == left
    assert same(await post(url, json), first)


async def test_the_alias_is_the_same_route_by_another_path(
    post: Sender, user: Account, connection: asyncpg.Connection
) -> None:
    alias = f"/api/{user.id}/tasks"
    first = await post(alias, {"title": "x"})
    assert first.headers["location"] == f"{TASKS}/{first.json()['id']}"
    assert refused(await post(TASKS, {"title": "x"}))
    assert same(await post(alias, {"title": "x"}), first)
    assert await connection.fetchval("select count(*) from tasks where user_id = $1", user.id) == 1


@every(KEYED)
async def test_a_key_is_for_one_user(
    route: Route, client: httpx.AsyncClient, user: Account, other: Account
) -> None:
    for account in (user, other):
        url, json = await path(route, client, account), body(route, account)
        first = await Sender(client, account)(url, json)
        assert first.status_code == route.status
        assert "idempotent-replayed" not in first.headers


async def test_a_key_is_for_one_route(
    client: httpx.AsyncClient, post: Sender, user: Account, connection: asyncpg.Connection
) -> None:
    for route in KEYED:
        answer = await post(await path(route, client, user), body(route, user), "one for all")
        assert answer.status_code == route.status
        assert "idempotent-replayed" not in answer.headers
    rows = await connection.fetch("select route from idempotency_keys where user_id = $1", user.id)
    assert {row["route"] for row in rows} == {f"POST {route.path}" for route in KEYED}


@every(KEYED)
async def test_a_replay_needs_a_living_session(
    route: Route, post: Sender, client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    url, json = await path(route, client, user), body(route, user)
    first = await post(url, json)
    signed = {"email": user.email, "password": user.password}
    again = (await client.post(f"{BASE}/auth/login", json=signed)).json()["access_token"]
    await client.post(f"{BASE}/auth/logout", headers=user.headers)
    assert (await post(url, json)).status_code == 401
    assert same(await post(url, json, Authorization=f"Bearer {again}"), first)
    await connection.execute("update users set is_active = false where id = $1", user.id)
    assert (await post(url, json, Authorization=f"Bearer {again}")).status_code == 401


@every(KEYED)
async def test_a_key_is_free_again_after_a_day(
    route: Route, post: Sender, client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    url, json = await path(route, client, user), body(route, user)
    older = "update idempotency_keys set created_at = created_at - $2::interval where user_id = $1"
    first = await post(url, json)
    await connection.execute(older.replace("$2", "'23 hours 59 minutes'"), user.id)
    assert same(await post(url, json), first)
    await connection.execute(older.replace("$2", "'1 minute'"), user.id)
    second = await post(url, spaced(json))
    assert second.status_code == route.status
    assert "idempotent-replayed" not in second.headers
    assert same(await post(url, spaced(json)), second)
    assert refused(await post(url, json))


async def test_a_replay_gives_the_original_whatever_became_of_the_task(
    client: httpx.AsyncClient, post: Sender, user: Account, connection: asyncpg.Connection
) -> None:
    json = {
        "title": '  tidy \U0001f600 \\ " ',
        "description": "line\nline\u2028",
        "completed": True,
        "priority": "high",
        "due_date": "0001-01-01T00:00:00.000001Z",
    }
    first = await post(TASKS, json)
    url = first.headers["location"]
    assert (await client.get(url, headers=user.headers)).content == first.content
    await client.patch(url, json={"title": "new"}, headers=user.headers)
    assert same(await post(TASKS, json), first)
    await client.delete(url, headers=user.headers)
    assert same(await post(TASKS, json), first)
    await client.delete(f"{url}?permanent=true", headers=user.headers)
    assert same(await post(TASKS, json), first)
    assert (await client.get(url, headers=user.headers)).status_code == 404


async def test_times_are_told_in_utc_whatever_the_zone_of_the_server(
    migrated_database: str, settings: Settings
) -> None:
    for change in ("timezone = 'America/St_Johns'", "datestyle = 'SQL, DMY'"):
        await run(migrated_database, f"alter database {parse(migrated_database).database} set {change}")
    changed = msgspec.structs.replace(settings, database_url=migrated_database)
    async with applications(changed, 1) as (client,):
        user = await sign_up(client)
        json = {"title": "x", "due_date": "0001-01-01T00:00:00Z", "completed": True}
        made = await Sender(client, user)(TASKS, json)
        assert made.status_code == 201
        assert made.content == (await client.get(made.headers["location"], headers=user.headers)).content
        assert made.json()["due_date"] == "0001-01-01T00:00:00Z"


@every(KEYED)
async def test_what_was_refused_is_not_kept(
    route: Route, post: Sender, client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    url, json = await path(route, client, user), body(route, user)
    for wrong, status in (({"no": "such"}, 422), ([], 422)):
        assert (await post(url, wrong)).status_code == status
    assert (await post(f"{url}?no=such", json)).status_code == 422
    content = {"Content-Type": "text/plain"}
    assert (await post(url, json, **content)).status_code == 415
    assert (await client.post(url, json=json, headers={IDEMPOTENCY_KEY: "k"})).status_code == 401
    assert not await connection.fetch("select key from idempotency_keys where user_id = $1", user.id)
    first = await post(url, json)
    assert first.status_code == route.status
    assert "idempotent-replayed" not in first.headers


@every(KEYED)
@pytest.mark.parametrize("key", ["k", "x" * 255, '"quoted"', "a b, c", " !~"])
async def test_keys_that_can_be_taken(
    route: Route, client: httpx.AsyncClient, inside: httpx.AsyncClient, user: Account, key: str
) -> None:
    url, json = await path(route, client, user), body(route, user)
    post = Sender(inside, user)
    first = await post(url, json, key)
    assert first.status_code == route.status
    assert same(await post(url, json, f" {key}\t"), first)


@every(KEYED)
@pytest.mark.parametrize("key", ["", "  ", "x" * 256, "\u00e9", "a\tb", "a\x7f", "a\x00b"])
async def test_keys_that_cannot(
    route: Route,
    client: httpx.AsyncClient,
    inside: httpx.AsyncClient,
    user: Account,
    key: str,
    connection: asyncpg.Connection,
) -> None:
    url, json = await path(route, client, user), body(route, user)
    left = await effects(connection, user)
    headers = [(name.encode(), value.encode()) for name, value in user.headers.items()]
    raw = (IDEMPOTENCY_KEY.encode(), key.encode())
    assert refused(await inside.post(url, json=json, headers=[*headers, raw]))
    both = [(IDEMPOTENCY_KEY.encode(), b"one"), (IDEMPOTENCY_KEY.encode(), b"two")]
    assert refused(await client.post(url, json=json, headers=[*headers, *both]))
    assert await effects(connection, user) == left


async def test_where_no_key_is_taken_it_is_not_looked_at(client: httpx.AsyncClient, user: Account) -> None:
    headers = user.headers | {IDEMPOTENCY_KEY: "x" * 300}
    assert (await client.get(TASKS, headers=headers)).status_code == 200


# Many at once


@asynccontextmanager
async def applications(settings: Settings, number: int) -> AsyncIterator[list[httpx.AsyncClient]]:
    """Clients of so many instances on one database, which wait longer than a busy machine takes."""
    patient = msgspec.structs.replace(settings, database_pool_timeout=60, database_statement_timeout=60)
    async with AsyncExitStack() as stack:
        clients = []
        for _ in range(number):
            edge = await stack.enter_async_context(started(create_app(patient)))
            transport = httpx.ASGITransport(edge)  # type: ignore[arg-type]
            client = httpx.AsyncClient(transport=transport, base_url="http://test")
            clients.append(await stack.enter_async_context(client))
        yield clients


def one_first(answers: list[httpx.Response]) -> bool:
    """Whether one answer is the first and all the others repeat it."""
    first = [answer for answer in answers if "idempotent-replayed" not in answer.headers]
    return len(first) == 1 and all(same(answer, first[0]) for answer in answers if answer is not first[0])


async def test_forty_keys_at_once_have_forty_effects(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async with applications(settings, 1) as (client,):
        user = await sign_up(client)
        post = Sender(client, user)
        keys = [uuid.uuid4().hex for _ in range(40)]
        calls = [(key, post(TASKS, {"title": f"task {key}"}, key)) for key in keys * 32]
        random.Random(1).shuffle(calls)
        answers = await asyncio.gather(*(call for _, call in calls))
    by_key: dict[str, list[httpx.Response]] = {key: [] for key in keys}
    for (key, _), answer in zip(calls, answers, strict=True):
        by_key[key].append(answer)
    assert all(len(found) == 32 and one_first(found) for found in by_key.values())
    rows = await connection.fetch("select title, revision from tasks where user_id = $1 order by 2", user.id)
    assert [row["revision"] for row in rows] == list(range(1, 41))
    told = {(answer.json()["title"], answer.json()["revision"]) for answer in answers}
    assert told == {(row["title"], row["revision"]) for row in rows}
    assert {title for title, _ in told} == {f"task {key}" for key in keys}
    assert await connection.fetchval("select revision from user_state where user_id = $1", user.id) == 40


@every(KEYED)
async def test_two_instances_have_one_effect(
    route: Route, settings: Settings, connection: asyncpg.Connection
) -> None:
    async with applications(settings, 2) as clients:
        user, model = [await sign_up(client) for client in clients]
        url, json = await path(route, clients[0], user), body(route, user)
        answers = await asyncio.gather(*(Sender(clients[n % 2], user)(url, json) for n in range(32)))
        assert one_first(answers)
        alone = await Sender(clients[1], model)(await path(route, clients[1], model), body(route, model))
        assert alone.status_code == route.status
    counts = [[len(rows) for rows in await effects(connection, account)] for account in (user, model)]
    assert counts[0] == counts[1]


async def test_another_request_under_the_key_of_one_under_way_is_refused(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    async with applications(settings, 1) as (client,):
        user = await sign_up(client)
        post = Sender(client, user)
        answers = await asyncio.gather(*(post(TASKS, {"title": f"t{n % 4}"}) for n in range(32)))
    made = [answer for answer in answers if answer.status_code == 201]
    assert len(made) == 8
    assert one_first(made)
    assert all(refused(answer) for answer in answers if answer not in made)
    assert await connection.fetchval("select count(*) from tasks where user_id = $1", user.id) == 1


async def test_who_waits_past_the_deadline_is_told_to_come_again(
    settings: Settings, connection: asyncpg.Connection
) -> None:
    hasty = msgspec.structs.replace(settings, database_statement_timeout=0.2)
    async with started(create_app(hasty)) as edge:
        transport = httpx.ASGITransport(edge)  # type: ignore[arg-type]
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            user = await sign_up(client)
            post = Sender(client, user)
            async with connection.transaction():
                await connection.execute("select from user_state where user_id = $1 for update", user.id)
                answers = await asyncio.gather(*(post(TASKS, {"title": "x"}) for _ in range(4)))
            assert {(a.status_code, a.headers.get("retry-after")) for a in answers} == {(503, "1")}
            assert (await post(TASKS, {"title": "x"})).status_code == 201
    assert await connection.fetchval("select count(*) from tasks where user_id = $1", user.id) == 1
