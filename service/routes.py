"""The whole API on one screen."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import msgspec

from service import admin, auth, batch, changes, conversations, export, idempotency, lists, tasks, users
from service.gate import JSON, NoQuery

BASE = "/api/v1"
ALIAS = "/api/{user_id:str}"  # of one requirement document; the gate lets only that user in
IF_MATCH, IF_NONE_MATCH, IDEMPOTENCY_KEY = "If-Match", "If-None-Match", idempotency.HEADER
MAX_BODY, LARGE_BODY = 64 * 1024, 4 * 1024 * 1024  # bytes; the large one where a body holds many things


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """One operation: where it is, what serves it, and what its document must say beyond the handler's types."""

    method: str
    path: str
    handler: Callable[..., Any]
    status: int
    refuses: tuple[
        int, ...
    ]  # beside 400, 401, 413, 415, 422, 500 and 503, which follow from the route itself
    query: type[msgspec.Struct]
    header: str | None
    max_body: int
    media: str


def _route(
    line: str,
    handler: Callable[..., Any],
    status: int = 200,
    *refuses: int,
    query: type[msgspec.Struct] = NoQuery,
    header: str | None = None,
    max_body: int = MAX_BODY,
    media: str = JSON,
) -> Route:
    method, path = line.split()
    return Route(
        method=method,
        path=path,
        handler=handler,
        status=status,
        refuses=refuses,
        query=query,
        header=header,
        max_body=max_body,
        media=media,
    )


ROUTES = (
    _route("POST   /auth/register", auth.register, 201, 409, 429),
    _route("POST   /auth/login", auth.login, 200, 401, 429),
    _route("POST   /auth/refresh", auth.refresh, 200, 401),
    _route("POST   /auth/logout", auth.logout, 204),
    _route("POST   /auth/logout-all", auth.logout_all, 204),
    _route("GET    /auth/sessions", auth.list_sessions),
    _route("DELETE /auth/sessions/{id:str}", auth.end_session, 204),
    _route("GET    /users/me", users.get_user),
    _route("PATCH  /users/me", users.update_user, 200, 409, 429),
    _route("POST   /users/me/password", users.change_password, 204, 429),
    _route("DELETE /users/me", users.delete_user, 204, 429),
    _route("GET    /users/me/export", export.export_user, media=export.NDJSON),
    _route("GET    /admin/users", admin.list_users, 200, 403, query=admin.UserPage),
    _route("PATCH  /admin/users/{id:str}", admin.update_rights, 200, 403, 409),
    _route("GET    /tasks", tasks.list_tasks, 200, query=lists.TaskPage, header=IF_NONE_MATCH),
    _route("POST   /tasks", tasks.create_task, 201, header=IDEMPOTENCY_KEY),
    _route(
        "POST   /tasks/batch",
        batch.apply_batch,
        200,
        404,
        412,
        header=IDEMPOTENCY_KEY,
        max_body=LARGE_BODY,
    ),
    _route("GET    /tasks/stats", tasks.get_stats, 200, query=lists.TaskStatsQuery, header=IF_NONE_MATCH),
    _route(
        "GET    /tasks/changes", changes.list_changes, 200, 410, query=changes.Since, header=IF_NONE_MATCH
    ),
    _route("GET    /tasks/{id:str}", tasks.get_task, 200, header=IF_NONE_MATCH),
    _route("PATCH  /tasks/{id:str}", tasks.update_task, 200, 412, header=IF_MATCH),
    _route("DELETE /tasks/{id:str}", tasks.delete_task, 204, 412, query=tasks.TaskDelete, header=IF_MATCH),
    _route("POST   /tasks/{id:str}/restore", tasks.restore_task, 200, 412, header=IF_MATCH),
    _route("POST   /tasks/{id:str}/toggle", tasks.toggle_task, 200, 412, header=IF_MATCH),
    _route(
        "GET    /conversations",
        conversations.list_conversations,
        query=conversations.ConversationPage,
        header=IF_NONE_MATCH,
    ),
    _route("POST   /conversations", conversations.create_conversation, 201, header=IDEMPOTENCY_KEY),
    _route("GET    /conversations/{id:str}", conversations.get_conversation, header=IF_NONE_MATCH),
    _route("PATCH  /conversations/{id:str}", conversations.update_conversation, 200, 412, header=IF_MATCH),
    _route("DELETE /conversations/{id:str}", conversations.delete_conversation, 204, 412, header=IF_MATCH),
    _route(
        "GET    /conversations/{id:str}/messages",
        conversations.list_messages,
        query=conversations.MessagePage,
        header=IF_NONE_MATCH,
    ),
    _route(
        "POST   /conversations/{id:str}/messages",
        conversations.create_messages,
        201,
        header=IDEMPOTENCY_KEY,
        max_body=LARGE_BODY,
    ),
)
