"""Corpus BLEU, chrF and TER from sacreBLEU's own statistics, ROUGE and edits. All are sums over sentences and ranks."""

from __future__ import annotations

import functools
from collections.abc import Sequence

import torch
from torch import Tensor
from torchmetrics import Metric

from multihead.metrics import sacrebleu_private
from multihead.metrics.edit_distance import edits
from multihead.metrics.rouge import SIGNATURE, rouge
from multihead.metrics.sacrebleu_private import BLEU, CHRF, TER, Scorer
from multihead.metrics.sums import WeightedMean

BLEU_STATISTICS, CHRF_STATISTICS, TER_STATISTICS = 10, 18, 2
"""How many numbers describe a sentence. For BLEU, these are two lengths, and matches and totals of n-grams of four
sizes; for chrF, three numbers for each of six sizes; for TER, edits and length."""


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
    """A sacreBLEU metric whose state is the sum of the sentences' statistics.

    The score of a corpus depends on its sentences through this sum alone. So it is exactly sacreBLEU's score for any
    split into batches and ranks, even if some are empty. The scorer is looked up at each use, because a metric must be
    copyable and some of sacreBLEU's tokenizers are not.
    """

    is_differentiable = False
    full_state_update = False
    higher_is_better = True
    statistics: Tensor

    def __init__(self, num_statistics: int):
        super().__init__()
        self.add_state("statistics", torch.zeros(num_statistics, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def scorer(self) -> Scorer:
        """sacreBLEU's metric."""
        raise NotImplementedError

    def update(self, hypotheses: Sequence[str], references: Sequence[str]) -> None:
        """Adds sentences: detokenised outputs, and one reference for each."""
        if len(hypotheses) != len(references):
            raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
        if hypotheses:
            sentences = sacrebleu_private.sentence_statistics(self.scorer, hypotheses, references)
            self.statistics += torch.tensor(sentences, dtype=torch.int64).sum(0).to(self.statistics.device)

    def compute(self) -> Tensor:
        """The score of all ranks, float64; BLEU and chrF are in [0, 100]. Without sentences it is 0."""
        score = sacrebleu_private.score_of_sums(self.scorer, self.statistics.tolist())
        return torch.tensor(score, dtype=torch.float64)

    def signature(self) -> str:
        """sacreBLEU's signature, which papers quote with the score."""
        return sacrebleu_private.signature(self.scorer)


class CorpusBLEU(_CorpusScore):
    """BLEU (Papineni et al. 2002, P02-1040) as sacreBLEU computes it (Post 2018, arXiv:1804.08771).

    Args:
        lowercase: Whether case is ignored.
        tokenize: sacreBLEU's tokenizer: 13a, intl, char, zh, ja-mecab, ko-mecab, flores200, or none for text that is
            tokenised already. Older papers report ``tokenize="none", lowercase=True`` on tokenised text; these scores
            cannot be compared with 13a.
    """

    def __init__(self, lowercase: bool = False, tokenize: str = "13a"):
        super().__init__(BLEU_STATISTICS)
        self.lowercase, self.tokenize = lowercase, tokenize

    @property
    def scorer(self) -> BLEU:
        return _bleu(self.lowercase, self.tokenize)


class CorpusCHRF(_CorpusScore):
    """chrF (Popović 2015, W15-3049) as sacreBLEU computes it.

    Args:
        lowercase: Whether case is ignored.
        word_order: 0 for chrF, 2 for chrF++.
    """

    def __init__(self, lowercase: bool = False, word_order: int = 0):
        super().__init__(CHRF_STATISTICS + 3 * word_order)
        self.lowercase, self.word_order = lowercase, word_order

    @property
    def scorer(self) -> CHRF:
        return _chrf(self.lowercase, self.word_order)


class CorpusTER(_CorpusScore):
    """Translation edit rate (Snover et al. 2006) in percent as sacreBLEU computes it; lower is better."""

    higher_is_better = False

    def __init__(self):
        super().__init__(TER_STATISTICS)

    @property
    def scorer(self) -> TER:
        return _ter()


class CorpusROUGE(WeightedMean):
    """Mean F-measure of ROUGE over the sentences, in [0, 100]; see `multihead.metrics.rouge.rouge`.

    Args:
        key: rouge1, rouge2, rougeL or rougeLsum.
    """

    higher_is_better = True

    def __init__(self, key: str):
        super().__init__()
        self.key = key

    def update(self, hypotheses: Sequence[str], references: Sequence[str]) -> None:
        """Adds sentences: outputs, and one reference for each."""
        if len(hypotheses) != len(references):
            raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
        pairs = zip(hypotheses, references, strict=True)
        super().update(sum(100 * rouge(self.key, output, reference) for output, reference in pairs), len(hypotheses))

    def compute(self) -> Tensor:
        """The mean of all ranks; 0 without sentences."""
        return super().compute().nan_to_num()

    def signature(self) -> str:
        """How the scores are computed."""
        return SIGNATURE


class CorpusEdits(WeightedMean):
    """Character error rate, or mean edit similarity in [0, 1]; see `multihead.metrics.edit_distance.edits`.

    Args:
        key: cer, which is better if it is lower, or edit_similarity.
    """

    def __init__(self, key: str):
        super().__init__()
        self.key = key

    def update(self, hypotheses: Sequence[str], references: Sequence[str]) -> None:
        """Adds sentences: outputs, and one reference for each."""
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            super().update(*edits(self.key, hypothesis, reference))

    def signature(self) -> str:
        """How the scores are computed."""
        return "chars:unicode|case:mixed"


TextScore = CorpusBLEU | CorpusCHRF | CorpusTER | CorpusROUGE | CorpusEdits
