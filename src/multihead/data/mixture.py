"""Several batch plans as one. Each step belongs to one task.

The share of each task follows its size and a temperature. A mixture is a pure function of (seed, epoch), as the plans
that it mixes are. A mixture of one plan equals that plan.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from multihead.data.plan import BatchPlan, Step
from multihead.data.stream import BlockPlan

Plan = BatchPlan | BlockPlan


class Mixture:
    """Steps of several tasks in random order.

    An epoch has as many steps as the epochs of all tasks together, and at least one step of each task. A task whose
    share is smaller than its own epoch continues that epoch in the next one. A task whose share is larger starts its
    own next epoch.

    Args:
        plans: Name of the task to its plan.
        temperature: A task's share of the steps is proportional to its number of steps to the power 1 / temperature:
            1 leaves the sizes as they are, large values make the shares equal (Arivazhagan et al. 2019,
            arXiv:1907.05019).
        seed: Seed of the order.
    """

    def __init__(self, plans: Mapping[str, Plan], *, temperature: float = 1.0, seed: int = 0):
        self.plans, self.seed = dict(plans), seed
        sizes = np.array([plan.num_steps(0) for plan in self.plans.values()], dtype=np.float64)
        shares = sizes ** (1 / temperature)
        counts = np.maximum(1, np.round(shares / shares.sum() * sizes.sum())).astype(np.int64)
        self.counts = dict(zip(self.plans, counts.tolist(), strict=True))
        """Number of steps of each task in an epoch."""
        self._last: tuple[int, Sequence[Step]] = (-1, ())

    def num_steps(self, epoch: int) -> int:
        """Returns the number of optimizer steps of an epoch."""
        return sum(self.counts.values())

    def steps(self, epoch: int) -> Sequence[Step]:
        """Returns the steps of an epoch. Each is created when it is asked for."""
        if self._last[0] != epoch:
            labels = np.repeat(np.arange(len(self.plans), dtype=np.uint8), list(self.counts.values()))
            if len(self.plans) > 1:
                labels = np.random.Generator(np.random.PCG64([self.seed, epoch, 0x317])).permutation(labels)
            places = np.zeros(len(labels), dtype=np.int64)
            for label, count in enumerate(self.counts.values()):
                places[labels == label] = epoch * count + np.arange(count)
            self._last = (epoch, _MixedSteps(self, labels, places))
        return self._last[1]

    def num_micro_batches(self) -> int:
        """Returns the least number of micro-batches into which every step can be cut."""
        return max(plan.num_micro_batches() for plan in self.plans.values())

    def micro_batches(self, step: Step, count: int) -> list[np.ndarray]:
        """Cuts a step into ``count`` micro-batches as the plan of its task does."""
        return self.plans[step.task].micro_batches(step, count)

    def padding(self, count: int) -> float:
        """Returns the share of positions without a token: the mean over the tasks, weighted by their steps."""
        shares = [(self.counts[name], plan.padding(count)) for name, plan in self.plans.items()]
        return sum(steps * share for steps, share in shares) / sum(steps for steps, _ in shares)


class _MixedSteps(Sequence):
    """The steps of one epoch of a `Mixture`. For each it knows the task and the number of the step in that task."""

    def __init__(self, mixture: Mixture, labels: np.ndarray, places: np.ndarray):
        self.mixture, self.labels, self.places = mixture, labels, places

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, number: int) -> Step:
        name = list(self.mixture.plans)[self.labels[number]]
        plan = self.mixture.plans[name]
        epoch, within = divmod(int(self.places[number]), plan.num_steps(0))
        return dataclasses.replace(plan.steps(epoch)[within], task=name)
