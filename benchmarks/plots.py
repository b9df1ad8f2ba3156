"""Plots of a report as inline SVG. Colours are the page's own variables, so that light, dark and paper each have theirs."""

import re
from collections.abc import Callable, Sequence
from html import escape
from io import StringIO
from math import log10
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

from benchmarks.curves import cost
from benchmarks.ratios import US, named
from benchmarks.results import Curve, Peer, Run
from benchmarks.summary import load, slopes, title, title_of

COLOURS = 6
# Stand-ins that no plot draws by itself, and what the page reads instead.
INK, FAINT = "#010101", "#010102"
SERIES = [f"#0102{n:02}" for n in range(COLOURS)]
VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)"} | {c: f"var(--c{n})" for n, c in enumerate(SERIES)}
MARKERS = ("o", "s", "^", "D", "v", "P")
DASHES = ("-", "--", "-.", ":", (0, (5, 1)), (0, (1, 1)))
STYLE = {
    "svg.fonttype": "none",
    "font.family": "DejaVu Sans",
    "font.size": 9,
    "axes.titlesize": 9,
    "axes.titlecolor": INK,
    "text.parse_math": False,
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.edgecolor": FAINT,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "grid.color": FAINT,
    "grid.linewidth": 0.5,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.minor.size": 0,
    "ytick.minor.size": 0,
    "legend.frameon": False,
    "legend.fontsize": 8,
    "lines.markersize": 4.5,
    "lines.linewidth": 1.6,
}
WIDE, HIGH = 4.3, 3.2  # inches of 96 CSS pixels: as wide as a phone
SPREAD = 12  # between the largest and the smallest value of a plot; above it the axis is logarithmic
SHORT = 150  # an axis over less has more than the tens
NINES = {"p50": 0.5, "p90": 0.9, "p99": 0.99, "p99.9": 0.999}


def percentiles(name: str, runs: Sequence[Run]) -> str:
    """Latency of runs on an axis where each step is a tenth of the requests that are left; the last point is the slowest."""

    def draw(axes: Any) -> None:
        for n, run in enumerate(runs):
            latency = run.latency
            ys = [latency.p50_ms, latency.p90_ms, latency.p99_ms, latency.p999_ms]
            xs = [-log10(1 - part) for part in NINES.values()]
            if run.answers > 1 / (1 - NINES["p99.9"]):
                xs.append(log10(run.answers))
                ys.append(latency.max_ms)
            _line(axes, n, xs, ys, f"{title(run)}, {load(run)}")
        last = max([4, *(int(log10(max(run.answers, 1))) for run in runs)])
        axes.set_xticks(
            [*(-log10(1 - part) for part in NINES.values()), *range(4, last + 1)],
            [*NINES, *(f"99.{'9' * (nines - 2)}" for nines in range(4, last + 1))],
        )
        _logarithmic(axes.yaxis)
        axes.set_ylabel("ms")

    return _svg(name, draw, f"Latency percentiles: {', '.join(title(run) for run in runs)}", 0.17 * len(runs))


def growth(name: str, curves: Sequence[Curve], *, of: str) -> str:
    """CPU or latency (`of` is `cpu` or `p50`) of one or more curves that share their x."""

    def draw(axes: Any) -> None:
        drawn: list[float] = []
        for n, curve in enumerate(curves):
            ys = [cost(p.run) if of == "cpu" else p.run.latency.p50_ms for p in curve.points]
            known = [(max(p.x, 1), y) for p, y in zip(curve.points, ys, strict=True) if y]
            slope = slopes(curve)[0 if of == "cpu" else 1]
            label = f"{title_of(curve)}, {slope} each tenfold" if slope else title_of(curve)
            _line(axes, n, [x for x, _ in known], [y for _, y in known], label)
            drawn += [y for _, y in known]
        top, low = max(drawn, default=1), min(drawn, default=1)
        _logarithmic(axes.xaxis)
        if top > SPREAD * low:
            _logarithmic(axes.yaxis)
        else:
            axes.set_ylim(0, top * 1.15)
            axes.yaxis.set_major_formatter(_short)
        axes.set_xlabel(curves[0].x)
        axes.set_ylabel("CPU, µs a request" if of == "cpu" else "p50, ms")

    return _svg(name, draw, f"{of} against {curves[0].x}", 0.17 * len(curves))


