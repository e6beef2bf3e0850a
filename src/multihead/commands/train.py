"""``train``: trains as composed, or with ``plan=true`` says what a run would take."""

from __future__ import annotations

from multihead.config.compose import Composition
from multihead.training.job import train


def run(composition: Composition) -> int:
    """Trains as composed; returns the exit status."""
    train(composition)
    return 0
