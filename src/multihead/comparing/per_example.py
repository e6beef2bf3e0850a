"""Sufficient statistics of each test example. A metric's score is a function of their sum over the examples.

They come from the rows of samples.jsonl, without torch. The scores equal those of `multihead.metrics.text` and
`multihead.metrics.classification`, which tests check. Here thousands of resamples are scored at once.

Shapes: E examples, K statistics of an example, C classes; ``...`` is any number of resamples.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from multihead.comparing.significance import Score
from multihead.metrics.edit_distance import EDITS, edits
from multihead.metrics.regression import moments, ranks, score_of_moments
from multihead.metrics.rouge import ROUGE, rouge

Sample = dict[str, Any]
LANGUAGE = ("loss", "perplexity", "bits_per_byte")
ORDER = 4
"""Length of BLEU's longest n-grams."""


@dataclass(frozen=True)
class Statistics:
    """Sufficient statistics of several runs on the same examples.

    Attributes:
        runs: The statistics [E, K] of each run.
        score: Function from sums [..., K] to scores [...].
        test: The usual test of this metric if each system has one seed: bootstrap, mcnemar or permutation.
    """

    runs: list[np.ndarray]
    score: Score
    test: str


def statistics_of(metric: str, samples: Sequence[Sequence[Sample]], bleu_tokenize: str = "13a") -> Statistics | None:
    """Returns the sufficient statistics of a metric, or None if the samples do not have what it needs.

    Args:
        metric: The metric's name without the split and the task, such as bleu, accuracy or f1/spam.
        samples: The samples of each run. All runs have the same examples in the same order.
        bleu_tokenize: The tokenizer of sacreBLEU that BLEU uses.
    """
    fields = set(samples[0][0]) if samples and samples[0] else set()
    if {"reference", "output"} <= fields:
        return _of_texts(metric, samples, bleu_tokenize)
    if {"label", "predicted"} <= fields:
        if isinstance(samples[0][0]["label"], float):
            return _of_numbers(metric, samples)
        several = isinstance(samples[0][0]["label"], list)
        return (_of_label_sets if several else _of_classes)(metric, samples)
    if {"nats", "tokens", "bytes"} <= fields and metric in LANGUAGE:
        runs = [np.array([[s["nats"], s["tokens"], s["bytes"]] for s in run], dtype=np.float64) for run in samples]
        return Statistics(runs, partial(language_score, name=metric), "permutation")
    return None


# ---- texts with references


def _of_texts(metric: str, samples: Sequence[Sequence[Sample]], bleu_tokenize: str) -> Statistics | None:
    from multihead.metrics.sacrebleu_private import BLEU, CHRF, TER

    pairs = [([s["output"] for s in run], [s["reference"] for s in run]) for run in samples]
    if metric in ("bleu", "bleu_lowercase"):
        scorer = BLEU(lowercase=metric != "bleu", tokenize=bleu_tokenize, force=True)
        return Statistics([_extract(scorer, *pair) for pair in pairs], bleu, "bootstrap")
    if metric == "chrf":
        return Statistics([_extract(CHRF(), *pair) for pair in pairs], chrf, "bootstrap")
    if metric == "ter":
        return Statistics([_extract(TER(), *pair) for pair in pairs], ter, "bootstrap")
    if metric == "exact_match":
        runs = [np.array([[o == r, 1.0] for o, r in zip(*pair, strict=True)], dtype=np.float64) for pair in pairs]
        return Statistics(runs, mean, "mcnemar")
    if metric in EDITS:
        runs = [np.array([edits(metric, o, r) for o, r in zip(*pair, strict=True)]) for pair in pairs]
        return Statistics(runs, mean, "bootstrap")
    if metric in ROUGE:
        runs = [
            np.array([[100 * rouge(metric, o, r), 1.0] for o, r in zip(outputs, references, strict=True)])
            for outputs, references in pairs
        ]
        return Statistics(runs, mean, "bootstrap")
    return None


def _extract(scorer: Any, outputs: list[str], references: list[str]) -> np.ndarray:
    """Returns sacreBLEU's statistics of each sentence [E, K], which `multihead.metrics.text` sums too."""
    from multihead.metrics.sacrebleu_private import sentence_statistics

    return np.array(sentence_statistics(scorer, outputs, references), dtype=np.float64)


