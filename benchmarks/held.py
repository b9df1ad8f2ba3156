"""Connections that are held and do nothing, and what the service keeps for them."""

import asyncio
import re
import resource
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

from benchmarks import cpu
from benchmarks.load import LoadError, Service

STEP = 200  # connections that are made at a time
SPARE = 300  # descriptors for everything else
SETTLES = 0.5  # seconds
HEALTH = b"GET /healthz HTTP/1.1\r\nHost: %b\r\n\r\n"


def most() -> int:
    """How many connections a process may have here."""
    _, files = resource.getrlimit(resource.RLIMIT_NOFILE)
    return 1_000_000 if files == resource.RLIM_INFINITY else files - SPARE


@asynccontextmanager
async def held(service: Service, count: int) -> AsyncIterator[None]:
    """So many connections, each of which had an answer and may have another. Raises `LoadError` where they are not kept."""
    writers: list[asyncio.StreamWriter] = []
    readers: list[asyncio.StreamReader] = []
    async with AsyncExitStack() as stack:
        stack.push_async_callback(_close, writers)
        for at in range(0, count, STEP):
            made = await asyncio.gather(*(_opened(service) for _ in range(min(STEP, count - at))))
            readers += [reader for reader, _ in made]
            writers += [writer for _, writer in made]
        await asyncio.sleep(SETTLES)
        yield
        gone = sum(reader.at_eof() for reader in readers)
        if gone:
            raise LoadError(f"{gone} of {count} idle connections were closed by the service")


def memory_kb(pid: int) -> float | None:
    """Memory of a process and of its children, what they share counted once; None where it cannot be read."""
    try:
        found = re.search(r"^Pss:\s+(\d+) kB", Path(f"/proc/{pid}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return None
    others = [memory_kb(child) for child in cpu.children(pid)]
    return int(found[1]) + sum(other or 0 for other in others) if found else None


async def _opened(service: Service) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    try:
        reader, writer = await asyncio.open_connection(service.host, service.port, limit=4096)
        writer.write(HEALTH % service.host.encode())
        head = await reader.readuntil(b"\r\n\r\n")
        length = re.search(rb"(?i)content-length: (\d+)", head)
        await reader.readexactly(int(length[1]) if length else 0)
    except (OSError, asyncio.IncompleteReadError) as error:
        raise LoadError(f"an idle connection could not be made: {error}") from None
    return reader, writer


async def _close(writers: list[asyncio.StreamWriter]) -> None:
    for writer in writers:
        writer.close()
    await asyncio.sleep(0)
