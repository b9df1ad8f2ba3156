"""What a report comes to, in sentences: for its page, the terminal and the papers alike."""

from collections.abc import Iterator

from msgspec import Struct

from benchmarks.curves import CLOSED, ROWS
from benchmarks.ratios import TITLES, Ratio, named, ratios, written
from benchmarks.results import Curve, Report, Run, Verdict

MANY = 1_000  # connections
FLAT = 5.0  # percent for each tenfold
FAIR = 0.5  # of the median connection's answers
MARKS = {True: "pass", False: "FAIL", None: "-"}


class Line(Struct, frozen=True):
    """One finding; `passed` is None where there is nothing to pass."""

    passed: bool | None
    title: str
    text: str


def summary(report: Report) -> list[Line]:
    """Targets, ratios, many connections, growth; what was not measured is said too."""
    return [_targets(report), _ratios(report), _many(report), _idle(report), _growth(report)]


def warnings(report: Report) -> list[str]:
    """What takes away from the figures."""
    found = ["A quick run: little data, short loads. No figure to quote." if report.quick else ""]
    runs = list(every_run(report))
    slow = [name for name, run in runs if run.generator.bottleneck]
    if slow:
        found.append(
            f"The load generator was the bottleneck in {len(slow)} of {len(runs)} runs; they tell of it, not of "
            f"the service: {listed(slow)}."
        )
    failed = [f"{name} ({errors(run)})" for name, run in runs if run.errors]
    if failed:
        found.append(f"Requests failed in {len(failed)} of {len(runs)} runs: {listed(failed)}.")
    return [text for text in found if text]


def every_run(report: Report) -> Iterator[tuple[str, Run]]:
    """All runs of a report, with a name that says which."""
    yield from ((f"{title(run)}, {load(run)}", run) for run in report.runs)
    for curve in report.curves:
        yield from ((f"{curve.name} at {count(p.x)} {curve.x}", p.run) for p in curve.points)
    for peer in report.peers:
        yield from ((f"{named(peer)}, {title(run)}", run) for run in peer.runs)


def title(run: Run) -> str:
    """A scenario as people call it."""
    return TITLES.get(run.scenario, run.scenario.replace("_", " "))


def load(run: Run) -> str:
    """How it was loaded."""
    if run.loop == "open" and run.asked_per_second is not None:
        return f"{count(run.asked_per_second)} a second"
    return f"closed loop, {count(run.connections)} connection{'s' if run.connections > 1 else ''}"


def margin(verdict: Verdict) -> float:
    """What is left of the limit, in percent; below 0 it is missed."""
    return 100 * (1 - verdict.p99_ms / verdict.limit_ms)


def target(verdict: Verdict) -> str:
    """What is measured, and where that is not all of the service."""
    return f"{verdict.target}{' in the database' if verdict.where == 'database' else ''}"


def missed(verdict: Verdict) -> str:
    return f"{target(verdict)} ({ms(verdict.p99_ms)} of {verdict.limit_ms:g} ms)"


def shortfall(ratio: Ratio) -> str:
    """A ratio that falls short, plainly, and what was tried."""
    assert ratio.found is not None
    what = f"{TITLES.get(ratio.scenario, ratio.scenario)} against {ratio.against.peer}"
    tried = ratio.tried or "What was tried is not written down yet."
    return f"{what}: {written(ratio.found)} where {ratio.wanted:g} was wanted, {100 * ratio.short:.0f} % short. {tried}"


def _targets(report: Report) -> Line:
    verdicts = report.verdicts
    if not verdicts:
        return Line(None, "Targets", _not_run(report, "targets"))
    failed = [verdict for verdict in verdicts if not verdict.passed]
    if failed:
        text = f"{len(failed)} of {len(verdicts)} missed at p99: {listed([missed(v) for v in failed])}."
        return Line(passed=False, title="Targets", text=text)
    tightest = min(verdicts, key=margin)
    text = f"All {len(verdicts)} met at p99; the tightest is {missed(tightest)}, {margin(tightest):.0f} % to spare."
    return Line(passed=True, title="Targets", text=text)