def bleu(sums: np.ndarray) -> np.ndarray:
    """Computes corpus BLEU in [0, 100] as sacreBLEU does, with exponential smoothing.

    Args:
        sums: Output length, reference length, matches of 1-grams to 4-grams, and numbers of these n-grams [..., 10].
    """
    length, reference = sums[..., 0], sums[..., 1]
    matches, totals = sums[..., 2 : 2 + ORDER], sums[..., 2 + ORDER :]
    smoothed = np.exp2(np.cumsum((matches == 0) & (totals > 0), axis=-1))  # 2, 4, ... at orders without a match
    counted = np.where(matches > 0, matches, 1 / smoothed)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(counted) - np.log(totals)
        brevity = np.minimum(0.0, 1 - reference / length)
        scores = 100 * np.exp(brevity + logs.mean(-1))
    return np.where(matches.any(-1) & (totals > 0).all(-1), scores, 0.0)


def chrf(sums: np.ndarray) -> np.ndarray:
    """Computes chrF (beta 2) in [0, 100] as sacreBLEU does.

    Args:
        sums: Numbers of n-grams in the output, the reference and both, for each order [..., 3 * orders].
    """
    output, reference, both = (sums[..., i::3] for i in range(3))
    used = (output > 0) & (reference > 0)
    orders = np.maximum(used.sum(-1), 1)
    precision = np.where(used, both / np.maximum(output, 1), 0.0).sum(-1) / orders
    recall = np.where(used, both / np.maximum(reference, 1), 0.0).sum(-1) / orders
    return 100 * _ratio(5 * precision * recall, 4 * precision + recall)


def ter(sums: np.ndarray) -> np.ndarray:
    """Computes the translation edit rate in percent from edits and reference length [..., 2], as sacreBLEU does."""
    edits, length = sums[..., 0], sums[..., 1]
    return 100 * np.where(length > 0, edits / np.where(length > 0, length, 1.0), edits > 0)


def mean(sums: np.ndarray) -> np.ndarray:
    """Divides a sum by a count [..., 2]."""
    return sums[..., 0] / sums[..., 1]


# ---- classes


def _of_classes(metric: str, samples: Sequence[Sequence[Sample]]) -> Statistics | None:
    if metric == "accuracy":
        runs = [np.array([[s["predicted"] == s["label"], 1] for s in run], dtype=np.float64) for run in samples]
        return Statistics(runs, mean, "mcnemar")
    if metric == "loss":
        if not all("probabilities" in s for run in samples for s in run):
            return None
        runs = [np.array([[_nats(s["probabilities"], s["label"]), 1.0] for s in run]) for run in samples]
        return Statistics(runs, mean, "permutation")
    names = sorted(
        {name for run in samples for s in run for name in (s["label"], s["predicted"], *s.get("probabilities", ()))}
    )
    score = _class_score(metric, names, absent_count=False)
    if metric == "mcc":
        score = mcc
    if score is None:
        return None
    places = {name: i for i, name in enumerate(names)}
    runs = []
    for run in samples:
        label = np.eye(len(names))[[places[s["label"]] for s in run]]
        predicted = np.eye(len(names))[[places[s["predicted"]] for s in run]]
        runs.append(np.stack([label * predicted, predicted, label], -1).reshape(len(run), -1))
    return Statistics(runs, score, "permutation")


def _of_label_sets(metric: str, samples: Sequence[Sequence[Sample]]) -> Statistics | None:
    if metric == "accuracy":
        runs = [
            np.array([[set(s["predicted"]) == set(s["label"]), 1] for s in run], dtype=np.float64) for run in samples
        ]
        return Statistics(runs, mean, "mcnemar")
    names = sorted(
        {name for run in samples for s in run for name in (*s["label"], *s["predicted"], *s.get("probabilities", ()))}
    )
    score = mcc if metric == "mcc" else _class_score(metric, names, absent_count=True)
    if score is None:
        return None
    runs = []
    for run in samples:
        label, predicted = (
            np.array([[name in s[field] for name in names] for s in run], dtype=np.float64)
            for field in ("label", "predicted")
        )
        cells = np.stack([label * predicted, predicted, label], -1)  # [E, C, 3]
        if metric == "mcc":  # each example and class is one decision between two classes
            no = np.stack([(1 - label) * (1 - predicted), 1 - predicted, 1 - label], -1)
            cells = np.stack([no.sum(1), cells.sum(1)], 1)  # [E, 2, 3]
        runs.append(cells.reshape(len(run), -1))
    return Statistics(runs, score, "permutation")


