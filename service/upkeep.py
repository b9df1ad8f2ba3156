"""`roundtrip doctor` on what is in the database: is the schema whole, and is it looked after?"""

import re

from db import doctor, recovery, statements, system
from service.checks import Level, Line, Lines, Patient
from service.command import some

MANY = 10_000  # rows from which on it matters
DEAD = 0.2  # of the rows
OLD, TOO_OLD = 500_000_000, 1_500_000_000  # transactions; at 2 billion the server takes no more
HIDDEN = "<insufficient privilege>"

_COMMENTS = re.compile(r" ?/\*.*?\*/")  # from 18 on, what stood in a list
_CONSTANTS = re.compile(r"'(?:[^']|'')*'|\$\d+|\b(?:\d+|true|false|null|epoch)\b")
_LISTS = re.compile(r"\?(?: ?, ?\?)+")


async def schema(patient: Patient) -> Lines:
    now = patient.schema
    if now is None:
        yield Line("fail", "there is no schema", "roundtrip migrate")
    elif not system.serves(now):
        yield Line("fail", f"the schema is at {now}, this version needs {system.SCHEMA}", "roundtrip migrate")
    elif now > system.SCHEMA:
        yield Line("ok", f"at {now}, of a newer version than this one ({system.SCHEMA})")
    else:
        yield Line("ok", f"at {now}, current")


async def indexes(patient: Patient) -> Lines:
    found = {index.name: index for index in await doctor.indexes(patient.db)}
    wanted = patient.expected.indexes
    for name in sorted(wanted - found.keys()):
        yield Line(
            "fail",
            f"{name} is missing: what rides on it reads whole tables",
            "create it concurrently, as db/schema says",
        )
    for name, index in found.items():
        if not index.is_valid:
            yield Line(
                "fail",
                f"{name} is not valid: a build of it failed, or is under way",
                f"reindex index concurrently {name}",
            )
        elif wanted and name not in wanted and not index.scans and not index.is_unique:
            yield Line(
                "warn",
                f"{name} is none of this schema, nothing uses it, and every write pays for it",
                f"drop index concurrently {name}",
            )
    for name in await doctor.unindexed(patient.db):
        yield Line(
            "warn",
            f"{name}, a foreign key, has no index: a delete of what it points at reads its table",
            "index its columns",
        )
    idle = [
        name for name in sorted(wanted & found.keys()) if not found[name].scans and found[name].rows >= MANY
    ]
    yield Line("ok", f"{len(found)}" + (f"; not used since statistics began: {some(idle)}" if idle else ""))


async def constraints(patient: Patient) -> Lines:
    found = await doctor.constraints(patient.db)
    for name in sorted(patient.expected.constraints - found.keys()):
        yield Line("fail", f"{name} is missing", "add it, as db/schema/constraints.sql says")
    for name, is_valid in found.items():
        if not is_valid:
            yield Line(
                "warn",
                f"{name} was never validated: older rows may break it",
                f"alter table ... validate constraint {name}",
            )
    yield Line("ok", f"{len(found)}")


async def triggers(patient: Patient) -> Lines:
    found = await doctor.triggers(patient.db)
    for name in sorted(patient.expected.triggers - found.keys()):
        yield Line("fail", f"{name} is missing", "create it, as db/schema says")
    for name, fires in found.items():
        if not fires:
            yield Line(
                "fail",
                f"{name} is disabled: nothing keeps true what it does",
                "alter table ... enable trigger ..., then look at what was written since",
            )
    yield Line("ok", f"{len(found)}, with those of foreign keys")


async def sequences(patient: Patient) -> Lines:
    async with patient.db.transaction() as part:
        found = await recovery.sequences(part)
    for counter in found:
        if counter.behind:
            yield Line(
                "fail",
                f"{counter.column} has {counter.highest:,} and would be given {counter.next:,}",
                "select setval(...) past it, as the owner",
            )
    yield Line("ok", f"{len(found)}")


