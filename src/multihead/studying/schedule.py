"""Which runs a study does next, as a pure function of the results so far.

A round has one seed: the runs of the baseline and of each variant that is not decided yet, on every task. All runs of a
round end before the next one begins. So the answer depends on the results alone, and not on the order in which runs
end, or on kills. The time that a round will take is that of the same runs in the first round, which is written down
once; so the budget does not make the answer depend on later loads of the machine either.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import NamedTuple

from multihead.studying.sequential import Design, found_different, interval

MOST_FAILURES = 3
"""A variant (or the baseline) that fails so often on a task is not tried again on it."""


class Key(NamedTuple):
    """One run of a study."""

    task: str
    arm: str
    """The baseline or a variant."""
    index: int
    """Number of the round, from 0."""


class Pair(NamedTuple):
    """A comparison of a variant with the baseline, or with its reference, on a task."""

    task: str
    arm: str
    """The name of the comparison: that of the variant, unless the plan names it otherwise."""


@dataclass(frozen=True)
class Plan:
    """All that decides what a study runs. It is fixed before the first run and kept in the ledger."""

    baseline: str
    arms: tuple[str, ...]
    """The baseline and the variants."""
    tasks: tuple[str, ...]
    metrics: Mapping[str, str]
    """The validation metric of each task."""
    better: Mapping[str, str]
    """Whether a larger (max) or smaller (min) metric is better, for each task."""
    words: Mapping[str, Sequence[str]]
    """The words of the runs by ``task/arm``, without the seed."""
    seeds: tuple[int, ...]
    """The seed of each round. There are as many rounds at most."""
    every_seed: bool = True
    """Whether the study looks after each round, or only after the last one."""
    alpha: float = 0.05
    budget: float = 0.0
    """Seconds of all runs together; 0 means no limit."""
    tuning: float = 0.0
    """Seconds that the tuning took, which count too."""
    smallest: Mapping[str, float] = field(default_factory=dict)
    """For some tasks, the smallest difference that matters, in the unit of the metric."""
    folds: int = 0
    """Folds of a cross-validation, of which each round has one; 0 without one."""
    ratio: float = 0.0
    """Test rows by training rows of a fold, the largest of all tasks; 0 without folds. Plans of earlier versions have 0
    too, and then no validation rows count as held out."""
    contrasts: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Name of each comparison to its variant and the reference; empty if all are compared with the baseline."""

    @property
    def variants(self) -> tuple[str, ...]:
        """The names of the comparisons: those of `contrasts`, or the arms that are compared with the baseline."""
        return tuple(self.contrasts) or tuple(arm for arm in self.arms if arm != self.baseline)

    def sides(self, name: str) -> tuple[str, str]:
        """Returns the variant and the reference of a comparison."""
        if not self.contrasts:
            return name, self.baseline
        variant, reference = self.contrasts[name]
        return variant, reference

    @property
    def design(self) -> Design:
        """When the study looks, and how much error it may make."""
        comparisons = len(self.variants) * len(self.tasks)
        ratio = self.ratio or (1 / (self.folds - 1) if self.folds else 0.0)
        return Design(comparisons, len(self.seeds), self.alpha, self.every_seed, ratio)

    @property
    def round_word(self) -> str:
        """What a round is called."""
        return "fold" if self.folds else "seed"

    def run_words(self, key: Key) -> list[str]:
        """Returns the words of a run, without its run directory."""
        fold = [f"data.fold={key.index}"] if self.folds else []
        return [*self.words[f"{key.task}/{key.arm}"], *fold, f"seed={self.seeds[key.index]}"]

    def to_json(self) -> str:
        """Returns the plan as JSON."""
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Returns the plan that `to_json` wrote."""
        tree = json.loads(text)
        return cls(**tree | {name: tuple(tree[name]) for name in ("arms", "tasks", "seeds")})


Results = Mapping[Key, float | None]
"""The validation metric of each run that has ended; None if it failed."""
Costs = Mapping[tuple[str, str], float]
"""Seconds of a run of each task and arm."""


@dataclass(frozen=True)
class Progress:
    """Where a study stands."""

    round: int
    """Number of the round that goes on, from 0; or the number of rounds, if the study has ended."""
    missing: list[Key]
    """Runs of this round that have not ended. It is empty if the study has ended."""
    decided: Mapping[Pair, int]
    """The decided comparisons. 1 means that the variant is better, and -1 that it is worse."""
    unaffordable: frozenset[str]
    """Tasks for whose next round the budget does not suffice."""

    @property
    def ended(self) -> bool:
        """Whether nothing is left to run."""
        return not self.missing


def gains(plan: Plan, results: Results, rounds: int | None = None) -> dict[Pair, list[float]]:
    """Returns the differences between variant and reference by seed; above 0, the variant is better.

    A seed counts if both runs have a result.

    Args:
        plan: The study's plan.
        results: The results so far.
        rounds: Only so many rounds count; None means all.
    """
    found = {}
    for task in plan.tasks:
        sign = 1.0 if plan.better[task] == "max" else -1.0
        for name in plan.variants:
            variant, reference = plan.sides(name)
            pairs = [
                (results.get(Key(task, variant, index)), results.get(Key(task, reference, index)))
                for index in range(len(plan.seeds) if rounds is None else rounds)
            ]
            found[Pair(task, name)] = [sign * (a - b) for a, b in pairs if a is not None and b is not None]
    return found


def progress(plan: Plan, results: Results, costs: Costs | None) -> Progress:
    """Returns where the study stands.

    Args:
        plan: The study's plan.
        results: The results so far.
        costs: The times of the first round's runs; None as long as that round goes on.
    """
    spent, unaffordable = plan.tuning, set[str]()
    for index in range(len(plan.seeds)):
        decided = found_different(gains(plan, results, index), plan.design)
        batch: list[Key] = []
        for task in plan.tasks:
            keys = _round_of(plan, results, decided, task, index)
            if not keys or task in unaffordable:
                continue
            price = sum(costs.get((key.task, key.arm), 0.0) for key in keys) if costs else 0.0
            if plan.budget and index and spent + price > plan.budget:
                unaffordable.add(task)
                continue
            spent += price
            batch += keys
        if not batch:
            return Progress(index, [], decided, frozenset(unaffordable))
        if missing := [key for key in batch if key not in results]:
            return Progress(index, missing, decided, frozenset(unaffordable))
    return Progress(len(plan.seeds), [], found_different(gains(plan, results), plan.design), frozenset(unaffordable))


def _round_of(plan: Plan, results: Results, decided: Mapping[Pair, int], task: str, index: int) -> list[Key]:
    """Returns the runs of a task in a round; [] if each comparison is decided, too small to matter, or given up."""
    paths = gains(plan, results, index)

    def given_up(arm: str) -> bool:
        earlier = [Key(task, arm, i) for i in range(index)]
        return sum(key in results and results[key] is None for key in earlier) >= MOST_FAILURES

    needed = set[str]()
    for name in plan.variants:
        pair, sides = Pair(task, name), plan.sides(name)
        if pair not in decided and not any(map(given_up, sides)) and not is_negligible(plan, pair, paths[pair]):
            needed.update(sides)
    return [Key(task, arm, index) for arm in plan.arms if arm in needed]


def is_negligible(plan: Plan, pair: Pair, differences: Sequence[float]) -> bool:
    """Whether the interval of a difference holds only differences below the smallest one that matters.

    To stop then costs no error, because it makes no system better or worse.
    """
    limit, found = plan.smallest.get(pair.task), interval(differences, plan.design)
    return limit is not None and found is not None and -limit < found[0] <= found[1] < limit
