"""Roundtrip against its peers: requests a second over theirs, beside what was wanted (`wanted.toml`)."""

from collections.abc import Iterable
from math import floor
from pathlib import Path
from statistics import median

import msgspec
from msgspec import Struct, field

from benchmarks.results import Peer, Report, Run

FILE = Path(__file__).with_name("wanted.toml")
US = "Roundtrip"
TITLES = {"single": "single read", "list": "list of 100", "insert": "insert"}


class Against(Struct, frozen=True):
    """What is wanted against one peer, by scenario, and what was tried where it falls short."""

    peer: str
    wanted: dict[str, float]
    processes: int = 1
    ours: int = 1  # processes of Roundtrip
    note: str = ""
    tried: dict[str, str] = field(default_factory=dict)


class Wanted(Struct, frozen=True):
    """The file `wanted.toml`."""

    connections: int  # of all but pgbench, which has as many as give the most
    against: list[Against]


class Ratio(Struct, frozen=True):
    """One of them; `found` is None where there is nothing to compare, and `why` says so."""

    against: Against
    scenario: str
    wanted: float
    found: float | None
    why: str = ""

    @property
    def reached(self) -> bool:
        return self.found is not None and self.found >= self.wanted

    @property
    def short(self) -> float:
        """How much is missing, as a part of what was wanted."""
        return 0.0 if self.found is None or self.reached else 1 - self.found / self.wanted

    @property
    def tried(self) -> str:
        return self.against.tried.get(self.scenario, "")


def written(ratio: float) -> str:
    """A ratio as it is written, never rounded up: two digits after the point below 10, one above."""
    digits = 2 if ratio < 10 else 1  # noqa: PLR2004
    return f"{floor(ratio * 10**digits) / 10**digits:.{digits}f}"


def wanted() -> Wanted:
    """The ratios that are wanted."""
    return msgspec.toml.decode(FILE.read_bytes(), type=Wanted)


def ratios(report: Report, asked: Wanted | None = None) -> list[Ratio]:
    """Every ratio that is wanted, peer by peer."""
    asked = asked or wanted()
    return [
        _ratio(report, against, scenario, least)
        for against in asked.against
        for scenario, least in against.wanted.items()
    ]


def typical(runs: Iterable[Run], scenario: str) -> Run | None:
    """Of the rounds of a scenario the one in the middle by requests a second; of two in the middle the slower."""
    rounds = [run for run in runs if run.scenario == scenario]
    return sorted(rounds, key=lambda run: run.per_second)[(len(rounds) - 1) // 2] if rounds else None


def speed(runs: Iterable[Run], scenario: str) -> float | None:
    """Requests a second, the median of the rounds."""
    rounds = [run for run in runs if run.scenario == scenario]
    return median(run.per_second for run in rounds) if rounds else None


def named(peer: Peer) -> str:
    """A peer, with how many processes it has."""
    return f"{peer.name} x {peer.processes}" if peer.processes > 1 else peer.name


def _ratio(report: Report, against: Against, scenario: str, least: float) -> Ratio:
    peer = _peer(report, against.peer, against.processes)
    us = _peer(report, US, against.ours)
    mine = speed(us.runs, scenario)
    theirs = speed(peer.runs, scenario)
    if not mine or not theirs:
        why = peer.absent or us.absent or f"no {TITLES.get(scenario, scenario)} was measured"
        return Ratio(against, scenario, least, None, why)
    return Ratio(against, scenario, least, mine / theirs)


def _peer(report: Report, name: str, processes: int) -> Peer:
    return next(
        (peer for peer in report.peers if peer.name == name and peer.processes == processes),
        Peer(name, {}, processes, absent=report.left_out.get("peers", "was not run")),
    )
