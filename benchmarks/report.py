"""What a run found, as files, on the terminal and in the papers.

python -m benchmarks.report show REPORT     the table of the terminal
python -m benchmarks.report page REPORT     report.html anew, beside it
python -m benchmarks.report readme REPORT   the blocks of figures in README.md and ARCHITECTURE.md, written anew
"""

import sys
from math import floor, isfinite, log10
from pathlib import Path
from typing import Any

import msgspec

from benchmarks.machine import ROOT, scrubbed
from benchmarks.results import Report

DIGITS = 4  # that a figure keeps; what is before the point is kept in any case


def write(report: Report, folder: Path) -> None:
    """Write report.json and report.html, with no more digits than mean something and nothing of this machine's names."""
    from benchmarks.page import page

    report = msgspec.convert(_tidy(msgspec.to_builtins(report)), Report)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "report.json").write_bytes(encode(report))
    (folder / "report.html").write_text(page(report))


def encode(report: Report) -> bytes:
    """report.json: one order whatever was measured first, a line for each figure."""
    return msgspec.json.format(msgspec.json.encode(report, order="deterministic"), indent=1) + b"\n"


def read(path: Path) -> Report:
    """A report.json that was written."""
    return msgspec.json.decode(path.read_bytes(), type=Report)


def table(report: Report) -> str:
    """The report for a terminal: plain text, 100 columns at most."""
    from benchmarks.terminal import table

    return table(report)


def _tidy(value: Any) -> Any:
    match value:
        case dict():
            return {scrubbed(str(name)): _tidy(part) for name, part in value.items()}
        case list():
            return [_tidy(part) for part in value]
        case float():
            return rounded(value)
        case str():
            return scrubbed(value)
    return value


def rounded(value: float) -> float:
    """A figure in four digits, and never less exact than whole numbers; 0 for what JSON cannot say."""
    if not value or not isfinite(value):
        return 0.0
    return round(value, max(0, DIGITS - 1 - floor(log10(abs(value)))))


def main(arguments: list[str]) -> None:
    """One of the commands above."""
    match arguments:
        case ["show", path]:
            print(table(read(Path(path))))  # noqa: T201
        case ["page", path]:
            write(read(Path(path)), Path(path).parent)
        case ["readme", path]:
            from benchmarks.papers import fill

            fill(read(Path(path)), ROOT)
        case _:
            sys.exit(__doc__)


if __name__ == "__main__":
    main(sys.argv[1:])
