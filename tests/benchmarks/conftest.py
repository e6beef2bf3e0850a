"""Benchmarks are scripts that import each other by name."""

import sys
from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def benchmarks_on_the_path(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    yield
    sys.modules.pop("rounds", None)
