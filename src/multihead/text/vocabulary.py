"""The vocabulary of a run: its tokenizers and its classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from multihead.text.targets import TargetText


@dataclass
class Vocabulary:
    """What the ids of a run's tokens and classes mean."""

    tokenizers: Mapping[str, Any]
    """Role to tokenizer."""
    labels: list[str] = field(default_factory=list)
    """Names of the classes in the order of their ids."""
    targets: Mapping[str, TargetText] = field(default_factory=dict)
    """Name of each task that decodes, to the measurements of its targets."""
