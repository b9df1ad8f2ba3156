"""Slopes, with known numbers."""

import pytest

from benchmarks.curves import absent, cost, curve, slope
from benchmarks.results import Point
from tests.benchmarks.made_up import run


@pytest.mark.parametrize(
    ("xs", "ys", "expected"),
    [
        ([1, 10, 100], [100, 110, 120], 10),  # a tenth of the first for each tenfold
        ([1000, 10_000, 100_000], [50, 50, 50], 0),
        ([1, 100], [10, 30], 100),
        ([100, 1, 10], [120, 100, 110], 10 * 100 / 120),  # of the first as it stands there
        ([0, 10], [10, 20], 100),  # 0 counts as 1
        ([1, 10, 100], [100, 130, 120], 10),  # the line between them
        ([1, 10], [20, 10], -50),
        ([5], [5], 0),
        ([5, 5], [5, 6], 0),
        ([], [], 0),
        ([1, 10, 100], [None, 100, 110], 10),
        ([1, 10], [None, None], 0),
    ],
)
def test_a_slope_is_percent_of_the_first_for_each_tenfold(
    xs: list[float], ys: list[float | None], expected: float
) -> None:
    assert slope(xs, ys) == pytest.approx(expected)


def test_a_curve_has_both_slopes() -> None:
    points = [Point(10, run(us=(60, 40), p50=1)), Point(1000, run(us=(70, 50), p50=4))]
    found = curve("single", "rows", points)
    assert found.cpu_slope == pytest.approx(10)
    assert found.p50_slope == pytest.approx(150)
    assert found.absent is None


def test_cpu_that_is_not_known_has_no_slope() -> None:
    assert cost(run(us=(60, None))) is None
    assert curve("single", "rows", [Point(x, run(us=(None, None))) for x in (1, 10)]).cpu_slope == 0


def test_an_absent_curve_says_why() -> None:
    assert (absent("single", "instances", "no haproxy").points, absent("a", "b", "c").absent) == ([], "c")
