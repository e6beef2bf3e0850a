"""The metric that is compared, and what each run's files say about it."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from multihead.comparing.finished import FinishedRun, require_one
from multihead.comparing.per_example import Statistics, statistics_of
from multihead.comparing.significance import resampled
from multihead.config.keys import nearest_name
from multihead.config.task import BLEU_TOKENIZERS, TASKS
from multihead.errors import ConfigError

MIN_EXAMPLES = 10
"""Fewer test examples (or documents) are not resampled."""
LOWER_IS_BETTER = ("ter", "loss", "perplexity", "bits_per_byte", "ece", "loss_random_windows", "mse", "mae", "cer",
                   "unknown_tokens", "cut_outputs")  # fmt: skip
SPLITS = ("test/", "val/", "train/")
"""How the keys of metrics begin in result.json. The other keys have no better direction."""
PER_TOKEN = ("loss", "perplexity", "token_accuracy", "loss_random_windows")
"""Metrics that can be compared only between runs with the same tokenizer. Those of `PER_EXAMPLE` always can."""
PER_EXAMPLE = ("classification", "regression")
"""Tasks whose loss is a mean over examples."""
UNITS = {
    "bleu": "BLEU",
    "bleu_lowercase": "BLEU (lower-cased)",
    "chrf": "chrF",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "ter": "TER",
    "cer": "character error rate",
    "exact_match": "exact match",
    "macro_f1": "macro-F1",
    "micro_f1": "micro-F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "ece": "calibration error",
    "mse": "MSE",
    "mae": "MAE",
    "r2": "R2",
    "pearson": "Pearson's r",
    "spearman": "Spearman's rho",
    "bits_per_byte": "bits per byte",
}


@dataclass
class Metric:
    """The metric that is compared."""

    key: str
    """Its key in result.json: test/bleu, test/classification/accuracy."""
    task: str
    """The task that it measures, or multitask for a metric of all of them."""
    member: str
    """The same task if the runs learned several tasks; otherwise empty."""
    name: str
    """The key without split and task: bleu, f1/spam."""
    better: str
    """Either max or min."""

    @property
    def unit(self) -> str:
        """The words that follow a number of this metric."""
        if self.name.startswith("f1/"):
            return f"F1 of {self.name[3:]}"
        if self.name == "loss" and self.task == "regression":
            return "MSE of standardised labels"
        if self.name == "loss":
            return "nats" if self.task in ("classification", "multitask") else "nats per token"
        return UNITS.get(self.name, self.name.replace("_", " "))


@dataclass
class Scores:
    """All that the tests need to know about each run, by its path."""

    values: dict[str, float]
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    """Sufficient statistics of the test examples; empty if there are none."""
    resampled: dict[str, np.ndarray] = field(default_factory=dict)
    """Scores on bootstrap samples of the examples."""
    kind: Statistics | None = None
    """How statistics become a score; None if there are none."""


def choose_metric(runs: Sequence[FinishedRun], asked: str) -> tuple[Metric, list[str]]:
    """The metric, and notes about its choice.

    Args:
        runs: All runs.
        asked: The user's ``metric=``; if it is empty, the test metric that corresponds to the monitored one.

    Raises:
        ConfigError: If a run has no such metric, if it is not finite, or if it is per token and the tokenizers differ.
    """
    first, notes = runs[0], []
    key = asked or first.monitor.replace("val/", "test/", 1)
    if asked and asked not in first.result and f"test/{asked}" in first.result:
        key = f"test/{asked}"
    if key in first.result and not key.startswith(SPLITS):
        what = f"{key} is no metric of a split, so it does not say which system is better"
        raise ConfigError("metric", what, f"metric={first.monitor.replace('val/', 'test/', 1)}")
    metric = describe(first, key)
    if metric.name in PER_TOKEN and metric.task not in PER_EXAMPLE and not _same_tokenizers(runs):
        bits = key[: len(key) - len(metric.name)] + "bits_per_byte"
        if asked or not all(bits in run.result for run in runs):
            fix = f"metric={bits}" if bits in first.result else "compare runs with the same tokenizer"
            what = f"{key} is per token, so it cannot be compared between runs with different tokenizers"
            raise ConfigError("metric", what, fix)
        notes.append(f"{key} is per token and the runs have different tokenizers: {bits} is compared instead.")
        metric = describe(first, bits)
    for run in runs:
        if not isinstance(run.result.get(metric.key), int | float):
            there = sorted(name for name in run.result if name.startswith("test/"))
            near = nearest_name(metric.key, there)
            what = f"{run.path} has no {metric.key}; it has {', '.join(there) or 'no test metrics'}"
            raise ConfigError("metric", what, f"metric={near}" if near else "")
        if not math.isfinite(run.result[metric.key]):
            what = f"{run.path} has {metric.key}={run.result[metric.key]}, which cannot be compared"
            raise ConfigError("metric", what, "choose another metric, or leave the run out")
    return metric, notes


def describe(run: FinishedRun, key: str) -> Metric:
    """Task, name and direction of a key of result.json."""
    _, _, name = key.partition("/")
    member, _, rest = name.partition("/")
    members = run.settings.get("task.parts") or []
    if not (rest and run.task == "multitask" and member in members):
        member, rest = "", name
    task = member or run.task
    known = TASKS[task].METRICS if task in TASKS else {}
    better = known.get(f"val/{rest}")
    if better is None and name == str(run.settings.get("task.monitor")).partition("/")[2]:
        better = str(run.settings.get("task.monitor_mode"))
    falls = rest in LOWER_IS_BETTER or rest in run.lower_is_better
    return Metric(key, task, member, rest, better or ("min" if falls else "max"))


def _same_tokenizers(runs: Sequence[FinishedRun]) -> bool:
    """Whether the runs predict the same tokens; the tokenizers of sources do not count."""
    predicted = [
        {name: mark for name, mark in run.data.items() if name.startswith("tokenizer_") and name != "tokenizer_source"}
        for run in runs
    ]
    return all(set(marks.values()) == set(predicted[0].values()) for marks in predicted)


def read_scores(runs: Sequence[FinishedRun], metric: Metric) -> tuple[Scores, list[str]]:
    """Scores of all runs, and notes.

    The scores hold sufficient statistics and resamples if samples.jsonl has what they need.

    Raises:
        ConfigError: If runs were tested on different examples, or their BLEU was computed with different tokenizers.
    """
    scores = Scores({run.path: float(run.result[metric.key]) for run in runs})
    untested = "chance in the choice of examples is not looked at."
    tokenizer = partial(_bleu_tokenizer, metric)
    require_one(runs, "tokenizers of BLEU", tokenizer, "metric=test/chrf")
    if runs[0].folds:
        return scores, []  # each fold has examples of its own
    if not metric.key.startswith("test/"):
        return scores, [f"{metric.key} is not of the test split: {untested}"]
    if metric.task == "multitask":
        return scores, [f"{metric.key} is of several tasks: {untested}"]
    samples = [run.samples(metric.member) for run in runs]
    if metric.task == "lm":
        samples = [[sample for sample in rows if "nats" in sample] for rows in samples]
    without = f"samples.jsonl has nothing for each example about {metric.key}: {untested}"
    if min(map(len, samples)) == 0:
        return scores, [without]
    for run, rows in zip(runs, samples, strict=True):
        if list(map(_truth, rows)) != list(map(_truth, samples[0])):
            what = f"{runs[0].path} and {run.path} have different test examples in samples.jsonl"
            if metric.task == "lm":  # another block size cuts documents at other places
                return scores, [f"{what}: chance in the choice of documents is not looked at."]
            raise ConfigError("runs", f"{what} ({len(samples[0])} and {len(rows)})", "copy them again")
    if len(samples[0]) < MIN_EXAMPLES:
        few = f"only {len(samples[0])} test examples (documents): chance in their choice is not looked at."
        return scores, [few]
    scores.kind = statistics_of(metric.name, samples, tokenizer(runs[0]))
    if scores.kind is None:
        return scores, [without]
    for run, statistics in zip(runs, scores.kind.runs, strict=True):
        scores.statistics[run.path] = statistics
        scores.resampled[run.path] = resampled(statistics, scores.kind.score)
    return scores, []


def _bleu_tokenizer(metric: Metric, run: FinishedRun) -> str:
    """sacreBLEU's tokenizer in the signature of a run's result; 13a if the metric has no signature."""
    signature = str(run.result.get(f"{metric.member}/signature" if metric.member else "signature", ""))
    named = re.search(r"\|tok:([^|]+)", signature) if metric.name in ("bleu", "bleu_lowercase") else None
    return next((name for name in BLEU_TOKENIZERS if named and named[1].startswith(name)), "13a")


def _truth(sample: dict[str, Any]) -> tuple[str, ...]:
    """The values of an example that every run must share."""
    names = ("index", "source", "reference", "text", "text_b", "label", "bytes")
    return tuple(unicodedata.normalize("NFKC", str(sample.get(name))) for name in names)  # data.normalize may differ


def disagreeing(scores: Scores) -> list[str]:
    """A warning for each run whose examples do not give the score in its result.json."""
    warnings = []
    for path, statistics in scores.statistics.items():
        assert scores.kind is not None
        again, recorded = float(scores.kind.score(statistics.sum(0))), scores.values[path]
        if not abs(again - recorded) <= 5e-4 * max(1.0, abs(recorded)):
            warnings.append(f"{path}: samples.jsonl gives {again:.6g}, but result.json has {recorded:.6g}")
    return warnings
