"""Limits on guessing passwords and on signing up, per process and in memory.

Guesses are counted per account and address together, so that nobody can lock the owner out from elsewhere, and per
address over all accounts. An IPv6 address stands for its /64, which one customer has whole. (The library `limits`
looks at every key on each attempt, each in a thread: 0.9 s of CPU with 5,000 of them.)
"""

import ipaddress
import math
import time
from collections.abc import Callable

from service.errors import Problem

QUARTER, HOUR = 15 * 60, 60 * 60
MAX_KEYS = 100_000  # of one window; some 20 MB
MAX_ACCOUNT = 256  # no e-mail address and no id is longer


class Throttle:
    """Counts attempts; past a limit a 429 `Problem` with `Retry-After`."""

    def __init__(self, *, on: bool, clock: Callable[[], float] = time.monotonic) -> None:
        self._on = on
        self._guesses = Window(20, QUARTER, clock)
        self._guesses_of_address = Window(200, QUARTER, clock)
        self._sign_ups = Window(100, HOUR, clock)

    def sign_up(self, address: str) -> None:
        """Count a registration."""
        self._count(self._sign_ups, network(address))

    def guess(self, account: str, address: str) -> None:
        """Count a password before it is verified; `succeeded` takes the count back."""
        self._count(self._guesses_of_address, network(address))
        self._count(self._guesses, _pair(account, address))

    def succeeded(self, account: str, address: str) -> None:
        """Forget the guesses of somebody who knew the password."""
        self._guesses.forget(_pair(account, address))
        self._guesses_of_address.take_back(network(address))

    def _count(self, window: "Window", key: str) -> None:
        if self._on and (wait := window.hit(key)):
            headers = {"Retry-After": str(math.ceil(wait))}
            raise Problem(429, "Too many attempts; wait before the next.", headers=headers)


class Window:
    """At most `limit` attempts of each key within the last `seconds`.

    Those of the window before count for the part of it that is left. Two dicts that change places need no sweep,
    and bound the memory: a full one makes way early.
    """

    def __init__(self, limit: int, seconds: float, clock: Callable[[], float]) -> None:
        self._limit, self._seconds, self._clock = limit, seconds, clock
        self._began = clock()
        self._now: dict[str, int] = {}
        self._before: dict[str, int] = {}

    def hit(self, key: str) -> float:
        """Count an attempt, or tell the seconds to wait before the next one may succeed."""
        passed = self._turn()
        here, before = self._now.get(key, 0), self._before.get(key, 0)
        room = self._limit - 1
        if here > room:
            return max(1, self._seconds * (2 - room / here) - passed)
        if here + before * (1 - passed / self._seconds) > room:
            return max(1, self._seconds * (1 - (room - here) / before) - passed)
        self._now[key] = here + 1
        return 0

    def forget(self, key: str) -> None:
        """Start at nothing again."""
        self._now.pop(key, None)
        self._before.pop(key, None)

    def take_back(self, key: str) -> None:
        """Uncount one attempt."""
        counts = self._now if key in self._now else self._before
        if counts.get(key, 0) > 1:
            counts[key] -= 1
        else:
            counts.pop(key, None)

    def _turn(self) -> float:
        """The seconds of this window that have passed, after beginning another one where it is time."""
        now = self._clock()
        passed = now - self._began
        if passed < self._seconds and len(self._now) < MAX_KEYS:
            return passed
        self._before = self._now if passed < 2 * self._seconds else {}
        self._now = {}
        self._began = self._began + self._seconds if self._seconds <= passed < 2 * self._seconds else now
        return now - self._began


def network(address: str) -> str:
    """The address a limit counts: IPv4 whole, IPv6 by its /64."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return address
    if isinstance(parsed, ipaddress.IPv4Address):
        return address
    if parsed.ipv4_mapped:
        return str(parsed.ipv4_mapped)
    return str(ipaddress.ip_network((int(parsed), 64), strict=False))


def _pair(account: str, address: str) -> str:
    """Letter by letter in lower case, as PostgreSQL compares: no other spelling of an account is counted apart."""
    lower = "".join(letter.lower()[0] for letter in account[:MAX_ACCOUNT])
    return f"{network(address)} {lower}"
