# ruff: noqa: S603 - the command is `db.embedded`'s
"""The parent of the development PostgreSQL: keeps it up while anyone holds a lease, then shuts it down.

    python -m db.supervisor DATA COMMAND...

It leaves its starter behind, so neither Ctrl-C nor `kill -9` there reaches the server. Standard
library only: `db.embedded` runs this file isolated and without site packages, which starts twice as fast.

The locks in DATA/locks are flocks, which end with their holder, however it ends:

    start       a process that is inside `db.embedded.start`
    lease       shared by the clients; taken alone by the supervisor, from its decision to stop until its end
    supervisor  the supervisor; the file names its pid
    server      inherited by every PostgreSQL process: whoever gets it knows that none of them is left
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

TICK = 0.2
RESTARTS = 5  # in a row, of servers that lived less than RAPID seconds
RAPID = 10.0
PR_SET_PDEATHSIG = 1


class OccupiedError(Exception):
    """Another server has the data, and cannot or must not be ended."""


class Postmaster(NamedTuple):
    """What `postmaster.pid` says. A killed server leaves the file behind, so it may speak of the past."""

    pid: int = 0
    port: int = 0
    ready: bool = False


def postmaster(data: Path) -> Postmaster:
    """Read the server's pid file; zeros while there is none, or only half of one."""
    try:
        lines = (data / "cluster" / "postmaster.pid").read_text().splitlines()
        return Postmaster(int(lines[0]), int(lines[3]), [line.strip() for line in lines[7:]] == ["ready"])
    except (FileNotFoundError, IndexError, ValueError):
        return Postmaster()


def open_lock(data: Path, name: str) -> int:
    return os.open(data / "locks" / name, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)


def lock(fd: int, how: int, patience: float = 0.0) -> bool:
    """Take the lock within `patience` seconds; False if somebody kept it that long."""
    deadline = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(fd, how | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() >= deadline:
                return False
            time.sleep(0.01)
        else:
            return True


def log(text: str) -> None:
    stamp = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime())
    sys.stderr.write(f"{stamp} [{os.getpid()}] supervisor: {text}\n")
    sys.stderr.flush()


@contextlib.contextmanager
def claim(data: Path) -> Iterator[int]:
    """Hold the `server` lock, after ending what an earlier server left, and without its pid file.

    Its pid alone proves nothing, being perhaps a zombie's or, by now, another program's.
    """
    server = open_lock(data, "server")
    try:
        pid = postmaster(data).pid
        for number, patience in ((0, 2.0), (signal.SIGINT, 20.0), (signal.SIGQUIT, 20.0)):
            if number and pid > 0:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, number)
            if lock(server, fcntl.LOCK_EX, patience):
                break
        else:
            raise OccupiedError(f"An earlier PostgreSQL (pid {pid}) in {data} does not end: kill it.")
        with contextlib.suppress(OSError):
            if (data / "cluster").samefile(f"/proc/{pid}/cwd"):
                raise OccupiedError(
                    f"A PostgreSQL started by hand (pid {pid}) runs in {data}: stop it first."
                )
        (data / "cluster" / "postmaster.pid").unlink(missing_ok=True)
        yield server
    finally:
        os.close(server)


def launch(data: Path, command: list[str]) -> subprocess.Popen[bytes]:
    parent = os.getpid()

    def follow() -> None:
        """Have the kernel shut the server down when this process is killed (Linux)."""
        if sys.platform == "linux":
            ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGINT)
            if os.getppid() != parent:
                os._exit(1)

    with claim(data) as server:  # which afterwards only the server's own processes hold
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            pass_fds=[server],
            preexec_fn=follow,  # noqa: PLW1509 - there are no threads here
        )


def halt(server: subprocess.Popen[bytes]) -> None:
    """Fast shutdown; harsher if it takes too long, which costs a recovery but no data."""
    for number, patience in ((signal.SIGINT, 30), (signal.SIGQUIT, 10), (signal.SIGKILL, 10)):
        server.send_signal(number)
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(patience)
            return


def supervise(data: Path, command: list[str], lease: int) -> None:
    """Run the server until the last lease is gone, a signal asks to stop, or it will not stay up."""
    asked: list[int] = []
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda got, _: asked.append(got))
    crashes, was_ready = 0, False
    while True:
        server, since = launch(data, command), time.monotonic()
        while server.poll() is None:
            if asked or lock(lease, fcntl.LOCK_EX):
                return halt(server)
            time.sleep(TICK)
        was_ready = was_ready or postmaster(data).ready
        if server.returncode == 0 or not was_ready:  # stopped by hand, or unable to start at all
            return None
        crashes = crashes + 1 if time.monotonic() - since < RAPID else 1
        if crashes > RESTARTS:
            return log(f"the server died {crashes} times in a row: giving up")
        log(f"the server died ({server.returncode}), starting it again")


def main(argv: list[str]) -> int:
    data, command = Path(argv[0]), argv[1:]
    own = open_lock(data, "supervisor")
    if not lock(own, fcntl.LOCK_EX):
        return 1
    # Locked before the fork, so that the starter, back from this call, sees a living supervisor;
    # forked so that it is nobody's child, and never a zombie of a client.
    if os.fork():
        os._exit(0)
    os.chdir("/")
    os.ftruncate(own, 0)
    os.write(own, f"{os.getpid()}\n".encode())
    lease = open_lock(data, "lease")
    try:
        supervise(data, command, lease)
    finally:
        # Before the lease: a client that waits for the lease must find no supervisor.
        os.close(own)
        os.close(lease)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