def speeds(name: str, peers: Sequence[tuple[Peer, Run]], heading: str) -> str:
    """Requests a second of each peer."""

    def draw(axes: Any) -> None:
        values = [run.per_second for _, run in peers]
        _bars(axes, peers, values, [0.0] * len(peers), [f"{value:,.0f}" for value in values])
        axes.set_title(f"{heading}, requests a second", loc="left")

    return _svg(name, draw, f"{heading}: requests a second", 0.26 * len(peers) - 2.4)


def costs(name: str, peers: Sequence[tuple[Peer, Run]], heading: str) -> str:
    """CPU of a request of each peer, that of PostgreSQL apart."""

    def draw(axes: Any) -> None:
        service = [run.service_cpu_us or 0 for _, run in peers]
        postgres = [run.postgres_cpu_us or 0 for _, run in peers]
        told = [f"{a:,.0f} + {b:,.0f}" if a else f"{b:,.0f}" for a, b in zip(service, postgres, strict=True)]
        _bars(axes, peers, service, postgres, told)
        axes.set_title(f"{heading}, CPU µs, service + PG", loc="left")

    return _svg(name, draw, f"{heading}: CPU of a request", 0.26 * len(peers) - 2.4)


def _line(axes: Any, n: int, xs: Sequence[float], ys: Sequence[float], label: str) -> None:
    n %= COLOURS
    axes.plot(xs, ys, color=SERIES[n], marker=MARKERS[n], linestyle=DASHES[n], label=label)


def _logarithmic(axis: Any) -> None:
    """A logarithmic axis, with more than the tens where it is short."""
    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    low, high = axis.get_view_interval()
    axis.set_major_locator(mpl.ticker.LogLocator(subs=(1, 2, 5) if high < SHORT * low else (1,)))
    axis.set_major_formatter(_short)
    axis.set_minor_locator(mpl.ticker.NullLocator())


def _bars(
    axes: Any,
    peers: Sequence[tuple[Peer, Run]],
    first: Sequence[float],
    second: Sequence[float],
    told: Sequence[str],
) -> None:
    places = range(len(peers))
    ours = [SERIES[0] if peer.name == US else SERIES[2] for peer, _ in peers]
    axes.barh(places, first, color=ours, height=0.62)
    axes.barh(places, second, left=first, color=SERIES[1], height=0.62)
    for place, a, b, text in zip(places, first, second, told, strict=True):
        axes.annotate(
            text, (a + b, place), xytext=(4, 0), textcoords="offset points", va="center", fontsize=8
        )
    axes.set_yticks(places, [named(peer) for peer, _ in peers])
    axes.invert_yaxis()
    axes.grid(visible=False, axis="y")
    axes.tick_params(axis="y", length=0)
    axes.set_xlim(0, max([a + b for a, b in zip(first, second, strict=True)] or [1]) * 1.3 or 1)
    axes.xaxis.set_major_locator(mpl.ticker.MaxNLocator(4))
    axes.xaxis.set_major_formatter(_short)


def _short(value: float, _: object = None) -> str:
    """1,000,000 as 1M."""
    for size, unit in ((1e6, "M"), (1e3, "k")):
        if abs(value) >= size:
            return f"{value / size:g}{unit}"
    return f"{value:g}"


def _svg(name: str, draw: Callable[[Any], None], label: str, more: float) -> str:
    """One figure; its ids begin with `name`, since all share a document."""
    with mpl.rc_context({**STYLE, "svg.hashsalt": name}):
        figure = Figure(figsize=(WIDE, HIGH + more), layout="constrained")
        axes = figure.add_subplot()
        draw(axes)
        if axes.get_legend_handles_labels()[0]:
            figure.legend(loc="outside lower left")
        written = StringIO()
        figure.savefig(written, format="svg", transparent=True, metadata={"Date": None})
    svg = written.getvalue()
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    svg = re.sub(r'\b(id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"'DejaVu Sans'[^;\"]*", "system-ui, sans-serif", svg)
    for stand_in, variable in VARIABLES.items():
        svg = svg.replace(stand_in, variable)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(label)}" ', 1)
