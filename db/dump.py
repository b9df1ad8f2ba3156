"""pg_dump and pg_restore: which of them suits a server, and how they are run."""

import asyncio
import os
import re
import shutil
import ssl
import subprocess
from asyncio.subprocess import DEVNULL, PIPE
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from db import cluster
from db.url import VERIFIED, ConnectArgs

OWN = ("PGUSER", "PGPASSWORD", "PGPASSFILE")  # asyncpg reads them too, where the URL is silent
BUNDLES = ("/etc/ssl/certs/ca-certificates.crt", "/etc/pki/tls/certs/ca-bundle.crt", "/etc/ssl/cert.pem")
KILL_AFTER = 10.0
LONGEST_LINE = 1 << 20
KNOWS_TRANSACTION_TIMEOUT = 17


class DumpError(Exception):
    """pg_dump or pg_restore is not to be had, or failed; the text is a line and never has a password."""


@dataclass(frozen=True, slots=True)
class Tool:
    """One of PostgreSQL's programs on this machine."""

    path: Path
    version: str

    @property
    def major(self) -> int:
        return major(self.version)

    def fills(self, server: int) -> bool:
        """Whether pg_restore can: from 17 on it sets transaction_timeout, which older servers do not know."""
        return server >= KNOWS_TRANSACTION_TIMEOUT or self.major < KNOWS_TRANSACTION_TIMEOUT


def major(version: str) -> int:
    """18 of 18.6."""
    return int(version.partition(".")[0])


def find(name: str, least: int, args: ConnectArgs) -> Tool:
    """The oldest program of a name that is not older than PostgreSQL `least`, and speaks TLS where the URL asks for it.

    Raises `DumpError` with the way out.
    """
    tools = _installed(name)
    wanted = f"install the client tools of PostgreSQL {least} or newer (on Debian postgresql-client-{least})"
    if not tools:
        raise DumpError(f"there is no {name} on this machine; {wanted}, or roundtrip[embedded]")
    recent = [tool for tool in tools if tool.major >= least]
    if not recent:
        newest = max(tools, key=lambda tool: tool.major)
        raise DumpError(
            f"{name} {newest.version} ({newest.path}) is too old for PostgreSQL {least}; {wanted}, or roundtrip[embedded]"
        )
    if args.sslmode in VERIFIED and not (recent := [tool for tool in recent if _speaks_tls(tool, args)]):
        raise DumpError(f"the {name} of this machine was built without TLS, which the URL asks for; {wanted}")
    return min(recent, key=lambda tool: tool.major)


def environment(args: ConnectArgs) -> dict[str, str]:
    """What libpq needs to reach a database, in the environment: everybody on a machine can read a command line."""
    kept = {name: text for name, text in os.environ.items() if not name.startswith("PG") or name in OWN}
    told = {
        "PGHOST": args.host,
        "PGPORT": str(args.port),
        "PGDATABASE": args.database,
        "PGUSER": args.user,
        "PGPASSWORD": args.password,
        "PGCONNECT_TIMEOUT": "15",
        "PGAPPNAME": "roundtrip",
        **_tls(args),
    }
    return kept | {name: text for name, text in told.items() if text}


def named(args: ConnectArgs) -> str:
    """The database for pg_restore, which would take a name with an equals sign for more than a name."""
    return "dbname='" + args.database.replace("\\", "\\\\").replace("'", "\\'") + "'"


async def run(
    tool: Tool, arguments: Sequence[str], args: ConnectArgs, tell: Callable[[str], None] | None = None
) -> None:
    """Run a program on a database, and tell each line that it says; it does not outlive the caller's interest.

    Raises `DumpError` with what it complained of.
    """
    process = await asyncio.create_subprocess_exec(
        tool.path,
        *arguments,
        env=environment(args),
        stdin=DEVNULL,
        stdout=DEVNULL,
        stderr=PIPE,
        limit=LONGEST_LINE,
    )
    assert process.stderr is not None
    said: deque[str] = deque(maxlen=50)
    try:
        async for line in process.stderr:
            said.append(line.decode(errors="replace").strip())
            if tell:
                tell(said[-1])
        await process.wait()
    finally:
        await _end(process)
    if process.returncode:
        # The lines between the errors are details, which repeat rows.
        errors = [line for line in said if re.match(r"\S+: error: ", line)]
        raise DumpError("; ".join(errors) or f"{tool.path.name} ended with {process.returncode}")


async def contents(tool: Tool, file: Path) -> list[str]:
    """The table of contents of a dump, an entry a line. Raises `DumpError`."""
    process = await asyncio.create_subprocess_exec(
        tool.path, "--list", file, stdin=DEVNULL, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    if process.returncode:
        raise DumpError(" ".join(err.decode(errors="replace").split()))
    return out.decode(errors="replace").splitlines()


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is None:
        with suppress(ProcessLookupError):
            process.terminate()
            try:
                await asyncio.wait_for(process.wait(), KILL_AFTER)
            except TimeoutError:
                process.kill()
                await process.wait()
    if process.stderr is not None:  # read to its end, or asyncio complains of it once the loop is closed
        with suppress(TimeoutError):
            await asyncio.wait_for(process.stderr.read(), KILL_AFTER)


def _installed(name: str) -> list[Tool]:
    places = [folder / name for folder in cluster.folders()]
    if found := shutil.which(name):
        places.append(Path(found))
    tools = []
    for path in dict.fromkeys(places):
        with suppress(OSError):
            said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout  # noqa: S603
            if version := re.search(r"\(PostgreSQL\) (\d+[\w.]*)", said):
                tools.append(Tool(path, version[1]))
    return tools


def _speaks_tls(tool: Tool, args: ConnectArgs) -> bool:
    """Libpq looks at sslmode before it looks for a server; nobody listens on this one."""
    nowhere = environment(args) | {"PGHOST": "127.0.0.1", "PGPORT": "1"}
    done = subprocess.run(  # noqa: S603
        [tool.path.with_name("pg_dump")], env=nowhere, capture_output=True, text=True, check=False
    )
    return "SSL support is not compiled in" not in done.stderr


def _tls(args: ConnectArgs) -> dict[str, str]:
    """What `db.url` makes of sslmode, in libpq's words: its own `require` verifies no certificate."""
    if args.sslmode not in VERIFIED:
        return {"PGSSLMODE": "prefer" if args.ssl else "disable"}
    mode = "verify-ca" if args.sslmode == "verify-ca" else "verify-full"
    root = args.sslrootcert
    return {"PGSSLMODE": mode, "PGSSLROOTCERT": _authorities() if root in (None, "system") else str(root)}


def _authorities() -> str:
    """The system's, by their file: only libpq from 16 on knows them by the word `system`."""
    candidates = (ssl.get_default_verify_paths().cafile, *BUNDLES)
    return next((path for path in candidates if path and Path(path).is_file()), "system")
