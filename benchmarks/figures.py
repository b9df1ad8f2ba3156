"""The parts of the page that have plots: latency, many connections, growth, peers."""

from collections.abc import Sequence
from html import escape
from itertools import groupby
from statistics import median

from benchmarks.curves import CLOSED, IDLE, cost
from benchmarks.pieces import drawable, facts, plots, table, text
from benchmarks.ratios import TITLES, named, typical, wanted
from benchmarks.results import Curve, Peer, Report, Run
from benchmarks.summary import MANY, count, errors, load, missing, ms, slopes, title, title_of

TOGETHER = 4  # lines of a plot of percentiles


def latency(report: Report) -> str:
    if not report.runs:
        return ""
    drawn = []
    if drawable():
        from benchmarks.plots import percentiles

        runs = sorted(report.runs, key=lambda run: run.loop == "closed")
        chunks = [runs[n : n + TOGETHER] for n in range(0, len(runs), TOGETHER)]
        drawn = [percentiles(f"latency{n}", chunk) for n, chunk in enumerate(chunks)]
    said = (
        "An open loop sends when a request is due and counts from that moment, so that whoever waited for a stalled service "
        "is counted. A closed loop sends when the last answer is there: it finds ceilings, and its latency is mostly waiting."
    )
    rows = [(title(run), load(run), *_figures(run)) for run in report.runs]
    return text(said, "quiet") + plots(drawn) + table(("request", "load", *FIGURES), rows, left=2)


FIGURES = (
    "requests",
    "a second",
    "p50, ms",
    "p90",
    "p99",
    "p99.9",
    "slowest",
    "CPU µs, service",
    "PostgreSQL",
    "generator, cores",
    "errors",
)


def _figures(run: Run) -> tuple[str, ...]:
    took, generator = run.latency, run.generator
    times = (took.p50_ms, took.p90_ms, took.p99_ms, took.p999_ms, took.max_ms)
    return (
        f"{run.answers:,}",
        count(run.per_second),
        *(ms(time) for time in times),
        *(_us(us) for us in (run.service_cpu_us, run.postgres_cpu_us)),
        f"{generator.busy:.2f}{', bottleneck' if generator.bottleneck else ''}",
        errors(run) or "0",
    )


def _us(us: float | None) -> str:
    return "-" if us is None else count(us)


def connections(report: Report) -> str:
    many = [run for run in report.runs if run.connections >= MANY]
    rows = [
        (
            title(run),
            load(run),
            count(run.per_second),
            ms(run.latency.p50_ms),
            ms(run.latency.p99_ms),
            f"{100 * run.slowest_connection:.0f} %",
            errors(run) or "0",
        )
        for run in many
    ]
    header = (
        "request",
        "load",
        "a second",
        "p50, ms",
        "p99, ms",
        "fewest answers, of the median's",
        "errors",
    )
    curves = [curve for curve in report.curves if curve.x in (CLOSED, IDLE)]
    return table(header, rows, left=2) + "".join(_together(n, [curve]) for n, curve in enumerate(curves, 100))


def growth(report: Report) -> str:
    curves = [curve for curve in report.curves if curve.x not in (CLOSED, IDLE)]
    if not curves:
        return ""
    said = (
        "Slopes are in percent of the first point for each tenfold, by least squares over the logarithm of what grows. "
        "On a busy machine that of CPU is the one to trust."
    )
    groups = [list(group) for _, group in groupby(curves, key=lambda curve: curve.x)]
    return text(said, "quiet") + "".join(_together(n, group) for n, group in enumerate(groups))


def _together(number: int, curves: Sequence[Curve]) -> str:
    """Curves that share what grows: plots, and a table of all points."""
    measured = [curve for curve in curves if curve.points]
    drawn = []
    if measured and drawable():
        from benchmarks.plots import growth

        kinds = ["cpu"] if any(cost(p.run) for curve in measured for p in curve.points) else []
        drawn = [growth(f"growth{number}{kind}", measured, of=kind) for kind in [*kinds, "p50"]]
    rows = [
        (title_of(curve) if n == 0 else "", count(point.x), *_point(curve, n, idle=curves[0].x == IDLE))
        for curve in measured
        for n, point in enumerate(curve.points)
    ]
    header: tuple[str, ...] = (
        "request",
        curves[0].x,
        "CPU µs",
        "service",
        "PostgreSQL",
        "p50, ms",
        "p99",
        "a second",
        "errors",
        "slope: CPU",
        "p50",
    )
    if curves[0].x == IDLE:
        header = (*header, "kB each")
    gone = "".join(text(missing(c)) for c in curves if c.absent)
    return f"<h3>{escape(curves[0].x).capitalize()}</h3>{plots(drawn)}{table(header, rows)}{gone}"


def _point(curve: Curve, n: int, *, idle: bool) -> tuple[str, ...]:
    point = curve.points[n]
    run = point.run
    cells: tuple[str, ...] = (
        _us(cost(run)),
        _us(run.service_cpu_us),
        _us(run.postgres_cpu_us),
        ms(run.latency.p50_ms),
        ms(run.latency.p99_ms),
        count(run.per_second),
        errors(run) or "0",
        *(slopes(curve) if n == 0 else ("", "")),
    )
    return (*cells, "-" if point.memory_kb is None else f"{point.memory_kb:.1f}") if idle else cells


def peers(report: Report) -> str:
    if not report.peers:
        return ""
    fast, dear, tables = [], [], ""
    for scenario in TITLES:
        runs = [(peer, run) for peer in report.peers if (run := typical(peer.runs, scenario))]
        runs.sort(key=lambda both: -both[1].per_second)
        if runs and drawable():
            from benchmarks.plots import costs, speeds

            fast.append(speeds(f"speed-{scenario}", runs, TITLES[scenario]))
            if known := [(peer, run) for peer, run in runs if run.postgres_cpu_us is not None]:
                dear.append(costs(f"cost-{scenario}", known, TITLES[scenario]))
        tables += f"<h3>{TITLES[scenario].capitalize()}</h3>{_rounds(runs, scenario)}" if runs else ""
    gone = "".join(text(f"{named(peer)} is absent: {peer.absent}") for peer in report.peers if peer.absent)
    kept = {
        named(peer): ", ".join(f"{what} {version}" for what, version in peer.versions.items())
        for peer in report.peers
    }
    said = (
        f"{wanted().connections} connections in closed loop, taking turns; pgbench has as many as give the most. Each figure is "
        "that of the round in the middle."
    )
    return (
        text(said, "quiet")
        + plots(fast)
        + plots(dear)
        + tables
        + gone
        + facts("Versions of the peers", {k: v for k, v in kept.items() if v})
    )


def _rounds(runs: Sequence[tuple[Peer, Run]], scenario: str) -> str:
    rows = []
    for peer, run in runs:
        speeds = [r.per_second for r in peer.runs if r.scenario == scenario]
        rounds = f"{count(min(speeds))} .. {count(max(speeds))}"
        rows.append(
            (
                peer.name,
                str(peer.processes),
                str(run.connections),
                count(median(speeds)),
                rounds,
                ms(run.latency.p50_ms),
                ms(run.latency.p99_ms),
                _us(cost(run)),
                _us(run.service_cpu_us),
                _us(run.postgres_cpu_us),
                errors(run) or "0",
            )
        )
    header = (
        "program",
        "processes",
        "connections",
        "a second",
        "all rounds",
        "p50, ms",
        "p99",
        "CPU µs",
        "service",
        "PostgreSQL",
        "errors",
    )
    return table(header, rows)
