# ruff: noqa: S603 - the command below is our own
"""What is measured: PostgreSQL, data and service, all of it ours, or a deployment by its URL."""

import asyncio
import ctypes
import os
import resource
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

from benchmarks import cpu, data, tokens
from benchmarks.data import Progress, Sizes
from benchmarks.load import LoadError, Shot
from db import embedded, seed, supervisor
from db.caller import Caller

FOLDER = Path(".roundtrip/bench")
READY_WITHIN = 60.0
ENDS_WITHIN = 30.0
# As in production but for the limits that a load test would meet; a line of log for every request would be a measurement
# of the log, and one of lists from memory would tell nothing of the database.
SETTINGS = {"ENVIRONMENT": "production", "RATE_LIMITS": "off", "LOG_LEVEL": "warning", "CACHE_SIZE": "0"}


@dataclass
class Instance:
    """A running service. `service` and `postgres` are process ids, 0 where they are elsewhere."""

    host: str
    port: int
    tls: bool = False
    service: int = 0
    postgres: int = 0

    async def cpu(self) -> tuple[float | None, float | None]:
        """CPU seconds so far: of the service, all processes, and of PostgreSQL."""
        return (
            cpu.of_tree(self.service) if self.service else None,
            cpu.of_tree(self.postgres) if self.postgres else None,
        )


@dataclass
class Stack(Instance):
    """A service with data, and with tokens of the users in it."""

    database_url: str | None = None
    secret: str | None = None
    settings: dict[str, str] = field(default_factory=dict)
    sizes: Sizes = field(default_factory=lambda: Sizes(0, 0, 0, 0))
    tokens: dict[str, str] = field(default_factory=dict)  # access tokens by user
    callers: dict[str, Caller] = field(default_factory=dict)  # the same for functions of `db`
    users: list[str] = field(default_factory=list)  # those with the most tasks first
    large: list[str] = field(default_factory=list)
    task_ids: list[tuple[str, int]] = field(default_factory=list)  # live ones that nobody deletes
    spare: deque[tuple[str, int]] = field(default_factory=deque)  # others: take from the left what you delete
    refresh_tokens: dict[str, str] = field(default_factory=dict)
    refreshes: dict[str, Shot] = field(default_factory=dict)  # by user, shared by all plans

    async def renew(self) -> None:
        """Have access tokens that are good for a while; ours are, for a day."""


@asynccontextmanager
async def stack(
    *,
    users: int = 1000,
    tasks: int = 1_000_000,
    large: int = 50,
    large_tasks: int = 10_000,
    processes: int = 1,
    url: str | None = None,
    database_url: str | None = None,
    progress: Progress,
) -> AsyncIterator[Stack]:
    """A service with data and tokens, all of it gone in the end but the seeded template.

    With `url` it is that deployment, where a few accounts are made and removed again, and the sizes are not taken;
    `database_url` then only says which database it has, for whoever means to ask it directly.
    """
    if url is not None:
        from benchmarks.remote import borrowed

        async with borrowed(url, progress) as stack:
            stack.database_url = database_url
            yield stack
        return
    sizes = Sizes(users, tasks, large, large_tasks)
    folder = FOLDER / "postgres"
    progress("Starting PostgreSQL")
    with embedded.start(folder) as server:
        async with data.cloned(server.url, sizes, progress) as own:
            secret = secrets.token_urlsafe(48)
            ready = Stack("", 0, database_url=own, secret=secret, settings=dict(SETTINGS), sizes=sizes)
            progress("Signing users in")
            await _sign_in(ready)
            progress("Starting the service")
            async with serve(own, processes=processes, settings={"SECRET_KEY": secret}) as running:
                ready.host, ready.port, ready.service = running.host, running.port, running.service
                ready.postgres = supervisor.postmaster(folder.absolute()).pid
                yield ready


@asynccontextmanager
async def serve(
    database_url: str, *, port: int = 0, processes: int = 1, settings: Mapping[str, str]
) -> AsyncIterator[Instance]:
    """`roundtrip serve` as a process of its own; `settings` on top of `SETTINGS`."""
    _allow_connections()
    port = port or free_port()
    log = FOLDER / f"service-{port}.log"
    process = _start(database_url, port, processes, settings, log)
    try:
        await _until_ready(process, port, log)
        yield Instance("127.0.0.1", port, service=process.pid)
    finally:
        process.terminate()
        try:
            await asyncio.to_thread(process.wait, ENDS_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
        log.unlink(missing_ok=True)


def free_port() -> int:
    """A port of this machine that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _allow_connections() -> None:
    """For this process and those it starts: as many descriptors as may be had."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _start(
    database_url: str, port: int, processes: int, settings: Mapping[str, str], log: Path
) -> subprocess.Popen[bytes]:
    # Of the environment only what a process needs: no setting of somebody's service.
    kept = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    log.parent.mkdir(parents=True, exist_ok=True)
    own = {"DATABASE_URL": database_url, "PYTHONPATH": str(data.ROOT)}
    with log.open("wb") as sink:
        return subprocess.Popen(
            [sys.executable, "-m", "service.cli", "serve", "--port", str(port), "--workers", str(processes)],
            env=kept | own | SETTINGS | dict(settings),
            stdout=sink,
            stderr=sink,
            start_new_session=True,  # Ctrl-C is ours to pass on
            preexec_fn=_end_with_us,  # noqa: PLW1509 (nothing is locked here)
        )


def _end_with_us() -> None:
    """Have the kernel end the service where this process is killed (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(supervisor.PR_SET_PDEATHSIG, signal.SIGTERM)


async def _until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    end = time.monotonic() + READY_WITHIN
    while time.monotonic() < end and process.poll() is None:
        if await _ready(port):
            return
        await asyncio.sleep(0.1)
    raise LoadError(f"the service does not start:\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-10:])


async def _ready(port: int) -> bool:
    try:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /readyz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
        line = await reader.readline()
        writer.close()
    except OSError:
        return False
    return b" 200 " in line


async def _sign_in(stack: Stack) -> None:
    """Everybody gets a session, by SQL, and tokens; then tasks are picked that are asked for."""
    assert stack.database_url is not None
    assert stack.secret is not None
    stack.users = data.user_ids(stack.sizes)
    stack.large = stack.users[: stack.sizes.large]
    async with data.opened(stack.database_url) as db:
        for at in range(0, len(stack.users), 100):
            made = {user: tokens.sign_in(stack.secret, user) for user in stack.users[at : at + 100]}
            await asyncio.gather(*(seed.session(db, s.sid, user, s.refresh_hash) for user, s in made.items()))
            for user, signed in made.items():
                stack.tokens[user] = signed.access
                stack.callers[user] = Caller(user, signed.sid)
                stack.refresh_tokens[user] = signed.refresh
        stack.task_ids = await data.sample(db, stack.sizes, data.ASKED)
        stack.spare = deque(await data.sample(db, stack.sizes, data.SPARE))
