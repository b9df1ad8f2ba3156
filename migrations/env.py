"""How Alembic reaches the database: the direct endpoint, one deployer at a time, one transaction a migration.

A caller may hand over, in `config.attributes`: `url`; `reading` (true: wait for nobody, create nothing);
`patience`, the seconds to wait for another deployer; `on_apply`, called after each migration.
"""

import asyncio
import time
from collections.abc import Iterable
from logging import getLogger
from logging.config import fileConfig
from typing import Any

import asyncpg
from alembic import context
from alembic.operations import MigrationScript
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, NullPool, text
from sqlalchemy.ext.asyncio import create_async_engine

from db.models import metadata
from db.url import UrlError, parse
from service.settings import SettingsError, load

LOCK_TIMEOUT = "5s"
STATEMENT_TIMEOUT = "60s"
CONNECT_TIMEOUT = 15
PATIENCE = 300
ADVISORY_LOCK = int.from_bytes(b"migrate")

log = getLogger("roundtrip.migrate")
config = context.config
attributes = config.attributes


def offline() -> None:
    """Write the SQL instead of running it; needs no database."""
    context.configure(
        dialect_name="postgresql",
        target_metadata=metadata,
        literal_binds=True,
        dialect_opts={"paramstyle": "named"},
        transaction_per_migration=True,
    )
    for setting in _timeouts():
        context.execute(setting)
    with context.begin_transaction():
        context.run_migrations()


async def online() -> None:
    engine = create_async_engine("postgresql+asyncpg://", async_creator=_connect, poolclass=NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(_migrate)


def _migrate(connection: Connection) -> None:
    for setting in _timeouts():
        connection.execute(text(setting))
    connection.commit()
    if not attributes.get("reading"):
        _take_turn(connection)
    context.configure(
        connection=connection,
        target_metadata=metadata,
        transaction_per_migration=True,
        compare_type=True,
        compare_server_default=True,
        autogenerate_plugins=["alembic.autogenerate.*", "alembic.ext.checkconstraint_byname"],
        process_revision_directives=_number,
        on_version_apply=_tell,
    )
    with context.begin_transaction():
        context.run_migrations()


def _take_turn(connection: Connection) -> None:
    """Hold the advisory lock of deployers until this connection closes.

    By asking again and again: a statement that waited for the lock would hold a snapshot all the while, and
    `create index concurrently` in the deployer before us waits for every older snapshot to end.
    """
    end = time.monotonic() + float(attributes.get("patience", PATIENCE))
    told = False
    while not connection.scalar(text(f"select pg_try_advisory_lock({ADVISORY_LOCK})")):
        connection.commit()
        if time.monotonic() > end:
            raise CommandError("another deployer is still migrating this database; try again when it is done")
        if not told:
            log.warning("another deployer is migrating this database; waiting for it")
            told = True
        time.sleep(0.2)
    connection.commit()


def _tell(*_: Any, **told: Any) -> None:
    attributes.get("on_apply", id)(told["step"])


def _timeouts() -> tuple[str, str]:
    return f"set lock_timeout = '{LOCK_TIMEOUT}'", f"set statement_timeout = '{STATEMENT_TIMEOUT}'"


async def _connect() -> asyncpg.Connection:
    try:
        target = parse(_url())
        if target.pooled:
            raise CommandError(
                f"{target.host} is a pooler, where a session's lock and settings are not its own;"
                " set DATABASE_URL_UNPOOLED to the direct endpoint"
            )
        return await asyncpg.connect(
            **target.kwargs(),
            timeout=CONNECT_TIMEOUT,
            server_settings={"application_name": "roundtrip migrate"},
        )
    except UrlError as error:
        raise CommandError(f"the database URL: {error}") from None
    except (OSError, asyncpg.PostgresError) as error:
        raise CommandError(f"no connection to {target.place}: {error or type(error).__name__}") from error


def _url() -> str:
    if given := attributes.get("url"):
        return str(given)
    try:
        url = load(serving=False).direct_url
    except SettingsError as error:
        raise CommandError(str(error)) from None
    if url is None:
        raise CommandError(
            "DATABASE_URL (or DATABASE_URL_UNPOOLED) says which database to migrate, and neither is set;"
            " `roundtrip serve` without them starts a database of its own and migrates it"
        )
    return url


def _number(_: MigrationContext, __: Any, scripts: list[MigrationScript]) -> None:
    """Give a new migration the next number, so that the files sort in the order they run."""
    known: Iterable[str] = (s.revision for s in ScriptDirectory.from_config(config).walk_revisions())
    scripts[0].rev_id = f"{max((int(rev) for rev in known), default=0) + 1:04}"


if config.config_file_name is not None:
    fileConfig(config.config_file_name, disable_existing_loggers=False)
if context.is_offline_mode():
    offline()
else:
    asyncio.run(online())
