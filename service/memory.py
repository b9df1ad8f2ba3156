"""Answers of lists, searches and statistics, kept in memory and never stale.

An answer is of one revision of its user's tasks, and says until when time alone does not change it. Whoever asks again sends both
with the statement, which is sent after the request came, and reads no task where they still hold (`fresh` is false): then the answer
comes from here. So it is exact on any instance, whoever wrote, and whatever the clocks say; and a session that has ended is refused.
"""

from typing import Any, NamedTuple

from litestar import Response

from db.tasks import Version
from service.calls import Call, Json

OVERHEAD = 1000  # bytes of an entry, beside the answer's own


class Kept(NamedTuple):
    """An answer, and what it is of."""

    version: Version
    content: bytes
    headers: dict[str, str]

    def answer(self) -> Json:
        """The same again."""
        return Json(self.content, 200, {**self.headers})


class Memory:
    """Answers by session, path and query: the ones that were asked for last, up to `size` bytes."""

    def __init__(self, size: int) -> None:
        self._size = size
        self._used = 0
        self._kept: dict[tuple[str, str, bytes], Kept] = {}
        self.hits = self.misses = 0

    def find(self, call: Call) -> Kept | None:
        """What is kept of a request; remembered with the request, for it may be forgotten here before the database has answered."""
        key = _key(call)
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._kept[key] = kept
        call.scope["kept"] = kept  # type: ignore[typeddict-unknown-key]
        return kept

    def still(self, call: Call) -> Json | None:
        """The answer to a request whose version holds, if it is from here."""
        kept: Kept | None = call.scope.get("kept")  # type: ignore[assignment]
        if kept is None:
            return None
        self.hits += 1
        return kept.answer()

    def keep(self, call: Call, version: Version, answer: Response[Any]) -> None:
        """Remember an answer."""
        self.misses += 1
        key = _key(call)
        self._forget(key)
        if _bytes(answer.content) > self._size:
            return
        self._kept[key] = Kept(version, answer.content, {**answer.headers})
        self._used += _bytes(answer.content)
        while self._used > self._size:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: tuple[str, str, bytes]) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self._used -= _bytes(kept.content)


def _key(call: Call) -> tuple[str, str, bytes]:
    """The session, not the user: who deletes an account and signs up again under its id begins anew with its revisions."""
    return call.caller.sid, call.scope["path"], call.scope["query_string"]


def _bytes(content: bytes) -> int:
    return len(content) + OVERHEAD
