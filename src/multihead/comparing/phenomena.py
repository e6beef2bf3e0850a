"""Where a model of the built-in grammar is right: its scores by what the sentences contain, and minimal pairs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol, cast

from multihead.comparing.significance import proportion_interval
from multihead.config.data import PHENOMENA, GrammarConfig
from multihead.config.training import Config
from multihead.data import grammar
from multihead.data.grammar.phenomena import minimal_pairs, of_row
from multihead.errors import ConfigError
from multihead.tasks.base import Task

PAIRS = 100
"""Minimal pairs for each distance between a subject and its verb."""
HEAD = ["phenomenon", "value", "examples", "right", "from", "to"]


class _Scores(Protocol):
    """A task that gives texts their log probability."""

    def score(self, texts: Sequence[str]) -> list[float]: ...


def require_breakdown(config: Config) -> None:
    """Checks that `breakdown` knows the data and the tasks, before anything is measured.

    Raises:
        ConfigError: The data are not the grammar's, or a task has no such breakdown.
    """
    if config.data.format != "grammar":
        what = f"is known for data=grammar only, and this run has data={config.data.name}"
        raise ConfigError("phenomena", what, "phenomena=false")
    for name, settings in config.task.members().items():
        if name not in ("translation", "classification") and not getattr(settings, "continues", False):
            what = f"is known for translation, classification and causal language models, not for {name}"
            raise ConfigError("phenomena", what, "phenomena=false")


def breakdown(config: Config, task: Task, split: str) -> list[list[Any]]:
    """The share of examples that are right, by what they contain: rows of `HEAD`, with the head first.

    A translation is right if it is the reference, a class if it is the label. A language model is right if it gives a
    sentence a higher probability than its twin in which the verb disagrees with the subject. ``from`` and ``to`` are
    the 95 % confidence interval (Clopper and Pearson 1934).

    Args:
        config: The configuration with which ``task`` was evaluated.
        task: One task, which holds the samples of the whole split.
        split: val or test.
    """
    if task.settings.name == "lm":
        found = _of_pairs(config.data.grammar, cast(_Scores, task), split)
    else:
        family = ("english", "german") if task.settings.name == "translation" else ("opinion", "sentiment")
        found = _of_samples(config.data.grammar, task.samples, split, family)
    return [HEAD, *(_row(phenomenon, value, hits) for (phenomenon, value), hits in found.items() if hits)]


def _row(phenomenon: str, value: str, hits: Sequence[bool]) -> list[Any]:
    low, high = proportion_interval(sum(hits), len(hits))
    return [phenomenon, value, len(hits), round(sum(hits) / len(hits), 4), round(low, 4), round(high, 4)]


def _of_samples(
    config: GrammarConfig, samples: Sequence[Mapping[str, Any]], split: str, family: tuple[str, str]
) -> dict[tuple[str, str], list[bool]]:
    """Phenomenon and value to whether each of their examples is right."""
    rows = grammar.examples(config, split, family)
    found: dict[tuple[str, str], list[bool]] = {(name, v): [] for name, values in PHENOMENA.items() for v in values}
    for sample in samples:
        wanted = ("reference", "output") if "output" in sample else ("label", "predicted")
        right = sample[wanted[0]] == sample[wanted[1]]
        for fact in of_row(rows[sample["index"]].tree, family).items():
            found[fact].append(right)
    return found


def _of_pairs(config: GrammarConfig, task: _Scores, split: str) -> dict[tuple[str, str], list[bool]]:
    """The same for minimal pairs, by distance, and with an attractor or without one if a relative clause intervenes."""
    pairs = minimal_pairs(config, split, PAIRS)
    scores = task.score([text for pair in pairs for text in (pair.right, pair.wrong)])
    found: dict[tuple[str, str], list[bool]] = {}
    for pair, right, wrong in zip(pairs, scores[::2], scores[1::2], strict=True):
        found.setdefault(("agreement_distance", pair.distance), []).append(right > wrong)
        if pair.distance != "0":
            found.setdefault(("attractor", "yes" if pair.attractor else "no"), []).append(right > wrong)
    return found
