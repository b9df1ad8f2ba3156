"""Reports that nobody measured, to look at."""

from datetime import UTC, datetime

from benchmarks.curves import (
    CLOSED,
    CURSOR,
    IDLE,
    INSTANCES,
    OFFSET,
    OWN,
    ROWS,
    absent,
    curve,
)
from benchmarks.results import Curve, Generator, Latency, Peer, Point, Report, Run, Verdict


def run(
    scenario: str = "single",
    per_second: float = 1000.0,
    *,
    connections: int = 64,
    rate: float | None = None,
    p50: float = 2.0,
    us: tuple[float | None, float | None] = (80.0, 28.0),
    errors: dict[str, int] | None = None,
    bottleneck: bool = False,
    fair: float = 0.93,
) -> Run:
    return Run(
        scenario=scenario,
        loop="closed" if rate is None else "open",
        connections=connections,
        asked_per_second=rate,
        duration_s=10.0,
        answers=int(per_second * 10),
        per_second=per_second,
        errors=errors or {},
        latency=Latency(p50, p50 * 1.7, p50 * 4.1, p50 * 7.3, p50 * 15.1, p50 * 1.2),
        generator=Generator(21.0, 0.98 if bottleneck else 0.31, 0.4, bottleneck),
        service_cpu_us=us[0],
        postgres_cpu_us=us[1],
        slowest_connection=fair,
    )


def verdict(target: str, limit: float, p99: float, where: str = "http") -> Verdict:
    assert where in ("http", "database")
    return Verdict(
        target,
        "database design, section 7",
        "http" if where == "http" else "database",
        limit,
        p99,
        p99 < limit,
        5000,
    )


def peer(
    name: str, single: float, list: float, insert: float, *, us: float = 500.0, processes: int = 1
) -> Peer:
    rounds = [
        run(scenario, per_second * share, p50=64_000 / per_second, us=(us * 1000 / per_second, us / 4))
        for share in (0.9, 1.0, 1.2)
        for scenario, per_second in (("single", single), ("list", list), ("insert", insert))
    ]
    return Peer(name, {"name": "1.2.3", "other": "4.5"}, processes, runs=rounds)


def line(name: str, x: str, xs: list[float], base: float, growth: float, kb: float | None = None) -> Curve:
    """A curve that grows by a part of the first point with each point."""
    points = [
        Point(
            at,
            run(
                name, 900, connections=16, p50=1.2 * (1 + growth * n), us=(base * (1 + growth * n), base / 3)
            ),
            kb,
        )
        for n, at in enumerate(xs)
    ]
    return curve(name, x, points)


def report(*, quick: bool = False) -> Report:
    """One that has everything, good and bad."""
    return Report(
        started=datetime(2026, 11, 22, 18, 4, tzinfo=UTC),
        duration_s=801.5,
        command="uv run --group bench roundtrip bench",
        machine={
            "CPU": "AMD EPYC",
            "cores": "2",
            "memory": "23.5 GiB",
            "system": "Debian GNU/Linux 12 (bookworm)",
            "kernel": "6.18.44",
            "load before": "0.05, 0.10, 0.20 (1, 5, 15 minutes)",
        },
        versions={
            "Python": "3.11.7",
            "PostgreSQL": "18.6",
            "uvicorn": "0.54.0",
            "Roundtrip": "0.1.0 at 0123456789",
        },
        data={"users": 1000, "tasks": 1_000_000, "tasks of each of 50 users": 10_000},
        quick=quick,
        verdicts=[
            verdict("pool acquire", 10, 0.21, "database"),
            verdict("single row", 50, 4.31),
            verdict("list of 100", 100, 31.9),
            verdict("index scan", 50, 8.8, "database"),
            verdict("insert", 20, 12.46),
            verdict("update", 20, 23.9),
            verdict("delete", 20, 9.0),
        ],
        runs=[
            run("single", 500, connections=32, rate=500, p50=1.1),
            run("list", 300, connections=32, rate=300, p50=3.3),
            run("insert", 200, connections=32, rate=200, p50=2.2),
            run("update", 200, connections=32, rate=200, p50=2.4),
            run("delete", 200, connections=32, rate=200, p50=2.1),
            run("search", 50, connections=32, rate=50, p50=7.2),
            run("statistics", 30, connections=32, rate=30, p50=12.0),
            run("mix", 800, connections=64, rate=800, p50=1.9, errors={"503": 3, "reset": 1}),
            run("single", 9000, connections=1000, p50=110.0),
            run("single", 12_300, connections=64, p50=5.0, bottleneck=True),
        ],
        curves=[
            line("single", ROWS, [1e3, 1e4, 1e5, 1e6, 3e6], 80, 0.004),
            line("list", ROWS, [1e3, 1e4, 1e5, 1e6, 3e6], 510, -0.01),
            line("insert", ROWS, [1e3, 1e4, 1e5, 1e6, 3e6], 140, 0.02),
            line("list", OWN, [10, 100, 1000, 10_000, 100_000], 480, 0.03),
            line("search", OWN, [10, 100, 1000, 10_000, 100_000], 300, 4.0),
            line("single", CLOSED, [1, 10, 100, 1000, 10_000], 200, -0.1),
            line("single", IDLE, [1, 100, 1000, 10_000], 90, 0.01, 19.8),
            line("list", OFFSET, [0, 10, 100, 1000, 10_000, 90_000], 400, 0.9),
            line("list", CURSOR, [0, 10, 100, 1000, 10_000, 90_000], 410, 0.002),
            absent("single", INSTANCES, "haproxy is not installed"),
        ],
        peers=[
            peer("Roundtrip", 12_750, 1960, 5500, us=950),
            peer("FastAPI + SQLModel", 134, 80, 93, us=900),
            peer("FastAPI + SQLAlchemy async", 322, 155, 263, us=900),
            peer("plain Litestar", 1090, 490, 1080, us=900),
            peer("Fastify + postgres.js", 3400, 650, 2200),
            peer("Fastify + postgres.js", 5100, 900, 2600, processes=2),
            peer("pgbench", 16_850, 3980, 5100, us=100),
            Peer(
                "Go net/http + pgx", {}, 1, absent="no Go compiler: <apt-get install golang-go> & try again"
            ),
        ],
        left_out={"10^7 rows": "not asked for (--rows 10000000)"},
    )
