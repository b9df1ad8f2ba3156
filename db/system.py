"""What the service asks about the database itself."""

import asyncpg
import msgspec

from db import statements
from db.pool import Database
from db.transaction import Transaction

_SQL = statements.load("system")
STATE = _SQL["state"]
FOUND = _SQL["found"]

# The revision of the schema that this code was written for; a test compares it with migrations/versions.
SCHEMA = "0007"


class DatabaseState(msgspec.Struct):
    """`schema` is None where no migration was ever applied; `connections` is what the server has for clients."""

    schema: str | None
    connections: int | None


async def state(db: Database | Transaction) -> DatabaseState:
    """Read the state; raises `Unavailable`."""
    try:
        row = await db.one(STATE)
    except asyncpg.UndefinedTableError:
        return DatabaseState(None, None)
    assert row is not None
    return DatabaseState(*row)


async def found(part: Transaction) -> str:
    """What the block before it in this transaction found, as JSON."""
    row = await part.one(FOUND)
    assert row is not None
    return str(row["found"])


def serves(schema: str | None) -> bool:
    """Whether this code can work on a schema: its own, or a later one, which by our rules only adds to it."""
    return schema is not None and schema >= SCHEMA
