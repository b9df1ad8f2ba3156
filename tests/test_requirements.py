"""`docs/REQUIREMENTS.md` keeps its word: every line of the documents has a row, and what the rows name exists."""

import ast
import re
import tomllib
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

from service.cli import main
from service.routes import ROUTES
from service.settings import table

ROOT = Path(__file__).parent.parent
PAPER = ROOT / "docs" / "REQUIREMENTS.md"
TEXT = PAPER.read_text(encoding="utf-8")
LENGTHS = {
    letter: int(lines) for letter, lines in re.findall(r"^\| ([A-E]) \| .* \| (\d+) \|$", TEXT, re.MULTILINE)
}
LINES = re.findall(r"^\| [A-E] \d.*$", TEXT, re.MULTILINE)
TEST = re.compile(r"(tests/[\w/]+\.py)::(\w+)")
SETTINGS = {name for name, _, _ in table()}
TABLES = ("users", "user_state", "tasks", "task_texts", "tombstones", "conversations", "messages", "sessions")
PATHS = ("db", "service", "tests", "migrations", "docs", "benchmarks", ".ci")
PAGES = {"/openapi.json", "/readyz", "/healthz", "/metrics", "/docs"}


class Row(NamedTuple):
    document: str
    first: int
    last: int
    requirement: str
    where: str
    shown: str

    def __str__(self) -> str:
        return place(self.document, self.first, self.last)


def place(document: str, first: int, last: int) -> str:
    return f"{document} {first}" if first == last else f"{document} {first}-{last}"


def rows() -> Iterator[Row]:
    for line in LINES:
        lines, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if len(cells) == 3:
            document, _, numbers = lines.partition(" ")
            first, _, last = numbers.partition("-")
            yield Row(document, int(first), int(last or first), *cells)


ROWS = list(rows())


def named(text: str) -> list[str]:
    """What stands in backticks: names of this project."""
    return re.findall(r"`([^`]+)`", text)


NAMED = named(TEXT)


@cache
def names_in(path: str) -> set[str]:
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    functions = (node for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))
    return {function.name for function in functions if function.name.startswith("test_")}


def exists(name: str) -> bool:
    return (ROOT / name).exists()


def test_every_row_has_all_its_columns() -> None:
    assert [line for line in LINES if line.count("|") != 5] == []
    assert [row for row in ROWS if not all((row.requirement, row.where, row.shown))] == []


def test_every_table_is_of_rows_only() -> None:
    lines = [line for line in TEXT.splitlines() if line.startswith("|")]
    heads = [line for line in lines if line.startswith(("| document, lines |", "| | title", "|---"))]
    assert len(lines) == len(heads) + len(ROWS) + len(LENGTHS)


def test_the_documents_are_five() -> None:
    assert set(LENGTHS) == {row.document for row in ROWS} == set("ABCDE")


@pytest.mark.parametrize("document", LENGTHS)
def test_every_line_of_a_document_has_a_row(document: str) -> None:
    end = 0
    for row in ROWS:
        if row.document == document:
            assert row.first <= end + 1, f"nothing for {place(document, end + 1, row.first - 1)}"
            assert row.first <= row.last
            assert row.last >= end, f"{row} is out of order"
            end = row.last
    assert end == LENGTHS[document]


def test_no_row_is_open() -> None:
    words = re.compile(r"\b(open|tbd|fixme)\b|\?\?", re.IGNORECASE)
    assert [str(row) for row in ROWS if words.search(f"{row.where} {row.shown}")] == []


def test_every_row_has_a_test_where_there_is_something_to_build() -> None:
    for row in ROWS:
        if row.where.startswith("Nothing to build: "):
            assert row.shown == "none", row
        else:
            assert all(TEST.fullmatch(name) for name in named(row.shown)), row
            assert TEST.sub("", row.shown).replace("`", "").replace(",", "").strip() == "", row


