"""The report: what is written and shown of a run."""

import re
from html.parser import HTMLParser
from pathlib import Path

import msgspec
import pytest

from benchmarks import figures, report
from benchmarks.curves import ROWS, absent
from benchmarks.machine import ROOT
from benchmarks.ratios import Against, Ratio, Wanted, ratios, typical, wanted, written
from benchmarks.results import Peer, Report, Run
from benchmarks.summary import summary, warnings
from tests.benchmarks import made_up
from tests.benchmarks.made_up import run, verdict

REPLACED = msgspec.structs.replace


@pytest.fixture(autouse=True)
def _without_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(figures, "drawable", lambda: False)


class Seen(HTMLParser):
    """The tags of a page, whether each is closed, and what refers elsewhere."""

    VOID = ("meta", "br", "hr", "img", "link", "input")

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: set[str] = set()
        self.elsewhere: list[str] = []
        self.text = ""
        self.feed(page)
        self.text = " ".join(self.text.split())

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.add(tag)
        if tag not in self.VOID:
            self.open.append(tag)
        self.elsewhere += [v for name, v in attrs if name in ("src", "href") and v and not v.startswith("#")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += f" {data}"


def page(found: Report, folder: Path) -> Seen:
    report.write(found, folder)
    return Seen((folder / "report.html").read_text())


def ratio(found: float | None, least: float = 1.5, tried: dict[str, str] | None = None) -> Ratio:
    return Ratio(Against("Go", {"single": least}, tried=tried or {}), "single", least, found)


# What is written


def test_what_is_written_is_read_again_and_written_the_same(tmp_path: Path) -> None:
    report.write(made_up.report(), tmp_path)
    first = (tmp_path / "report.json").read_bytes()
    report.write(report.read(tmp_path / "report.json"), tmp_path)
    assert (tmp_path / "report.json").read_bytes() == first
    assert first.count(b"\n") > 1000


def test_the_order_is_not_that_of_measuring() -> None:
    found = made_up.report()
    machine = dict(reversed(found.machine.items()))
    assert report.encode(REPLACED(found, machine=machine)) == report.encode(found)


@pytest.mark.parametrize(
    ("figure", "kept"),
    [(0.0, 0.0), (12_345.678, 12_346), (1.23456, 1.235), (-0.00123456, -0.001235), (99.999, 100), (3e6, 3e6)],
)
def test_figures_keep_four_digits_and_whole_numbers(figure: float, kept: float) -> None:
    assert report.rounded(figure) == kept


def test_what_json_cannot_say_costs_no_report(tmp_path: Path) -> None:
    found = run(p50=float("nan"))
    report.write(REPLACED(made_up.report(), runs=[found]), tmp_path)
    assert report.read(tmp_path / "report.json").runs[0].latency.p50_ms == 0


def test_nothing_of_this_machine_is_written(tmp_path: Path) -> None:
    place = f"{Path.home()}/somewhere"
    found = REPLACED(
        made_up.report(),
        command="roundtrip bench --url https://me:secret@db.example.com/x",
        left_out={"peers": f"{place} and {ROOT}/benchmarks are not there"},
    )
    report.write(found, tmp_path)
    for name in ("report.json", "report.html"):
        text = (tmp_path / name).read_text()
        assert "https://..." in text
        for private in ("secret", "db.example.com", str(Path.home()) + "/", str(ROOT)):
            assert private not in text


# The page


def test_the_page_has_every_part_and_needs_nothing_else(tmp_path: Path) -> None:
    seen = page(made_up.report(), tmp_path)
    assert seen.open == []
    assert not seen.tags & {"script", "link", "img", "iframe"}
    assert seen.elsewhere == []
    text = (tmp_path / "report.html").read_text()
    assert set(re.findall(r'<section id="([\w-]+)"', text)) == {
        *("targets", "latency", "connections", "growth", "peers", "left-out", "again")
    }
    for word in ("95.1", "40 wanted", "AMD EPYC", "roundtrip bench", "19.8", "haproxy is not installed"):
        assert word in seen.text
    assert "@media print" in text
    assert "prefers-color-scheme: dark" in text


def test_what_comes_from_a_report_is_escaped(tmp_path: Path) -> None:
    evil = "<b>&\"'"
    found = REPLACED(
        made_up.report(),
        command=evil,
        machine={evil: evil, "cores": evil},
        versions={evil: evil},
        data={evil: 1},
        left_out={evil: evil},
        verdicts=[REPLACED(verdict("x", 1, 2), target=evil, source=evil)],
        runs=[run(evil, errors={evil: 1}, bottleneck=True)],
        curves=[made_up.line(evil, evil, [1, 2], 1, 1), absent(evil, evil, evil)],
        peers=[
            REPLACED(made_up.peer("Roundtrip", 9, 9, 9), versions={evil: evil}),
            made_up.peer(evil, 1, 1, 1),
            Peer(evil, {}, 2, absent=evil),
        ],
    )
    seen = page(found, tmp_path)
    assert seen.open == []
    assert "b" not in seen.tags
    assert seen.text.count(evil) > 15


def test_a_report_of_nothing_is_a_page_all_the_same(tmp_path: Path) -> None:
    empty = Report(made_up.report().started, 1, "x", {}, {}, {}, quick=True, left_out={"peers": "no time"})
    seen = page(empty, tmp_path)
    assert "Not measured: no time." in seen.text
    assert "A quick run" in seen.text
    assert "Not measured" in report.table(empty)


# The summary


def test_a_missed_target_is_said_first_with_its_figures(tmp_path: Path) -> None:
    seen = page(made_up.report(), tmp_path)
    said = "1 of 7 missed at p99: update (23.9 of 20 ms)."
    assert said in seen.text.partition("asked for in")[0]
    assert f"FAIL  Targets: {said}" in report.table(made_up.report())


def test_the_tightest_target_is_said_where_all_are_met() -> None:
    found = REPLACED(made_up.report(), verdicts=[verdict("a", 50, 5), verdict("b", 20, 15, "database")])
    line = summary(found)[0]
    assert line.passed
    assert line.text == "All 2 met at p99; the tightest is b in the database (15.0 of 20 ms), 25 % to spare."


def test_a_short_ratio_is_said_with_what_was_tried(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    asked = Wanted(
        64,
        [
            Against(
                "pgbench", {"single": 0.9, "list": 0.5, "insert": 1.0}, tried={"list": "Stood on its head."}
            ),
            Against("Go net/http + pgx", {"single": 1.5}),
        ],
    )
    for module in ("ratios", "page", "terminal", "figures", "papers"):
        monkeypatch.setattr(f"benchmarks.{module}.wanted", lambda: asked)
    found = made_up.report()
    assert summary(found)[1].passed is False
    assert summary(found)[1].text == "1 of 4 ratios reached, 2 short, 1 not measured."
    for text in (page(found, tmp_path).text, " ".join(report.table(found).split())):
        assert "list of 100 against pgbench: 0.49 where 0.5 was wanted, 2 % short. Stood on its head." in text
        assert (
            "single read against pgbench: 0.75 where 0.9 was wanted, 16 % short. What was tried is not"
            in text
        )
        assert "no Go compiler: <apt-get install golang-go> & try again" in text


def test_errors_and_a_slow_generator_are_warned_of() -> None:
    told = " ".join(warnings(made_up.report()))
    assert "bottleneck in 1 of" in told
    assert "mix, 800 a second (3 x 503, 1 x reset)" in told
    assert "quick" not in told


@pytest.mark.parametrize(
    ("many", "passed"), [(run(connections=1000, fair=0.6), True), (run(connections=1000, fair=0.4), False)]
)
def test_a_thousand_connections_must_be_served_fairly(many: Run, passed: bool) -> None:
    line = summary(REPLACED(made_up.report(), runs=[many], curves=[]))[2]
    assert line.passed is passed
    failed = REPLACED(many, errors={"503": 1})
    assert summary(REPLACED(made_up.report(), runs=[failed], curves=[]))[2].passed is False


def test_growth_past_the_bound_fails() -> None:
    found = made_up.report()
    assert summary(found)[4].passed
    curves = [made_up.line("single", ROWS, [1e3, 1e4], 100, 0.1)]
    assert summary(REPLACED(found, curves=curves))[4].passed is False
    assert summary(REPLACED(found, curves=curves, quick=True))[4].passed is None


# Ratios


def test_ratios_are_of_medians() -> None:
    ours = Peer("Roundtrip", {}, 1, runs=[run("single", n) for n in (100, 900, 300)])
    theirs = Peer("Go", {}, 1, runs=[run("single", n) for n in (100, 200)])
    twice = Peer("Go", {}, 2, runs=[run("single", 1)])
    theirs = REPLACED(theirs, runs=[*theirs.runs, run("list", 1)])
    found = REPLACED(made_up.report(), peers=[ours, twice, theirs])
    asked = Wanted(64, [Against("Go", {"single": 2.0, "insert": 1.0}), Against("Rust", {"single": 1.0})])
    single, insert, rust = ratios(found, asked)
    assert (single.found, single.reached) == (2.0, True)
    assert (insert.found, insert.reached, insert.why) == (None, False, "no insert was measured")
    assert (rust.found, rust.why) == (None, "was not run")


def test_roundtrip_may_be_compared_with_as_many_processes() -> None:
    peers = [made_up.peer("Roundtrip", 100, 1, 1), made_up.peer("Roundtrip", 160, 1, 1, processes=2)]
    found = REPLACED(made_up.report(), peers=[*peers, made_up.peer("Go", 100, 1, 1)])
    asked = Wanted(64, [Against("Go", {"single": 1.5}), Against("Go", {"single": 1.5}, ours=2)])
    assert [ratio.found for ratio in ratios(found, asked)] == [1.0, 1.6]


def test_the_round_in_the_middle_stands_for_all() -> None:
    runs = [run("single", n, p50=n) for n in (5, 1, 3, 4)]
    middle = typical(runs, "single")
    assert middle is not None
    assert middle.per_second == 3
    assert typical(runs, "list") is None


@pytest.mark.parametrize(
    ("found", "reached", "text"), [(1.4999, False, "1.49"), (1.5, True, "1.50"), (39.99, True, "39.9")]
)
def test_a_ratio_is_never_rounded_up(found: float, reached: bool, text: str) -> None:
    assert (ratio(found).reached, written(found)) == (reached, text)


def test_what_is_missing_of_a_ratio_is_a_part_of_what_was_wanted() -> None:
    assert ratio(1.2).short == pytest.approx(0.2)
    assert ratio(2.0).short == 0
    assert ratio(None).short == 0


def test_every_ratio_that_is_wanted_is_there() -> None:
    asked = {(a.peer, scenario): least for a in wanted().against for scenario, least in a.wanted.items()}
    assert len(asked) == 12
    assert asked["FastAPI + SQLModel", "list"] == 17
    assert asked["pgbench", "single"] == 0.55
    for against in wanted().against:
        assert set(against.tried) <= set(against.wanted)


# The terminal


def test_the_table_fits_a_terminal() -> None:
    found = made_up.report()
    long = REPLACED(found, runs=[*found.runs, run("a scenario with a name that goes on " * 3)])
    lines = report.table(long).splitlines()
    assert max(map(len, lines)) <= 100
    assert any(line.startswith("update") and " FAIL " in line for line in lines)
    assert any(line.startswith("insert") and " pass " in line for line in lines)
    assert any(line.startswith("single read (generator!)") for line in lines)
    assert "\x1b" not in report.table(long)


def test_columns_stand_below_each_other() -> None:
    from benchmarks.terminal import aligned

    assert aligned(("name", "n"), [("a", "1"), ("long", "100")]) == "name    n\na       1\nlong  100"


# The machine


def test_the_machine_is_described_without_names() -> None:
    import platform

    from benchmarks.machine import machine, versions

    facts = machine()
    assert {"cores", "memory", "kernel", "load before"} <= set(facts)
    assert re.fullmatch(r"\d+", facts["cores"])
    found = versions()
    assert {"Python", "PostgreSQL", "asyncpg", "litestar", "Roundtrip"} <= set(found)
    assert found["PostgreSQL"] != "unknown"
    for text in (*facts.values(), *found.values()):
        assert str(Path.home()) not in text
        assert platform.node() not in text.split()
