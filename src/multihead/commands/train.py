"""``train``: trains as composed, or with ``plan=true`` says what a run would take."""

from __future__ import annotations

from typing import Any

from multihead.config.compose import Composition
from multihead.training import forecast, job


def run(composition: Composition) -> int:
    """Trains as composed; returns the exit status."""
    train(composition)
    return 0


def train(composition: Composition) -> dict[str, Any]:
    """Trains as composed; returns what result.json holds, or what the forecast says where ``plan=true``."""
    if composition.config.plan:
        return forecast.plan(composition)
    return job.train(composition)