def test_what_is_not_built_is_listed_first() -> None:
    listed = re.findall(r"^- ([A-E] [\d-]+): ", TEXT, re.MULTILINE)
    assert listed == [str(row) for row in ROWS if "Not built" in row.where]


def test_every_test_exists() -> None:
    missing = [
        f"{path}::{name}"
        for path, name in sorted(set(TEST.findall(TEXT)))
        if not exists(path) or name not in names_in(path)
    ]
    assert missing == []


def test_every_file_exists() -> None:
    files = {name for name in NAMED if re.fullmatch(rf"(?:{'|'.join(PATHS)})(?:/[\w./-]+)?", name)}
    files |= {name for name in NAMED if re.fullmatch(r"[\w-]+\.(?:md|toml|ini|yaml|lock)", name)}
    assert len(files) > 50
    assert sorted(name for name in files if not exists(name)) == []


def test_every_link_resolves() -> None:
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        path, _, anchor = target.partition("#")
        file = PAPER.parent / path if path else PAPER
        assert file.is_file(), target
        headings = re.findall(r"^#+ (.+)$", file.read_text(encoding="utf-8"), re.MULTILINE)
        slugs = {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}
        assert not anchor or anchor in slugs, target


def test_every_section_that_is_quoted_exists() -> None:
    for paper, sections in re.findall(r'`([\w/]+\.md)`((?:, "[^"]+")+)', TEXT):
        headings = re.findall(r"^#+ (.+)$", (ROOT / paper).read_text(encoding="utf-8"), re.MULTILINE)
        assert set(re.findall(r'"([^"]+)"', sections)) <= set(headings), paper


def test_every_setting_exists_or_is_explained() -> None:
    settings = {name for name in NAMED if re.fullmatch(r"[A-Z]+(?:_[A-Z0-9]+)+", name)}
    explained = {name for row in ROWS for name in re.findall(r"`(\w+)` is no such setting: ", row.where)}
    assert settings - SETTINGS == explained
    assert {"DATABASE_POOL_SIZE", "DATABASE_ECHO"} <= settings


def test_every_route_exists() -> None:
    ours = {f"{route.method} {route.path.replace(':str', '')}" for route in ROUTES}
    asked = {name for name in NAMED if re.match(r"[A-Z]+ /", name)}
    assert len(asked) > 10
    assert sorted(asked - ours) == []
    assert {name for name in NAMED if re.fullmatch(r"/[\w.]+", name)} <= PAGES


def test_every_command_exists() -> None:
    asked = {match[1] for name in NAMED if (match := re.match(r"roundtrip ([\w-]+)", name))}
    assert asked >= {"migrate"}
    assert sorted(asked - set(main.commands)) == []


def test_every_name_of_the_schema_exists() -> None:
    schema = (ROOT / "db" / "SCHEMA.md").read_text(encoding="utf-8")
    asked = {name for name in NAMED if re.fullmatch(rf"(?:{'|'.join(TABLES)})_\w+", name)}
    assert len(asked) > 10
    assert sorted(name for name in asked if f"`{name}`" not in schema) == []


def test_figures_are_those_of_the_measured_table() -> None:
    architecture = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
    measured = architecture.split("**At 1,000,000 tasks of 1,000 users**")[1].split("\n## ")[0]
    quoted = {figure for row in ROWS for figure in re.findall(r"(?:p50|p99|over) (\d+\.\d+)", row.where)}
    quoted |= {figure for row in ROWS for figure in re.findall(r"(\d+\.\d+)(?: and \d+\.\d+)? ms", row.where)}
    assert len(quoted) > 10
    assert quoted - set(re.findall(r"\d+\.\d+", measured)) == set()


def test_the_coverage_asked_for_is_enforced() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert project["tool"]["coverage"]["report"]["fail_under"] >= 80
    assert "pytest --cov" in (ROOT / ".ci" / "run").read_text(encoding="utf-8")
