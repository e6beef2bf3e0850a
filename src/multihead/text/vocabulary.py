"""What the numbers of a run stand for: tokenizers by role, and classes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from multihead.text.targets import TargetText


@dataclass
class Vocabulary:
    """What the numbers of a run stand for."""

    tokenizers: Mapping[str, Any]
    """Role to tokenizer."""
    labels: list[str] = field(default_factory=list)
    """Names of the classes, in the order of their numbers."""
    targets: Mapping[str, TargetText] = field(default_factory=dict)
    """Task to what the training split tells of its targets; of tasks that decode them."""
