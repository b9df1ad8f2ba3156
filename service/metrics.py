"""Counters for Prometheus. With several workers they are kept in files, so that any worker answers for all."""

from bisect import bisect_right
from typing import Any, Protocol

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from db.pool import Database
from db.statements import Statement

MANY = 512
SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)


class Remembers(Protocol):
    """What counts how often it was of use."""

    hits: int
    misses: int


class Metrics:
    """What the service counts; `shared` with the other workers, by files."""

    def __init__(self, *, shared: bool) -> None:
        self._shared = shared
        self._registry = CollectorRegistry()
        self._requests = Histogram(
            "roundtrip_request_seconds",
            "Time from request to answer",
            ("method", "route", "status"),
            buckets=SECONDS,
            registry=self._registry,
        )
        self._statements = Histogram(
            "roundtrip_statement_seconds",
            "Time from statement to rows",
            ("statement",),
            buckets=SECONDS,
            registry=self._registry,
        )
        self.in_flight = 0  # requests
        self._in_flight = self._gauge("roundtrip_requests_in_flight", "Requests under way")
        self._connections = self._gauge("roundtrip_pool_connections", "Open database connections")
        self._used = self._gauge("roundtrip_pool_used", "Database connections in use")
        self._waiting = self._gauge("roundtrip_pool_waiting", "Statements waiting for a connection")
        self.cache: Remembers | None = None
        self._cache = Counter(
            "roundtrip_cache",
            "Lists and statistics, by where they came from",
            ("from",),
            registry=self._registry,
        )
        self._remembered = {"memory": 0, "database": 0}
        self._unavailable = Counter("roundtrip_unavailable", "Requests answered 503", registry=self._registry)
        self._taken: dict[tuple[str, str, int], list[float]] = {}  # seconds, not in the histogram yet
        self._children: dict[tuple[str, ...], Any] = {}

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, registry=self._registry, multiprocess_mode="livesum")

    def answered(self, method: str, route: str, status: int, seconds: float) -> None:
        """Count one request; the route is its template, so that ids make no new series."""
        taken = self._taken.get((method, route, status))
        if taken is None:
            taken = self._taken[method, route, status] = []
        taken.append(seconds)
        if self._shared or len(taken) >= MANY:
            self._fold()
        if status == 503:  # noqa: PLR2004
            self._unavailable.inc()

    def _fold(self) -> None:
        """Count what requests took, many at a time: one by one the library takes 2 us of the 20 of a request."""
        for (method, route, status), taken in self._taken.items():
            child = self._child(self._requests, method, route, str(status))
            child._sum.inc(sum(taken))  # noqa: SLF001
            taken.sort()
            at = 0
            for bound, bucket in zip(child._upper_bounds, child._buckets, strict=True):  # noqa: SLF001
                to = bisect_right(taken, bound, at)
                bucket.inc(to - at)
                at = to
            taken.clear()

    def observed(self, statement: Statement, seconds: float) -> None:
        """Count one statement."""
        self._child(self._statements, statement.name).observe(seconds)

    def sample(self, db: Database) -> None:
        """Take down what was counted, and what goes up and down."""
        self._fold()
        if self.cache:
            for place, now in (("memory", self.cache.hits), ("database", self.cache.misses)):
                self._cache.labels(place).inc(now - self._remembered[place])
                self._remembered[place] = now
        self._in_flight.set(self.in_flight)
        self._connections.set(db.connections)
        self._used.set(db.limiter.used)
        self._waiting.set(db.limiter.waiting)

    def render(self, db: Database) -> bytes:
        """The text that Prometheus scrapes."""
        self.sample(db)
        if self._shared:
            registry = CollectorRegistry()
            multiprocess.MultiProcessCollector(registry)  # type: ignore[no-untyped-call]
            return generate_latest(registry)
        return generate_latest(self._registry)

    def _child(self, histogram: Histogram, *labels: str) -> Any:
        """A labelled series, looked up once: the library's own lookup takes a lock."""
        child = self._children.get(labels)
        if child is None:
            child = self._children[labels] = histogram.labels(*labels)
        return child
