"""Corpus BLEU and chrF from sacreBLEU's own statistics, ROUGE, and weighted means; all of them sum over ranks."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from sacrebleu.metrics import BLEU, CHRF, TER
from torch import Tensor
from torchmetrics import Metric

from multihead.metrics.rouge import rouge

BLEU_STATISTICS, CHRF_STATISTICS, TER_STATISTICS = 10, 18, 2
"""Numbers of a sentence: of BLEU two lengths, and matches and totals of four orders; of chrF three of six orders; of
TER edits and length."""


@functools.cache
def _bleu(lowercase: bool, tokenize: str) -> BLEU:
    return BLEU(lowercase=lowercase, tokenize=tokenize, force=True)


@functools.cache
def _chrf(lowercase: bool, word_order: int) -> CHRF:
    return CHRF(lowercase=lowercase, word_order=word_order)


@functools.cache
def _ter() -> TER:
    return TER()


class _CorpusScore(Metric):
    """A sacreBLEU metric whose state is the sum of the sentences' sufficient statistics.

    The score of a corpus depends on its sentences through that sum alone, so it is exactly sacreBLEU's for any split
    into batches and ranks, empty ones included. sacreBLEU's two methods that give statistics and score are private;
    the tests hold them against its public `corpus_score`. The scorer is looked up and not kept: some of its tokenizers
    cannot be copied, and a metric has to be.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    statistics: Tensor

    def __init__(self, num_statistics: int):
        super().__init__()
        self.add_state("statistics", torch.zeros(num_statistics, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def scorer(self) -> BLEU | CHRF | TER:
        """sacreBLEU's metric."""
        raise NotImplementedError

    def _scorer(self) -> BLEU | CHRF | TER:
        self.scorer.num_refs = 1  # as corpus_score sets it; a rank without sentences needs it too
        return self.scorer

    def update(self, hypotheses: Sequence[str], references: Sequence[str]) -> None:
        """Adds sentences: detokenised outputs, and one reference each."""
        if len(hypotheses) != len(references):
            raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
        if hypotheses:
            sentences = self._scorer()._extract_corpus_statistics(hypotheses, [references])
            self.statistics += torch.tensor(sentences, dtype=torch.int64).sum(0).to(self.statistics.device)

    def compute(self) -> Tensor:
        """The score (float64 on the CPU), of BLEU and chrF in [0, 100]; 0 without sentences."""
        score = self._scorer()._compute_score_from_stats(self.statistics.tolist()).score
        return torch.tensor(score, dtype=torch.float64)

    def signature(self) -> str:
        """sacreBLEU's signature, to be quoted with the score."""
        return str(self._scorer().get_signature())


class CorpusBLEU(_CorpusScore):
    """BLEU (Papineni et al., 2002) as sacreBLEU computes it (arXiv:1804.08771).

    Args:
        lowercase: Ignore case.
        tokenize: sacreBLEU's tokenizer: 13a, intl, char, zh, ja-mecab, ko-mecab, flores200, or none for text that is
            tokenised already; older papers report ``tokenize="none", lowercase=True`` on tokenised text, which is not
            comparable with 13a.
    """

    def __init__(self, lowercase: bool = False, tokenize: str = "13a"):
        super().__init__(BLEU_STATISTICS)
        self.lowercase, self.tokenize = lowercase, tokenize

    @property
    def scorer(self) -> BLEU:
        return _bleu(self.lowercase, self.tokenize)


class CorpusCHRF(_CorpusScore):
    """chrF (Popović, 2015) as sacreBLEU computes it.

    Args:
        lowercase: Ignore case.
        word_order: 0 for chrF, 2 for chrF++.
    """

    def __init__(self, lowercase: bool = False, word_order: int = 0):
        super().__init__(CHRF_STATISTICS + 3 * word_order)
        self.lowercase, self.word_order = lowercase, word_order

    @property
    def scorer(self) -> CHRF:
        return _chrf(self.lowercase, self.word_order)


class CorpusTER(_CorpusScore):
    """Translation edit rate (Snover et al., 2006) in percent as sacreBLEU computes it; lower is better."""

    higher_is_better = False

    def __init__(self):
        super().__init__(TER_STATISTICS)

    @property
    def scorer(self) -> TER:
        return _ter()


class WeightedMean(Metric):
    """Sum of ``value`` over sum of ``weight``: loss per token, or accuracy with the correct as value.

    Sums are float64, so that the order of batches and ranks does not show. Nothing is read back before `compute`.
    """

    is_differentiable = False
    full_state_update = False
    value: Tensor
    weight: Tensor

    def __init__(self):
        super().__init__()
        self.add_state("value", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, value: Tensor | float, weight: Tensor | float) -> None:
        """Adds ``value``, a sum already, and the ``weight`` it stands for (say, its number of tokens)."""
        self.value += value
        self.weight += weight

    def compute(self) -> Tensor:
        """The mean; nan where nothing was added."""
        return self.value / self.weight


class CorpusROUGE(Metric):
    """Mean F-measure of ROUGE (Lin, 2004) over the sentences, in [0, 100]; see `multihead.metrics.rouge`.

    The state is a sum over sentences, so any split into batches and ranks gives the same score. Words are those of
    `multihead.text.scripts.words`, nothing is stemmed. On ASCII text the scores are those of ``rouge-score``.

    Args:
        key: rouge1, rouge2 (n-grams), rougeL (longest common subsequence) or rougeLsum (the same line by line).
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, key: str):
        super().__init__()
        self.key = key
        self.add_state("total", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, hypotheses: Sequence[str], references: Sequence[str]) -> None:
        """Adds sentences: outputs, and one reference each."""
        if len(hypotheses) != len(references):
            raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
        pairs = zip(hypotheses, references, strict=True)
        self.total += sum(100 * rouge(self.key, hypothesis, reference) for hypothesis, reference in pairs)
        self.count += len(hypotheses)

    def compute(self) -> Tensor:
        """The mean; 0 without sentences."""
        return self.total / self.count.clamp(min=1)
