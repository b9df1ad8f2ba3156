"""What runs beside the requests: sizing the pool once; in one of several workers, too, its gauges, and ending with the parent process."""

import asyncio
import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from multiprocessing import parent_process

import structlog
from litestar import Litestar

from db import system
from db.errors import Unavailable
from db.pool import Database
from service.metrics import Metrics
from service.settings import Settings

log = structlog.get_logger("service")


@asynccontextmanager
async def over(db: Database, settings: Settings, metrics: Metrics) -> AsyncIterator[None]:
    """Watch while the service runs. A database that is away delays nothing; `/readyz` tells of it."""
    tasks = [asyncio.create_task(_fit(db, settings))]
    if parent_process():
        tasks += [asyncio.create_task(_orphaned()), asyncio.create_task(_sampled(metrics, db))]
    try:
        yield
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def drain_on_signal(app: Litestar) -> None:
    """Let `/readyz` answer 503 from SIGUSR1 on, which `serve` sends before it stops a worker."""
    with suppress(RuntimeError, ValueError):  # not the main thread: an application inside another program
        asyncio.get_running_loop().add_signal_handler(
            signal.SIGUSR1, lambda: setattr(app.state, "draining", True)
        )


async def _fit(db: Database, settings: Settings) -> None:
    """Use no more connections than this worker's share of what the server has."""
    with suppress(Unavailable):
        state = await system.state(db)
        if state.connections is None:
            return
        share = max(1, state.connections // (settings.database_instances * settings.workers))
        if share < db.limiter.capacity:
            log.warning(
                "pool reduced to its share of max_connections", asked=db.limiter.capacity, share=share
            )
            db.limiter.resize(share)


async def _sampled(metrics: Metrics, db: Database) -> None:
    """Keep what other workers tell of this one fresh."""
    while True:
        await asyncio.sleep(1)
        metrics.sample(db)


async def _orphaned() -> None:
    """End with the process that started this one: a worker whose parent was killed would hold the port for ever."""
    parent = os.getppid()
    while os.getppid() == parent:  # noqa: ASYNC110 (nothing tells)
        await asyncio.sleep(1)
    log.warning("the parent process has ended; stopping")
    os.kill(os.getpid(), signal.SIGTERM)
