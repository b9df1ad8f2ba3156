"""The command, its targets, and that a server knows nothing of either."""

import asyncio
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from benchmarks import cli, direct, scenarios, suite, targets
from benchmarks.results import Curve
from service.cli import main

ROOT = Path(__file__).parents[2]
PAPER = (ROOT / "docs" / "REQUIREMENTS.md").read_text(encoding="utf-8")


def test_every_row_of_the_table_but_the_caches_is_a_target() -> None:
    lines = [int(target.source.partition(":")[0].removeprefix("C ")) for target in targets.load()]
    assert set(lines) == set(range(334, 342))


@pytest.mark.parametrize("target", targets.load(), ids=lambda target: target.name)
def test_a_target_is_the_documents_and_can_be_measured(target: targets.Target) -> None:
    place, _, words = target.source.partition(": ")
    assert re.search(rf"^\| {place[:3]}", PAPER, re.MULTILINE)
    limit = re.search(r"< (\d+)ms", words)
    assert limit is None or float(limit[1]) == target.limit_ms
    for where in target.where:
        assert target.scenario in (scenarios.ALL if where == "http" else direct.SCENARIOS)
    assert target.burst == 1 or target.where == ("database",)
    assert target.rate is not None or target.where == ("http",)


def test_the_command_tells_how_it_is_used() -> None:
    told = CliRunner().invoke(main, ["bench", "--help"])
    assert told.exit_code == 0
    for word in (
        "--quick",
        "--url",
        "--scenario",
        "--rate",
        "--connections",
        "--duration",
        "--json",
        "--out",
    ):
        assert word in told.output
    for part in suite.PARTS:
        assert part in told.output


def test_what_is_missing_is_named_with_the_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "NEEDED", ("no_such_module",))
    told = CliRunner().invoke(main, ["bench"])
    assert (told.exit_code, "no_such_module" in told.output) == (1, True)
    assert "uv run --group bench roundtrip bench" in told.output


def test_without_the_folder_the_command_says_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "benchmarks.cli", None)
    told = CliRunner().invoke(main, ["bench", "--quick"])
    assert told.exit_code == 1
    assert "in a clone of the project" in told.output


def test_another_machine_is_asked_for_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cli, "NEEDED", ())
    told = CliRunner().invoke(main, ["bench", "--url", "https://todo.example.com"], input="n\n")
    assert told.exit_code == 1
    assert "POST /api/v1/tasks/batch" in told.output
    assert "Go on?" in told.output


def test_what_is_not_run_is_said() -> None:
    quick = suite.Asked(quick=True).left_out()
    assert set(quick) == set(suite.SLOW)
    away = suite.Asked(url="http://localhost").left_out()
    assert set(away) == {*suite.AWAY, "targets in the database"}
    assert set(suite.Asked(parts=("mix",)).left_out()) == set(suite.PARTS) - {"mix"}
    assert suite.Asked().left_out() == {}


def test_growth_goes_as_far_as_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []

    async def growth(*, rows: int, **_: object) -> list[Curve]:
        asked.append(rows)
        return []

    monkeypatch.setattr("benchmarks.growth.growth", growth)
    asyncio.run(suite.measure(suite.Asked(parts=("growth",), rows=10_000_000), print))
    assert asked == [10_000_000]
    told = CliRunner().invoke(cli.bench, ["--rows", "10000001"])
    assert (told.exit_code, "--rows" in told.output) == (2, True)


def test_the_command_line_loads_no_benchmark() -> None:
    code = "import sys, service.cli, service.asgi; print([n for n in sys.modules if n.startswith(('benchmarks', 'hdrh', 'numpy', 'matplotlib'))])"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
