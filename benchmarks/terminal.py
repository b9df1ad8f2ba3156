"""A report as plain text, no line longer than 100 columns."""

from collections.abc import Sequence
from textwrap import wrap

from benchmarks.curves import cost
from benchmarks.ratios import TITLES, named, ratios, typical, wanted, written
from benchmarks.results import Report, Run
from benchmarks.summary import (
    MARKS,
    count,
    load,
    margin,
    missing,
    ms,
    shortfall,
    slopes,
    summary,
    title,
    title_of,
    warnings,
)

WIDTH = 100
Row = Sequence[str]


def table(report: Report) -> str:
    """All of it, the summary last, where a terminal is read first."""
    parts = [
        _targets(report),
        _runs(report),
        _peers(report),
        _ratios(report),
        _curves(report),
        _left_out(report),
        _summary(report),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def aligned(header: Row, rows: Sequence[Row], words: int = 1) -> str:
    """Columns side by side: the first `words` of them to the left, figures to the right, the first cut where all is too wide."""
    lines = [header, *rows]
    widths = [max(len(line[n]) for line in lines) for n in range(len(header))]
    widths[0] -= max(0, sum(widths) + 2 * (len(widths) - 1) - WIDTH)
    return "\n".join(
        "  ".join(
            cut(cell, width).ljust(width) if n < words else cell.rjust(width)
            for n, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: max(width - 3, 0)] + "..."


def _targets(report: Report) -> str:
    rows = [
        (
            v.target,
            MARKS[v.passed],
            v.where,
            f"{v.limit_ms:g}",
            ms(v.p99_ms),
            f"{margin(v):.0f} %",
            f"{v.requests:,}",
        )
        for v in report.verdicts
    ]
    return (
        rows and aligned(("Target", "", "where", "limit ms", "p99 ms", "margin", "requests"), rows, 3)
    ) or ""


def _runs(report: Report) -> str:
    rows = [_run(title(run), run) for run in report.runs]
    header = ("Scenario", "load", "a second", "p50 ms", "p99 ms", "p99.9", "service us", "PG us", "errors")
    return (rows and aligned(header, rows, 2)) or ""


def _run(name: str, run: Run) -> Row:
    slow = " (generator!)" if run.generator.bottleneck else ""
    return (
        name + slow,
        load(run).replace("closed loop, ", "").replace("connection", "conn."),
        count(run.per_second),
        ms(run.latency.p50_ms),
        ms(run.latency.p99_ms),
        ms(run.latency.p999_ms),
        *(("-" if us is None else count(us)) for us in (run.service_cpu_us, run.postgres_cpu_us)),
        f"{sum(run.errors.values()):,}",
    )


def _peers(report: Report) -> str:
    connections = wanted().connections
    rows: list[Row] = []
    for peer in report.peers:
        for scenario in TITLES:
            run = typical(peer.runs, scenario)
            if run:
                shown = _run(f"{title(run)}: {named(peer)}", run)
                rows.append((shown[0], *shown[2:]))
    rows.sort(key=lambda row: list(TITLES.values()).index(row[0].partition(":")[0]))
    header = (
        f"Peers, {connections} connections",
        "a second",
        "p50 ms",
        "p99 ms",
        "p99.9",
        "service us",
        "PG us",
        "errors",
    )
    gone = [f"{named(peer)} is absent: {peer.absent}" for peer in report.peers if peer.absent]
    return "\n".join([*([aligned(header, rows)] if rows else []), *_wrapped(gone)])


def _ratios(report: Report) -> str:
    found = ratios(report)
    if all(ratio.found is None for ratio in found):
        return ""
    rows = [
        (
            f"{TITLES.get(ratio.scenario, ratio.scenario)} / {ratio.against.peer}",
            MARKS[None if ratio.found is None else ratio.reached],
            f"{ratio.wanted:g}",
            "-" if ratio.found is None else written(ratio.found),
        )
        for ratio in found
    ]
    short = [shortfall(ratio) for ratio in found if ratio.short]
    return "\n".join(
        [aligned(("Requests a second over theirs", "", "wanted", "found"), rows, 2), *_wrapped(short)]
    )


def _curves(report: Report) -> str:
    rows: list[Row] = []
    measured = [curve for curve in report.curves if curve.points]
    for n, curve in enumerate(measured):
        first, last = curve.points[0], curve.points[-1]
        if not n or curve.x != measured[n - 1].x:
            rows.append((f"{curve.x}, {count(first.x)} to {count(last.x)}", *[""] * 4))
        us = [cost(point.run) for point in (first, last)]
        rows.append(
            (
                f"  {title_of(curve)}",
                " .. ".join("-" if value is None else count(value) for value in us),
                slopes(curve)[0],
                f"{ms(first.run.latency.p50_ms)} .. {ms(last.run.latency.p50_ms)}",
                slopes(curve)[1],
            )
        )
    header = ("Growth (slopes: for each tenfold)", "CPU us", "slope", "p50 ms", "slope")
    gone = [missing(curve) for curve in report.curves if curve.absent]
    return "\n".join([*([aligned(header, rows)] if rows else []), *_wrapped(gone)])


def _left_out(report: Report) -> str:
    return "\n".join(_wrapped([f"Left out, {part}: {why}" for part, why in sorted(report.left_out.items())]))


def _summary(report: Report) -> str:
    said = [f"{MARKS[line.passed]:<5} {line.title}: {line.text}" for line in summary(report)]
    return "\n".join(_wrapped(said + [f"note  {text}" for text in warnings(report)], indent=6))


def _wrapped(texts: Sequence[str], indent: int = 2) -> list[str]:
    return [line for text in texts for line in wrap(text, WIDTH, subsequent_indent=" " * indent)]
