"""The papers quote the committed report, and nothing else."""

import re
from pathlib import Path

import pytest

from benchmarks import report
from benchmarks.papers import BLOCKS, REPORT, blocks, filled
from tests.benchmarks import made_up

ROOT = Path(__file__).parents[2]
COMMITTED = ROOT / REPORT


@pytest.mark.parametrize("name", ["README.md", "ARCHITECTURE.md"])
def test_a_paper_says_what_the_committed_report_says(name: str) -> None:
    text = (ROOT / name).read_text()
    assert blocks(text)
    assert filled(text, report.read(COMMITTED)) == text, f"uv run python -m benchmarks.report readme {REPORT}"


def test_every_block_is_quoted_once_and_ends() -> None:
    text = "".join((ROOT / name).read_text() for name in ("README.md", "ARCHITECTURE.md"))
    assert sorted(blocks(text)) == sorted(BLOCKS)
    assert text.count("<!-- figures: ") == text.count("<!-- end of figures -->") == len(BLOCKS)


def test_the_committed_report_is_as_it_was_written() -> None:
    assert report.encode(report.read(COMMITTED)) == COMMITTED.read_bytes()
    assert COMMITTED.with_name("report.html").exists()


def test_a_changed_figure_changes_its_block() -> None:
    text = (ROOT / "README.md").read_text()
    assert filled(text, made_up.report()) != text
    assert filled(filled(text, made_up.report()), report.read(COMMITTED)) == text


def test_blocks_have_every_figure() -> None:
    made = made_up.report()
    peers = BLOCKS["peers"](made).splitlines()
    assert peers[2].startswith("| **Roundtrip** | 12,750 | 1,960 | 5,500 |")
    assert "| FastAPI + SQLModel | 134 (x 95.1) | 80 (x 24.5) | 93 (x 59.1) |" in peers
    assert "| Fastify + postgres.js x 2 | 5,100 (x 2.50) | 900 (x 2.17) | 2,600 (x 2.11) |" in peers
    assert not any("Go" in line for line in peers)
    assert peers[-1].startswith("2026-11-22, AMD EPYC, 23.5 GiB")
    assert "| update | 20 ms | 23.9 ms | **missed** |" in BLOCKS["targets"](made)
    assert "| rows of other users | single read | 1,000 .. 3,000,000 | +0.3 % | +0.4 % |" in BLOCKS["growth"](
        made
    )
    for block in BLOCKS.values():
        assert not re.search(r"[^\n]\n\|(?!.*\|$)", block(made), re.MULTILINE)
