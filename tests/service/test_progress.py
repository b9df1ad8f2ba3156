"""How far long work has come."""

import sys

import pytest

from service import progress
from service.progress import Progress


def test_short_work_tells_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with Progress("tasks", 2000) as told:
        told.add(1000)
        told.add(1000)
    assert capsys.readouterr() == ("", "")


def test_long_work_tells_line_by_line(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress, "EVERY", 0.0)
    with Progress("tasks", 2000) as told:
        told.add(1000)
        told.add(0)
        told.add(1500)
    assert capsys.readouterr() == ("", "tasks: 1,000 of 2,000\ntasks: 2,500 of 2,500\n")


def test_a_terminal_has_one_line(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with Progress("tasks", 2000) as told:
        told.add(1000)
        told.add(1000)
    with Progress("nothing", 0):
        pass
    assert capsys.readouterr() == ("", "\rtasks: 1,000 of 2,000\rtasks: 2,000 of 2,000\n")
