"""The command line, run for real."""

import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from service.settings import table
from tests.conftest import with_database
from tests.service.served import PATIENCE, command, environment, served


def roundtrip(folder: Path, *arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(*arguments),
        check=False,
        cwd=folder,
        env=environment(**settings),
        capture_output=True,
        text=True,
        timeout=PATIENCE,
    )


def eventually(true: Callable[[], bool]) -> bool:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end:
        if true():
            return True
        time.sleep(0.1)
    return False


def postgres_of(folder: Path) -> int:
    """The process id of the PostgreSQL that a service started in a folder."""
    return int((folder / ".roundtrip/postgres/cluster/postmaster.pid").read_text().split()[0])


def runs(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()


@pytest.mark.parametrize("arguments", [(), ("serve",), ("migrate",), ("migrate", "up"), ("settings",)])
def test_help_helps(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    done = roundtrip(tmp_path, *arguments, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Usage: " in done.stdout
    assert "--help" in done.stdout


def test_settings_are_listed(tmp_path: Path) -> None:
    done = roundtrip(tmp_path, "settings")
    assert [line.split()[0] for line in done.stdout.splitlines()] == [name for name, _, _ in table()]


def test_wrong_settings_stop_the_start_and_name_themselves(tmp_path: Path) -> None:
    done = roundtrip(tmp_path, "serve", PORT="99999", DATABASE_URL="mysql://x", ENVIRONMENT="production")
    assert done.returncode == 1
    for name in ("PORT", "DATABASE_URL", "SECRET_KEY"):
        assert name in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / ".roundtrip").exists()


def test_a_schema_behind_the_code_is_refused(tmp_path: Path, empty_database: str) -> None:
    done = roundtrip(tmp_path, "serve", DATABASE_URL=empty_database)
    assert (done.returncode, "roundtrip migrate" in done.stderr) == (1, True)


def test_a_fresh_folder_has_a_working_service(tmp_path: Path) -> None:
    with served(tmp_path) as running:
        headers = {"Authorization": f"Bearer {running.token}"}
        with httpx.Client(base_url=running.base, headers=headers) as client:
            titles = [task["title"] for task in client.get("/api/v1/tasks").json()["items"]]
            assert len(titles) == 5
            assert client.post("/api/v1/tasks", json={"title": "kept"}).status_code == 201
            login = {"email": "test@example.com", "password": "Test123!"}
            assert client.post("/api/v1/auth/login", json=login).status_code == 200
            for path in ("/", "/docs", "/metrics", "/healthz", "/openapi.json"):
                assert client.get(path).status_code == 200, path
        for line in ("/api/v1", "/docs", "/healthz", "/metrics", "curl "):
            assert line in running.output
        postgres = postgres_of(tmp_path)
        assert runs(postgres)
        running.stop(signal.SIGKILL)
        assert eventually(lambda: not runs(postgres))
    with served(tmp_path) as running:
        headers = {"Authorization": f"Bearer {running.token}"}
        page = httpx.get(f"{running.base}/api/v1/tasks", headers=headers).json()
        assert page["items"][0]["title"] == "kept"
        assert len(page["items"]) == 6
        postgres = postgres_of(tmp_path)
        assert running.stop() == 0
    assert eventually(lambda: not runs(postgres))


def test_sigterm_finishes_what_is_in_flight(tmp_path: Path, migrated_database: str) -> None:
    body = b'{"email": "%d@example.com", "password": "correct horse battery"}'
    head = b"POST /api/v1/auth/register HTTP/1.1\r\nHost: test\r\nContent-Type: application/json\r\nContent-Length: "
    with served(tmp_path, DATABASE_URL=migrated_database, RATE_LIMITS="off") as running:
        address = running.base.removeprefix("http://").split(":")
        slow = [socket.create_connection((address[0], int(address[1]))) for _ in range(8)]
        for n, client in enumerate(slow):
            client.sendall(head + str(len(body % n)).encode() + b"\r\n\r\n" + (body % n)[:20])

        def in_flight() -> bool:
            return "roundtrip_requests_in_flight 9.0" in httpx.get(f"{running.base}/metrics").text

        assert eventually(in_flight)
        running.process.terminate()
        time.sleep(0.5)
        for n, client in enumerate(slow):
            client.sendall((body % n)[20:])
        answers = [client.makefile("rb").readline() for client in slow]
        assert running.process.wait(PATIENCE) == 0
        for client in slow:
            client.close()
    assert answers == [b"HTTP/1.1 201 Created\r\n"] * 8


def test_a_quiet_connection_is_closed_when_its_time_is_up(tmp_path: Path, migrated_database: str) -> None:
    with served(tmp_path, DATABASE_URL=migrated_database, KEEP_ALIVE_TIMEOUT="1") as running:
        host, port = running.base.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=20) as client:
            client.sendall(b"GET /healthz HTTP/1.1\r\nHost: test\r\n\r\n")
            with client.makefile("rb") as answer:
                assert answer.read().startswith(b"HTTP/1.1 200")  # until it is closed


def test_a_port_that_is_taken_is_named(tmp_path: Path, migrated_database: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        done = roundtrip(tmp_path, "serve", "--port", str(port), DATABASE_URL=migrated_database)
    assert done.returncode == 1
    for part in (str(port), "in use", "--port"):
        assert part in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_drain_lets_requests_in_and_says_that_it_ends(
    tmp_path: Path, migrated_database: str, workers: str
) -> None:
    settings = {"DATABASE_URL": migrated_database, "DRAIN_SECONDS": "2", "WORKERS": workers}
    with served(tmp_path, **settings) as running:
        running.process.terminate()
        assert eventually(lambda: httpx.get(f"{running.base}/readyz").status_code == 503)
        assert httpx.get(f"{running.base}/healthz").status_code == 200
        assert running.process.wait(PATIENCE) == 0


def test_a_killed_server_leaves_no_worker_on_the_port(tmp_path: Path, migrated_database: str) -> None:
    with served(tmp_path, DATABASE_URL=migrated_database) as running:
        running.stop(signal.SIGKILL)

        def refused() -> bool:
            try:
                httpx.get(f"{running.base}/healthz")
            except httpx.TransportError:
                return True
            return False

        assert eventually(refused)


def test_workers_share_their_metrics(tmp_path: Path, migrated_database: str) -> None:
    with served(tmp_path, "--workers", "2", DATABASE_URL=migrated_database) as running:
        for _ in range(40):
            httpx.get(f"{running.base}/api/v1/nope/x")
        text = httpx.get(f"{running.base}/metrics").text
        counts = [
            line
            for line in text.splitlines()
            if line.startswith("roundtrip_request_seconds_count") and '"404"' in line
        ]
        assert [line.split()[-1] for line in counts] == ["40.0"]
        assert running.stop() == 0


def test_a_database_that_is_away_is_served_503(tmp_path: Path, server: str) -> None:
    from tests.service.served import free_port

    away = with_database(server, "roundtrip").replace(
        server.rsplit(":", 1)[1].split("/", maxsplit=1)[0], str(free_port())
    )
    port = str(free_port())
    settings = environment(DATABASE_URL=away, DATABASE_POOL_TIMEOUT="0.5")
    process = subprocess.Popen(
        command("serve", "--port", port), cwd=tmp_path, env=settings, stderr=subprocess.PIPE
    )
    try:

        def answers() -> bool:
            try:
                return httpx.get(f"http://127.0.0.1:{port}/healthz").status_code == 200
            except httpx.TransportError:
                return False

        assert eventually(answers)
        ready = httpx.get(f"http://127.0.0.1:{port}/readyz", timeout=PATIENCE)
        assert (ready.status_code, ready.json()["code"]) == (503, "unavailable")
        assert "retry-after" in ready.headers
    finally:
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert process.stderr
        process.stderr.close()
