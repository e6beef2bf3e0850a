"""The vocabulary of a run: its tokenizers, its classes, and the scale of its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from multihead.text.targets import TargetText


@dataclass(frozen=True)
class Scale:
    """The mean and the standard deviation of a regression's labels in the training split.

    The model learns standardised labels. Its predictions are in the original units.
    """

    mean: float = 0.0
    deviation: float = 1.0

    def standardised(self, number: Any) -> Any:
        """Returns a number, or an array of numbers, in standard deviations from the mean."""
        return (number - self.mean) / self.deviation

    def original(self, number: Any) -> Any:
        """Returns a standardised number, or array of numbers, in the original units."""
        return number * self.deviation + self.mean


@dataclass
class Vocabulary:
    """What the ids of a run's tokens and classes, and its numbers, mean."""

    tokenizers: Mapping[str, Any]
    """Role to tokenizer."""
    labels: list[str] = field(default_factory=list)
    """Names of the classes in the order of their ids."""
    targets: Mapping[str, TargetText] = field(default_factory=dict)
    """Name of each task that decodes, to the measurements of its targets."""
    scales: Mapping[str, Scale] = field(default_factory=dict)
    """Name of each regression, to the scale of its labels."""
