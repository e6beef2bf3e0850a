"""Measures the targets of the training split: how long they are for their sources, and which script they use.

They are measured once, before training. The run directory keeps the result, so prediction and evaluation use it too.
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
"""An output may always have twice as many tokens as its source, and ten more."""
COVERED = 0.999
"""Share of the training targets, with their end marks, that the limit must allow."""

BLEU_PACKAGES = {"ja-mecab": ("MeCab", "ja"), "ko-mecab": ("mecab_ko", "ko"), "flores200": ("sentencepiece", "flores")}
"""Tokenizer of BLEU that needs a package, to the package's module and the extra of multihead that installs it."""


@dataclass(frozen=True)
class TargetText:
    """The measurements that decoding and scores use. The defaults are for runs that are older than the measurement."""

    slope: float = LEAST_SLOPE
    """Largest number of output tokens for each token of the source."""
    extra: int = LEAST_EXTRA
    """Number of tokens that an output may have in addition."""
    bleu_tokenize: str = "13a"
    """The tokenizer of sacreBLEU that task.bleu_tokenize=auto selects."""

    @classmethod
    def measured(cls, source_lengths: np.ndarray, target_lengths: np.ndarray, targets: Sequence[str]) -> TargetText:
        """Measures the training split.

        For each token of its source, an output may have 1.5 times as many tokens as the targets have on average. The
        additional tokens are chosen so that the limit allows `COVERED` of the training targets, with their end marks.

        Args:
            source_lengths: Number of tokens of each source [N].
            target_lengths: Number of tokens of each target [N].
            targets: The texts of the targets.
        """
        slope = 1.5 * int(target_lengths.sum()) / max(1, int(source_lengths.sum()))
        slope = max(LEAST_SLOPE, math.ceil(4 * slope) / 4)
        beyond = np.quantile(target_lengths + 1 - slope * source_lengths, COVERED, method="higher")
        return cls(slope, max(LEAST_EXTRA, math.ceil(beyond)), bleu_tokenizer(targets))

    @classmethod
    def of(cls, content: Mapping[str, Any]) -> TargetText:
        """Reads what `as_dict` returned."""
        return cls(float(content["slope"]), int(content["extra"]), str(content["bleu_tokenize"]))

    def as_dict(self) -> dict[str, Any]:
        """Returns the measurements as JSON stores them."""
        return {"slope": self.slope, "extra": self.extra, "bleu_tokenize": self.bleu_tokenize}

    def limit(self, source_tokens: int) -> int:
        """Returns the largest number of tokens of an output, with its end mark, for a source of this length."""
        return math.floor(self.slope * source_tokens) + self.extra


def usable_tokenizer(wanted: str, text: TargetText) -> tuple[str, str]:
    """Chooses the tokenizer of BLEU.

    Args:
        wanted: The configured tokenizer, which is ``task.bleu_tokenize``.
        text: The measurements of the training split.

    Returns:
        The tokenizer's name, and a line for the log, which may be empty. If ``auto`` selects a tokenizer whose package
        is missing, the name is char.
    """
    name = text.bleu_tokenize
    if wanted != "auto" or name == "13a":
        return (name if wanted == "auto" else wanted), ""
    if extra := _missing(name):
        why = f"sacreBLEU's tokenizer {name}, which fits the script of the targets, is not installed"
        return "char", f'BLEU is computed on characters: {why}; pip install "multihead[{extra}]" installs it'
    return name, f"BLEU is computed with sacreBLEU's tokenizer {name}, which fits the script of the targets"


def require_tokenizer(wanted: str) -> None:
    """Checks that the package of the configured tokenizer is installed.

    Raises:
        ConfigError: It is missing.
    """
    if extra := _missing(wanted):
        fix = f'pip install "multihead[{extra}]", or task.bleu_tokenize=char'
        raise ConfigError("task.bleu_tokenize", f"{wanted} needs a package that is not installed", fix)


def _missing(name: str) -> str:
    """Returns the extra that installs a tokenizer's missing package; empty if nothing is missing."""
    module, extra = BLEU_PACKAGES.get(name, ("", ""))
    return extra if module and importlib.util.find_spec(module) is None else ""
