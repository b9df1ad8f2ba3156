"""`roundtrip health`: whether the server on this machine is ready. A container asks every few seconds, so nothing of the
service is loaded here.
"""

import sys
from contextlib import closing
from http.client import HTTPConnection, HTTPException

import click

PATIENCE = 2.0
MUCH = 300


@click.command()
@click.option(
    "--port",
    type=click.IntRange(1, 65535),
    envvar="PORT",
    default=8000,
    help="Port the server listens on.  [PORT, default 8000]",
)
@click.option(
    "--alive", is_flag=True, help="Ask only whether the process is alive, which leaves the database alone."
)
def health(port: int, alive: bool) -> None:
    """Tell whether the server on this machine is ready.

    Asks /readyz, which asks the database, and waits for 2 seconds. Exits with 0 if it is ready, else with 1 and a line
    that says why.
    """
    path = "/healthz" if alive else "/readyz"
    if complaint := _complaint(port, path):
        click.echo(f"roundtrip health: http://127.0.0.1:{port}{path}: {complaint}", err=True)
        sys.exit(1)


def _complaint(port: int, path: str) -> str | None:
    # Not urllib: it would send this to the proxy that the environment may name.
    with closing(HTTPConnection("127.0.0.1", port, timeout=PATIENCE)) as connection:
        try:
            connection.request("GET", path)
            answer = connection.getresponse()
            text = answer.read(MUCH).decode(errors="replace")
        except TimeoutError:
            return f"no answer within {PATIENCE:.0f} s"
        except (OSError, HTTPException) as error:
            return _line(str(error) or type(error).__name__)
    return None if answer.status == 200 else _line(f"{answer.status} {answer.reason} {text}")  # noqa: PLR2004


def _line(text: str) -> str:
    return " ".join(text.split())


if __name__ == "__main__":
    health(prog_name="roundtrip health")