def _ratios(report: Report) -> Line:
    found = [ratio for ratio in ratios(report) if ratio.found is not None]
    if not found:
        why = report.left_out.get("peers") or next(ratio.why for ratio in ratios(report))
        return Line(None, "Peers", f"Not measured: {why}.")
    short = [ratio for ratio in found if not ratio.reached]
    asked = len(ratios(report))
    text = f"{len(found) - len(short)} of {asked} ratios reached"
    text += f", {len(short)} short" if short else ""
    text += f", {asked - len(found)} not measured" if len(found) < asked else ""
    return Line(
        passed=None if not short and len(found) < asked else not short, title="Peers", text=f"{text}."
    )


def _many(report: Report) -> Line:
    runs = [run for run in report.runs if run.connections >= MANY]
    runs += [p.run for curve in report.curves for p in curve.points if p.run.connections >= MANY]
    if not runs:
        return Line(None, "1,000 connections", _not_run(report, "connections"))
    run = min(runs, key=lambda run: run.connections)
    text = (
        f"{title(run)}, {load(run)}: {count(run.per_second)} a second, p99 {ms(run.latency.p99_ms)} ms, "
        f"{errors(run) or 'no error'}; the connection with the fewest answers had "
        f"{100 * run.slowest_connection:.0f} % of the median one's."
    )
    passed = not run.errors and run.slowest_connection >= FAIR
    return Line(passed=passed, title=f"{count(run.connections)} connections", text=text)


def _idle(report: Report) -> Line:
    points = [p for curve in report.curves for p in curve.points if p.memory_kb is not None]
    if not points:
        return Line(None, "Idle connections", _not_run(report, "growth"))
    most = max(points, key=lambda point: point.x)
    text = (
        f"{count(most.x)} held, {most.memory_kb or 0:.1f} kB of the service's memory each; meanwhile "
        f"{title(most.run)} p99 {ms(most.run.latency.p99_ms)} ms, {errors(most.run) or 'no error'}."
    )
    return Line(passed=not most.run.errors, title="Idle connections", text=text)


def _growth(report: Report) -> Line:
    curves = [curve for curve in report.curves if curve.x == ROWS and curve.points]
    if not curves:
        return Line(None, "Growth", _not_run(report, "growth"))
    least, most = curves[0].points[0].x, curves[0].points[-1].x
    slopes = listed([f"{title_of(curve)} {percent(curve.cpu_slope)}" for curve in curves])
    text = f"CPU of a request from {count(least)} to {count(most)} {ROWS}, for each tenfold: {slopes}."
    flat = all(curve.cpu_slope <= FLAT for curve in curves)
    return Line(
        passed=None if report.quick else flat, title="Growth", text=text
    )  # too short a look for a verdict


def _not_run(report: Report, part: str) -> str:
    return f"Not measured: {report.left_out.get(part, 'this part was not run')}."


def title_of(curve: Curve) -> str:
    return TITLES.get(curve.name, curve.name)


def slopes(curve: Curve) -> tuple[str, str]:
    """Of CPU and of p50; not of the wait that more connections in closed loop are for each other."""
    return percent(curve.cpu_slope), "" if curve.x == CLOSED else percent(curve.p50_slope)


def missing(curve: Curve) -> str:
    """What is missing of a curve, and why."""
    return f"{title_of(curve)}, {curve.x}: {'not all of it' if curve.points else 'absent'}, {curve.absent}"


def ms(value: float) -> str:
    """Milliseconds in three figures."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"  # noqa: PLR2004


def count(value: float) -> str:
    """A number of things, or what there is of them in a second."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.1f}"  # noqa: PLR2004


def percent(slope: float) -> str:
    return f"{slope:+.1f} %"


def errors(run: Run) -> str:
    """The errors of a run, or nothing."""
    return listed([f"{many:,} x {kind}" for kind, many in sorted(run.errors.items())])


def listed(things: list[str]) -> str:
    return ", ".join(things)
