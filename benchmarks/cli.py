"""`roundtrip bench`."""

import asyncio
import importlib.util
import shlex
import signal
import sys
import time
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from benchmarks import remote, suite
from benchmarks.load import LoadError
from benchmarks.results import Report
from benchmarks.stack import FOLDER
from db.cluster import EmbeddedError
from db.errors import Unavailable

NEEDED = ("hdrh", "matplotlib")
EXAMPLES = """\b
roundtrip bench --quick
roundtrip bench --scenario targets
roundtrip bench --scenario single --scenario insert --connections 256
roundtrip bench --scenario mix --rate 500 --duration 60
roundtrip bench --url https://todo.example.com --scenario targets
"""


@click.command(
    name="bench",
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=EXAMPLES,
)
@click.option("--quick", is_flag=True, help="Little data, short loads, in 90 seconds; no figure to quote.")
@click.option(
    "--url", help="A running deployment instead of one of our own, such as https://todo.example.com."
)
@click.option("--yes", is_flag=True, help="Do not ask before a load goes to another machine.")
@click.option(
    "--scenario",
    "chosen",
    multiple=True,
    metavar="NAME",
    type=click.Choice(suite.PARTS),
    help=f"Only this, repeatable: {', '.join(suite.PARTS)}.",
)
@click.option(
    "--rate",
    type=click.FloatRange(0.1, 200_000),
    help="Requests a second, in open loop, for scenarios and mix.",
)
@click.option(
    "--connections",
    type=click.IntRange(1, 20_000),
    default=64,
    help="For scenarios and mix.",
    show_default=True,
)
@click.option(
    "--duration", type=click.FloatRange(0.5, 3600), help="Seconds of each load of scenarios and mix."
)
@click.option(
    "--rows",
    type=click.IntRange(1_000, 10_000_000),
    default=suite.ROWS,
    help="Rows of other users that growth goes up to, as far as the disk has room.",
    show_default=True,
)
@click.option("--json", "as_json", is_flag=True, help="Print the report as JSON instead of tables.")
@click.option(
    "--out",
    type=click.Path(file_okay=False, path_type=Path),
    default=FOLDER / "report",
    help="Folder for report.json and report.html.",
    show_default=True,
)
def bench(
    *,
    quick: bool,
    url: str | None,
    yes: bool,
    chosen: tuple[str, ...],
    rate: float | None,
    connections: int,
    duration: float | None,
    rows: int,
    as_json: bool,
    out: Path,
) -> None:
    """Measure: the latency targets of the documents, each scenario alone, a realistic mix, growth, and peers.

    Without --url it starts a PostgreSQL of its own under .roundtrip/bench, seeds 1,000 users with 1,000,000 tasks (once;
    50 of the users have 10,000 each), and serves them. All of it takes about a quarter of an hour, the first time
    some minutes more. Exits with 1 where a target is missed.

    benchmarks/README.md tells what each figure means.
    """
    with _plainly():
        _needs()
        if url is not None:
            _ask_first(url, yes=yes)
        asked = suite.Asked(
            parts=chosen or suite.PARTS,
            quick=quick,
            url=url,
            rate=rate,
            connections=connections,
            duration_s=duration or (suite.QUICK_S if quick else suite.FULL_S),
            rows=rows,
            command=shlex.join(["roundtrip", "bench", *sys.argv[2:]]),
        )
        report = asyncio.run(_until_told(suite.measure(asked, _progress())))
        _tell(report, out, as_json=as_json)
    if not all(verdict.passed for verdict in report.verdicts):
        sys.exit(1)


async def _until_told(measuring: Coroutine[Any, Any, Report]) -> Report:
    """SIGTERM cancels, as Ctrl-C does, so that nothing is left running."""
    task = asyncio.ensure_future(measuring)
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await task
    except asyncio.CancelledError:
        raise click.Abort from None


def _needs() -> None:
    if missing := [name for name in NEEDED if importlib.util.find_spec(name) is None]:
        raise click.ClickException(
            f"{' and '.join(missing)} not installed; run it as: uv run --group bench roundtrip bench"
        )


def _ask_first(url: str, *, yes: bool) -> None:
    """Say what goes to a deployment, and have it allowed where that is not this machine."""
    click.echo(remote.announcement(url), err=True)
    if not yes and not remote.place(url).local:
        click.confirm("Go on?", abort=True, err=True)


def _progress() -> suite.Progress:
    began = time.monotonic()

    def tell(line: str) -> None:
        click.echo(f"{time.monotonic() - began:5.0f} s  {line}", err=True)

    return tell


def _tell(report: Report, out: Path, *, as_json: bool) -> None:
    from benchmarks import report as reports

    reports.write(report, out)
    click.echo(reports.encode(report).decode() if as_json else reports.table(report))
    click.echo(f"\n{out / 'report.html'}\n{out / 'report.json'}", err=True)


@contextmanager
def _plainly() -> Iterator[None]:
    """What may go wrong, said in a line."""
    try:
        yield
    except (LoadError, EmbeddedError, Unavailable) as error:
        raise click.ClickException(str(error)) from error
