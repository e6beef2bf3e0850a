"""The parts of sacreBLEU that are private, in one place. They were read in version 2.6.

A scorer turns each sentence into a few numbers, its sufficient statistics, and computes the score of a corpus from
their sum. Both methods are private. If another version changes them, `tests/metrics/test_sacrebleu_private.py` fails.
"""

from __future__ import annotations

from collections.abc import Sequence

from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

Scorer = BLEU | CHRF | TER


def sentence_statistics(scorer: Scorer, outputs: Sequence[str], references: Sequence[str]) -> list[list[int]]:
    """The statistics of each sentence. There is at least one, and each has one reference."""
    scorer.num_refs = 1  # `corpus_score` sets it too
    return scorer._extract_corpus_statistics(outputs, [references])


def score_of_sums(scorer: Scorer, sums: Sequence[int]) -> float:
    """The score of a corpus from the sums of its sentences' statistics."""
    scorer.num_refs = 1
    return scorer._compute_score_from_stats(list(sums)).score


def signature(scorer: Scorer) -> str:
    """The text that names the options and the version of the scorer."""
    scorer.num_refs = 1
    return str(scorer.get_signature())
