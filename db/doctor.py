"""What `roundtrip doctor` looks at: one function per statement of `sql/doctor.sql`, and what the schema should have."""

import re
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import msgspec

from db import statements, system
from db.pool import Database
from db.transaction import Transaction

_SQL = statements.load("doctor")
PING = _SQL["ping"]
CLOCK = _SQL["clock"]
SERVER = _SQL["server"]
ROLE = _SQL["role"]
TRANSACTIONS = _SQL["transactions"]
INDEXES = _SQL["indexes"]
UNINDEXED = _SQL["unindexed"]
CONSTRAINTS = _SQL["constraints"]
TRIGGERS = _SQL["triggers"]
TABLES = _SQL["tables"]
SLOW = _SQL["slow"]

PAPERS = Path(__file__).parent / "schema"


class Server(msgspec.Struct):
    """The server and its limits; -1 for no limit. `careless`: settings that risk what was acknowledged."""

    version: str
    max_connections: int
    reserved: int
    role_limit: int
    database_limit: int
    used: int
    xid_age: int
    read_only: bool
    replication_role: str
    careless: str
    vacuums: bool

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    @property
    def connections(self) -> int:
        """How many there are for a role without privileges."""
        limits = (self.max_connections - self.reserved, self.role_limit, self.database_limit)
        return min(limit for limit in limits if limit >= 0)


class Role(msgspec.Struct):
    """Whom we connect as, what they may that serving does not need, and whether they see what others do."""

    name: str
    powers: str
    ddl: str
    sees_all: bool


class Transactions(msgspec.Struct):
    """How many are open for too long, of which kind; `hidden` are sessions that cannot be looked into."""

    long: int
    idle: int
    prepared: int
    slots: int
    hidden: int


class Index(msgspec.Struct):
    """An index; `rows` are those of its table, by the planner's estimate."""

    name: str
    table_name: str
    is_valid: bool
    is_unique: bool
    scans: int
    rows: float


class Table(msgspec.Struct):
    """The rows of a table, alive and dead, and when somebody last looked after them."""

    name: str
    live: int
    dead: int
    vacuumed: datetime | None
    analyzed: datetime | None
    xid_age: int


class Cost(msgspec.Struct):
    """A slow statement; times in milliseconds."""

    query: str
    calls: int
    mean: float
    longest: float


class Slow(msgspec.Struct):
    """Slow statements, or why they are not to be seen."""

    seen: Literal["yes", "absent", "unloaded", "denied"]
    statements: Sequence[Cost] = ()


class Expected(msgspec.Struct):
    """The names that the schema of this version should have."""

    indexes: frozenset[str]
    constraints: frozenset[str]
    triggers: frozenset[str]


def expected() -> Expected:
    """What the papers of the schema say, which a test compares with a migrated database."""
    papers = "\n".join(path.read_text(encoding="utf-8") for path in PAPERS.glob("*.sql"))
    constraints = re.findall(
        r"^alter table \w+ add constraint (\w+)\n +(PRIMARY KEY|UNIQUE)?", papers, re.MULTILINE
    )
    indexes = re.findall(r"^CREATE (?:UNIQUE )?INDEX (\w+)", papers, re.MULTILINE)
    return Expected(
        frozenset(indexes) | {name for name, is_index in constraints if is_index},
        frozenset(name for name, _ in constraints),
        frozenset(re.findall(r"^CREATE (?:CONSTRAINT )?TRIGGER (\w+)", papers, re.MULTILINE)),
    )


def encryption(connection: Any) -> str | None:
    """The TLS version of a connection. By our own end: pg_stat_ssl tells of the last hop, which Neon's proxy makes."""
    tls = connection._transport.get_extra_info("ssl_object")  # noqa: SLF001 (asyncpg shows it nowhere else)
    return None if tls is None else str(tls.version())


async def ping(db: Database) -> None:
    """Go there and back."""
    await db.one(PING)


async def clock(db: Database) -> datetime:
    """What time it is there."""
    row = await db.one(CLOCK)
    assert row is not None
    now: datetime = row["now"]
    return now


async def server(db: Database) -> Server:
    """The server and its limits."""
    row = await db.one(SERVER)
    assert row is not None
    return Server(*row)


async def role(db: Database) -> Role:
    """Whom we connect as."""
    row = await db.one(ROLE)
    assert row is not None
    return Role(*row)


async def transactions(db: Database) -> Transactions:
    """What holds vacuum back."""
    row = await db.one(TRANSACTIONS)
    assert row is not None
    return Transactions(*row)


async def indexes(db: Database) -> Sequence[Index]:
    """Every index of our tables."""
    return [Index(*row) for row in await db.all(INDEXES)]


async def unindexed(db: Database) -> Sequence[str]:
    """Foreign keys that no index begins with."""
    return [row["name"] for row in await db.all(UNINDEXED)]


async def constraints(db: Database) -> dict[str, bool]:
    """The constraints, and whether all rows are known to keep them."""
    return {row["name"]: row["is_valid"] for row in await db.all(CONSTRAINTS)}


async def triggers(db: Database) -> dict[str, bool]:
    """The triggers, and whether they fire."""
    return {row["name"]: row["fires"] for row in await db.all(TRIGGERS)}


async def tables(db: Database) -> Sequence[Table]:
    """How well each table is looked after."""
    return [Table(*row) for row in await db.all(TABLES)]


async def slow(part: Transaction) -> Slow:
    """Statements that take 100 ms or more on average."""
    await part.one(SLOW)
    return msgspec.json.decode(await system.found(part), type=Slow)
