"""How far long work has come, on stderr."""

import sys
from time import monotonic
from typing import Self

EVERY = 5.0  # seconds between two lines where they cannot be written over


class Progress:
    """One line that is written over on a terminal; elsewhere a line every few seconds."""

    def __init__(self, what: str, total: int) -> None:
        self._what = what
        self._total = total
        self._done = 0
        self._terminal = sys.stderr.isatty()
        self._next = monotonic() + (0 if self._terminal else EVERY)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._terminal and self._done:
            self._tell()
            sys.stderr.write("\n")

    def add(self, number: int) -> None:
        """Tell, if it is time to."""
        self._done += number
        if number and monotonic() >= self._next:
            self._tell()
            self._next = monotonic() + (0.1 if self._terminal else EVERY)

    def _tell(self) -> None:
        line = f"{self._what}: {self._done:,} of {max(self._done, self._total):,}"
        sys.stderr.write(f"\r{line}" if self._terminal else f"{line}\n")
        sys.stderr.flush()
