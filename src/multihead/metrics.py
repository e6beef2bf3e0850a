"""Corpus BLEU and chrF from sacreBLEU's own statistics, ROUGE, and weighted means; all of them sum over ranks."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from sacrebleu.metrics import BLEU, CHRF
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.functional.text.rouge import rouge_score


class _CorpusScore(Metric):
    """A sacreBLEU metric whose state is the sum of the sentences' sufficient statistics.

    The score of a corpus depends on its sentences through that sum alone, so it is exactly sacreBLEU's for any split
    into batches and ranks, empty ones included. sacreBLEU's two methods that give statistics and score are private;
    the tests hold them against its public `corpus_score`.
    """

    higher_is_better = True
    is_differentiable = False
    full_state_update = False
    statistics: Tensor

    def __init__(self, scorer: BLEU | CHRF, num_statistics: int):
        super().__init__()
        self._scorer = scorer
        self.add_state("statistics", torch.zeros(num_statistics, dtype=torch.int64), dist_reduce_fx="sum")
        self._scorer.num_refs = 1  # as corpus_score sets it; a rank without sentences needs it too

    def update(self, hypotheses: Sequence[str], references: Sequence[str]) -> None:
        """Adds sentences: detokenised outputs, and one reference each."""
        if len(hypotheses) != len(references):
            raise ValueError(f"{len(hypotheses)} hypotheses for {len(references)} references")
        if hypotheses:
            sentences = self._scorer._extract_corpus_statistics(hypotheses, [references])
            self.statistics += torch.tensor(sentences, dtype=torch.int64).sum(0).to(self.statistics.device)

    def compute(self) -> Tensor:
        """The score in [0, 100] (float64 on the CPU); 0 without sentences."""
        return torch.tensor(self._scorer._compute_score_from_stats(self.statistics.tolist()).score, dtype=torch.float64)

    def signature(self) -> str:
        """sacreBLEU's signature, to be quoted with the score."""
        return str(self._scorer.get_signature())


class CorpusBLEU(_CorpusScore):
    """BLEU (Papineni et al., 2002) as sacreBLEU computes it (arXiv:1804.08771).

    Args:
        lowercase: Ignore case.
        tokenize: sacreBLEU's tokenizer: 13a, intl, char, zh, or none for text that is tokenised already; older
            papers report ``tokenize="none", lowercase=True`` on tokenised text, which is not comparable with 13a.
    """

    def __init__(self, lowercase: bool = False, tokenize: str = "13a"):
        scorer = BLEU(lowercase=lowercase, tokenize=tokenize, force=True)
        super().__init__(scorer, 2 + 2 * scorer.max_ngram_order)


class CorpusCHRF(_CorpusScore):
    """chrF (Popović, 2015) as sacreBLEU computes it.

    Args:
        lowercase: Ignore case.
        word_order: 0 for chrF, 2 for chrF++.
    """

    def __init__(self, lowercase: bool = False, word_order: int = 0):
        scorer = CHRF(lowercase=lowercase, word_order=word_order)
        super().__init__(scorer, 3 * scorer.order)


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
    """Mean F-measure of ROUGE (Lin, 2004) over the sentences, in [0, 100], as torchmetrics computes it.

    The state is a sum over sentences, so any split into batches and ranks gives the same score, which torchmetrics' own
    class does not under unequal ranks. Text is lower-cased, all but letters a-z and digits separates words, nothing is
    stemmed.

    Args:
        key: rouge1, rouge2 (n-grams) or rougeL (longest common subsequence).
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
        for hypothesis, reference in zip(hypotheses, references, strict=True):
            scores = rouge_score(hypothesis, reference, rouge_keys=self.key)
            self.total += 100 * scores[f"{self.key}_fmeasure"].double().to(self.total.device)
        self.count += len(hypotheses)

    def compute(self) -> Tensor:
        """The mean; 0 without sentences."""
        return self.total / self.count.clamp(min=1)
