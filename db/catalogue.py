"""The schema's papers, written from a migrated database: `SCHEMA.md` and `schema/*.sql`.

    uv run python -m db.catalogue postgresql://...     rewrites them; a test compares them with a fresh rendering

Which index serves what is not in the catalogue: it comes from the `rides on` of the named statements.
"""

import asyncio
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import asyncpg
import msgspec

from db import statements
from db.url import parse

_SQL = statements.load("catalogue")
TABLES = _SQL["tables"]
COLUMNS = _SQL["columns"]
CONSTRAINTS = _SQL["constraints"]
INDEXES = _SQL["indexes"]
TRIGGERS = _SQL["triggers"]
FUNCTIONS = _SQL["functions"]

FOLDER = Path(__file__).parent

# Which file tells of which table; together and in this order, then constraints and indexes, they make the schema.
FILES = {
    "users": ("users", "user_state", "sessions", "idempotency_keys"),
    "tasks": ("tasks", "task_texts", "tombstones"),
    "conversations": ("conversations", "messages"),
}

INTRO = """\
# Schema

Generated from a migrated database by `python -m db.catalogue`, and compared with one by a test. The models in
`db/models` say the same to Alembic, `db/schema/*.sql` to whoever reads SQL; how it changes is in `db/MIGRATIONS.md`.

- Every time is a `timestamptz` by the database's clock. User ids are `text collate "C"`: any text, the order of bytes.
- Every row belongs to a user and goes with the user at once; a change of the user's id changes its rows.
- Problems of clients are told by the names of constraints, so names are part of the schema.
- **Revision**: each user has one number, `user_state.revision`. Every changed task takes the next one, under the lock of
  that row, and keeps it in `tasks.revision` or in its tombstone. So a user's revisions are unique, without gaps, and in
  the order of commits.
- Conversations have a number of their own, `user_state.conversations_revision`. What changes a conversation or adds to its
  messages takes the next one and leaves it in `conversations.version`; a deletion takes one too. Messages stand in the
  order of their ids, which the service draws under the same lock.

## Writing by hand

Triggers keep the promises above for SQL that comes from elsewhere, a console or a data migration:

- Tasks that were inserted, changed or deleted without a revision get one each, in the order of their ids, at the end of
  the statement. `returning` shows 0 until then. What changes no content takes none.
- Conversations too, and with them those whose messages were written, changed or deleted: once in a transaction.
- `updated_at` moves when something changed, never back; `created_at` does not change, nor whose a task, a conversation or
  a message is, nor the id of a task.
- A row of `user_state` goes with its user only. A revision that a hand sets itself is believed.
- `status` and `completed_at` go together, and nothing fills in the other: `update tasks set status = 'completed'` is
  refused by `tasks_completed_at_iff_completed`. Set `completed_at = now()` with it, and null when it is reopened.
- A writer by hand locks tasks before `user_state`, the service the other way round; one of two that meet is ended as a
  deadlock. To be safe, begin the transaction with `select from user_state where user_id = ... for no key update`.
- Tombstones that are deleted, and a `truncate` of tasks or tombstones, send every client whose sync they would mislead back
  to its start. What is inserted under an id of its own does not move the sequence: `setval` it past the highest.
- `session_replication_role = replica` and `alter table ... disable trigger` pass all of this by, foreign keys too.
"""


class Table(msgspec.Struct):
    """One row of `tables`."""

    name: str
    comment: str | None
    options: str | None


class Column(msgspec.Struct):
    """One row of `columns`."""

    table_name: str
    name: str
    type: str
    nullable: bool
    filling: str | None
    comment: str | None


class Constraint(msgspec.Struct):
    """One row of `constraints`."""

    table_name: str
    name: str
    kind: str
    definition: str
    columns: str
    target: str | None
    comment: str | None


class Index(msgspec.Struct):
    """One row of `indexes`."""

    table_name: str
    name: str
    definition: str
    columns: str
    is_unique: bool
    is_partial: bool
    is_valid: bool
    behind: str | None
    comment: str | None


