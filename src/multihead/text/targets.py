"""What the training split tells of targets: how long they are for their sources, and what script they are in.

It is measured once, before training, and stands in the run directory, so that prediction and evaluation go by it too.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from multihead.errors import ConfigError
from multihead.text.scripts import bleu_tokenizer

LEAST_SLOPE, LEAST_EXTRA = 2.0, 10
"""An output may always be twice as long as its source, and ten tokens more."""
COVERED = 0.999
"""Share of the training targets that are within the limit, end mark included."""

BLEU_PACKAGES = {"ja-mecab": ("MeCab", "ja"), "ko-mecab": ("mecab_ko", "ko"), "flores200": ("sentencepiece", "flores")}
"""Tokenizers of BLEU that need a package: its module, and the extra of multihead that holds it."""


@dataclass(frozen=True)
class TargetText:
    """What decoding and scores go by; the defaults are those of runs from before it was measured."""

    slope: float = LEAST_SLOPE
    """Most tokens of an output for each token of its source."""
    extra: int = LEAST_EXTRA
    """Tokens that an output may have beyond that."""
    bleu_tokenize: str = "13a"
    """sacreBLEU's tokenizer that task.bleu_tokenize=auto stands for."""

    @classmethod
    def measured(cls, source_lengths: np.ndarray, target_lengths: np.ndarray, targets: Sequence[str]) -> TargetText:
        """From the training split.

        For each token of its source an output may have 1.5 times the tokens that targets have on average, and so many
        more that `COVERED` of the training targets, end mark included, are within the limit.

        Args:
            source_lengths: Tokens of each source [N].
            target_lengths: Tokens of each target [N].
            targets: Their texts.
        """
        slope = 1.5 * int(target_lengths.sum()) / max(1, int(source_lengths.sum()))
        slope = max(LEAST_SLOPE, math.ceil(4 * slope) / 4)
        beyond = np.quantile(target_lengths + 1 - slope * source_lengths, COVERED, method="higher")
        return cls(slope, max(LEAST_EXTRA, math.ceil(beyond)), bleu_tokenizer(targets))

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> TargetText:
        """From what `as_dict` gave."""
        return cls(float(content["slope"]), int(content["extra"]), str(content["bleu_tokenize"]))

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {"slope": self.slope, "extra": self.extra, "bleu_tokenize": self.bleu_tokenize}

    def limit(self, source_tokens: int) -> int:
        """Most tokens of an output, end mark included, for a source of so many."""
        return math.floor(self.slope * source_tokens) + self.extra


def usable_tokenizer(wanted: str, text: TargetText) -> tuple[str, str]:
    """The tokenizer of BLEU to be used, and what there is to say about it.

    Args:
        wanted: ``task.bleu_tokenize``.
        text: What was measured.

    Returns:
        Its name (where auto finds a script whose package is missing, char), and a line, or none.
    """
    name = text.bleu_tokenize
    if wanted != "auto" or name == "13a":
        return (name if wanted == "auto" else wanted), ""
    if extra := _missing(name):
        why = f"sacreBLEU's tokenizer {name}, which fits the script of the targets, is not installed"
        return "char", f'BLEU is counted in characters: {why}; pip install "multihead[{extra}]" installs it'
    return name, f"BLEU is counted by sacreBLEU's tokenizer {name}, which fits the script of the targets"


def require_tokenizer(wanted: str) -> None:
    """Checks that the tokenizer that was asked for is installed.

    Raises:
        ConfigError: It is not.
    """
    if extra := _missing(wanted):
        fix = f'pip install "multihead[{extra}]", or task.bleu_tokenize=char'
        raise ConfigError("task.bleu_tokenize", f"{wanted} needs a package that is not installed", fix)


def _missing(name: str) -> str:
    """The extra that a tokenizer of BLEU needs and that is not installed, or an empty string."""
    module, extra = BLEU_PACKAGES.get(name, ("", ""))
    return extra if module and importlib.util.find_spec(module) is None else ""
