"""What a run of the suite found: the shape of report.json. Times in the unit that the name ends with."""

from datetime import datetime
from typing import Literal

from msgspec import Struct, field


class Latency(Struct, frozen=True):
    """Percentiles from an HDR histogram; in open loop from the intended send time of each request."""

    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    mean_ms: float


class Generator(Struct, frozen=True):
    """How the load generator itself fared. Where it was the bottleneck the run tells of it, not of the service."""

    cpu_us: float  # of its own, for each request
    busy: float  # CPU seconds a second, 1.0 is one core
    lag_p99_ms: float  # how late requests were sent
    bottleneck: bool


class Run(Struct, frozen=True):
    """One scenario, once, against one service."""

    scenario: str
    loop: Literal["open", "closed"]
    connections: int
    asked_per_second: float | None  # of an open loop
    duration_s: float
    answers: int
    per_second: float
    errors: dict[str, int]  # how many, by status or by what the connection said
    latency: Latency
    generator: Generator
    service_cpu_us: float | None  # for each request, all processes; None for a service elsewhere
    postgres_cpu_us: float | None
    slowest_connection: float = 1.0  # answers of the connection with the fewest over those of the median one


class Verdict(Struct, frozen=True):
    """A target of the documents, and whether it is met."""

    target: str
    source: str  # document and line
    where: Literal["http", "database"]
    limit_ms: float
    p99_ms: float
    passed: bool
    requests: int


class Point(Struct, frozen=True):
    """One place on a curve."""

    x: float
    run: Run
    memory_kb: float | None = None  # of the service, for each idle connection it holds


class Curve(Struct, frozen=True):
    """What a request costs as something grows; slopes in percent of the first point for each tenfold of x."""

    name: str
    x: str  # what grows, with its unit
    points: list[Point]
    cpu_slope: float
    p50_slope: float
    absent: str | None = None  # why there are no points, or not all


class Peer(Struct, frozen=True):
    """Another program that does the same; `absent` says why it could not be had."""

    name: str
    versions: dict[str, str]
    processes: int
    absent: str | None = None
    runs: list[Run] = field(default_factory=list)  # every round; the ratios are of medians


class Report(Struct, frozen=True):
    """All of it."""

    started: datetime
    duration_s: float
    command: str
    machine: dict[str, str]
    versions: dict[str, str]
    data: dict[str, int]  # users, tasks, tasks of the largest users
    quick: bool
    verdicts: list[Verdict] = field(default_factory=list)
    runs: list[Run] = field(default_factory=list)  # scenarios by themselves, and the mix
    curves: list[Curve] = field(default_factory=list)
    peers: list[Peer] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)  # part of the suite: why it was not run
