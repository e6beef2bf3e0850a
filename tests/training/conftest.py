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


@pytest.fixture
def forked_ranks(monkeypatch):
    """Starts ranks as forks, in a second less than in six. Use it if the test is not about processes."""
    from forked import launch_forks

    monkeypatch.setattr("torch.distributed.launcher.api.elastic_launch", launch_forks)
