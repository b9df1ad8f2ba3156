"""What the container files promise, as far as it can be told without a container engine."""

import json
import os
import re
import socket
import subprocess
import sys
import threading
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import asyncpg
import click
import pytest
import yaml  # type: ignore[import-untyped]

from db.cluster import find_binaries
from db.url import parse
from service.cli import main
from service.settings import load
from tests.conftest import ROOT, run
from tests.service.served import command, environment, free_port, served

DOCKERFILE = (ROOT / "Dockerfile").read_text()
COMPOSE = yaml.safe_load((ROOT / "compose.yaml").read_text())
SERVICES: dict[str, Any] = COMPOSE["services"]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OURS = ("migrate", "roundtrip")


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's instructions, each in one line."""
    lines = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [
        (word, " ".join(rest.split())) for word, _, rest in (line.partition(" ") for line in lines) if word
    ]


def last_stage() -> dict[str, str]:
    """The last instruction of each kind in the stage that becomes the image."""
    every = instructions()
    start = max(n for n, (word, _) in enumerate(every) if word == "FROM")
    return dict(every[start:])


def health(*arguments: str, **settings: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command("health", *arguments),
        check=False,
        capture_output=True,
        text=True,
        env=environment(**settings),
    )


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """The port of a server that gives this answer to one request; to none where it is empty."""
    over = threading.Event()

    def serve() -> None:
        client, _ = listener.accept()
        with client:
            client.recv(1000)
            client.sendall(answer) if answer else over.wait()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield str(listener.getsockname()[1])
        finally:
            over.set()
            thread.join()


def test_the_base_is_one_pinned_argument() -> None:
    assert re.match(r"ARG BASE_IMAGE=\S+:3\.13\.\d+-slim-\w+\n", DOCKERFILE)
    stages = [rest for word, rest in instructions() if word == "FROM"]
    assert stages == ["${BASE_IMAGE} AS build", "${BASE_IMAGE}"]


def test_the_lock_decides_what_is_installed_and_uv_stays_behind() -> None:
    syncs = re.findall(r"uv sync [^\n]*", DOCKERFILE)
    assert syncs
    assert all("--locked" in sync and "--no-dev" in sync and "extra" not in sync for sync in syncs)
    assert not any("embedded" in dependency for dependency in PROJECT["dependencies"])
    copies = [rest for word, rest in instructions() if word == "COPY" and "--from" in rest]
    assert copies == ["--from=build /opt/roundtrip /opt/roundtrip"]
    assert "UV_COMPILE_BYTECODE=1" in DOCKERFILE


def test_the_image_runs_as_a_fixed_user_without_privileges() -> None:
    uid, gid = last_stage()["USER"].split(":")
    assert int(uid) >= 10_000
    assert int(gid) >= 10_000
    assert f"--uid {uid} --gid {gid}" in DOCKERFILE
    assert {SERVICES[name]["user"] for name in OURS} == {f"{uid}:{gid}"}


def test_every_command_is_in_exec_form_and_known() -> None:
    stage = last_stage()
    check = stage["HEALTHCHECK"].partition(" CMD ")[2]
    assert json.loads(stage["ENTRYPOINT"]) == ["roundtrip"]
    commands = [
        json.loads(stage["CMD"])[0],
        json.loads(check)[1],
        SERVICES["migrate"]["command"][0],
        SERVICES["roundtrip"]["healthcheck"]["test"][2],
    ]
    assert commands == ["serve", "health", "migrate", "health"]
    assert set(commands) <= set(main.list_commands(click.Context(main)))


def test_the_image_is_one_of_production() -> None:
    settings = dict(re.findall(r"([A-Z_]+)=(\S+)", last_stage()["ENV"]))
    assert load(
        {**settings, "SECRET_KEY": "a secret for tests, 32 bytes or more", "DATABASE_URL": "postgresql://h/n"}
    )
    assert settings == {
        "ENVIRONMENT": "production",
        "HOST": "0.0.0.0",
        "PORT": "8000",
        "DATA_DIR": "/tmp/roundtrip",
    }


def test_the_labels_are_true() -> None:
    labels = dict(re.findall(r'org\.opencontainers\.image\.([a-z.]+)="([^"]*)"', last_stage()["LABEL"]))
    assert labels["description"] == PROJECT["description"]
    assert set(labels) == {"title", "description", "version", "revision", "base.name"}
    assert ("ARG", f"VERSION={PROJECT['version']}") in instructions()


def reaches_the_builder(path: str) -> bool:
    """Whether .dockerignore lets a path through, as Docker reads it: the last pattern that matches decides."""
    prefixes = [path, *(str(parent) for parent in Path(path).parents)][:-1]
    through = True
    for line in (ROOT / ".dockerignore").read_text().splitlines():
        pattern = line.removeprefix("!")
        anywhere = pattern.removeprefix("**/")
        parts = prefixes + ([part for p in prefixes for part in p.split("/")] if anywhere != pattern else [])
        if line and not line.startswith("#") and any(fnmatch(part, anywhere) for part in parts):
            through = line.startswith("!")
    return through


@pytest.mark.parametrize(
    "path",
    [
        ".git/config",
        ".env",
        "service/.env",
        ".roundtrip/secret",
        ".venv/bin/python",
        "tests/conftest.py",
        "compose.yaml",
        "db/__pycache__/url.cpython-313.pyc",
        "notes.txt",
    ],
)
def test_nothing_else_reaches_the_builder(path: str) -> None:
    assert not reaches_the_builder(path)


