"""What goes on in the generator's process: connections, whose turn it is, and what came back."""

import asyncio
import ctypes
import gc
import os
import re
import resource
import statistics
import time
from array import array
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Iterator
from itertools import cycle
from ssl import create_default_context
from time import perf_counter, process_time
from typing import Any

import uvloop
from hdrh.histogram import HdrHistogram

from benchmarks.load import LoadError, Outcome, Plan, Shot, schedule
from benchmarks.results import Generator, Latency
from benchmarks.wire import Connection

STEP = 100  # connections that are made at a time
SPARE = 64  # descriptors for everything else
SWEEP = 0.1  # seconds between looks for requests that take too long
AGAIN = 0.2  # seconds until a connection that was refused is tried again
GRAIN = 0.0002  # seconds; what is due within them is sent together
SCHEDULER = 5.0  # milliseconds of lag that any machine gives
BUSY = 0.9
LONGEST = 3_600_000_000  # microseconds that the histogram takes
TOKEN = re.compile(rb'("refresh_token" ?: ?")([^"]*)')


def carry_out(plan: Plan, measuring: Callable[[], None], done: Callable[[], None]) -> Outcome:
    """Carry out a plan; tells when its warm-up is over, and when the last answer is there."""
    _allow(plan.connections + SPARE)
    gc.freeze()
    gc.disable()  # nothing here is cyclic, and it ends soon
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(Load(plan, measuring, done).run())


def _allow(files: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    if most != resource.RLIM_INFINITY and files > most:
        raise LoadError(f"{files} descriptors are needed and {most} allowed; raise them with: ulimit -n")
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, most))


