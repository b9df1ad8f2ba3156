"""Curves of growth: what grows, and the slope of what a request costs meanwhile."""

from collections.abc import Sequence
from math import log10

from benchmarks.results import Curve, Point, Run

# What grows. Curves of one of these share a plot.
ROWS = "rows of other users"
OWN = "tasks of the user"
CLOSED = "connections in closed loop"
IDLE = "idle connections held"
OFFSET = "tasks before the page, by offset"
CURSOR = "tasks before the page, by cursor"
INSTANCES = "instances behind haproxy"


def curve(name: str, x: str, points: list[Point], why: str | None = None) -> Curve:
    """A curve with its slopes; `why` there is not all of it."""
    xs = [point.x for point in points]
    cpu = [cost(point.run) for point in points]
    p50 = [point.run.latency.p50_ms for point in points]
    return Curve(name, x, points, slope(xs, cpu), slope(xs, p50), absent=why)


def absent(name: str, x: str, why: str) -> Curve:
    """A curve that could not be had."""
    return Curve(name, x, [], 0.0, 0.0, absent=why)


def cost(run: Run) -> float | None:
    """CPU-microseconds of a request, in the service and in PostgreSQL together."""
    if run.service_cpu_us is None or run.postgres_cpu_us is None:
        return None
    return run.service_cpu_us + run.postgres_cpu_us


def slope(xs: Sequence[float], ys: Sequence[float | None]) -> float:
    """Percent of the first y that y grows by with each tenfold of x: least squares over log10 x, where an x of 0 counts as 1.

    0 where there are not two different x, or nothing was measured.
    """
    known = [(log10(max(x, 1)), y) for x, y in zip(xs, ys, strict=True) if y is not None]
    if not known or not known[0][1]:
        return 0.0
    mean_x = sum(x for x, _ in known) / len(known)
    mean_y = sum(y for _, y in known) / len(known)
    spread = sum((x - mean_x) ** 2 for x, _ in known)
    if not spread:
        return 0.0
    return 100 * sum((x - mean_x) * (y - mean_y) for x, y in known) / spread / known[0][1]
