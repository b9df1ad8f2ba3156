"""Every named statement against the migrated database, and against the Python function that sends it."""

import importlib
import inspect
import re
from collections.abc import Sequence
from datetime import datetime
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin, get_type_hints
from uuid import UUID

import asyncpg
import msgspec
import pytest

from db import statements
from db.pool import Database
from db.statements import Statement

STATEMENTS = {statement.name: statement for statement in statements.every()}
PYTHON: dict[str, set[Any]] = {
    "text": {str, Sequence},  # a sequence is sent as a text with commas, or as JSON
    "varchar": {str},
    "uuid": {str, UUID},
    "inet": {str},
    "int2": {int},
    "int4": {int},
    "int8": {int},
    "bool": {bool},
    "bytea": {bytes},
    "timestamptz": {datetime},
    "float8": {float, int},
}
WRITTEN = {"bigint": "int8", "smallint": "int2", "int": "int4", "integer": "int4", "boolean": "bool"}
PARAMETRIZED = pytest.mark.parametrize("statement", STATEMENTS.values(), ids=STATEMENTS.keys())


def function_of(statement: Statement) -> Any:
    """The function of the same name in the module of the same name."""
    resource, verb = statement.family.split(".")
    return getattr(importlib.import_module(f"db.{resource}"), verb)


def kinds(annotation: Any) -> set[type]:
    """The plain types that an annotation allows, without None and UNSET."""
    if get_origin(annotation) is Annotated:
        return kinds(get_args(annotation)[0])
    if get_origin(annotation) is Literal:
        return {type(value) for value in get_args(annotation)}
    if get_origin(annotation) in (Union, UnionType):
        return set().union(*(kinds(arm) for arm in get_args(annotation)))
    if annotation in (NoneType, msgspec.UnsetType):
        return set()
    return {get_origin(annotation) or annotation}


def _type(written: str) -> str:
    name = written.removesuffix("[]")
    return WRITTEN.get(name, name) + written[len(name) :]


def flattened(function: Any) -> list[tuple[str, set[type]]]:
    """A function's parameters after `db`; a Struct is its fields, a field that may be unset is two."""
    hints = get_type_hints(function)
    flat: list[tuple[str, set[type]]] = []
    for name in list(inspect.signature(function).parameters)[1:]:
        if name == "shape":  # which member of a family, no parameter of it
            continue
        if isinstance(hints[name], type) and issubclass(hints[name], msgspec.Struct):
            for field in msgspec.structs.fields(hints[name]):
                if field.default is msgspec.UNSET:
                    flat.append((f"set_{field.name}", {bool}))
                flat.append((field.name, kinds(field.type)))
        else:
            flat.append((name, kinds(hints[name])))
    return flat


@PARAMETRIZED
async def test_prepares_with_the_parameters_its_header_tells(
    statement: Statement, connection: asyncpg.Connection
) -> None:
    prepared = await connection.prepare(statement.sql)
    told = [_type(item.split()[1]) for item in statement.takes]
    assert [kind.name.replace("varchar", "text") for kind in prepared.get_parameters()] == told


ALONE = {name: statement for name, statement in STATEMENTS.items() if not name.endswith("_each")}
ALONE_PARAMETRIZED = pytest.mark.parametrize("statement", ALONE.values(), ids=ALONE.keys())


@pytest.mark.parametrize("name", sorted(STATEMENTS.keys() - ALONE.keys()))
async def test_for_many_takes_and_gives_what_it_does_for_one(
    name: str, connection: asyncpg.Connection
) -> None:
    each, one = STATEMENTS[name], STATEMENTS[name.removesuffix("_each")]
    assert [item.split()[1] for item in each.takes] == [f"{item.split()[1]}[]" for item in one.takes]
    columns = [
        [(column.name, column.type.name) for column in (await connection.prepare(sql)).get_attributes()]
        for sql in (each.sql, one.sql)
    ]
    assert columns[0] == [("ord", "int8"), ("alone", "bool"), *columns[1]]


@ALONE_PARAMETRIZED
def test_function_gives_what_the_statement_takes(statement: Statement) -> None:
    parameters = flattened(function_of(statement))
    if statement.member:  # those that a member has no use for stand last
        parameters = parameters[: len(statement.takes)]
    assert [name for name, _ in parameters] == [item.split()[0] for item in statement.takes]
    for (name, given), item in zip(parameters, statement.takes, strict=True):
        kind = item.split()[1]
        assert given <= PYTHON[WRITTEN.get(kind, kind)], name


@ALONE_PARAMETRIZED
async def test_columns_are_the_fields_of_the_row(
    statement: Statement, connection: asyncpg.Connection
) -> None:
    module = importlib.import_module(f"db.{statement.name.split('.')[0]}")
    prepared = await connection.prepare(statement.sql)
    columns = [(column.name, column.type.name) for column in prepared.get_attributes()]
    rows = [
        msgspec.structs.fields(kind)
        for kind in vars(module).values()
        if isinstance(kind, type) and issubclass(kind, msgspec.Struct)
    ]
    if kinds_of := getattr(module, "KINDS", ()):  # rows of one kind or another, side by side
        rows.append(tuple(field for kind in kinds_of for field in msgspec.structs.fields(kind)))
    for extra in (0, 1, 2, 3, 4, 5):  # a verdict, or the version of a list, may stand before the row
        for fields in rows:
            if [name for name, _ in columns[extra:]] == [field.name for field in fields]:
                for (name, kind), field in zip(columns[extra:], fields, strict=True):
                    assert kinds(field.type) <= PYTHON[kind], name
                return
    assert len(columns) <= 2, f"no Struct has the columns {columns}"


@PARAMETRIZED
def test_says_what_it_is_for_and_lists_its_columns(statement: Statement) -> None:
    assert statement.doc
    assert not re.search(r"(select|returning|[a-z]\.)\s*\*", statement.sql)


@PARAMETRIZED
async def test_rides_on_indexes_that_exist(statement: Statement, connection: asyncpg.Connection) -> None:
    rows = await connection.fetch("select indexname from pg_indexes where schemaname = 'public'")
    assert set(statement.rides_on) <= {row["indexname"] for row in rows}


def test_every_function_that_takes_a_database_has_its_statement() -> None:
    for resource in {name.split(".")[0] for name in STATEMENTS}:
        module = importlib.import_module(f"db.{resource}")
        for name, function in inspect.getmembers(module, inspect.iscoroutinefunction):
            if get_type_hints(function).get("db") is Database:
                assert f"{resource}.{name}" in {statement.family for statement in STATEMENTS.values()}