class Load:
    """A plan under way. Times are those of `perf_counter`."""

    def __init__(self, plan: Plan, measuring: Callable[[], None], done: Callable[[], None]) -> None:
        self.plan = plan
        self._measuring, self._done = measuring, done
        self._turn: Iterator[Shot] = iter(plan.shots) if plan.once else cycle(plan.shots)
        self._chains = {shot.chain: shot.request for shot in plan.shots if shot.chain is not None}
        self._under_way: set[str] = set()  # chains
        self._connections: list[Connection[Shot]] = [Connection(self) for _ in range(plan.connections)]
        self._idle: deque[Connection[Shot]] = deque()
        self._waiting: deque[float] = deque()  # when those were due that found no connection
        self._opening: set[asyncio.Task[None]] = set()
        self._busy = 0
        self._sent_all = self._used_up = False
        self._over = asyncio.Event()
        self._few = asyncio.Semaphore(STEP)
        self._tls = create_default_context() if plan.tls else None
        self._starts = self._from = self._until = self._marked = self._ended = self._last = 0.0
        self._cpu_before = self._cpu_after = 0.0
        self._took = array("d")
        self._lags = array("d")
        self._answers = 0
        self._fault: BaseException | None = None
        self._errors: Counter[str] = Counter()

    async def run(self) -> Outcome:
        self._loop = asyncio.get_running_loop()
        self._loop.set_exception_handler(self._broken)
        for at in range(0, len(self._connections), STEP):
            await asyncio.gather(*(self._open(c) for c in self._connections[at : at + STEP]))
        sweeping = asyncio.create_task(self._sweep())
        self._starts = perf_counter()
        self._from = self._starts + self.plan.warmup_s
        self._until = self._from + self.plan.duration_s
        self._loop.call_later(self._from - perf_counter(), self._mark)
        for connection in self._connections:
            if connection.open:
                self._idle.append(connection)
            else:
                self._start(self._reopen(connection))
        if self.plan.loop == "open":
            self._send_on_time()
        else:
            self._send_always()
        await self._over.wait()
        sweeping.cancel()
        if self._fault is not None:
            raise self._fault
        return self._outcome()

    def answered(self, connection: Connection[Shot], status: int) -> None:
        """An answer is there: count it, and give the connection its next request."""
        now = perf_counter()
        shot, since = connection.shot, connection.since
        assert shot is not None
        connection.shot = None
        self._busy -= 1
        if status == shot.expect:
            if self._counts(since):
                self._took.append(now - since)
                self._last = now
                self._answers += 1
                connection.answers += 1
        else:
            self._fail(str(status), since)
        if shot.chain is not None:
            self._follow(shot.chain, connection.body or b"")
        if connection.open:
            self._give(connection, now)
        self._end_perhaps()

    def lost(self, connection: Connection[Shot], kind: str) -> None:
        """A connection is gone: open it again."""
        if connection.shot is not None:
            self._drop(connection, kind)
        elif connection in self._idle:
            self._idle.remove(connection)
        if self._starts and not self._over.is_set():
            self._start(self._reopen(connection))
        self._end_perhaps()

    # Sending

    def _send_on_time(self) -> None:
        plan = self.plan
        seconds = plan.warmup_s + plan.duration_s
        assert plan.rate is not None
        self._due = schedule(plan.rate, seconds, poisson=plan.poisson, seed=plan.seed)
        if plan.once and len(self._due) > len(plan.shots):
            del self._due[len(plan.shots) :]
            self._used_up = True
        self._at = 0
        self._alarm = Alarm(self._loop, self._tick)
        self._tick()

    def _tick(self) -> None:
        """Send all that is due, or have it wait for a connection, and come back for the next."""
        due, at, starts = self._due, self._at, self._starts
        while at < len(due) and not self._sent_all:
            since, now = starts + due[at], perf_counter()
            if since > now:
                self._alarm.set(max(since, now + GRAIN))
                break
            at += 1
            if since >= self._from:
                self._lags.append(now - since)
            if not (self._idle and self._try(self._idle[0], since)):
                self._waiting.append(since)
            else:
                self._idle.popleft()
        else:
            self._sent_all = True
            self._alarm.end()
            self._end_perhaps()
        self._at = at

    def _send_always(self) -> None:
        self._loop.call_later(self._until - perf_counter(), self._enough)
        for connection in [*self._idle]:
            self._idle.popleft()
            self._give(connection, perf_counter())

    def _enough(self) -> None:
        self._sent_all = True
        self._end_perhaps()

    def _give(self, connection: Connection[Shot], now: float) -> None:
        """Have a free connection send what waits, or wait itself."""
        if self.plan.loop == "closed":
            if not self._sent_all and now < self._until and self._try(connection, now):
                return
        else:
            self._forget_the_late(now)
            if self._waiting and self._try(connection, self._waiting[0]):
                self._waiting.popleft()
                return
        self._idle.append(connection)

    def _try(self, connection: Connection[Shot], since: float) -> bool:
        """Send the shot whose turn it is; False where there is none."""
        shot = self._next()
        if shot is None:
            return False
        self._busy += 1
        if shot.chain is None:
            connection.send(shot, shot.request, since)
        else:
            self._under_way.add(shot.chain)
            connection.send(shot, self._chains[shot.chain], since, keep=True)
        return True

    def _next(self) -> Shot | None:
        """The next shot whose chain is free; None where the shots are used up, or wait for their chains."""
        for _ in range(len(self.plan.shots)):
            shot = next(self._turn, None)
            if shot is None:
                self._sent_all = self._used_up = True
                self._waiting.clear()
                return None
            if shot.chain is None or shot.chain not in self._under_way:
                return shot
        return None

    # What became of it

    def _counts(self, since: float) -> bool:
        """Whether a request is of the time that is measured, whenever its answer comes."""
        return self._from <= since < self._until

    def _fail(self, kind: str, since: float) -> None:
        if self._counts(since):
            self._errors[kind] += 1

    def _give_up(self, since: float, now: float) -> None:
        """An answer took too long; it stands among the latencies as long as it was waited for."""
        self._fail("timeout", since)
        if self._counts(since):
            self._took.append(now - since)

    def _forget_the_late(self, now: float) -> None:
        while self._waiting and now - self._waiting[0] > self.plan.timeout_s:
            self._give_up(self._waiting.popleft(), now)

    def _drop(self, connection: Connection[Shot], kind: str) -> None:
        """There will be no answer."""
        shot, connection.shot = connection.shot, None
        assert shot is not None
        self._busy -= 1
        if shot.chain is not None:
            self._under_way.discard(shot.chain)
        if kind == "timeout":
            self._give_up(connection.since, perf_counter())
        else:
            self._fail(kind, connection.since)

    def _follow(self, chain: str, body: bytes | bytearray) -> None:
        self._under_way.discard(chain)
        if found := TOKEN.search(body):
            self._chains[chain] = renewed(self._chains[chain], found[2])

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(SWEEP)
            now = perf_counter()
            self._forget_the_late(now)
            for connection in self._connections:
                if connection.shot is not None and now - connection.since > self.plan.timeout_s:
                    self._drop(connection, "timeout")
                    connection.abort()
            self._end_perhaps()

    def _end_perhaps(self) -> None:
        if self._sent_all and not self._busy and not self._waiting and not self._over.is_set():
            self._mark()
            self._cpu_after = process_time()
            self._done()
            self._ended = perf_counter()
            self._over.set()

    def _mark(self) -> None:
        """The warm-up is over."""
        if not self._cpu_before:
            self._marked = perf_counter()
            self._cpu_before = process_time()
            self._measuring()

    def _broken(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """A mistake of ours in a callback, which the loop would go on after."""
        self._fault = self._fault or context.get("exception") or RuntimeError(context["message"])
        self._over.set()

    # Connections

    async def _open(self, connection: Connection[Shot], tries: int = 5) -> None:
        """Connect; raises `OSError` where nobody answers."""
        host, port, tls = self.plan.host, self.plan.port, self._tls
        for left in reversed(range(tries)):
            try:
                await self._loop.create_connection(lambda: connection, host, port, ssl=tls)
                break
            except OSError:
                if not left:
                    raise
                await asyncio.sleep(AGAIN)

    async def _reopen(self, connection: Connection[Shot]) -> None:
        async with self._few:
            while not self._over.is_set():
                try:
                    await self._open(connection, tries=1)
                except OSError:
                    self._fail("connect", perf_counter())
                    await asyncio.sleep(AGAIN)
                else:
                    if connection.open:  # else it was lost again, and `lost` has seen to it
                        self._give(connection, perf_counter())
                    return

    def _start(self, work: Coroutine[None, None, None]) -> None:
        task = asyncio.create_task(work)
        self._opening.add(task)
        task.add_done_callback(self._opening.discard)

    # The end

    def _outcome(self) -> Outcome:
        until = min(self._until, self._ended) if self._used_up else self._until
        if self.plan.loop == "open":  # where answers may come later than they were asked for
            until = max(until, self._last)
        elapsed = until - self._from
        cpu = self._cpu_after - self._cpu_before
        took = latency(self._took)
        lag = latency(self._lags).p99_ms
        busy = cpu / (self._ended - self._marked)
        return Outcome(
            elapsed_s=max(elapsed, 0.001),
            answers=self._answers,
            errors=dict(sorted(self._errors.items())),
            latency=took,
            generator=Generator(
                cpu_us=cpu * 1e6 / max(self._answers, 1),
                busy=busy,
                lag_p99_ms=lag,
                bottleneck=busy > BUSY or lag > max(SCHEDULER, took.p99_ms / 2),
            ),
            slowest_connection=fairness([connection.answers for connection in self._connections]),
            chains=self._chains,
        )


class Alarm:
    """Calls back at a moment, to a tenth of a millisecond; the loop's own timers go by whole ones (Linux only)."""

    def __init__(self, loop: asyncio.AbstractEventLoop, call: Callable[[], None]) -> None:
        self._loop, self._call = loop, call
        self._libc = ctypes.CDLL(None, use_errno=True)
        self._fd = -1
        if hasattr(self._libc, "timerfd_create"):
            self._fd = self._libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
            loop.add_reader(self._fd, call)

    def set(self, at: float) -> None:
        """Call at this time of `perf_counter`; in place of what was set before."""
        if self._fd < 0:
            self._loop.call_later(at - perf_counter(), self._call)
            return
        seconds = int(at)
        moment = (ctypes.c_long * 4)(0, 0, seconds, max(1, int((at - seconds) * 1e9)))
        self._libc.timerfd_settime(self._fd, 1, moment, None)

    def end(self) -> None:
        """Never call again."""
        if self._fd >= 0:
            self._loop.remove_reader(self._fd)
            os.close(self._fd)
            self._fd = -1


def renewed(request: bytes, token: bytes) -> bytes:
    """A request with another refresh token."""
    head, _, body = request.partition(b"\r\n\r\n")
    body = TOKEN.sub(rb"\g<1>" + token, body)
    head = re.sub(rb"(?i)(\r\ncontent-length: *)\d+", rb"\g<1>%d" % len(body), head)
    return head + b"\r\n\r\n" + body


def fairness(answers: list[int]) -> float:
    """Answers of the connection with the fewest over those of the median one."""
    return min(answers) / (statistics.median(answers) or 1) if any(answers) else 1.0


def latency(seconds: "array[float]") -> Latency:
    """Percentiles of what requests took."""
    histogram = HdrHistogram(1, LONGEST, 3)
    for us, count in Counter(int(one * 1e6) or 1 for one in seconds).items():
        histogram.record_value(us, count)
    p50, p90, p99, p999 = (histogram.get_value_at_percentile(p) / 1000 for p in (50, 90, 99, 99.9))
    mean, highest = histogram.get_mean_value() / 1000, histogram.get_max_value() / 1000
    return Latency(p50_ms=p50, p90_ms=p90, p99_ms=p99, p999_ms=p999, max_ms=highest, mean_ms=mean)
