"""Who may use a connection next: first come, first served, each with a deadline.

asyncpg's own wait for a connection is neither fair nor bounded by a statement's timeout (its issue 1247).
"""

import asyncio
from collections import deque


class Limiter:
    """A counting semaphore in strict order of arrival, whose capacity can change while it is used."""

    def __init__(self, capacity: int) -> None:
        self.capacity = capacity
        self.used = 0
        self._turns: deque[asyncio.Future[None]] = deque()

    @property
    def waiting(self) -> int:
        """Callers in the queue; those whose deadline passed are dropped when it moves."""
        return sum(not turn.done() for turn in self._turns)

    def resize(self, capacity: int) -> None:
        """Let `capacity` callers in at once from now on; those inside stay."""
        self.capacity = capacity
        self._admit()

    async def enter(self, until: float) -> None:
        """Wait for a place until the loop's clock shows `until`; raises `TimeoutError` past it."""
        if self.used < self.capacity and not self._turns:
            self.used += 1
            return
        turn = asyncio.get_running_loop().create_future()
        self._turns.append(turn)
        try:
            async with asyncio.timeout_at(until):
                await turn
        except BaseException:
            if turn.done() and not turn.cancelled():
                self.leave()  # the place came in the same moment as the end of the wait
            turn.cancel()
            raise

    def leave(self) -> None:
        """Give a place back, to the longest waiting."""
        self.used -= 1
        self._admit()

    def _admit(self) -> None:
        while self._turns and self.used < self.capacity:
            turn = self._turns.popleft()
            if not turn.done():
                self.used += 1
                turn.set_result(None)
