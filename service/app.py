"""Puts the service together: routes, gate, errors, lifespan; and the edge around it all."""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

from litestar import Litestar, delete, get, patch, post
from litestar.config.cors import CORSConfig
from litestar.datastructures import State
from litestar.handlers import HTTPRouteHandler
from litestar.middleware import DefineMiddleware

from db.pool import Database, PoolOptions
from db.url import parse
from service import errors, pages, watch
from service.calls import Call
from service.edge import Edge
from service.gate import Gate
from service.memory import Memory
from service.metrics import Metrics
from service.passwords import Passwords
from service.routes import ALIAS, BASE, ROUTES, Route
from service.settings import Settings, SettingsError, development_secret
from service.throttle import Throttle
from service.tokens import Tokens
from service.validation import Body

if TYPE_CHECKING:
    from service.identity import Identity

MEGABYTE = 1 << 20
_METHODS: dict[str, Callable[..., Any]] = {"GET": get, "POST": post, "PATCH": patch, "DELETE": delete}


def create_app(settings: Settings, *, init: Any = None) -> Edge:
    """The ASGI application. `init` is awaited with every new database connection, for tests that count statements."""
    if settings.database_url is None:
        raise SettingsError("DATABASE_URL: it must be set, or start with `roundtrip serve`")
    metrics = Metrics(shared=settings.workers > 1)
    options = PoolOptions(
        size=settings.database_pool_size + settings.database_max_overflow,
        wait=settings.database_pool_timeout,
        statement=settings.database_statement_timeout,
        idle=settings.database_idle_timeout,
        echo=settings.database_echo,
    )
    db = Database(parse(settings.database_url), options, observe=metrics.observed, init=init)
    memory = Memory(settings.cache_size * MEGABYTE)
    metrics.cache = memory
    tokens = Tokens(settings.secret_key or development_secret(settings), ttl=settings.access_token_ttl)
    passwords = Passwords(settings.password_queue)
    identity = _identity(settings, tokens, db)

    @asynccontextmanager
    async def lifespan(app: Litestar) -> AsyncIterator[None]:
        await db.open()
        watch.drain_on_signal(app)
        async with watch.over(db, settings, metrics):
            yield
        passwords.close()
        if identity:
            await identity.keys.close()
        await db.close()

    app = Litestar(
        route_handlers=[*handlers(), *pages.HANDLERS],
        middleware=[DefineMiddleware(Gate, tokens=tokens, identity=identity)],
        exception_handlers={Exception: errors.handle},
        request_class=Call,
        dto=Body,
        return_dto=None,
        cors_config=_cors(settings.cors_origins),
        openapi_config=None,
        logging_config=None,
        lifespan=[lifespan],
        state=State(
            {
                "db": db,
                "settings": settings,
                "tokens": tokens,
                "identity": identity,
                "passwords": passwords,
                "throttle": Throttle(on=settings.rate_limits == "on"),
                "metrics": metrics,
                "memory": memory,
                "draining": False,
            }
        ),
    )
    return Edge(app, settings, metrics)


def _identity(settings: Settings, tokens: Tokens, db: Database) -> "Identity | None":
    """The identity provider, if there is one; without one PyJWT and `cryptography` are never loaded."""
    if settings.identity_issuer is None:
        return None
    from service.identity import Identity
    from service.jwks import Keys

    issuer = settings.identity_issuer
    keys = Keys(settings.identity_jwks_url or f"{issuer.rstrip('/')}/api/auth/jwks")
    return Identity(issuer, settings.identity_audience or issuer, keys, tokens, db)


def handlers() -> Sequence[HTTPRouteHandler]:
    """Litestar's handlers for the route table; those of tasks answer under the user's path too, undocumented."""
    documented = [_handler(BASE, route, operation_id=route.handler.__name__) for route in ROUTES]
    aliases = [
        _handler(ALIAS, route, include_in_schema=False) for route in ROUTES if route.path.startswith("/tasks")
    ]
    return documented + aliases


def _handler(base: str, route: Route, **options: Any) -> HTTPRouteHandler:
    method = _METHODS[route.method]
    handler: HTTPRouteHandler = method(
        base + route.path,
        status_code=route.status,
        media_type=route.media,
        opt={"query": route.query, "route": f"{route.method} {route.path}"},
        request_max_body_size=route.max_body,
        **options,
    )(route.handler)
    return handler


def _cors(origins: Sequence[str]) -> CORSConfig | None:
    if not origins:
        return None
    return CORSConfig(
        allow_origins=[*origins],
        allow_methods=["GET", "POST", "PATCH", "DELETE"],
        allow_headers=[
            "Authorization",
            "Content-Type",
            "If-Match",
            "If-None-Match",
            "Idempotency-Key",
            "X-Request-Id",
        ],
        expose_headers=["ETag", "Link", "Location", "Retry-After", "X-Request-Id", "Idempotent-Replayed"],
    )
