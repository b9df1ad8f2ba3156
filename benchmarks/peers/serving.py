"""A peer as a process of its own: started, asked, charged with its CPU, stopped."""

import asyncio
import http.client
import os
import signal
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec
from msgspec import Struct

from benchmarks import cpu
from benchmarks.peers.programs import Absent, Made, said

PATIENCE = 20.0  # seconds to start, and to stop
PATH = "/api/v1/tasks"


class Address(Protocol):
    """Where a service listens."""

    host: str
    port: int


class Answer(Struct):
    """What came back; `body` is None where it was no JSON."""

    status: int
    body: Any


class Postgres(Protocol):
    """Whoever knows what PostgreSQL has spent: the stack."""

    async def cpu(self) -> tuple[float | None, float | None]: ...


class Served:
    """A peer that answers. `postgres` tells what the database spent."""

    host = "127.0.0.1"
    tls = False

    def __init__(self, port: int, pid: int, postgres: Postgres) -> None:
        self.port = port
        self._pid = pid
        self._postgres = postgres

    async def cpu(self) -> tuple[float | None, float | None]:
        """CPU seconds so far: of its processes, and of PostgreSQL."""
        return cpu.of_tree(self._pid), (await self._postgres.cpu())[1]


@asynccontextmanager
async def serving(
    made: Made, environment: dict[str, str], postgres: Postgres, log: Path
) -> AsyncIterator[Served]:
    """A peer from its first answer until the end of the block; raises `Absent` where there is none."""
    port = _free_port()
    own = {name: text for name, text in os.environ.items() if not name.startswith(("PG", "DATABASE_"))}
    with log.open("w") as sink:
        process = await asyncio.create_subprocess_exec(
            *made.command,
            env=own | made.environment | environment | {"PORT": str(port), "UVICORN_PORT": str(port)},
            stdin=asyncio.subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            start_new_session=True,
        )
    served = Served(port, process.pid, postgres)
    try:
        await _first_answer(served, process, lambda: said(log.read_text(errors="replace")))
        yield served
    finally:
        await _stop(process)


async def ask(to: Address, method: str, path: str, token: str | None, body: object | None = None) -> Answer:
    """Send one request, on a connection of its own. Raises OSError."""
    return await asyncio.to_thread(_ask, to, method, path, token, body)


def _ask(to: Address, method: str, path: str, token: str | None, body: object | None) -> Answer:
    connection = http.client.HTTPConnection(to.host, to.port, timeout=PATIENCE)
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    if body is not None:
        headers["Content-Type"] = "application/json"
    try:
        raw = None if body is None else msgspec.json.encode(body)
        connection.request(method, path, raw, headers)
        answer = connection.getresponse()
        text = answer.read()
    finally:
        connection.close()
    try:
        return Answer(answer.status, msgspec.json.decode(text))
    except msgspec.DecodeError:
        return Answer(answer.status, None)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def _first_answer(
    served: Served, process: asyncio.subprocess.Process, complaint: Callable[[], str]
) -> None:
    end = asyncio.get_running_loop().time() + PATIENCE
    while asyncio.get_running_loop().time() < end:
        if process.returncode is not None:
            raise Absent(f"it ended while starting: {complaint()}")
        with suppress(OSError, http.client.HTTPException):
            await ask(served, "GET", f"{PATH}/1", None)
            return
        await asyncio.sleep(0.1)
    raise Absent(f"it did not answer within {PATIENCE:.0f} s: {complaint()}")


async def _stop(process: asyncio.subprocess.Process) -> None:
    """End it and what it started, by the session that is its own."""
    with suppress(ProcessLookupError):
        process.terminate()
    with suppress(TimeoutError):
        await asyncio.wait_for(process.wait(), PATIENCE)
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    await process.wait()
