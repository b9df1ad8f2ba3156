"""Litestar in its plain style: a connection from a provider, PyJWT in a middleware, asyncpg's pool as it comes."""

import json
import os
from base64 import urlsafe_b64decode, urlsafe_b64encode
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Literal

import asyncpg
import jwt
from litestar import Litestar, Request, Router, get, post
from litestar.connection import ASGIConnection
from litestar.datastructures import State
from litestar.di import Provide
from litestar.exceptions import NotAuthorizedException, NotFoundException
from litestar.middleware import AbstractAuthenticationMiddleware, AuthenticationResult, DefineMiddleware
from litestar.params import Parameter
from msgspec import Meta, Struct

KEY = bytes.fromhex(os.environ["TOKEN_KEY"])
SQL: dict[str, str] = json.loads(Path(os.environ["STATEMENTS"]).read_text())
LAST = 2**63 - 1


class Task(Struct):
    id: int
    user_id: str
    title: str
    description: str | None
    status: str
    completed: bool
    priority: int
    priority_label: str
    due_date: str | None
    created_at: str
    updated_at: str
    completed_at: str | None
    deleted_at: str | None
    revision: int


class TaskList(Struct):
    items: list[Task]
    next_cursor: str | None
    revision: int


class TaskCreate(Struct, forbid_unknown_fields=True):
    title: Annotated[str, Meta(min_length=1, max_length=200)]
    description: Annotated[str, Meta(max_length=1000)] | None = None
    status: Literal["pending", "in_progress", "completed"] = "pending"
    priority: Annotated[int, Meta(ge=1, le=5)] = 3
    due_date: Annotated[datetime, Meta(tz=True)] | None = None


class Caller(Struct):
    user_id: str
    sid: str


class Authentication(AbstractAuthenticationMiddleware):
    async def authenticate_request(
        self, connection: ASGIConnection[Any, Any, Any, Any]
    ) -> AuthenticationResult:
        scheme, _, token = connection.headers.get("authorization", "").partition(" ")
        if scheme != "Bearer":
            raise NotAuthorizedException
        try:
            claims = jwt.decode(
                token,
                KEY,
                algorithms=["HS256"],
                issuer="roundtrip",
                audience="roundtrip-api",
                leeway=30,
                options={"require": ["sub", "sid", "exp"]},
            )
        except jwt.InvalidTokenError as error:
            raise NotAuthorizedException from error
        return AuthenticationResult(user=Caller(claims["sub"], claims["sid"]), auth=token)


async def provide_connection(state: State) -> AsyncIterator[asyncpg.Connection]:
    async with state.pool.acquire() as connection:
        yield connection


async def provide_caller(request: Request[Caller, str, State]) -> Caller:
    return request.user


@get("/{task_id:int}")
async def get_task(task_id: int, caller: Caller, connection: asyncpg.Connection) -> Task:
    row = await connection.fetchrow(SQL["get"], caller.user_id, caller.sid, task_id)
    if row is None:
        raise NotAuthorizedException
    if row["id"] is None:
        raise NotFoundException
    return Task(**row)


@get("/")
async def list_tasks(
    caller: Caller,
    connection: asyncpg.Connection,
    limit: Annotated[int, Parameter(ge=1, le=500)] = 50,
    cursor: str | None = None,
) -> TaskList:
    after, after_id = json.loads(urlsafe_b64decode(cursor)) if cursor else ("infinity", LAST)
    rows = await connection.fetch(
        SQL["list"], caller.user_id, caller.sid, None, LAST, 0, limit + 1, after, after_id
    )
    if not rows:
        raise NotAuthorizedException
    fields = Task.__struct_fields__
    items = [Task(**{name: row[name] for name in fields}) for row in rows[:limit] if row["id"] is not None]
    position = [rows[limit - 1]["position"], items[-1].id] if len(rows) > limit else None
    next_cursor = urlsafe_b64encode(json.dumps(position).encode()).decode() if position else None
    return TaskList(items, next_cursor, rows[0]["list_revision"])


@post("/")
async def create_task(data: TaskCreate, caller: Caller, connection: asyncpg.Connection) -> Task:
    row = await connection.fetchrow(
        SQL["create"],
        caller.user_id,
        caller.sid,
        data.title.strip(),
        data.description,
        data.status,
        data.priority,
        data.due_date,
    )
    if row is None:
        raise NotAuthorizedException
    return Task(**row)


@asynccontextmanager
async def pool(app: Litestar) -> AsyncIterator[None]:
    async with asyncpg.create_pool(os.environ["DATABASE_URL"]) as app.state.pool:
        yield


app = Litestar(
    [Router("/api/v1/tasks", route_handlers=[get_task, list_tasks, create_task])],
    dependencies={"connection": Provide(provide_connection), "caller": Provide(provide_caller)},
    middleware=[DefineMiddleware(Authentication)],
    lifespan=[pool],
    openapi_config=None,
)