def test_what_is_copied_reaches_the_builder() -> None:
    copied = [rest.split()[:-1] for word, rest in instructions() if word == "COPY" and "--from" not in rest]
    sources = [source for sources in copied for source in sources]
    assert set(sources) == {"pyproject.toml", "uv.lock", "README.md", "db", "migrations", "service"}
    assert all(reaches_the_builder(source) for source in sources)
    assert reaches_the_builder("db/sql/tasks.sql")


@pytest.mark.parametrize("name", SERVICES)
def test_every_container_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert int(service["user"].split(":")[0]) > 0
    assert all("noexec" in mount and "size=" in mount for mount in service["tmpfs"])
    assert set(service["deploy"]["resources"]["limits"]) == {"cpus", "memory", "pids"}
    assert "privileged" not in service


def test_the_service_waits_for_the_migration_and_that_for_the_database() -> None:
    waits = {
        name: {other: how["condition"] for other, how in service.get("depends_on", {}).items()}
        for name, service in SERVICES.items()
    }
    done, healthy = "service_completed_successfully", "service_healthy"
    assert waits == {
        "postgres": {},
        "role": {"postgres": healthy},
        "migrate": {"role": done},
        "roundtrip": {"postgres": healthy, "migrate": done},
    }
    for name in ("postgres", "roundtrip"):
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
        assert SERVICES[name]["restart"] == "unless-stopped"
    assert SERVICES["roundtrip"]["stop_grace_period"] == "30s"
    assert load({}).shutdown_timeout < 30


def test_the_database_is_within_reach_of_its_own_network_only() -> None:
    assert COMPOSE["networks"]["database"]["internal"] is True
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["roundtrip"]
    assert SERVICES["roundtrip"]["ports"][0].startswith("127.0.0.1:")
    assert all(SERVICES[name]["networks"] == ["database"] for name in SERVICES if name != "roundtrip")


def test_a_secret_that_is_missing_is_asked_for() -> None:
    values = [str(value) for service in SERVICES.values() for value in service["environment"].values()]
    for name in ("SECRET_KEY", "OWNER_PASSWORD", "SERVICE_PASSWORD"):
        assert any(
            value.startswith(f"${{{name}:?must be set, make one with openssl rand") for value in values
        )
    for service in SERVICES.values():
        for name, value in service["environment"].items():
            if re.search("SECRET|PASSWORD", name):
                assert value.startswith("${"), name
            if name == "DATABASE_URL":
                assert re.match(r"postgresql://\w+:\$\{\w+\}@postgres/roundtrip\?", value), value


async def test_the_service_gets_the_documented_role(empty_database: str) -> None:
    script = SERVICES["role"]["command"][0]
    documented = (ROOT / "db/README.md").read_text()
    for line in re.findall(r"^(?:revoke|grant|alter default) .*;$", documented, re.MULTILINE):
        assert line in script, line
    owner = parse(empty_database)
    role = owner.database
    changes = {
        "PGHOST": owner.host,
        "PGPORT": str(owner.port),
        "PGUSER": str(owner.user),
        "PGPASSWORD": str(owner.password),
        "PGDATABASE": owner.database,
        "SERVICE_PASSWORD": "it's $ecret",
        "PATH": f"{find_binaries()}:{os.environ['PATH']}",
    }
    try:
        for _ in range(2):
            shell = [*SERVICES["role"]["entrypoint"], script.replace("roundtrip_service", role)]
            done = subprocess.run(
                shell, check=False, capture_output=True, text=True, env={**os.environ, **changes}
            )
            assert (done.returncode, done.stderr) == (0, "")
        await run(empty_database, "create table later (x int)")
        kwargs = owner.kwargs() | {"user": role, "password": changes["SERVICE_PASSWORD"]}
        connection = await asyncpg.connect(**kwargs)
        assert await connection.execute("insert into later values (1)") == "INSERT 0 1"
        with pytest.raises(asyncpg.InsufficientPrivilegeError):
            await connection.execute("create table t ()")
        await connection.close()
    finally:
        await run(empty_database, f"drop owned by {role}; drop role {role}")


def test_health_of_a_server_that_is_ready(tmp_path: Path, migrated_database: str) -> None:
    with served(tmp_path, DATABASE_URL=migrated_database) as running:
        settings = {"PORT": running.base.rsplit(":", 1)[1], "http_proxy": "http://127.0.0.1:1"}
        for how in ((), ("--alive",)):
            tries = (
                health(*how, **settings) for _ in range(5)
            )  # a busy machine may take more than 2 seconds
            assert any((done.returncode, done.stdout, done.stderr) == (0, "", "") for done in tries)


def test_health_of_a_server_that_is_not_there() -> None:
    port = str(free_port())
    done = health("--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert re.fullmatch(rf"roundtrip health: http://127.0.0.1:{port}/readyz: .*refused\n", done.stderr)


def test_health_of_a_server_that_is_not_ready_says_why() -> None:
    body = b'{"title": "Service Unavailable",\n "detail": "This instance is shutting down."}'
    with answering(
        b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: %d\r\n\r\n" % len(body) + body
    ) as port:
        done = health(PORT=port)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "503" in done.stderr
    assert "This instance is shutting down." in done.stderr


def test_health_does_not_wait_for_ever() -> None:
    begin = time.monotonic()
    with answering(b"") as port:
        done = health(PORT=port)
    assert (done.returncode, "no answer within 2 s" in done.stderr) == (1, True)
    assert time.monotonic() - begin < 20


def test_health_of_something_else() -> None:
    with answering(b"SSH-2.0-OpenSSH\r\n") as port:
        done = health(PORT=port)
    assert (done.returncode, done.stderr.count("\n"), "SSH" in done.stderr) == (1, 1, True)


def test_health_loads_nothing_of_the_service() -> None:
    code = "import sys, service.health; print([m for m in ('litestar', 'uvicorn', 'asyncpg', 'msgspec', 'db') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
