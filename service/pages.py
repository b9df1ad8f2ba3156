"""The unversioned paths: health, metrics, the API's document and its pages, which need no other host."""

from functools import cache
from importlib.resources import files
from typing import Any

from litestar import Response, get
from litestar.params import FromPath

from db import system
from service import openapi
from service.calls import Call
from service.edge import PAGE_POLICY
from service.errors import Problem

HTML = "text/html"
STATIC = {
    "swagger-ui.css": "text/css",
    "swagger-ui-bundle.js": "text/javascript",
    "docs.js": "text/javascript",
}


@get("/healthz", sync_to_thread=False)
def healthz() -> dict[str, str]:
    """Tell that the process is alive; asks nobody."""
    return {"status": "ok"}


@get("/readyz")
async def readyz(request: Call) -> dict[str, str]:
    """Tell whether requests can be served: the database answers, its schema is the expected, no end is near."""
    if request.app.state.draining:
        raise Problem(503, "This instance is shutting down.", headers={"Retry-After": "5"})
    state = await system.state(request.db)
    if not system.serves(state.schema):
        raise Problem(
            503,
            f"The schema is at {state.schema or 'nothing'}, {system.SCHEMA} is needed: run roundtrip migrate.",
            headers={"Retry-After": "30"},
        )
    return {"status": "ready"}


@get("/metrics", sync_to_thread=False, media_type="text/plain; version=0.0.4")
def metrics(request: Call) -> bytes:
    """Give the counters to Prometheus."""
    text: bytes = request.app.state.metrics.render(request.db)
    return text


@get("/openapi.json", sync_to_thread=False)
def document(request: Call) -> Response[bytes]:
    """Give the OpenAPI document."""
    return Response(openapi.document(request.settings), media_type="application/json")


@get("/docs", sync_to_thread=False)
def docs() -> Response[bytes]:
    """Show the API, to read and to try."""
    return _page("docs.html")


@get("/docs/{file:str}", sync_to_thread=False)
def docs_file(file: FromPath[str]) -> Response[bytes]:
    """Give one of the files that the page of the API needs."""
    if file not in STATIC:
        raise Problem(404)
    headers = {"Cache-Control": "public, max-age=86400"}
    packed = f"{file}.gz"
    if _static(packed) is not None:
        return Response(
            _static(packed), media_type=STATIC[file], headers=headers | {"Content-Encoding": "gzip"}
        )
    return Response(_static(file), media_type=STATIC[file], headers=headers)


@get("/", sync_to_thread=False)
def index() -> Response[bytes]:
    """Lead on."""
    return _page("index.html")


HANDLERS: tuple[Any, ...] = (healthz, readyz, metrics, document, docs, docs_file, index)


def _page(name: str) -> Response[bytes]:
    return Response(_static(name), media_type=HTML, headers={"Content-Security-Policy": PAGE_POLICY.decode()})


@cache
def _static(name: str) -> bytes:
    path = files("service").joinpath("static", name)
    return path.read_bytes() if path.is_file() else None  # type: ignore[return-value]
