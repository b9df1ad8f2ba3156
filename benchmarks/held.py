"""Connections that are held and do nothing, and what the service keeps for them."""

import asyncio
import re
import resource
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from benchmarks import cpu
from benchmarks.load import LoadError, Service

STEP = 250  # connections that are made at a time
SPARE = 300  # descriptors for everything else
WITHIN = 10.0
SETTLES = 0.5  # seconds
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: %b\r\n\r\n"


def most() -> int:
    """How many connections a process may have here."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if files == resource.RLIM_INFINITY else files - SPARE


@asynccontextmanager
async def held(service: Service, count: int) -> AsyncIterator[Callable[[], int]]:
    """So many connections, each of which had an answer and may have another; tells how many the service has closed since."""
    sockets: list[socket.socket] = []
    try:
        await asyncio.to_thread(_open, service, count, sockets)
        await asyncio.sleep(SETTLES)
        yield lambda: sum(map(_closed, sockets))
    finally:
        for each in sockets:
            each.close()


def memory_kb(pid: int) -> float | None:
    """Memory of a process and of its children, what they share counted once; None where it cannot be read."""
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return None
    others = [memory_kb(child) for child in cpu.children(pid)]
    return int(found[1]) + sum(other or 0 for other in others) if found else None


def _open(service: Service, count: int, sockets: list[socket.socket]) -> None:
    try:
        for at in range(0, count, STEP):
            for _ in range(min(STEP, count - at)):
                sockets.append(socket.create_connection((service.host, service.port), WITHIN))
                sockets[-1].sendall(HEALTH % service.host.encode())
            for each in sockets[at:]:
                if not each.recv(4096).startswith(b"HTTP/1.1 200 "):  # small enough to come at once
                    raise LoadError("an idle connection had no answer")
                each.setblocking(False)
    except OSError as error:
        raise LoadError(f"an idle connection could not be made: {error}") from None


def _closed(each: socket.socket) -> bool:
    with suppress(BlockingIOError):
        return not each.recv(1, socket.MSG_PEEK)
    return False
