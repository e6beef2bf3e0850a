"""A run of steps alone, whose clock stands still."""

import pytest
from steps_alone import Clock, Run

from multihead.training import counters


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(counters, "time", clock)
    return clock


@pytest.fixture
def run(tmp_path, clock):
    """Builds a `Run` with these settings."""
    return lambda **config: Run(tmp_path, clock, **config)
