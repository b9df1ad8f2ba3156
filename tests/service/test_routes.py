"""What holds for every route of the table: who may, whose data, and how many statements."""

import re
import time
import uuid
from collections.abc import AsyncIterator, Sequence
from typing import Any

import asyncpg
import httpx
import msgspec
import pytest

from service.app import create_app
from service.edge import Edge
from service.gate import PUBLIC
from service.routes import BASE, IDEMPOTENCY_KEY, ROUTES, Route
from service.settings import Settings
from tests.conftest import Account, quiet, sign_up, started, turn
from tests.service.accounts import promote
from tests.service.provider import Instance, Provider, instance, providing, theirs

PRIVATE = [route for route in ROUTES if BASE + route.path not in PUBLIC]
KEYED = [route for route in ROUTES if route.header == IDEMPOTENCY_KEY]
ADMINS = [route for route in PRIVATE if route.path.startswith("/admin/")]
WITH_ID = [route for route in PRIVATE if "{" in route.path and route not in ADMINS]
BODIES: dict[str, dict[str, Any]] = {
    "register": {"email": "{fresh}@example.com", "password": "correct horse battery"},
    "login": {"email": "{email}", "password": "{password}"},
    "refresh": {"refresh_token": "{refresh}"},
    "update_user": {"email": "{fresh}@example.com", "password": "{password}"},
    "change_password": {"current_password": "{password}", "new_password": "another horse battery"},
    "delete_user": {"password": "{password}"},
    "create_task": {"title": "a task"},
    "update_task": {"title": "another title"},
    "create_conversation": {"title": "a talk"},
    "update_conversation": {"title": "another title"},
    "create_messages": {"role": "user", "content": "hello"},
    "apply_batch": {"operations": [{"op": "create", "task": {"title": "a task"}}]},
    "update_rights": {"is_active": True},
}
# Everything of a user's that a route could change.
ROWS = """
select u::text from users u where id = $1
union all select t::text from tasks t where user_id = $1
union all select c::text from conversations c where user_id = $1
union all select m::text from messages m where user_id = $1
order by 1
"""
# One statement a request; two where a password is verified. An export is one for every page, and these fit one.
BUDGET = {"login": 2, "update_user": 2, "change_password": 2, "delete_user": 2}


def name(route: Route) -> str:
    return str(route.handler.__name__)


