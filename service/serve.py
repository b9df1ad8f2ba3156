"""`roundtrip serve`: a database if none is given, and the server."""

import asyncio
import os
import signal
import socket
import sys
import tempfile
import threading
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import FrameType
from typing import Any

import click
import uvicorn
from uvicorn.supervisors import Multiprocess

from db import system
from db.embedded import EmbeddedError, start
from db.errors import Unavailable
from service import command
from service.settings import Settings, SettingsError, development_secret, load

BANNER = """
  API      {base}/api/v1
  Docs     {base}/docs
  Health   {base}/healthz  {base}/readyz
  Metrics  {base}/metrics
"""
TRY = """
  A token of {user} for a day, and three lines to copy:

  TOKEN={token}
  curl {base}/api/v1/tasks -H "Authorization: Bearer $TOKEN"
  curl {base}/api/v1/tasks -H "Authorization: Bearer $TOKEN" -H "Content-Type: application/json" -d '{{"title": "Try Roundtrip"}}'
  curl {base}/api/v1/auth/login -H "Content-Type: application/json" -d '{{"email": "test@example.com", "password": "Test123!"}}'
"""
DAY = 86_400
BACKLOG = 4096  # connections that wait to be accepted


class Server(uvicorn.Server):
    """The server of one process, which tells of its end before it comes."""

    drain_seconds = 0.0

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Let `/readyz` say 503 for a while before what is in flight is finished."""
        if self.started:  # from then on somebody hears it
            os.kill(os.getpid(), signal.SIGUSR1)
        end = partial(super().handle_exit, sig, frame)
        if self.drain_seconds and sig == signal.SIGTERM:
            threading.Timer(self.drain_seconds, end).start()
        else:
            end()


class Workers(Multiprocess):
    """The same for several: the parent of their processes."""

    drain_seconds = 0.0

    def handle_term(self) -> None:
        """Let `/readyz` of all say 503 for a while."""
        for process in self.processes:
            if process.pid and process.exitcode is None:
                os.kill(process.pid, signal.SIGUSR1)
        threading.Timer(self.drain_seconds, super().handle_term).start()


@click.command()
@click.option("--host", help="Address to listen on.  [HOST, default 127.0.0.1]")
@click.option("--port", type=click.IntRange(0, 65535), help="Port to listen on.  [PORT, default 8000]")
@click.option("--workers", type=click.IntRange(1), help="Processes that serve.  [WORKERS, default 1]")
def serve(host: str | None, port: int | None, workers: int | None) -> None:
    """Serve the API.

    Without a DATABASE_URL it starts a PostgreSQL of its own with its data under .roundtrip/, migrates it, makes demo
    users and prints lines to copy. With one it serves that database and touches nothing else; migrate it first.
    """
    try:
        settings = load(host=host, port=port, workers=workers)
        with ExitStack() as stack:
            token = None
            if settings.database_url is None:
                click.echo("Starting PostgreSQL ...", err=True)
                database = stack.enter_context(start(Path(settings.data_dir) / "postgres"))
                settings, token = _own(settings, database.url)
            else:
                _check(settings)
            if settings.workers > 1:
                shared = stack.enter_context(tempfile.TemporaryDirectory(prefix="roundtrip-metrics-"))
                os.environ["PROMETHEUS_MULTIPROC_DIR"] = shared
            _run(settings, token)
    except (SettingsError, EmbeddedError, click.ClickException) as error:
        click.echo(f"roundtrip serve: {error}", err=True)
        sys.exit(1)


def _own(settings: Settings, url: str) -> tuple[Settings, str]:
    """Prepare our own database, and no other that the environment may name; returns a token of a demo user."""
    os.environ["DATABASE_URL"] = os.environ["DATABASE_URL_UNPOOLED"] = url
    settings = load(host=settings.host, port=settings.port, workers=settings.workers)
    if asyncio.run(command.state(url)).schema != system.SCHEMA:
        command.migrate(url)
    return settings, asyncio.run(_demo(settings, url))


async def _demo(settings: Settings, url: str) -> str:
    from db import seed as rows
    from service import seed
    from service.tokens import Tokens

    async with command.opened(url) as db:
        await seed.demo(db)
        tokens = Tokens(settings.secret_key or development_secret(settings), ttl=DAY)
        refresh = tokens.first_refresh()
        await rows.session(db, refresh.sid, seed.DEMO, refresh.successor_hash)
        return tokens.access(seed.DEMO, refresh.sid)


def _check(settings: Settings) -> None:
    """Refuse a schema behind the code; a database that is away may come back, and `/readyz` tells until then."""
    assert settings.database_url is not None
    try:
        state = asyncio.run(command.state(settings.database_url))
    except Unavailable as error:
        click.echo(
            f"roundtrip serve: the database does not answer yet ({error}); serving 503 until it does",
            err=True,
        )
        return
    command.check(state)


def _run(settings: Settings, token: str | None) -> None:
    for name in ("host", "port", "workers"):
        os.environ[name.upper()] = str(getattr(settings, name))
    listening = _listen(settings)
    port = listening.getsockname()[1]
    base = f"http://{'127.0.0.1' if settings.host in ('0.0.0.0', '::') else settings.host}:{port}"  # noqa: S104
    if token:
        from service.seed import DEMO

        click.echo(BANNER.format(base=base) + TRY.format(base=base, user=DEMO, token=token))
    else:
        click.echo(BANNER.format(base=base))
    config = server_config("service.asgi:create", settings)
    if settings.workers > 1:
        workers = Workers(config, [listening])
        workers.drain_seconds = settings.drain_seconds
        workers.run()
        return
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)  # uvicorn raises them again when all is done
    server = Server(config)
    server.drain_seconds = settings.drain_seconds
    server.run([listening])


def _listen(settings: Settings) -> socket.socket:
    """The socket that all workers share."""
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    try:
        listening = socket.create_server((settings.host, settings.port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise SettingsError(
            f"cannot listen on {settings.host}, port {settings.port}: {error.strerror}; "
            "choose others with --host and --port"
        ) from None
    listening.set_inheritable(True)
    return listening


def server_config(app: Any, settings: Settings) -> uvicorn.Config:
    """How uvicorn serves: an application, or where a factory of it is."""
    return uvicorn.Config(
        app,
        factory=isinstance(app, str),
        interface="asgi3",
        loop="uvloop",
        http="service.http:Http",
        ws="none",
        lifespan="on",
        workers=settings.workers,
        backlog=BACKLOG,
        proxy_headers=False,
        server_header=False,
        access_log=False,
        log_config=None,
        log_level="error",
        timeout_keep_alive=settings.keep_alive_timeout,  # type: ignore[arg-type]
        timeout_graceful_shutdown=settings.shutdown_timeout,  # type: ignore[arg-type]
    )