def _nats(probabilities: dict[str, float], label: str) -> float:
    """Returns -log p of the label. samples.jsonl has six decimals, so p is taken as at least half of the last one."""
    return -math.log(max(probabilities.get(label, 0.0), 5e-7))


def _class_score(metric: str, names: Sequence[str], absent_count: bool) -> Callable[[np.ndarray], np.ndarray] | None:
    if metric == "macro_f1":
        return partial(macro_f1, absent_count=absent_count)
    if metric == "micro_f1" and absent_count:
        return micro_f1
    if metric.startswith("f1/") and metric[3:] in names:
        return partial(_one_f1, place=list(names).index(metric[3:]))
    return None


def _f1(sums: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the F1 of each class, and whether a class occurs or was predicted, [..., C] each."""
    counts = sums.reshape(*sums.shape[:-1], -1, 3)
    size = counts[..., 1] + counts[..., 2]
    return _ratio(2 * counts[..., 0], size), size > 0


def _one_f1(sums: np.ndarray, place: int) -> np.ndarray:
    return _f1(sums)[0][..., place]


def macro_f1(sums: np.ndarray, absent_count: bool = False) -> np.ndarray:
    """Computes the mean F1 over classes.

    Args:
        sums: Numbers of true positives, predicted and labelled examples of each class [..., 3 C].
        absent_count: Whether a class that neither occurs nor was predicted counts as 0. torchmetrics does so if
            examples have several labels. Otherwise the mean is over the other classes.
    """
    f1, occurs = _f1(sums)
    if absent_count:
        return f1.mean(-1)
    return _ratio(f1.sum(-1), occurs.sum(-1).astype(np.float64))


def micro_f1(sums: np.ndarray) -> np.ndarray:
    """Computes the F1 of all decisions together. The argument is that of `macro_f1`."""
    counts = sums.reshape(*sums.shape[:-1], -1, 3).sum(-2)
    return _ratio(2 * counts[..., 0], counts[..., 1] + counts[..., 2])


def mcc(sums: np.ndarray) -> np.ndarray:
    """Computes Matthews' correlation coefficient for C classes (Gorodkin 2004), or 0 if it is 0/0.

    Args:
        sums: The same as for `macro_f1`.
    """
    counts = sums.reshape(*sums.shape[:-1], -1, 3)
    right, predicted, labelled = (counts[..., i] for i in range(3))
    total = labelled.sum(-1)
    covariance = right.sum(-1) * total - (predicted * labelled).sum(-1)
    spread = (total**2 - (predicted**2).sum(-1)) * (total**2 - (labelled**2).sum(-1))
    return _ratio(covariance, np.sqrt(np.maximum(spread, 0.0)))


# ---- numbers


def _of_numbers(metric: str, samples: Sequence[Sequence[Sample]]) -> Statistics | None:
    """Spearman's correlation is Pearson's of the ranks. A resample keeps the ranks that all examples have."""
    columns = [tuple(np.array([s[name] for s in run], dtype=np.float64) for name in ("predicted", "label"))
               for run in samples]  # fmt: skip
    if metric == "spearman":
        columns = [(ranks(predicted), ranks(label)) for predicted, label in columns]
    elif metric not in ("mse", "mae", "r2", "pearson"):
        return None
    name = "pearson" if metric == "spearman" else metric
    return Statistics([moments(*pair) for pair in columns], partial(score_of_moments, name=name), "permutation")


# ---- running text


def language_score(sums: np.ndarray, name: str) -> np.ndarray:
    """Computes nats per token (loss), its exponential (perplexity), or bits per byte.

    Args:
        sums: Nats, tokens and bytes [..., 3].
        name: loss, perplexity or bits_per_byte.
    """
    if name == "bits_per_byte":
        return sums[..., 0] / sums[..., 2] / math.log(2)
    loss = sums[..., 0] / sums[..., 1]
    return np.exp(np.minimum(loss, 700.0)) if name == "perplexity" else loss


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Returns ``above / below``, or 0 if ``below`` is 0."""
    return np.where(below > 0, above / np.where(below > 0, below, 1.0), 0.0)
