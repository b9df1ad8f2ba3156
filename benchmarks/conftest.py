"""For `pytest benchmarks`: one process, for what is timed wants the machine to itself."""

import pytest


@pytest.hookimpl(tryfirst=True)
def pytest_xdist_auto_num_workers() -> int:
    """None, where the project's options say `-n auto`."""
    return 0
