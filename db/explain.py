"""The plan of a named statement, with parameters of real size."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Literal

import msgspec
from msgspec.structs import asdict

from db import statements, tasks
from db.pool import Database
from db.statements import Statement
from db.transaction import Transaction

_SQL = statements.load("explain")
SAMPLE = _SQL["sample"]
SESSION = _SQL["session"]
MODE = _SQL["mode"]

SID = "00000000-0000-7000-8000-000000000000"
# For parameters that no row gives, by name; whatever begins with set_ is true.
MADE_UP: dict[str, str | None] = {
    "status": "completed",
    "priority": "4",
    "due_date": None,
    "if_match": None,
    "revision": None,
    "until": str(2**63 - 1),
    "skip": "0",
    "size": "51",
    "after": "infinity",
    "after_id": str(2**63 - 1),
    "tz": "Europe/Berlin",
    "q": "milk",
    "ip": "127.0.0.1",
    "jump": "0",
    "plans": "auto",
    "sid": SID,
    "session_id": SID,
    "email": "somebody@example.com",
    "drafts": '[{"role": "user", "content": "hello"}]',
    "created_at": "-infinity",
    "octets": "1000000",
    "keys": '["1"]',
    "tasks": "[]",
    "operations": "[]",
    "revisions": "{}",
    "users": "[]",
    "place": f'["{SID}", "0", "0"]',
}
# And else by type.
NEUTRAL = {
    "text": "x",
    "uuid": SID,
    "inet": "127.0.0.1",
    "boolean": "false",
    "bytea": "\\x00",
    "timestamptz": "2026-01-01T00:00:00Z",
    "json": "[]",
    "jsonb": "[]",
}


_PLURALS = (("ies", "y"), ("ches", "ch"), ("ses", "s"), ("s", ""), ("", ""))


class Sample(msgspec.Struct):
    """Somebody with much, and what is theirs."""

    user_id: str
    task_id: str | None
    conversation_id: str | None


class Way(msgspec.Struct):
    """How to explain: only planned, or run and undone; by these values, or as for any."""

    analyze: bool = False
    generic: bool = False
    buffers: bool = False
    format: Literal["text", "json"] = "text"


async def sample(db: Database | Transaction) -> Sample | None:
    """Real values; None where there is no user."""
    row = await db.one(SAMPLE)
    return None if row is None else Sample(*row)


async def session(part: Transaction, sid: str, user_id: str) -> None:
    """A session that ends with the transaction."""
    await part.one(SESSION, sid, user_id)


async def mode(part: Transaction, plans: str) -> None:
    """Which kind of plan this transaction is to make."""
    await part.one(MODE, plans)


async def sign_in(
    part: Transaction, statement: Statement, filled: Mapping[str, str | None], found: Sample
) -> None:
    """Open the made-up session that a statement asks by, unless it opens that itself."""
    asked = filled.get("sid") or filled.get("sids") or ""
    if SID in asked and "into sessions" not in statement.sql:
        await session(part, SID, filled.get("user_id") or found.user_id)


def explainable(statement: Statement) -> bool:
    """Whether a statement has a plan: blocks, `analyze` and `vacuum` have none."""
    return not statement.sql.startswith(("do ", "analyze", "vacuum"))


def values(
    statement: Statement, found: Sample | None, given: Mapping[str, str | None]
) -> dict[str, str | None]:
    """A text for each parameter, None for null: the given one, one of a row that was found, or one made up."""
    known = MADE_UP | {name: str(value).lower() for name, value in asdict(tasks.Filters()).items()}
    if found:
        known |= {name: value for name, value in asdict(found).items() if value is not None}
    if statement.family == "tasks.list":
        after, after_id = tasks.edge(*statement.member[2:4])  # type: ignore[arg-type]
        known |= {"after": after, "after_id": str(after_id)}
    return {
        name: given[name] if name in given else _value(name, kind, known)
        for name, kind in _parameters(statement)
    }


def _value(name: str, kind: str, known: Mapping[str, str | None]) -> str | None:
    if kind.endswith("[]"):  # of one element, by the name of one
        plural, one = next(ending for ending in _PLURALS if name.endswith(ending[0]))
        element = _value(name.removesuffix(plural) + one, kind.removesuffix("[]"), known)
        return (
            "{NULL}" if element is None else '{"' + element.replace("\\", "\\\\").replace('"', '\\"') + '"}'
        )
    made_up = "true" if name.startswith("set_") else NEUTRAL.get(kind, "1")
    return known.get(name, made_up)


async def plan(part: Transaction, statement: Statement, filled: Mapping[str, str | None], way: Way) -> str:
    """The plan, as PostgreSQL writes it. An analyzed one was run: the transaction is to be undone.

    Prepared and executed in SQL, as the service does by protocol: so there is a generic plan too, on any version.
    """
    kinds = _listed(kind for _, kind in _parameters(statement))
    sent = _listed(literal(filled[name]) for name, _ in _parameters(statement))
    options = f"analyze {way.analyze}, buffers {way.buffers}, format {way.format}"
    await mode(part, "force_generic_plan" if way.generic else "force_custom_plan")
    await part.one(_of(statement, f"prepare explained{kinds} as {statement.sql}"))
    rows = await part.all(_of(statement, f"explain ({options}) execute explained{sent}"))
    await part.one(_of(statement, "deallocate explained"))
    return "\n".join(str(row[0]) for row in rows)


def literal(value: str | None) -> str:
    """A text as SQL, of whichever type stands there."""
    return "null" if value is None else "'" + value.replace("'", "''") + "'"


def _parameters(statement: Statement) -> Sequence[tuple[str, str]]:
    return [(name, kind) for name, kind in (item.split() for item in statement.takes)]


def _listed(items: Iterable[str]) -> str:
    text = ", ".join(items)
    return f" ({text})" if text else ""


def _of(statement: Statement, sql: str) -> Statement:
    return replace(statement, name=f"explain {statement.name}", sql=sql)
