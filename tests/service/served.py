"""`roundtrip serve` as its users run it: a process of its own."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

PATIENCE = 60.0


class Served:
    """A running server; `output` is what it printed until it was ready."""

    def __init__(self, process: subprocess.Popen[str], base: str, log: Path) -> None:
        self.process = process
        self.base = base
        self.log = log

    @property
    def output(self) -> str:
        return self.log.read_text()

    @property
    def token(self) -> str:
        found = re.search(r"TOKEN=(\S+)", self.output)
        assert found, self.output
        return found[1]

    def stop(self, number: int = signal.SIGTERM) -> int:
        """Signal the process and wait for its end."""
        self.process.send_signal(number)
        return self.process.wait(PATIENCE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "service.cli", *arguments]


def environment(**settings: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("DATABASE_", "COV_"))}
    return kept | {"PYTHONPATH": str(Path(__file__).parents[2])} | settings


@contextmanager
def served(folder: Path, *arguments: str, **settings: str) -> Iterator[Served]:
    """Serve from a folder until the end of the block, killed if it does not end by itself."""
    port = free_port()
    log = folder / f"serve-{port}.log"
    with log.open("w") as sink:
        process = subprocess.Popen(
            command("serve", "--port", str(port), *arguments),
            cwd=folder,
            env=environment(**settings),
            stdout=sink,
            stderr=subprocess.STDOUT,
            text=True,
        )
    running = Served(process, f"http://127.0.0.1:{port}", log)
    try:
        wait_until_ready(running)
        yield running
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()


def wait_until_ready(running: Served) -> None:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        assert running.process.poll() is None, running.output
        try:
            if httpx.get(f"{running.base}/readyz").status_code == 200:
                return
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(running.output)
