"""The programs that Roundtrip is compared with: how each is made ready, in a folder of its own, and how it is started."""

import os
import re
import shutil
import sys
from asyncio import create_subprocess_exec, timeout
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec
from msgspec import Struct, field

HERE = Path(__file__).parent
PATIENCE = 300.0  # seconds for an installation or a build
GOPATH = Path("/usr/share/gocode")  # where Debian's packages put the sources of libraries
GO_PACKAGES = ("golang-go", "golang-github-jackc-pgx-v4-dev", "golang-github-golang-jwt-jwt-dev")
PYTHON_SHOWN = {
    "fastapi_sqlmodel": ("fastapi", "sqlmodel", "sqlalchemy", "psycopg", "uvicorn"),
    "fastapi_sqlalchemy": ("fastapi", "sqlalchemy", "asyncpg", "uvicorn"),
    "litestar_plain": ("litestar", "asyncpg", "pyjwt", "uvicorn"),
}
UVICORN = (
    *("-m", "uvicorn", "--no-access-log", "--log-level", "warning"),
    *("--loop", "uvloop", "--http", "httptools"),
)


class Absent(Exception):
    """A peer that cannot be had here; the text is a line that says why."""


class Made(Struct):
    """A program that is ready to be started; it listens on 127.0.0.1 at $PORT."""

    command: list[str]
    versions: dict[str, str]
    environment: dict[str, str] = field(default_factory=dict)


class Program(Struct):
    """A peer that speaks HTTP; `make` raises `Absent`."""

    name: str
    processes: int
    make: Callable[[Path], Awaitable[Made]]
    slow: bool = False  # with answers of a second, a short round would measure its own edges


async def output(
    *command: str | Path, folder: Path | None = None, environment: Mapping[str, str] | None = None
) -> str:
    """What a command prints; raises `Absent` with what it complained of."""
    name = Path(command[0]).name
    try:
        process = await create_subprocess_exec(
            *command,
            cwd=folder,
            env=environment,
            stdin=DEVNULL,
            stdout=PIPE,
            stderr=PIPE,
        )
    except FileNotFoundError:
        raise Absent(f"there is no {name} on this machine") from None
    try:
        async with timeout(PATIENCE):
            out, complaint = await process.communicate()
    except TimeoutError:
        raise Absent(f"{name} did not finish within {PATIENCE:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode:
        raise Absent(f"{name} failed: {said(complaint.decode(errors='replace'))}")
    return out.decode(errors="replace").strip()


def said(complaint: str) -> str:
    """The beginning and the end of a complaint in a line, without the addresses and folders of this machine: reports are published."""
    lines = [line.strip() for line in complaint.splitlines() if line.strip()]
    shown = " / ".join(lines if len(lines) <= 3 else [lines[0], *lines[-2:]])  # noqa: PLR2004
    line = re.sub(r"\w+://\S+", "(an address)", shown or "it said nothing")
    return re.sub(r"(?<![\w.])/[\w.-]+(?:/[\w.-]+)+", "(a folder)", line)[-300:]


def python(program: str) -> Callable[[Path], Awaitable[Made]]:
    """A module of `python/` under uvicorn, in one virtual environment for all of them."""

    async def make(folder: Path) -> Made:
        place = folder / "python"
        binary = place / "bin" / "python"
        pinned = HERE / "python" / "requirements.txt"
        installed = place / "installed.txt"
        if not installed.exists() or installed.read_text() != pinned.read_text():
            shutil.rmtree(place, ignore_errors=True)
            await output("uv", "venv", "--quiet", "--python", sys.executable, place)
            await output("uv", "pip", "install", "--quiet", "--python", binary, "-r", pinned)
            shutil.copy(pinned, installed)
        found = dict(line.split("==") for line in pinned.read_text().split())
        versions = {"Python": await output(binary, "-c", "import platform; print(platform.python_version())")}
        return Made(
            [str(binary), *UVICORN, "--app-dir", str(HERE / "python"), f"{program}:app"],
            versions | {name: found[name] for name in PYTHON_SHOWN[program]},
        )

    return make


def fastify(processes: int) -> Callable[[Path], Awaitable[Made]]:
    """`fastify/server.js` beside its modules, which node looks for where the program is."""

    async def make(folder: Path) -> Made:
        place = folder / "fastify"
        place.mkdir(parents=True, exist_ok=True)
        lock, installed = HERE / "fastify" / "package-lock.json", place / "installed.json"
        versions = {"Node": (await output("node", "--version")).removeprefix("v")}
        for name in ("package.json", "package-lock.json", ".npmrc", "server.js"):
            shutil.copy(HERE / "fastify" / name, place)
        if not installed.exists() or installed.read_text() != lock.read_text():
            await output(
                "npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund", "--logs-max=0", folder=place
            )
            shutil.copy(lock, installed)
        wanted = msgspec.json.decode((place / "package.json").read_bytes())["dependencies"]
        return Made(
            ["node", str(place / "server.js")],
            versions | wanted,
            {"PROCESSES": str(processes), "NODE_ENV": "production"},
        )

    return make


async def go(folder: Path) -> Made:
    """`go/main.go` with the libraries of Debian's packages: nothing is fetched."""
    place = folder / "go"
    binary = place / "peer"
    missing = f"; install it with: apt-get install {' '.join(GO_PACKAGES)}"
    if not shutil.which("go"):
        raise Absent(f"there is no go on this machine{missing}")
    if not (GOPATH / "src/github.com/jackc/pgx/v4").is_dir():
        raise Absent(f"there is no pgx for Go on this machine{missing}")
    place.mkdir(parents=True, exist_ok=True)
    alone = {"GO111MODULE": "off", "GOPATH": str(GOPATH), "GOFLAGS": "", "GOPROXY": "off"}
    await output(
        "go",
        "build",
        "-o",
        binary,
        HERE / "go" / "main.go",
        environment=os.environ | alone | {"GOCACHE": str(place / "cache")},
    )
    versions = {"Go": (await output("go", "env", "GOVERSION")).removeprefix("go")}
    for name, package in (("pgx", GO_PACKAGES[1]), ("jwt", GO_PACKAGES[2])):
        versions[name] = await output("dpkg-query", "-W", "-f", "${Version}", package)
    return Made([str(binary)], versions)


PROGRAMS = (
    Program("FastAPI + SQLModel", 1, python("fastapi_sqlmodel"), slow=True),
    Program("FastAPI + SQLAlchemy async", 1, python("fastapi_sqlalchemy"), slow=True),
    Program("Litestar, plain style", 1, python("litestar_plain")),
    Program("Fastify + postgres.js", 1, fastify(1)),
    Program("Fastify + postgres.js", 2, fastify(2)),
    Program("Go net/http + pgx", 1, go),
)
