"""`roundtrip serve`: a database if none is given, and the server."""

import asyncio
import os
import signal
import sys
import tempfile
import threading
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click
from granian.constants import HTTPModes, Interfaces, Loops
from granian.http import HTTP1Settings
from granian.log import LogLevels
from granian.server.mp import MPServer

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


class Server(MPServer):
    """Granian, which tells its workers of the end before it comes."""

    drain_seconds = 0.0

    def signal_handler_interrupt(self, *args: Any, **_: Any) -> None:
        """Let `/readyz` say 503 for a while before the workers finish and end."""
        for worker in self.wrks:
            os.kill(worker.inner.pid, signal.SIGUSR1)
        end: Callable[[], None] = super().signal_handler_interrupt
        if self.drain_seconds and not self.interrupt_signal and args and args[0] == signal.SIGTERM:
            threading.Timer(self.drain_seconds, end).start()
        else:
            end()


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
    server = Server(
        "service.asgi:create",
        factory=True,
        address=settings.host,
        port=settings.port,
        interface=Interfaces.ASGI,
        workers=settings.workers,
        loop=Loops.uvloop,
        http=HTTPModes.http1,
        http1_settings=HTTP1Settings(header_read_timeout=int(settings.keep_alive_timeout * 1000)),
        websockets=False,
        backlog=4096,
        backpressure=16_384,
        respawn_failed_workers=True,
        workers_kill_timeout=int(settings.shutdown_timeout),
        log_level=LogLevels.warning,
    )
    server.drain_seconds = settings.drain_seconds
    base = f"http://{'127.0.0.1' if settings.host in ('0.0.0.0', '::') else settings.host}:{settings.port}"  # noqa: S104
    if token:
        from service.seed import DEMO

        click.echo(BANNER.format(base=base) + TRY.format(base=base, user=DEMO, token=token))
    else:
        click.echo(BANNER.format(base=base))
    server.serve()
