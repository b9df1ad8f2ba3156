"""The figures that README.md and ARCHITECTURE.md quote: blocks between two comments, written from a report and never by hand."""

import re
from collections.abc import Callable
from pathlib import Path

from benchmarks.ratios import TITLES, US, named, speed, wanted, written
from benchmarks.results import Peer, Report
from benchmarks.summary import count, margin, ms, slopes, target, title_of

BEGIN = (
    "<!-- figures: {name} (written by: python -m benchmarks.report readme benchmarks/report/report.json) -->"
)
END = "<!-- end of figures -->"
REPORT = Path("benchmarks/report/report.json")


def fill(report: Report, root: Path) -> None:
    """Write every block of the papers anew."""
    for name in ("README.md", "ARCHITECTURE.md"):
        path = root / name
        path.write_text(filled(path.read_text(), report))


def filled(text: str, report: Report) -> str:
    """A paper with its blocks as the report has them. Raises KeyError for a block that is not known."""
    for name in set(blocks(text)):
        begin = BEGIN.format(name=name)
        block = re.compile(re.escape(begin) + ".*?" + re.escape(END), re.DOTALL)
        written = f"{begin}\n{BLOCKS[name](report)}\n{END}"
        text = block.sub(lambda _, written=written: written, text)  # type: ignore[misc]
    return text


def blocks(text: str) -> list[str]:
    """Names of the blocks in a paper."""
    return re.findall(re.escape(BEGIN).replace(r"\{name\}", r"(\w+)"), text)


def peers(report: Report) -> str:
    """Roundtrip and its peers: requests a second, and how many times as many Roundtrip gives."""
    connections = wanted().connections
    present = [peer for peer in report.peers if not peer.absent]
    if not present:
        return "Not measured yet."
    lines = [
        f"| {connections} connections, requests a second | {' | '.join(TITLES.values())} |",
        "|---" * 4 + "|",
    ]
    present.sort(key=lambda peer: (peer.name != US, -(speed(peer.runs, "single") or 0)))
    us = next((peer for peer in present if peer.name == US and peer.processes == 1), None)
    lines += [
        f"| {_label(peer, connections)} | {' | '.join(_cell(peer, s, us) for s in TITLES)} |"
        for peer in present
    ]
    return "\n".join([*lines, "", _made(report)])


def targets(report: Report) -> str:
    """Each target with its p99."""
    if not report.verdicts:
        return "Not measured yet."
    lines = ["| target, p99 | limit | measured | to spare |", "|---|---|---|---|"]
    lines += [
        f"| {target(v)} | {v.limit_ms:,g} ms | {ms(v.p99_ms)} ms | {f'{margin(v):.0f} %' if v.passed else '**missed**'} |"
        for v in report.verdicts
    ]
    return "\n".join(lines)


def growing(report: Report) -> str:
    """What a request costs more for each tenfold of what grows."""
    if not report.curves:
        return "Not measured yet."
    lines = [
        "| what grows | request | from .. to | CPU, each tenfold | p50, each tenfold |",
        "|---|---|---|---|---|",
    ]
    for curve in report.curves:
        if curve.points:
            span = f"{count(curve.points[0].x)} .. {count(curve.points[-1].x)}"
            lines.append(f"| {curve.x} | {title_of(curve)} | {span} | {' | '.join(slopes(curve))} |")
    return "\n".join([*lines, "", _made(report)])


def _label(peer: Peer, connections: int) -> str:
    """A peer, and its connections where they are others."""
    others = sorted({run.connections for run in peer.runs} - {connections})
    name = f"{named(peer)}, {' or '.join(map(str, others))} connections" if others else named(peer)
    return f"**{name}**" if peer.name == US else name


def _cell(peer: Peer, scenario: str, us: Peer | None) -> str:
    theirs = speed(peer.runs, scenario)
    mine = speed(us.runs, scenario) if us else None
    if not theirs:
        return ""
    return count(theirs) if peer.name == US or not mine else f"{count(theirs)} (x {written(mine / theirs)})"


def _made(report: Report) -> str:
    machine = ", ".join(report.machine[name] for name in ("CPU", "memory") if name in report.machine)
    quick = " A quick run, with little data and short loads: not to be quoted." if report.quick else ""
    return f"{report.started:%Y-%m-%d}, {machine}, {report.machine.get('cores', '?')} cores.{quick}"


BLOCKS: dict[str, Callable[[Report], str]] = {"peers": peers, "targets": targets, "growth": growing}
