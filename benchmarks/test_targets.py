"""The latency targets as tests: `uv run --group bench pytest benchmarks`. Part of no other run."""

from collections.abc import AsyncIterator

import pytest

from benchmarks import targets
from benchmarks.stack import Stack, stack

pytestmark = pytest.mark.benchmark


@pytest.fixture(scope="session")
async def ready() -> AsyncIterator[Stack]:
    """The data and the service that `roundtrip bench` measures."""
    async with stack(progress=print) as ready:
        yield ready


@pytest.mark.parametrize("target", targets.load(), ids=lambda target: target.name)
async def test_a_target_is_met(target: targets.Target, ready: Stack) -> None:
    verdicts = await targets.judge(ready, target, quick=False, progress=print)
    assert len(verdicts) == len(target.where)
    for verdict in verdicts:
        assert verdict.passed, f"{verdict.where}: p99 {verdict.p99_ms:.1f} of {verdict.limit_ms:g} ms"
