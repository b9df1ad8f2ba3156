"""`roundtrip explain`: the plan of any statement, by its name. It loads all of them, so only where it runs."""

import re
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from itertools import groupby
from typing import TYPE_CHECKING, Literal

import click

from db import statements
from db.errors import Unstorable
from db.pool import Database
from db.statements import Statement
from service import command
from service.command import say
from service.settings import Settings

if TYPE_CHECKING:
    from db.explain import Way

SUGGESTED = 5

_SENTENCE = re.compile(r"(?<=\.) ")


class _Undo(Exception):
    """Ends a transaction whose effects nobody wants."""


def _parameter(_: click.Context, __: click.Parameter, given: tuple[str, ...]) -> dict[str, str | None]:
    pairs = (text.partition("=") for text in given)
    return {name: value if equals else None for name, equals, value in pairs}


@click.command()
@click.argument("statement", required=False)
@click.option(
    "--param", "given", multiple=True, metavar="NAME=VALUE", callback=_parameter,
    help="A parameter's value; NAME alone for null. Repeatable.",
)  # fmt: skip
@click.option(
    "--analyze", is_flag=True, help="Run it too, writes too, and undo it. It holds its locks meanwhile."
)
@click.option("--generic", is_flag=True, help="The plan for any values, to which PostgreSQL may settle.")
@click.option("--buffers", is_flag=True, help="With the pages that were read.")
@click.option("--format", type=click.Choice(["text", "json"]), default="text", show_default=True)
def explain(
    statement: str | None,
    given: Mapping[str, str | None],
    analyze: bool,
    generic: bool,
    buffers: bool,
    format: Literal["text", "json"],
) -> None:
    """Show the plan of STATEMENT, such as tasks.get; without one, list all names.

    Parameters have real values: the user with the most tasks, one of their tasks, and where no row gives one, a value
    made up. They are told on stderr; --param changes them. The database is DATABASE_URL_UNPOOLED, DATABASE_URL or the
    embedded one.

    A statement is run by --analyze with a session of its own, in a transaction that is undone; what a sequence gave
    is not.
    """
    if statement is None:
        for line in _names():
            click.echo(line)
        return
    from db.explain import Way

    chosen = _chosen(statement)
    taken = [item.split()[0] for item in chosen.takes]
    if unknown := sorted(given.keys() - set(taken)):
        raise click.ClickException(
            f"{chosen.name} does not take {', '.join(unknown)}; it takes {', '.join(taken) or 'nothing'}"
        )
    way = Way(analyze, generic, buffers, format)

    async def work(db: Database, _: Settings) -> str:
        command.direct(db.args)
        return await _explain(db, chosen, given, way)

    click.echo(command.run(work))


async def _explain(db: Database, chosen: Statement, given: Mapping[str, str | None], way: "Way") -> str:
    from db import explain as plans

    text = ""
    try:
        async with db.transaction() as part:
            found = await plans.sample(part)
            filled = plans.values(chosen, found, given)
            say(f"-- {chosen.name}: {chosen.doc}")
            for name, value in filled.items():
                say(f"--   {name} = {plans.literal(value)}")
            if way.analyze and found:
                await plans.sign_in(part, chosen, filled, found)
            text = await plans.plan(part, chosen, filled, way)
            raise _Undo
    except _Undo:
        return text
    except Unstorable as error:
        raise click.ClickException(
            f"a value is not of its type, or not one that the statement takes: {error}"
        ) from error


def _chosen(name: str) -> Statement:
    """The statement of a name. Refuses one that has no plan, and suggests names where there is none."""
    from db.explain import explainable

    known = {statement.name: statement for statement in statements.every()}
    if name in known and explainable(known[name]):
        return known[name]
    if name in known:
        raise click.ClickException(f"{name} is no query, and has no plan")
    near = [other for other in known if other.startswith(f"{name}_")] or get_close_matches(
        name, known, SUGGESTED
    )
    said = f"; perhaps {', '.join(near[:SUGGESTED])}" if near else "; `roundtrip explain` lists all"
    raise click.ClickException(f"there is no statement {name}{said}")


def _names() -> Iterator[str]:
    """By resource; a family as its members' names have it in common, each with its choices in braces."""
    for family, members in groupby(statements.every(), lambda statement: statement.family):
        whole = list(members)
        axes = zip(*(statement.member for statement in whole), strict=True)
        choices = ["{" + ",".join(dict.fromkeys(axis)) + "}" for axis in axes]
        yield f"{'_'.join((family, *choices))}"
        yield f"    {_SENTENCE.split(whole[0].doc)[0]}"