async def vacuum(patient: Patient) -> Lines:
    """Dead rows, statistics of the planner, age, and what stands in the way."""
    tables = await doctor.tables(patient.db)
    for table in tables:
        if table.dead >= MANY and table.dead > DEAD * table.live:
            yield Line(
                "warn",
                f"{table.name} has {table.dead:,} dead rows beside {table.live:,}",
                f"vacuum (analyze) {table.name}",
            )
        elif table.live >= MANY and table.analyzed is None:
            yield Line(
                "warn",
                f"{table.name} has {table.live:,} rows and was never analyzed: plans are guesses",
                f"analyze {table.name}",
            )
    age = patient.server.xid_age
    if age >= OLD:
        level: Level = "fail" if age >= TOO_OLD else "warn"
        yield Line(
            level,
            f"the oldest row is {age:,} transactions old; at 2 billion the server stops",
            "vacuum freeze, and see what keeps autovacuum from it",
        )
    if not patient.server.vacuums:
        yield Line("warn", "autovacuum or track_counts is off", "turn them on")
    if age < OLD:
        yield Line(
            "ok",
            f"{sum(table.dead for table in tables):,} dead rows in {len(tables)} tables, {age:,} transactions old",
        )


async def transactions(patient: Patient) -> Lines:
    """What vacuum may not clean up behind."""
    open = await doctor.transactions(patient.db)
    for count, what, remedy in (
        (open.long, "open for an hour", "see pg_stat_activity; pg_terminate_backend(pid)"),
        (open.idle, "idle for five minutes", "see pg_stat_activity; set idle_in_transaction_session_timeout"),
        (open.prepared, "prepared an hour ago", "see pg_prepared_xacts; rollback prepared '...'"),
    ):
        if count:
            yield Line("warn", f"{count} transactions are {what}, and vacuum waits for them", remedy)
    if open.slots:
        yield Line(
            "warn",
            f"{open.slots} replication slots are not in use and hold back WAL and vacuum",
            "see pg_replication_slots; pg_drop_replication_slot(...)",
        )
    if open.hidden:
        yield Line("unseen", f"{open.hidden} sessions of other roles", "grant pg_read_all_stats to the role")
    if not any((open.long, open.idle, open.prepared, open.slots, open.hidden)):
        yield Line("ok", "none is open for long")


async def slow(patient: Patient) -> Lines:
    """Statements that are slow on average, by their names here."""
    async with patient.db.transaction() as part:
        found = await doctor.slow(part)
    unseen = {
        "absent": ("pg_stat_statements is not installed", "create extension pg_stat_statements"),
        "unloaded": ("pg_stat_statements is not loaded", "shared_preload_libraries = 'pg_stat_statements'"),
        "denied": ("the role may not read pg_stat_statements", "grant pg_read_all_stats to the role"),
    }
    if found.seen in unseen:
        yield Line("unseen", *unseen[found.seen])
        return
    if hidden := [cost for cost in found.statements if cost.query == HIDDEN]:
        detail = f"{len(hidden)} slow statements of other roles"
        yield Line("unseen", detail, "grant pg_read_all_stats to the role")
    for cost in found.statements:
        if cost.query == HIDDEN:
            continue
        name = _named(cost.query)
        remedy = (
            f"roundtrip explain {name} --analyze"
            if name
            else "it is none of this version's: find who sends it"
        )
        took = f"{cost.mean:,.0f} ms on average of {cost.calls:,}, {cost.longest:,.0f} at worst"
        yield Line("warn", f"{name or cost.query.strip().splitlines()[0]}: {took}", remedy)
    if not found.statements:
        yield Line("ok", "no statement takes 100 ms on average")


def _named(query: str) -> str | None:
    """The name of a statement as pg_stat_statements has it: with parameters in place of its constants."""
    return {_skeleton(statement.sql): statement.name for statement in statements.every()}.get(
        _skeleton(query)
    )


def _skeleton(sql: str) -> str:
    return _LISTS.sub("?", _CONSTANTS.sub("?", " ".join(_COMMENTS.sub("", sql).split())))