def every(routes: Sequence[Route]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("route", routes, ids=[name(route) for route in routes])


def body(route: Route, user: Account) -> dict[str, Any] | None:
    if name(route) not in BODIES:
        return None
    known = {
        "fresh": uuid.uuid4().hex,
        "email": user.email,
        "password": user.password,
        "refresh": user.tokens["refresh_token"],
    }
    return {
        key: value.format(**known) if isinstance(value, str) else value
        for key, value in BODIES[name(route)].items()
    }


async def path(route: Route, client: httpx.AsyncClient, owner: Account) -> str:
    """The route's path with an id of the owner's."""
    if "{" not in route.path:
        return BASE + route.path
    if "sessions" in route.path:
        sessions = (await client.get(f"{BASE}/auth/sessions", headers=owner.headers)).json()["items"]
        id = sessions[0]["id"]
    elif "conversations" in route.path:
        id = await talk(client, owner)
    elif route in ADMINS:
        id = owner.id
    else:
        made = await client.post(f"{BASE}/tasks", json={"title": "mine"}, headers=owner.headers)
        id = str(made.json()["id"])
        if route.path.endswith("restore"):
            await client.delete(f"{BASE}/tasks/{id}", headers=owner.headers)
    return re.sub(r"{id:str}", id, BASE + route.path)


async def talk(client: httpx.AsyncClient, owner: Account) -> str:
    """The id of a conversation of the owner's, with a message in it."""
    made = await client.post(f"{BASE}/conversations", json={}, headers=owner.headers)
    message = {"role": "user", "content": "mine"}
    await client.post(f"{made.headers['location']}/messages", json=message, headers=owner.headers)
    return str(made.json()["id"])


def unknown(route: Route) -> str:
    return re.sub(
        r"{id:str}",
        str(uuid.uuid4()) if "sessions" in route.path else "4611686018427387904",
        BASE + route.path,
    )


def without_id(answer: httpx.Response) -> dict[str, Any]:
    return {key: value for key, value in answer.json().items() if key != "request_id"}


def test_public_routes_are_one_literal_list() -> None:
    assert {path for path in PUBLIC if path.startswith("/api")} == {
        f"{BASE}/auth/register",
        f"{BASE}/auth/login",
        f"{BASE}/auth/refresh",
    }


@every(PRIVATE)
async def test_refuses_without_a_living_session(
    route: Route, client: httpx.AsyncClient, user: Account, app: Edge, connection: Any
) -> None:
    url, json = await path(route, client, user), body(route, user)
    tokens = app.app.state.tokens
    sid = await connection.fetchval("select id::text from sessions where user_id = $1", user.id)
    old = tokens.access(user.id, sid, now=time.time() - 3600)
    foreign = tokens.access(user.id, str(uuid.uuid4()))
    for headers in ({}, {"Authorization": f"Bearer {old}"}, {"Authorization": f"Bearer {foreign}"}):
        answer = await client.request(route.method, url, json=json, headers=headers)
        assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
        assert answer.headers["www-authenticate"].startswith("Bearer")
    await connection.execute("update users set is_active = false where id = $1", user.id)
    assert (await client.request(route.method, url, json=json, headers=user.headers)).status_code == 401
    await connection.execute("delete from users where id = $1", user.id)
    assert (await client.request(route.method, url, json=json, headers=user.headers)).status_code == 401


@every(WITH_ID)
async def test_anothers_id_answers_as_an_unknown_one(
    route: Route, client: httpx.AsyncClient, user: Account, other: Account, connection: Any
) -> None:
    url = await path(route, client, other)
    before = await connection.fetch(ROWS, other.id)
    theirs = await client.request(route.method, url, json=body(route, user), headers=user.headers)
    nobodys = await client.request(route.method, unknown(route), json=body(route, user), headers=user.headers)
    assert (theirs.status_code, nobodys.status_code) == (404, 404)
    assert without_id(theirs) == without_id(nobodys)
    assert set(theirs.headers) == set(nobodys.headers)
    assert await connection.fetch(ROWS, other.id) == before
    own = await client.request(route.method, url, json=body(route, other), headers=other.headers)
    assert own.status_code == route.status


@every(ADMINS)
async def test_is_for_admins(
    route: Route, client: httpx.AsyncClient, user: Account, connection: asyncpg.Connection
) -> None:
    for url in (await path(route, client, user), unknown(route)):
        answer = await client.request(route.method, url, json=body(route, user), headers=user.headers)
        assert (answer.status_code, answer.json()["code"]) == (403, "forbidden")
    await promote(connection, user)
    url = await path(route, client, user)
    answer = await client.request(route.method, url, json=body(route, user), headers=user.headers)
    assert answer.status_code == route.status


@every(ROUTES)
async def test_refuses_unknown_parameters(route: Route, client: httpx.AsyncClient, user: Account) -> None:
    url = await path(route, client, user)
    answer = await client.request(
        route.method, f"{url}?no_such=1", json=body(route, user), headers=user.headers
    )
    assert answer.status_code == 422
    assert answer.json()["errors"][0]["parameter"] == "no_such"


@every([route for route in ROUTES if name(route) in BODIES])
async def test_refuses_fields_that_are_not_the_callers(
    route: Route, client: httpx.AsyncClient, user: Account, connection: Any
) -> None:
    url = await path(route, client, user)
    before = await connection.fetch(ROWS, user.id)
    for field in ("id", "user_id", "created_at", "deleted_at", "revision", "is_admin", "password_hash"):
        given = (body(route, user) or {}) | {field: 1}
        answer = await client.request(route.method, url, json=given, headers=user.headers)
        assert answer.status_code == 422, field
        assert answer.json()["errors"][0]["pointer"] == f"/{field}"
    assert await connection.fetch(ROWS, user.id) == before


@pytest.fixture(scope="module")
async def counted(settings: Settings) -> AsyncIterator[tuple[httpx.AsyncClient, list[str]]]:
    """A client of an application whose every statement is written down by asyncpg's query logger."""
    sent: list[str] = []

    async def log(connection: Any) -> None:
        connection.add_query_logger(lambda record: sent.append(record.query))

    edge = create_app(settings, init=log)
    async with started(edge):
        transport = httpx.ASGITransport(edge)  # type: ignore[arg-type]
        async with httpx.AsyncClient(
            transport=transport, base_url="http://test", event_hooks={"response": [turn]}
        ) as client:
            await quiet(client, sent)
            yield client, sent


@every(ROUTES)
async def test_statement_budget(
    route: Route, counted: tuple[httpx.AsyncClient, list[str]], connection: asyncpg.Connection
) -> None:
    client, sent = counted
    user = await sign_up(client)
    if route in ADMINS:
        await promote(connection, user)
    url = await path(route, client, user)
    sent.clear()
    answer = await client.request(route.method, url, json=body(route, user), headers=user.headers)
    assert answer.status_code == route.status
    assert len(sent) == BUDGET.get(name(route), 1)


@pytest.fixture(scope="module")
async def provided(settings: Settings) -> AsyncIterator[tuple[Instance, Provider]]:
    """The same of a service that takes an identity provider's tokens."""
    async with providing() as provider:
        taking = msgspec.structs.replace(settings, identity_issuer=provider.issuer)
        async with instance(taking) as service:
            yield service, provider


@every(PRIVATE)
async def test_statement_budget_under_a_providers_token(
    route: Route, provided: tuple[Instance, Provider], connection: asyncpg.Connection
) -> None:
    """The first request opens its session; the others cost what they do under a token of ours."""
    service, provider = provided
    id = await theirs(connection)
    user = Account(id, "", "x", {"refresh_token": ""}, provider.bearer(id))
    service.sent.clear()
    assert (await service.client.get(f"{BASE}/users/me", headers=user.headers)).status_code == 200
    assert len(service.sent) == 2
    if route in ADMINS:
        await promote(connection, user)
    url = await path(route, service.client, user)
    service.sent.clear()
    answer = await service.client.request(route.method, url, json=body(route, user), headers=user.headers)
    assert answer.status_code == (422 if name(route) in BUDGET else route.status)  # they have no password
    assert len(service.sent) == 1


@every(KEYED)
async def test_a_key_costs_no_statement(route: Route, counted: tuple[httpx.AsyncClient, list[str]]) -> None:
    client, sent = counted
    user = await sign_up(client)
    url, json = await path(route, client, user), body(route, user)
    for _ in ("first", "replay"):
        sent.clear()
        answer = await client.post(url, json=json, headers=user.headers | {IDEMPOTENCY_KEY: "k"})
        assert answer.status_code == route.status
        assert len(sent) == 1


@every(ROUTES)
async def test_a_refused_request_sends_no_statement(
    route: Route, counted: tuple[httpx.AsyncClient, list[str]]
) -> None:
    client, sent = counted
    sent.clear()
    url = unknown(route)
    await client.request(route.method, f"{url}?no_such=1", json={})
    assert sent == []


@every([route for route in ROUTES if route.path.startswith("/tasks")])
async def test_tasks_answer_under_their_users_path(
    route: Route, client: httpx.AsyncClient, user: Account, other: Account
) -> None:
    url = (await path(route, client, user)).replace(BASE, f"/api/{user.id}")
    theirs = url.replace(user.id, other.id)
    given: dict[str, Any] = {"json": body(route, user), "headers": user.headers}
    assert (await client.request(route.method, theirs, **given)).status_code == 404
    assert (await client.request(route.method, url, json=body(route, user))).status_code == 401
    assert (await client.request(route.method, url, **given)).status_code == route.status
    assert (await client.request(route.method, f"{url}?no_such=1", **given)).status_code == 422
