"""What a run was made on: facts of the machine and versions. No names of hosts or users, no paths."""

import os
import platform
import re
import subprocess
from importlib import metadata
from pathlib import Path

from db.embedded import EmbeddedError, find_binaries

ROOT = Path(__file__).parent.parent
PACKAGES = ("litestar", "uvicorn", "httptools", "asyncpg", "msgspec", "uvloop", "hdrhistogram")
URL = re.compile(r"\b([a-z][a-z+]*)://[^\s'\"]+")
LOCAL = re.compile(r"(127\.0\.0\.1|localhost|\[::1\])(:\d+)?(/.*)?")


def machine() -> dict[str, str]:
    """Facts by name; what cannot be read is left out. To be asked before the load, for its `load before`."""
    facts = {
        "CPU": _first(Path("/proc/cpuinfo"), r"model name\s*:\s*(.+)") or platform.processor(),
        "cores": str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()),
        "memory": _memory(),
        "system": _first(Path("/etc/os-release"), r'PRETTY_NAME="(.+)"') or platform.system(),
        "kernel": platform.release(),
        "load before": ", ".join(f"{load:.2f}" for load in os.getloadavg()) + " (1, 5, 15 minutes)",
    }
    return {name: fact for name, fact in facts.items() if fact}


def versions(postgres: str | None = None) -> dict[str, str]:
    """Of everything that serves and measures; `postgres` where it is not the one on this machine."""
    found = {"Python": platform.python_version(), "PostgreSQL": postgres or _postgres()}
    for package in PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found | {"Roundtrip": _revision()}


def scrubbed(text: str) -> str:
    """A text fit to be shown to anybody: of paths only what lies in this folder, of URLs elsewhere only the scheme."""
    text = URL.sub(
        lambda url: url[0] if LOCAL.fullmatch(url[0].partition("://")[2]) else f"{url[1]}://...", text
    )
    for path, instead in ((str(ROOT), "."), (str(Path.home()), "~")):
        if len(path) > 1:
            text = re.sub(re.escape(path) + r"(?![\w.-])", instead, text)
    return text


def _first(path: Path, pattern: str) -> str:
    try:
        found = re.search(pattern, path.read_text())
    except OSError:
        return ""
    return " ".join(found[1].split()) if found else ""


def _memory() -> str:
    total = _first(Path("/proc/meminfo"), r"MemTotal:\s*(\d+) kB")
    return f"{int(total) / 1024**2:.1f} GiB" if total else ""


def _postgres() -> str:
    try:
        told = _told([str(find_binaries() / "postgres"), "--version"])
    except EmbeddedError:
        return "unknown"
    return told.removeprefix("postgres (PostgreSQL)").strip() or "unknown"


def _revision() -> str:
    """The commit, and whether the code differs from it."""
    version = metadata.version("roundtrip")
    commit = _told(["git", "-C", str(ROOT), "rev-parse", "--short=10", "HEAD"])
    changed = _told(["git", "-C", str(ROOT), "status", "--porcelain", "--untracked-files=no"])
    return f"{version} at {commit}{' with changes' if changed else ''}" if commit else version


def _told(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=10, check=False)  # noqa: S603
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
