"""The OpenAPI document: what Litestar reads off the handlers' types, completed from the route table."""

import inspect
import re
from http import HTTPStatus
from types import UnionType
from typing import Any, get_args, get_type_hints

import msgspec
from litestar import Litestar
from litestar.openapi.config import OpenAPIConfig
from litestar.openapi.spec import Components, SecurityScheme

from db.changes import ErasedTask
from service.calls import Call
from service.errors import CODES, DETAILS, TITLES, ProblemBody
from service.gate import MERGE_PATCH, PUBLIC, NoQuery
from service.idempotency import KEY, REPLAYED
from service.routes import BASE, IDEMPOTENCY_KEY, IF_MATCH, IF_NONE_MATCH, ROUTES, Route
from service.settings import Settings
from service.validation import Body

DESCRIPTION = """The backend of a multi-user todo service.

A request is at most one statement, one round trip. Every change of a task takes the next number of its user's
**revision**, which is the task's `ETag`, the value of `If-Match`, and the tag of lists.

Errors are RFC 9457 problems with a stable `code`; `errors` names every field to blame."""

_HEADERS = {
    IF_MATCH: "Do it only if it still has one of these tags: its `ETag`, `*`, or a list",
    IF_NONE_MATCH: "Answer 304 if the client has this version: an `ETag` or a list of them",
    IDEMPOTENCY_KEY: (
        "Names the request for 24 hours: sent again with the same path, query and body it has no second effect and the "
        f"same answer, with `{REPLAYED}: true`; with others it is refused. What was refused may be sent anew."
    ),
}
_LIMITS = {IDEMPOTENCY_KEY: {"minLength": 1, "maxLength": 255, "pattern": KEY}}
_documents: dict[Settings, bytes] = {}


def document(settings: Settings) -> bytes:
    """The document as JSON; made once."""
    if settings not in _documents:
        _documents[settings] = msgspec.json.encode(_build(settings))
    return _documents[settings]


def _build(settings: Settings) -> dict[str, Any]:
    from service.app import handlers

    config = OpenAPIConfig(
        title="Roundtrip",
        version="1",
        description=DESCRIPTION,
        components=Components(
            security_schemes={"bearer": SecurityScheme(type="http", scheme="bearer", bearer_format="JWT")}
        ),
    )
    app = Litestar(
        route_handlers=handlers(),
        openapi_config=config,
        request_class=Call,
        dto=Body,
        return_dto=None,
        logging_config=None,
    )
    doc: dict[str, Any] = app.openapi_schema.to_schema()
    doc["servers"] = [{"url": "/"}]
    doc["security"] = [{"bearer": []}]
    doc["components"]["schemas"] = _schemas(settings)
    paths: dict[str, Any] = {}
    for route in ROUTES:
        path = re.sub(r":\w+", "", BASE + route.path)
        operation = doc["paths"][path][route.method.lower()]
        _complete(operation, route)
        paths.setdefault(path, {})[route.method.lower()] = operation
    doc["paths"] = paths
    return doc


def _complete(operation: dict[str, Any], route: Route) -> None:
    public = BASE + route.path in PUBLIC
    if public:
        operation["security"] = []
    operation["tags"] = [route.path.split("/")[1]]
    operation |= _told(route)
    parameters = [_path_parameter(name, route) for name in re.findall(r"{(\w+):", route.path)]
    parameters += _query_parameters(route.query)
    if route.header:
        parameters.append(
            {
                "name": route.header,
                "in": "header",
                "description": _HEADERS[route.header],
                "schema": {"type": "string"} | _LIMITS.get(route.header, {}),
            }
        )
    operation["parameters"] = parameters
    responses = operation["responses"]
    for status in [code for code in responses if int(code) >= HTTPStatus.BAD_REQUEST]:
        del responses[status]
    success = responses[str(route.status)]
    success["description"] = HTTPStatus(route.status).phrase
    if route.status == HTTPStatus.NO_CONTENT:
        success.pop("content", None)
    if headers := _headers(route):
        success["headers"] = {
            name: {"schema": {"type": "string"}, "description": text} for name, text in headers.items()
        }
    if route.header == IF_NONE_MATCH:
        responses["304"] = {"description": "The client has this version"}
    body = "requestBody" in operation
    if body and route.method == "PATCH":
        content = operation["requestBody"]["content"]
        content[MERGE_PATCH] = content["application/json"]
    for status in sorted({*route.refuses, *_follows(route, body=body, public=public)}):
        responses[str(status)] = _refusal(status)


