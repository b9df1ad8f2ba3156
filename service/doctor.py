"""`roundtrip doctor`: what is wrong with the database, and what to do about it."""

import asyncio
import sys
from collections.abc import AsyncIterator, Sequence

import click
import msgspec

from db import doctor as facts
from db import system
from db.errors import Denied, Unavailable
from db.pool import Database, PoolOptions
from db.url import parse
from service import checks, command, upkeep
from service.checks import LEVELS, Level, Patient
from service.settings import Settings

STATEMENT = 60.0
# fmt: off
SERVER = (
    checks.connection, checks.latency, checks.direct, checks.server, checks.connections, checks.clock, checks.role,
)
CONTENT = (
    upkeep.indexes, upkeep.constraints, upkeep.triggers, upkeep.sequences, upkeep.vacuum, upkeep.transactions, upkeep.slow,
)
# fmt: on


class Finding(msgspec.Struct):
    """A line of a check."""

    level: Level
    check: str
    detail: str
    remedy: str | None = None


class Report(msgspec.Struct):
    """All findings, and the worst of their levels."""

    level: Level
    findings: Sequence[Finding]


@click.command()
@click.option(
    "--json", "as_json", is_flag=True, help="As JSON: level, findings with level, check, detail, remedy."
)
def doctor(as_json: bool) -> None:
    """Look at the database that the service works on: what is wrong, and what to do about it.

    Connection, latency, schema, connections, clock, indexes, constraints, triggers, sequences, vacuum, slow
    statements, the role. It asks DATABASE_URL, with no more rights than serving needs, changes nothing, and says
    `unseen` of what the role cannot see.

    Exits with 1 if something fails, which makes the service wrong or down; else with 0, also where it warns of what
    makes it slow or fragile.
    """
    with command.target(migrated=False) as (settings, direct):
        report = asyncio.run(_examine(settings, direct))
    if as_json:
        click.echo(msgspec.json.encode(report))
    else:
        for finding in report.findings:
            click.echo(f"{finding.level:6}  {finding.check:12}  {finding.detail}")
            if finding.remedy:
                click.echo(f"{'':22}-> {finding.remedy}")
    sys.exit(report.level == "fail")


async def _examine(settings: Settings, direct: str) -> Report:
    tls: list[str | None] = []

    async def seen(connection: object) -> None:
        tls.append(facts.encryption(connection))

    args = parse(settings.database_url or direct)
    db = Database(args, PoolOptions(size=1, statement=STATEMENT), init=seen)
    await db.open()
    try:
        server, schema = await facts.server(db), (await system.state(db)).schema
        patient = Patient(settings, db, parse(direct), tls[0], server, schema)
        findings = [finding async for finding in _findings(patient)]
    except Unavailable as error:
        findings = [
            Finding("fail", "connection", str(error), "see that it runs, and that DATABASE_URL is right")
        ]
    finally:
        await db.close()
    return Report(max((finding.level for finding in findings), key=LEVELS.index), findings)


async def _findings(patient: Patient) -> AsyncIterator[Finding]:
    for check in (*SERVER, upkeep.schema, *(CONTENT if patient.schema else ())):
        try:
            async for line in check(patient):
                yield Finding(line.level, check.__name__, line.detail, line.remedy)
        except Denied as error:
            yield Finding("unseen", check.__name__, str(error), "ask as the owner")
