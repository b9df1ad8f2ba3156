"""Lines of JSON: one for each answered request, whatever its path says, in one write for each turn of the loop."""

import asyncio
import io
import logging
from collections.abc import Iterator
from typing import Any

import msgspec
import pytest

from service import logs

REQUEST = ("GET", "/api/v1/tasks/7", 200, 0.01234, "id-1", "192.0.2.1")


class Writes(io.StringIO):
    """A stream that knows what was written to it, write by write."""

    def __init__(self) -> None:
        super().__init__()
        self.each: list[str] = []

    def write(self, text: str) -> int:
        self.each.append(text)
        return len(text)


@pytest.fixture
def stream(monkeypatch: pytest.MonkeyPatch) -> Iterator[Writes]:
    writes = Writes()
    monkeypatch.setattr(logs, "_stream", writes)
    logger = logging.getLogger("access")
    level = logger.level
    logger.setLevel("INFO")
    yield writes
    logger.setLevel(level)


def lines(text: str) -> list[dict[str, Any]]:
    assert text.endswith("\n")
    return [msgspec.json.decode(line) for line in text.splitlines()]


async def test_a_turn_of_the_loop_is_one_write(stream: Writes) -> None:
    for _ in range(3):
        logs.access(*REQUEST)
    assert stream.each == []
    await asyncio.sleep(0)
    logs.access(*REQUEST)
    await asyncio.sleep(0)
    first, second = map(lines, stream.each)
    assert (len(first), len(second)) == (3, 1)
    told = first[0]
    assert told.pop("timestamp").endswith("Z")
    assert told == {
        "event": "GET /api/v1/tasks/7",
        "status": 200,
        "ms": 12.3,
        "request_id": "id-1",
        "address": "192.0.2.1",
        "logger": "access",
        "level": "info",
    }


@pytest.mark.parametrize(
    ("path", "told"),
    [("/a\n{}", "/a%0A%7B%7D"), ("/a\x1b[31m", "/a%1B%5B31m"), ('/a"b', "/a%22b"), ("/é", "/%C3%A9")],
)
async def test_a_path_cannot_forge_a_line(stream: Writes, path: str, told: str) -> None:
    logs.access("GET", path, *REQUEST[2:])
    await asyncio.sleep(0)
    [line] = lines(stream.each[0])
    assert line["event"] == f"GET {told}"


async def test_a_stream_that_is_closed_keeps_nothing(stream: Writes, monkeypatch: pytest.MonkeyPatch) -> None:
    def closed(text: str) -> int:
        raise BrokenPipeError

    seen: list[object] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: seen.append(context["exception"]))
    try:
        with monkeypatch.context() as broken:
            broken.setattr(stream, "write", closed)
            logs.access(*REQUEST)
            await asyncio.sleep(0)
    finally:
        loop.set_exception_handler(None)
    assert [type(error) for error in seen] == [BrokenPipeError]
    logs.access(*REQUEST)
    await asyncio.sleep(0)
    assert len(lines(stream.each[0])) == 1


async def test_below_info_nothing_is_told(stream: Writes) -> None:
    logging.getLogger("access").setLevel("WARNING")
    logs.access(*REQUEST)
    await asyncio.sleep(0)
    assert stream.each == []
