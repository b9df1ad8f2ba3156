"""The papers of the schema say what a migrated database has."""

import asyncio
import subprocess
import sys
from pathlib import Path

import pytest

from db import catalogue
from db.catalogue import Catalogue, Index
from tests.conftest import run

ROOT = Path(__file__).parents[2]
REGENERATE = "regenerate with: uv run python -m db.catalogue DATABASE_URL"


@pytest.fixture
async def schema(database_url: str) -> Catalogue:
    return await catalogue.read(database_url)


@pytest.mark.parametrize(
    "paper", ["SCHEMA.md", *(f"schema/{name}.sql" for name in (*catalogue.FILES, "constraints", "indexes"))]
)
def test_paper_is_fresh(schema: Catalogue, paper: str) -> None:
    assert (catalogue.FOLDER / paper).read_text(encoding="utf-8") == catalogue.render(schema)[paper], (
        REGENERATE
    )


def test_no_paper_is_left_over(schema: Catalogue) -> None:
    papers = {path.relative_to(catalogue.FOLDER) for path in (catalogue.FOLDER / "schema").iterdir()}
    assert papers == {Path(name) for name in catalogue.render(schema)} - {Path("SCHEMA.md")}


async def test_the_sql_papers_make_the_schema(empty_database: str, schema: Catalogue) -> None:
    for name in (*catalogue.FILES, "constraints", "indexes"):
        await run(empty_database, (catalogue.FOLDER / "schema" / f"{name}.sql").read_text(encoding="utf-8"))
    assert catalogue.render(await catalogue.read(empty_database)) == catalogue.render(schema)


def test_every_index_serves_something(schema: Catalogue) -> None:
    assert [index.name for index in schema.indexes if not schema.serves(index)] == []


def test_what_serves_nothing_is_found(schema: Catalogue) -> None:
    def serves(columns: str, **more: bool) -> list[str]:
        index = Index(
            "tasks", "tasks_new_idx", "", columns, False, more.get("partial", False), True, None, None
        )
        return schema.serves(index)

    assert serves("title") == []
    assert serves("title,user_id") == []
    assert serves("user_id") == serves("user_id,title") == ["cascade from users"]
    assert serves("user_id", partial=True) == []
    (pkey,) = (index for index in schema.indexes if index.name == "tasks_pkey")
    assert {"primary key", "tasks.get"} <= set(schema.serves(pkey))


def test_every_foreign_key_has_an_index(schema: Catalogue) -> None:
    for key in schema.constraints:
        if key.kind == "foreign key":
            assert any(
                f"{index.columns},".startswith(f"{key.columns},") and not index.is_partial
                for index in schema.indexes
                if index.table_name == key.table_name
            ), key.name


def test_everything_is_named_by_the_convention(schema: Catalogue) -> None:
    ends = {"primary key": "_pkey", "unique": "_key", "foreign key": "_fkey"}
    for constraint in schema.constraints:
        assert constraint.name.startswith(f"{constraint.table_name}_")
        assert constraint.name.endswith(ends.get(constraint.kind, ""))
    for index in schema.indexes:
        assert index.name.startswith(f"{index.table_name}_")
        assert index.name.endswith("_pkey" if index.behind else "_key" if index.is_unique else "_idx")
    assert all(trigger.name.startswith(f"{trigger.table_name}_") for trigger in schema.triggers)


def test_every_table_trigger_and_function_has_its_sentence(schema: Catalogue) -> None:
    assert [table.name for table in schema.tables if not table.comment] == []
    assert [function.name for function in schema.functions if not function.comment] == []
    assert {trigger.function for trigger in schema.triggers} == {
        function.name for function in schema.functions
    }
    assert all("SET search_path TO" in function.definition for function in schema.functions)


def test_every_row_goes_and_comes_with_its_user(schema: Catalogue) -> None:
    keys = [k for k in schema.constraints if k.kind == "foreign key"]
    derived = {"task_texts"}  # these go and come with their task
    owned = {t.name for t in schema.tables} - {"users"} - derived
    assert {k.table_name for k in keys if k.target == "users"} == owned
    assert all(k.definition.endswith("ON UPDATE CASCADE ON DELETE CASCADE") for k in keys)


def test_times_have_zones_and_ids_have_a_collation(schema: Catalogue) -> None:
    assert not any("without time zone" in column.type for column in schema.columns)
    ids = [c for c in schema.columns if c.name == "user_id" or (c.table_name, c.name) == ("users", "id")]
    assert {column.type for column in ids} == {'text collate "C"'}


def test_a_table_of_no_file_is_an_error(schema: Catalogue) -> None:
    schema.tables = [*schema.tables, catalogue.Table("added", None, None)]
    with pytest.raises(ValueError, match=r"FILES .* added"):
        catalogue.render(schema)


async def test_the_command_writes_them(
    database_url: str, schema: Catalogue, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(catalogue, "FOLDER", tmp_path)
    assert await asyncio.to_thread(catalogue.main, [database_url]) == 0
    for path, text in catalogue.render(schema).items():
        assert (tmp_path / path).read_text(encoding="utf-8") == text


def test_the_command_wants_a_database() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "db.catalogue"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (2, "")
    assert "usage" in done.stderr
