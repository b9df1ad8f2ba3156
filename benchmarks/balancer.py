"""Several instances of the service behind haproxy, as one service to be measured."""

import asyncio
import shutil
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from benchmarks import cpu
from benchmarks.load import LoadError
from benchmarks.stack import FOLDER, Instance, free_port

PLACES = ("haproxy", "/usr/sbin/haproxy", "/usr/local/sbin/haproxy")
READY_WITHIN = 10.0
CONFIG = """\
global
    maxconn 4000
    nbthread 1

defaults
    mode http
    timeout connect 5s
    timeout client 60s
    timeout server 60s

frontend all
    bind 127.0.0.1:{port}
    default_backend instances

backend instances
    balance roundrobin
    http-reuse always
{servers}
"""


@dataclass
class Balanced:
    """Instances as one service. The balancer's own CPU is nobody's."""

    port: int
    instances: Sequence[Instance]
    postgres: int
    host: str = "127.0.0.1"
    tls: bool = False

    async def cpu(self) -> tuple[float | None, float | None]:
        """CPU seconds so far, of all instances and of PostgreSQL."""
        return sum(cpu.of_tree(instance.service) for instance in self.instances), cpu.of_tree(self.postgres)


def haproxy() -> str | None:
    """The program, where it is installed."""
    return next((found for place in PLACES if (found := shutil.which(place))), None)


@asynccontextmanager
async def balanced(binary: str, instances: Sequence[Instance], postgres: int) -> AsyncIterator[Balanced]:
    """Start haproxy in front of them; raises `LoadError`."""
    port = free_port()
    servers = "\n".join(f"    server i{n} {it.host}:{it.port}" for n, it in enumerate(instances))
    config = FOLDER / f"haproxy-{port}.cfg"
    config.write_text(CONFIG.format(port=port, servers=servers))
    process = _start(binary, config)
    try:
        await _until_ready(process, port)
        yield Balanced(port, instances, postgres)
    finally:
        process.terminate()
        await asyncio.to_thread(process.wait)
        config.unlink()


def _start(binary: str, config: Path) -> "subprocess.Popen[bytes]":
    return subprocess.Popen(  # noqa: S603 - our own command
        [binary, "-db", "-q", "-f", str(config)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


async def _until_ready(process: "subprocess.Popen[bytes]", port: int) -> None:
    for _ in range(int(READY_WITHIN / 0.05)):
        if process.poll() is not None:
            raise LoadError(f"haproxy ended with {process.returncode}")
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
        except OSError:
            await asyncio.sleep(0.05)
            continue
        writer.close()
        return
    raise LoadError("haproxy does not answer")
