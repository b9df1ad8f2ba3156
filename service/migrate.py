"""`roundtrip migrate`: Alembic, run in this process on whichever database the settings name.

Alembic and SQLAlchemy are imported by the commands only, so that `roundtrip serve` never loads them.
"""

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import migrations

if TYPE_CHECKING:
    from alembic.config import Config
    from alembic.script import Script

BASE = "base"


@click.group(invoke_without_command=True)
@click.pass_context
def migrate(context: click.Context) -> None:
    """Bring the database's schema up to date; on its own the same as `up`.

    The database is DATABASE_URL_UNPOOLED or, without it, DATABASE_URL, which then must not be a pooler. Several may
    run this at once: they take turns, and the second finds nothing to do.
    """
    if context.invoked_subcommand is None:
        context.invoke(up)


@migrate.command(short_help="Apply what the database does not have yet.")
def up() -> None:
    """Apply every migration that the database does not have yet.

    Each is a transaction of its own, or safe to run again. Nothing to do is no error.
    """
    _run("upgrade", "head")


@migrate.command(
    short_help="Undo the last migration, or more.", context_settings={"ignore_unknown_options": True}
)
@click.argument("revision", default="-1")
@click.option("--yes", is_flag=True, help="Do not ask before every table is dropped.")
def down(revision: str, yes: bool) -> None:
    """Undo migrations: the last one, or all after REVISION.

    REVISION is a number such as 0002, a count such as -2, or `base` for an empty database; the last drops all data
    and asks before it does.
    """
    target = _target(revision)
    _careful(target, yes=yes)
    _run("downgrade", target)


@migrate.command(short_help="Go to a revision, up or down.")
@click.argument("revision")
@click.option("--yes", is_flag=True, help="Do not ask before every table is dropped.")
def to(revision: str, yes: bool) -> None:
    """Go to REVISION, up or down, wherever the database is now.

    REVISION is a number such as 0002, `head` or `base`.
    """
    order = [BASE, *(script.revision for script in _scripts())]
    target = {"head": order[-1]}.get(revision, revision)
    if target not in order:
        raise click.ClickException(f"there is no migration {revision}; they are {', '.join(order[1:])}")
    now = _now()
    if _known(now, order) > order.index(target):
        _careful(target, yes=yes)
        _run("downgrade", target)
    else:
        _run("upgrade", target)


@migrate.command(short_help="Show which migrations the database has.")
@click.option("--check", is_flag=True, help="Exit with 1 unless the database has every migration.")
def status(check: bool) -> None:
    """Show which migrations the database has and which are to come; changes nothing and waits for nobody.

    The first line is `current`, `behind` or `ahead`: in the last case the database knows migrations that this version
    of Roundtrip does not.
    """
    scripts = _scripts()
    order = [BASE, *(script.revision for script in scripts)]
    now = _now()
    if now not in order:
        click.echo(f"ahead: the database is at {now}, this version knows up to {order[-1]}")
    else:
        reached = order.index(now)
        missing = len(scripts) - reached
        click.echo(f"behind: {missing} to apply" if missing else "current")
        for number, script in enumerate(scripts, start=1):
            click.echo(f"  {'applied' if number <= reached else 'pending'}  {_line(script)}")
    if check and now != order[-1]:
        sys.exit(1)


@migrate.command(short_help="List all migrations of this version.")
def history() -> None:
    """List all migrations of this version, oldest first; asks no database."""
    for script in _scripts():
        click.echo(f"{_line(script)}")


@migrate.command(short_help="Print the migrations as SQL.")
@click.argument("revision", default=BASE)
def sql(revision: str) -> None:
    """Print the SQL of all migrations after REVISION (by default of all), for review; asks no database."""
    from alembic import command

    config = _config()
    if revision != BASE and revision not in {script.revision for script in _scripts()}:
        raise click.ClickException(f"there is no migration {revision}")
    with _plainly():
        command.upgrade(config, "head" if revision == BASE else f"{revision}:head", sql=True)


def _run(verb: str, target: str) -> None:
    from alembic import command

    steps: list[str] = []

    def tell(step: Any) -> None:
        script = step.up_revision
        steps.append(script.revision)
        click.echo(f"{'applied' if step.is_upgrade else 'undone'}  {_line(script)}")

    with _plainly():
        getattr(command, verb)(_config(on_apply=tell), target)
    if not steps:
        click.echo("nothing to do")


def _line(script: "Script") -> str:
    return f"{script.revision}  {script.doc.rstrip('.')}"


def _now() -> str:
    """The revision the database is at; `base` where it has none, or no table for it."""
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    found: list[str] = []

    def look(heads: tuple[str, ...], _: Any) -> list[Any]:
        found.extend([heads] if isinstance(heads, str) else heads)
        return []

    config = _config(reading=True)
    script = ScriptDirectory.from_config(config)
    with _plainly(), EnvironmentContext(config, script, fn=look, dont_mutate=True):
        script.run_env()
    if len(found) > 1:
        raise click.ClickException(f"the database is at {' and '.join(sorted(found))}: see db/MIGRATIONS.md")
    return found[0] if found else BASE


def _known(revision: str, order: list[str]) -> int:
    if revision not in order:
        raise click.ClickException(
            f"the database is at {revision}, which this version does not know: it was migrated by a newer one"
        )
    return order.index(revision)


def _target(revision: str) -> str:
    if re.fullmatch(r"-\d+", revision) or revision == BASE:
        return revision
    known = [script.revision for script in _scripts()]
    if revision not in known:
        raise click.ClickException(f"there is no migration {revision}; they are {', '.join(known)}")
    return revision


def _careful(target: str, *, yes: bool) -> None:
    order = [BASE, *(script.revision for script in _scripts())]
    if target.startswith("-"):
        target = order[max(0, _known(_now(), order) + int(target))]
    if target == BASE and not yes and _now() != BASE:
        click.confirm("This drops every table and all data. Go on?", abort=True)


def _scripts() -> "list[Script]":
    from alembic.script import ScriptDirectory

    directory = ScriptDirectory.from_config(_config())
    return list(directory.walk_revisions())[::-1]


def _config(**attributes: Any) -> "Config":
    from alembic.config import Config

    config = Config(output_buffer=sys.stdout)
    folder = Path(migrations.__file__).parent
    config.set_main_option("script_location", str(folder).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    config.attributes.update(attributes)
    return config


@contextmanager
def _plainly() -> Iterator[None]:
    """Say what went wrong in a line, without a traceback."""
    from alembic.util import CommandError
    from sqlalchemy.exc import DBAPIError

    try:
        yield
    except CommandError as error:
        newer = " (was it migrated by a newer version of Roundtrip?)" if "Can't locate" in str(error) else ""
        raise click.ClickException(f"{error}{newer}") from error
    except DBAPIError as error:
        statement = (error.statement or "").strip().partition("\n")[0]
        raise click.ClickException(f"{error.orig}\n  at: {statement}") from error


if __name__ == "__main__":
    migrate(prog_name="roundtrip migrate")
