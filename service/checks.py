"""`roundtrip doctor` on the server and the way to it. A check looks at one thing and has a line to say on it, or several."""

import statistics
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal, NamedTuple, TypeAlias

from db import doctor, system
from db.doctor import Expected, Server
from db.errors import Unavailable
from db.pool import Database
from db.url import VERIFIED, ConnectArgs
from service.settings import Settings

Level: TypeAlias = Literal["ok", "unseen", "warn", "fail"]
LEVELS = ("ok", "unseen", "warn", "fail")
LOOPBACK = ("127.0.0.1", "::1", "localhost")
PINGS = 20
FAR = 5.0  # milliseconds of a round trip
SKEW, LEEWAY = 2.0, 30.0  # seconds; the second is what tokens are given
OLDEST, NEWEST = 14, 18


class Line(NamedTuple):
    """What a check says, and what is to be done about it."""

    level: Level
    detail: str
    remedy: str | None = None


@dataclass
class Patient:
    """What is looked at: the service's database, as its first connection found it."""

    settings: Settings
    db: Database
    direct: ConnectArgs
    tls: str | None
    server: Server
    schema: str | None

    @property
    def expected(self) -> Expected:
        """What the schema should have; nothing is known of one that is not this version's."""
        none = frozenset[str]()
        return doctor.expected() if self.schema == system.SCHEMA else Expected(none, none, none)

    @property
    def grave(self) -> Level:
        """The level of what must not be in production."""
        return "fail" if self.settings.environment == "production" else "warn"


Lines: TypeAlias = AsyncIterator[Line]


async def connection(patient: Patient) -> Lines:
    args, tls = patient.db.args, patient.tls
    yield Line("ok", f"{args.place}, {'pooled' if args.pooled else 'direct'}, {tls or 'no TLS'}")
    if args.host in LOOPBACK or args.host.startswith("/"):
        return
    if tls is None:
        detail = "passwords and rows cross the network in clear"
        yield Line(patient.grave, detail, "add sslmode=require to DATABASE_URL")
    elif args.sslmode not in VERIFIED:
        yield Line("warn", "the server's certificate is not verified", "add sslmode=require to DATABASE_URL")


async def latency(patient: Patient) -> Lines:
    took = []
    for _ in range(PINGS):
        sent = time.perf_counter()
        await doctor.ping(patient.db)
        took.append((time.perf_counter() - sent) * 1000)
    p50 = statistics.median(took)
    detail = f"{p50:.1f} ms a round trip (p50 of {PINGS}), and every request takes one"
    if p50 > FAR:
        yield Line("warn", detail, "run the service in the region of the database")
    else:
        yield Line("ok", detail)


async def direct(patient: Patient) -> Lines:
    """Where migrations and backups go."""
    if patient.direct.pooled:
        yield Line(
            "warn",
            "no direct endpoint is known, which migrations and backups need",
            "give DATABASE_URL_UNPOOLED, the URL without -pooler in its host",
        )
    elif patient.direct.place != patient.db.args.place:
        other = Database(patient.direct, patient.db.options)
        await other.open()
        try:
            found = (await system.state(other)).schema
        except Unavailable as error:
            yield Line(
                "fail", f"DATABASE_URL_UNPOOLED: {error}", "correct it; migrations and backups need it"
            )
        else:
            if found == patient.schema:
                yield Line("ok", f"{patient.direct.place} answers")
            else:
                yield Line(
                    "fail",
                    f"DATABASE_URL_UNPOOLED is another database: its schema is at {found}, not {patient.schema}",
                    "let both URLs name the same",
                )
        finally:
            await other.close()


async def server(patient: Patient) -> Lines:
    found = patient.server
    if found.major < OLDEST:
        yield Line("fail", f"PostgreSQL {found.version} is too old", f"move to {OLDEST} or newer")
    elif found.major > NEWEST:
        yield Line("warn", f"PostgreSQL {found.version} is newer than what was tried", f"up to {NEWEST} is")
    else:
        yield Line("ok", f"PostgreSQL {found.version}")
    if found.read_only:
        yield Line("fail", "it is a standby and takes no writes", "point DATABASE_URL at the primary")
    if found.careless:
        yield Line(
            patient.grave,
            f"off: {found.careless}; what was acknowledged may be lost in a crash",
            "turn it on, by alter system or where the role or database sets it",
        )
    if found.replication_role != "origin":
        yield Line(
            "fail",
            f"session_replication_role is {found.replication_role}: no trigger and no foreign key holds",
            "alter role or alter database ... reset session_replication_role",
        )


async def connections(patient: Patient) -> Lines:
    """The pools of all instances against what the server has."""
    settings, has = patient.settings, patient.server.connections
    each = settings.database_pool_size + settings.database_max_overflow
    workers = settings.workers * settings.database_instances
    told = (
        f"{settings.database_instances} instances x {settings.workers} workers x {each} = {each * workers};"
        f" the server has {has} for this role, {patient.server.used} are in use"
    )
    if patient.db.args.pooled:
        yield Line("ok", f"{told}; behind a pooler its limits count")
    elif has < workers:
        yield Line("fail", told, "fewer instances or workers, a larger compute, or the pooled endpoint")
    elif each * workers > has:
        share = has // workers
        yield Line(
            "warn",
            f"{told}; each worker takes {share} only",
            f"DATABASE_POOL_SIZE={share}, or the pooled endpoint",
        )
    else:
        yield Line("ok", told)


async def clock(patient: Patient) -> Lines:
    """Tokens go by the clocks of machines, sessions by the server's."""
    sent = datetime.now(UTC)
    there = await doctor.clock(patient.db)
    skew = abs((there - sent - (datetime.now(UTC) - sent) / 2).total_seconds())
    level: Level = "fail" if skew >= LEEWAY else "warn" if skew >= SKEW else "ok"
    remedy = None if level == "ok" else "synchronise this machine's clock (chrony, systemd-timesyncd)"
    yield Line(level, f"this machine's and the server's differ by {skew:.1f} s", remedy)


async def role(patient: Patient) -> Lines:
    found = await doctor.role(patient.db)
    remedy = "give the service a role of its own, as db/README.md says"
    harmless = patient.settings.environment == "development"
    if found.powers and not harmless:
        yield Line("fail", f"{found.name} is {found.powers}", remedy)
    if found.ddl and not harmless:
        yield Line("warn", f"{found.name} may {found.ddl}", remedy)
    if harmless or not (found.powers or found.ddl):
        yield Line(
            "ok",
            f"{found.name}" + (f", {found.powers}; in production that would fail" if found.powers else ""),
        )