def _headers(route: Route) -> dict[str, str]:
    """The headers of the answer that a route promises."""
    headers = {}
    if tagged := _tagged(route):
        headers["ETag"] = tagged
    if route.status == HTTPStatus.CREATED:
        headers["Location"] = "Where it is"
    if route.header == IDEMPOTENCY_KEY:
        headers[REPLAYED] = "`true` where this is the answer of an earlier request with the same key"
    return headers


def _told(route: Route) -> dict[str, str]:
    """The docstring of the handler: its first paragraph, and the others."""
    summary, _, more = (inspect.getdoc(route.handler) or "").partition("\n\n")
    return {"summary": summary.rstrip(".")} | ({"description": more} if more else {})


def _follows(route: Route, *, body: bool, public: bool) -> list[int]:
    """The refusals that a route has for what it is."""
    statuses = [400, 422, 500, 503]
    statuses += [] if public else [401]
    statuses += [404] if "{" in route.path else []
    return statuses + ([413, 415] if body else [])


def _refusal(status: int) -> dict[str, Any]:
    phrase = TITLES[status]
    example = {
        "type": "about:blank",
        "title": phrase,
        "status": status,
        "detail": DETAILS.get(status, phrase),
        "code": CODES[status],
        "request_id": "0199f0c8-0000-7000-8000-000000000000",
    }
    headers = {
        401: {"WWW-Authenticate": "How to sign in"},
        429: {"Retry-After": "Seconds to wait"},
        503: {"Retry-After": "Seconds to wait"},
    }.get(status, {})
    response: dict[str, Any] = {
        "description": phrase,
        "content": {
            "application/problem+json": {
                "schema": {"$ref": "#/components/schemas/ProblemBody"},
                "example": example,
            }
        },
    }
    if headers:
        response["headers"] = {
            n: {"description": d, "schema": {"type": "string"}} for n, d in headers.items()
        }
    return response


def _tagged(route: Route) -> str:
    if route.header == IF_NONE_MATCH and "{" not in route.path:
        return "The user's revision, bound to this list"
    if route.path.startswith("/conversations"):
        return _tagged_talk(route)
    single = route.path.startswith("/tasks") and route.path != "/tasks/batch"
    return "The task's revision" if single else ""


def _tagged_talk(route: Route) -> str:
    match route.method, route.path:
        case ("GET", "/conversations"):
            return "The number of changes of the user's conversations, bound to this list"
        case ("GET", path) if path.endswith("/messages"):
            return "The conversation's version, bound to this list"
        case ("DELETE", _) | ("POST", "/conversations/{id:str}/messages"):
            return ""
    return "The conversation's version"


def _path_parameter(name: str, route: Route) -> dict[str, Any]:
    kinds: dict[str, dict[str, Any]] = {
        "sessions": {"type": "string", "format": "uuid"},
        "users": {"type": "string", "minLength": 1},
    }
    number = {"type": "integer", "format": "int64", "minimum": 1, "maximum": 2**63 - 1}
    schema = kinds.get(route.path.split("/")[2], number)
    return {"name": name, "in": "path", "required": True, "schema": schema}


def _query_parameters(query: type[msgspec.Struct]) -> list[dict[str, Any]]:
    if query is NoQuery:
        return []
    schema = msgspec.json.schema(query)
    properties = schema["$defs"][query.__name__]["properties"]
    return [
        {"name": name, "in": "query", "description": prop.pop("description", ""), "schema": prop}
        for name, prop in properties.items()
    ]


def _schemas(settings: Settings) -> dict[str, Any]:
    """The bodies and rows by msgspec, which knows their limits and that they take no other fields."""
    rows = {kind for route in ROUTES for kind in _answers(route) if issubclass(kind, msgspec.Struct)}
    kinds: set[type] = {*rows, ErasedTask, ProblemBody, *Body.kinds.values()}
    by_name = sorted(kinds, key=lambda kind: kind.__name__)
    _, schemas = msgspec.json.schema_components(by_name, ref_template="#/components/schemas/{name}")
    limits = {"title": (1, settings.title_max_length), "description": (0, settings.description_max_length)}
    for kind in Body.kinds.values():
        schemas[kind.__name__] |= getattr(kind, "either", {})
        for name, (least, most) in limits.items():
            prop = schemas[kind.__name__]["properties"].get(name, {})
            for arm in (prop, *prop.get("anyOf", [])):
                if arm.get("type") == "string" and "maxLength" not in arm:
                    arm |= {"minLength": least, "maxLength": most}
    return schemas


def _answers(route: Route) -> tuple[type, ...]:
    """What a route answers with, one type of several."""
    kind = get_args(get_type_hints(route.handler)["return"])[0]
    return get_args(kind) if isinstance(kind, UnionType) else (kind,)