class Trigger(msgspec.Struct):
    """One row of `triggers`."""

    table_name: str
    name: str
    definition: str
    function: str


class Function(msgspec.Struct):
    """One row of `functions`."""

    name: str
    definition: str
    comment: str | None


class Catalogue(msgspec.Struct):
    """All of a schema."""

    tables: Sequence[Table]
    columns: Sequence[Column]
    constraints: Sequence[Constraint]
    indexes: Sequence[Index]
    triggers: Sequence[Trigger]
    functions: Sequence[Function]

    def serves(self, index: Index) -> list[str]:
        """What an index is there for: a rule, the cascade of a foreign key, statements. Empty: nothing."""
        constraints = [k for k in self.constraints if k.table_name == index.table_name]
        reasons = [k.kind for k in constraints if k.name == index.behind]
        if index.is_unique and not index.behind:
            reasons.append("uniqueness")
        if not index.is_partial:
            reasons += [
                f"cascade from {k.target}"
                for k in constraints
                if k.kind == "foreign key" and f"{index.columns},".startswith(f"{k.columns},")
            ]
        return reasons + sorted({s.family for s in statements.every() if index.name in s.rides_on})


async def read(url: str) -> Catalogue:
    """The schema of a database."""
    db = await asyncpg.connect(
        **parse(url).kwargs(),
        server_settings={"timezone": "UTC", "datestyle": "ISO, YMD", "search_path": "public"},
    )
    try:
        return Catalogue(
            await tables(db),
            await columns(db),
            await constraints(db),
            await indexes(db),
            await triggers(db),
            await functions(db),
        )
    finally:
        await db.close()


async def tables(db: asyncpg.Connection) -> list[Table]:
    """Every table but Alembic's own."""
    return [Table(*row) for row in await db.fetch(TABLES.sql)]


async def columns(db: asyncpg.Connection) -> list[Column]:
    """Their columns, in order."""
    return [Column(*row) for row in await db.fetch(COLUMNS.sql)]


async def constraints(db: asyncpg.Connection) -> list[Constraint]:
    """Their constraints, but `not null`; foreign keys last."""
    return [Constraint(*row) for row in await db.fetch(CONSTRAINTS.sql)]


async def indexes(db: asyncpg.Connection) -> list[Index]:
    """Their indexes."""
    return [Index(*row) for row in await db.fetch(INDEXES.sql)]


async def triggers(db: asyncpg.Connection) -> list[Trigger]:
    """Their triggers."""
    return [Trigger(*row) for row in await db.fetch(TRIGGERS.sql)]


async def functions(db: asyncpg.Connection) -> list[Function]:
    """The functions of the schema."""
    return [Function(*row) for row in await db.fetch(FUNCTIONS.sql)]


def render(schema: Catalogue) -> dict[str, str]:
    """The text of each file, by its path under `db`. Raises `ValueError` for a table that `FILES` does not have."""
    order = [name for names in FILES.values() for name in names]
    if unknown := {table.name for table in schema.tables} - set(order):
        raise ValueError(f"say in FILES which file tells of {', '.join(sorted(unknown))}")
    by_name = {table.name: table for table in schema.tables}
    papers = {
        "SCHEMA.md": INTRO + "".join(_section(schema, by_name[name]) for name in order if name in by_name)
    }
    told: set[str] = set()
    for file, names in FILES.items():
        blocks = [_create(schema, by_name[name]) for name in names if name in by_name]
        own = [trigger for trigger in schema.triggers if trigger.table_name in names]
        for function in schema.functions:
            if function.name not in told and function.name in {trigger.function for trigger in own}:
                told.add(function.name)
                comment = f"comment on function {function.name}() is {_quoted(function.comment)};\n"
                blocks.append(f"{function.definition.rstrip()};\n{comment if function.comment else ''}")
        blocks += [f"{trigger.definition};\n" for trigger in own]
        papers[f"schema/{file}.sql"] = _file(f"{file}: " + ", ".join(names), blocks)
    papers["schema/constraints.sql"] = _file("all constraints", (_constraint(k) for k in schema.constraints))
    papers["schema/indexes.sql"] = _file(
        "all indexes but those that constraints bring, each with what it serves",
        (_index(schema, index) for index in schema.indexes if not index.behind),
    )
    return papers


