"""Boundaries that import-linter cannot see, and promises of the papers that code can check."""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from service.settings import table

ROOT = Path(__file__).parent.parent
OURS = [*sorted((ROOT / "db").rglob("*.py")), *sorted((ROOT / "service").rglob("*.py"))]
TRACKED = subprocess.run(
    ["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False
).stdout.split("\n")


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module or ""


def importers(package: str) -> set[str]:
    return {
        str(path.relative_to(ROOT))
        for path in OURS
        if any(name == package or name.startswith(f"{package}.") for name in imports(path))
    }


def test_asyncpg_is_only_in_db() -> None:
    assert all(path.startswith("db/") for path in importers("asyncpg"))


def test_litestar_is_only_in_service() -> None:
    assert all(path.startswith("service/") for path in importers("litestar"))


def test_nothing_that_serves_imports_the_benchmarks() -> None:
    assert importers("benchmarks") == set()


def test_the_schema_of_record_is_apart() -> None:
    for package in ("sqlmodel", "sqlalchemy", "alembic"):
        assert all(p.startswith("db/models/") or p == "service/migrate.py" for p in importers(package))


def test_resources_never_import_each_other() -> None:
    # `explain` knows all of them, and what values they take.
    beside = {"system", "seed", "catalogue", "explain"}
    resources = {path.stem for path in (ROOT / "db" / "sql").glob("*.sql")} - beside
    for layer in ("db", "service"):
        for resource in resources:
            path = ROOT / layer / f"{resource}.py"
            if path.exists():
                others = {f"{layer}.{other}" for other in resources - {resource}}
                assert not others & set(imports(path)), path


def test_migrations_never_import_the_models() -> None:
    for path in (ROOT / "migrations" / "versions").glob("*.py"):
        assert not any(name.startswith("db") for name in imports(path)), path


def test_the_environment_is_read_in_one_place() -> None:
    reading = re.compile(r"os\.environ(?!\[[^\]]+\] = )|os\.getenv")
    readers = {str(path.relative_to(ROOT)) for path in OURS if reading.search(path.read_text())}
    # The others hand it on to programs of PostgreSQL's own.
    embedded = {"db/embedded.py", "db/cluster.py", "db/supervisor.py"}
    assert readers <= {"service/settings.py", "db/dump.py", *embedded}


def test_sql_lives_in_sql_files() -> None:
    sql = re.compile(
        r"\b(select\s.+\sfrom\s|insert\s+into\s|delete\s+from\s|update\s+\w+\s+set\s)",
        re.IGNORECASE | re.DOTALL,
    )
    exempt = {"db/catalogue.py", "db/embedded.py", "db/cluster.py", "db/supervisor.py"}
    for path in OURS:
        name = str(path.relative_to(ROOT))
        if name in exempt or name.startswith("db/models/"):
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                docstring = node.value.startswith(("The ", "A ", "What ", "Named "))
                assert docstring or not sql.search(node.value), f"{name}:{node.lineno}"


def loaded(*names: str, **settings: str) -> list[str]:
    """Which modules a serving process has, of some."""
    return serving(f"*[name for name in {names} if name in sys.modules]", **settings)


def serving(tell: str, **settings: str) -> list[str]:
    """What a serving process says of itself."""
    code = f"""
import gc, sys
from service.asgi import create
create()
print({tell})
"""
    settings |= {"DATABASE_URL": "postgresql://localhost/none", "SECRET_KEY": "0123456789abcdef" * 2}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | settings,
    )
    return done.stdout.split()


def test_a_serving_process_never_loads_the_orm() -> None:
    assert loaded("sqlalchemy", "sqlmodel", "alembic") == []


def test_what_reads_a_providers_tokens_is_loaded_only_where_there_is_one() -> None:
    reads = ("cryptography", "httpx", "jwt", "service.identity")
    assert loaded(*reads) == []
    assert loaded(*reads, IDENTITY_ISSUER="https://auth.example.com") == [*reads]


def test_the_collector_leaves_alone_what_a_serving_process_has_loaded() -> None:
    frozen, others = map(int, serving("gc.get_freeze_count(), len(gc.get_objects())"))
    assert frozen > 100 * others


def test_readme_lists_every_setting() -> None:
    readme = (ROOT / "README.md").read_text()
    found = re.findall(r"^\| `([A-Z_]+)` \| (?:`([^`]*)`)? ?\| (.*?) \|$", readme, re.MULTILINE)
    assert found == table()


@pytest.mark.parametrize(
    "name",
    [
        "README.md",
        "ARCHITECTURE.md",
        "CHANGELOG.md",
        "db/README.md",
        "db/MIGRATIONS.md",
        "docs/PHASE1.md",
        "docs/RECOVERY.md",
        "docs/REQUIREMENTS.md",
        "benchmarks/README.md",
    ],
)
def test_papers_point_at_files_that_exist(name: str) -> None:
    text = (ROOT / name).read_text()
    paths = re.findall(r"`((?:db|service|tests|migrations|benchmarks|docs)/[\w./*-]*)`", text)
    missing = [path for path in paths if not list(ROOT.glob(path.rstrip("/")))]
    assert missing == []
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", text)
    assert [link for link in links if not (ROOT / name).parent.joinpath(link).exists()] == []


def test_no_machine_path_is_tracked() -> None:
    pattern = re.compile(r"(^|[^A-Za-z0-9_.])/(root|work|home/[a-z]+)/")
    for name in TRACKED:
        path = ROOT / name
        if name and path.suffix in (".py", ".sql", ".md", ".toml", ".ini", ".yaml") and path.exists():
            assert not pattern.search(path.read_text()), name
