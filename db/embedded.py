# ruff: noqa: S603 - every command below is our own
"""A development PostgreSQL that needs nothing installed, shared by every process that asks for it.

    with embedded.start(Path(".roundtrip")) as server:
        ...  # server.url

The first client starts it; when the last one has ended or was killed, `db.supervisor` shuts it down.

    DATA/cluster        PostgreSQL's own data directory
    DATA/password       of its superuser, mode 0600: on a shared machine loopback is not private
    DATA/port           kept while it is free, so that a URL stays good from one start to the next
    DATA/postgres.log   of the server and its supervisor
    DATA/locks          see `db.supervisor`
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from db import supervisor
from db.cluster import EmbeddedError, find_binaries, prepare

__all__ = ["EmbeddedError", "Server", "find_binaries", "start"]

PATIENCE = 90.0  # seconds for a crash recovery, or for the end of the server before this one
BOOTS = 2  # the second is for a port that was just taken, or a supervisor that was about to end
ROTATE = 10_000_000
SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "unix_socket_directories": "",  # a socket's path is limited to 107 bytes
    "max_connections": "200",
    "shared_buffers": "128MB",
    "jit": "off",
    "timezone": "UTC",
    "log_timezone": "UTC",
    "log_checkpoints": "off",
    "logging_collector": "off",
}
CREATE = r"""
select 'create database roundtrip'
where not exists (select from pg_database where datname = 'roundtrip') \gexec
"""


class Server:
    """A lease on the server, held until `release` or the end of this process, however it ends.

    Processes forked from this one do not hold it. The server stops a moment after its last release.
    """

    def __init__(self, url: str, lease: int) -> None:
        self.url = url
        self._lease = lease
        _held.add(self)

    def release(self) -> None:
        """Let the server go; a second time does nothing."""
        if self in _held:
            _held.remove(self)
            os.close(self._lease)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()


_held: set[Server] = set()


def _release_all() -> None:
    for server in list(_held):
        server.release()


os.register_at_fork(after_in_child=_release_all)


def start(data: Path) -> Server:
    """Join the server of this data folder, or start it; blocks until the database `roundtrip` answers.

    The URL is a superuser's. Raises EmbeddedError.
    """
    data = data.absolute()
    try:
        (data / "locks").mkdir(parents=True, exist_ok=True)
        with _starting(data):
            lease = _take(data, "lease", fcntl.LOCK_SH, f"PostgreSQL in {data} does not finish stopping.")
            try:
                return Server(_serve(data), lease)
            except BaseException:
                os.close(lease)
                raise
    except supervisor.OccupiedError as error:
        raise EmbeddedError(str(error)) from error
    except OSError as error:
        raise EmbeddedError(f"PostgreSQL in {data} cannot be started: {error}") from error


@contextlib.contextmanager
def _starting(data: Path) -> Iterator[None]:
    fd = _take(
        data, "start", fcntl.LOCK_EX, f"Another process does not finish starting PostgreSQL in {data}."
    )
    try:
        yield
    finally:
        fcntl.flock(fd, fcntl.LOCK_UN)  # closing is not enough if another thread has forked meanwhile
        os.close(fd)


def _take(data: Path, name: str, how: int, complaint: str) -> int:
    fd = supervisor.open_lock(data, name)
    if not supervisor.lock(fd, how, PATIENCE):
        os.close(fd)
        raise EmbeddedError(complaint + _tail(data))
    return fd


def _serve(data: Path) -> str:
    """The URL of the running server, after starting it if need be. The caller holds `start` and a lease."""
    binaries = find_binaries()
    deadline = time.monotonic() + PATIENCE
    boots, complaint = 0, ""
    while time.monotonic() < deadline:
        if not _supervised(data):
            if boots == BOOTS:
                raise EmbeddedError(f"PostgreSQL in {data} ended while starting.{_tail(data)}")
            _boot(data, binaries)
            boots += 1
        elif (server := supervisor.postmaster(data)).ready:
            password = (data / "password").read_text().strip()
            complaint = _create_database(binaries, server.port, password)
            if not complaint:
                return f"postgresql://postgres:{password}@127.0.0.1:{server.port}/roundtrip?sslmode=disable"
            if "password authentication failed" in complaint:
                break
        time.sleep(0.01)
    raise EmbeddedError(f"PostgreSQL in {data} does not answer: {complaint}{_tail(data)}")


def _supervised(data: Path) -> bool:
    fd = supervisor.open_lock(data, "supervisor")
    try:
        return not supervisor.lock(fd, fcntl.LOCK_SH)
    finally:
        os.close(fd)


def _boot(data: Path, binaries: Path) -> None:
    """Leave a supervisor behind, which starts the server."""
    with supervisor.claim(data):
        pass  # first, for an orphaned server may still have the port
    server = [*prepare(data, binaries), "-p", str(_port(data))]
    for name, value in SETTINGS.items():
        server += ["-c", f"{name}={value}"]
    path = data / "postgres.log"
    if path.exists() and path.stat().st_size > ROTATE:
        path.rename(data / "postgres.log.1")
    with path.open("ab") as log:
        subprocess.run(
            [sys.executable, "-I", "-S", supervisor.__file__, str(data), *server],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            check=False,
        )


def _port(data: Path) -> int:
    """A free port, the last one if possible.

    From below the ephemeral range: while the server is down, a client that reconnects to an ephemeral
    port may be given that very port as its own, meet itself there, and keep the server from coming back.
    """
    file = data / "port"
    last = file.read_text().strip() if file.exists() else ""
    candidates = [int(last)] if last.isdecimal() else []
    for port in [*candidates, *random.sample(range(10_000, 32_000), 100)]:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        file.write_text(f"{port}\n")
        return port
    raise EmbeddedError(
        "PostgreSQL needs a free TCP port between 10000 and 32000, and there seems to be none."
    )


def _create_database(binaries: Path, port: int, password: str) -> str:
    """Create `roundtrip` if it is missing; what psql complains of, if the server does not answer."""
    command = [str(binaries / "psql"), "-XqAt", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1"]
    command += ["-p", str(port), "-U", "postgres", "-d", "postgres"]
    own = {name: value for name, value in os.environ.items() if not name.startswith("PG")}
    done = subprocess.run(
        command,
        env={**own, "PGPASSWORD": password, "PGCONNECT_TIMEOUT": "10"},
        input=CREATE,
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    return (done.stderr.strip() or f"psql ended with {done.returncode}") if done.returncode else ""


def _tail(data: Path) -> str:
    try:
        lines = (data / "postgres.log").read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return ""
    return "\n".join([f"\nThe end of {data / 'postgres.log'}:", *lines[-20:]])