def _section(schema: Catalogue, table: Table) -> str:
    name = table.name
    lines = [f"\n## {name}\n", table.comment or ""]
    if table.options:
        lines.append(f"\nStored with `{table.options}`.")
    lines.append("\n| column | type | null | filled with | |\n|---|---|---|---|---|")
    lines += [
        f"| `{c.name}` | {c.type} | {'yes' if c.nullable else ''} |"
        f" {'`' + c.filling.removeprefix('default ') + '`' if c.filling else ''} | {c.comment or ''} |"
        for c in schema.columns
        if c.table_name == name
    ]
    lines.append("\n| constraint | |\n|---|---|")
    lines += [
        f"| `{k.name}` | {_cell(k.definition)}{'<br>' + k.comment if k.comment else ''} |"
        for k in schema.constraints
        if k.table_name == name
    ]
    lines.append("\n| index | on | serves |\n|---|---|---|")
    lines += [
        f"| `{i.name}` | {_cell(i.definition.partition(' USING ')[2])} | {', '.join(schema.serves(i))} |"
        for i in schema.indexes
        if i.table_name == name
    ]
    comments = {function.name: function.comment or "" for function in schema.functions}
    if own := [trigger for trigger in schema.triggers if trigger.table_name == name]:
        lines.append("\n| trigger | when | does |\n|---|---|---|")
        lines += [f"| `{g.name}` | {_cell(_when(g))} | {comments[g.function]} |" for g in own]
    return "\n".join(lines) + "\n"


def _when(trigger: Trigger) -> str:
    return (
        trigger.definition.removeprefix(f"CREATE TRIGGER {trigger.name} ")
        .partition(" EXECUTE FUNCTION ")[0]
        .replace(f" ON {trigger.table_name}", "")
    )


def _cell(code: str) -> str:
    return "`" + code.replace("|", "\\|") + "`"


def _create(schema: Catalogue, table: Table) -> str:
    own = [column for column in schema.columns if column.table_name == table.name]
    lines = [
        f"    {c.name} {c.type}{'' if c.nullable else ' not null'}{' ' + c.filling if c.filling else ''}"
        for c in own
    ]
    text = f"create table {table.name} (\n" + ",\n".join(lines) + "\n)"
    text += f" with ({table.options});\n" if table.options else ";\n"
    if table.comment:
        text += f"comment on table {table.name} is {_quoted(table.comment)};\n"
    for column in own:
        if column.comment:
            text += f"comment on column {table.name}.{column.name} is {_quoted(column.comment)};\n"
    return text


def _constraint(constraint: Constraint) -> str:
    table, name = constraint.table_name, constraint.name
    text = f"alter table {table} add constraint {name}\n    {constraint.definition};\n"
    if constraint.comment:
        text += f"comment on constraint {name} on {table} is {_quoted(constraint.comment)};\n"
    return text


def _index(schema: Catalogue, index: Index) -> str:
    text = f"-- {', '.join(schema.serves(index))}\n{index.definition};\n"
    if index.comment:
        text += f"comment on index {index.name} is {_quoted(index.comment)};\n"
    return text


def _file(title: str, blocks: Iterator[str] | Sequence[str]) -> str:
    head = f"-- {title}\n-- Generated by `python -m db.catalogue` to be read; Alembic makes the schema.\n\n"
    return head + "\n".join(blocks)


def _quoted(text: str | None) -> str:
    return "'" + (text or "").replace("'", "''") + "'"


def main(arguments: Sequence[str]) -> int:
    """Rewrite the papers from the database of a URL."""
    if len(arguments) != 1:
        sys.stderr.write("usage: python -m db.catalogue postgresql://...   (a migrated database)\n")
        return 2
    for path, text in render(asyncio.run(read(arguments[0]))).items():
        file = FOLDER / path
        file.parent.mkdir(exist_ok=True)
        file.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
