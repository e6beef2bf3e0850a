"""Batches from encoded splits, the pure ``lengths`` and ``collate`` of a task, and the batch plan.

Nothing here draws from the global random state. The position in the data is (epoch, step). Moving to a position costs
nothing and does not depend on the number of workers or ranks.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from multihead.config.data import DataConfig
from multihead.data.encode import Encoded
from multihead.data.mixture import Mixture, Plan
from multihead.data.plan import BatchPlan, eval_batches
from multihead.data.stream import BlockPlan, Stream
from multihead.errors import ConfigError

Collate = Callable[..., dict[str, Any]]
"""The function of a task that builds a batch from (encoded, indices, epoch); in evaluation, it gets no epoch. Without
indices the batch is empty."""


@dataclass
class TaskData:
    """The data of one task, and the pure functions of the task that turn them into batches."""

    splits: Mapping[str, Encoded | Stream]
    """Split to its encoded rows, or to its running text in blocks."""
    lengths: Callable[[Encoded], tuple[np.ndarray, np.ndarray]]
    """Returns the real target tokens [N] and the padded widths [N, C] of every example. Blocks do not need it."""
    targets: Callable[..., Any]
    """Returns the terms of the loss of each example [N]. For running text, its arguments are the tokens of blocks and
    their positions."""
    collate: Collate

    def plan(self, config: DataConfig, seed: int) -> Plan:
        """Returns the batch plan of training."""
        train = self.splits["train"]
        sizes = {"batch_tokens": config.batch_tokens, "part_tokens": config.part_tokens, "seed": seed}
        if isinstance(train, Stream):
            return BlockPlan(train, **sizes, targets=self.targets)
        return BatchPlan(*self.lengths(train), **sizes, targets=self.targets(train))

    def evaluation(self, split: str, max_tokens: int) -> list[tuple[np.ndarray, dict[str, Any]]]:
        """Returns the indices of each batch, and the entries that its batch has beside the task's own.

        All batches together hold every example once. For running text, an index is the start of a window.
        """
        encoded = self.splits[split]
        if not isinstance(encoded, Stream):
            return [(indices, {}) for indices in eval_batches(self.lengths(encoded)[1], max_tokens)]
        starts, scored_from = encoded.evaluation()
        many = max(1, max_tokens // encoded.block_size)
        cuts = range(many, len(starts), many)
        pairs = zip(np.split(starts, cuts), np.split(scored_from, cuts), strict=True)
        return [(part, {"scored_from": torch.from_numpy(scored)}) for part, scored in pairs]


class DataModule:
    """The loaders of all splits. `multihead.data.lightning_module.TrainingData` gives them to Lightning.

    A training batch is one micro-batch of a step of one task. It holds what ``collate`` returns, and beside it:
    ``task`` (the name of the task), ``tokens_of_step`` and ``targets_of_step`` (real target tokens and terms of the
    loss of the whole step, int), ``parts`` (ranks x accumulation, int), ``epoch`` and ``step_in_epoch`` (int) and
    ``index`` (rows of the split, LongTensor [B]). A batch of evaluation has only ``task`` and ``index`` beside what
    ``collate`` returns. It may be empty if there are several ranks.

    Args:
        sources: Name of each task to its data. Several tasks are mixed.
        config: Sizes of steps and micro-batches, number of workers.
        seed: Seed of the batch plan.
        accumulate: Micro-batches per rank and step. 0 takes the least number that ``part_tokens`` allows.
        temperature: Temperature of the mixture of several tasks.
        skipped: Split to the number of rows that were left out of its file, and of all rows of that file.
    """

    trainer: Any = None
    """Lightning's trainer, which knows the rank and the device; without one there is one rank."""

    def __init__(
        self,
        sources: Mapping[str, TaskData],
        config: DataConfig,
        *,
        seed: int,
        accumulate: int = 0,
        temperature: float = 1.0,
        skipped: Mapping[str, tuple[int, int]] | None = None,
    ):
        super().__init__()
        self.skipped = dict(skipped or {})
        self.sources, self.config = dict(sources), config
        self.seed, self.accumulate = seed, accumulate
        self._plan: Mixture | None = None
        if all("train" in source.splits for source in self.sources.values()):
            plans = {name: source.plan(config, seed) for name, source in self.sources.items()}
            self._plan = Mixture(plans, temperature=temperature, seed=seed)
        self.position: tuple[int, int] = (0, 0)
        """Training starts at this epoch and this step of it."""
        self._sampler: MicroBatchSampler | None = None

    @property
    def plan(self) -> Mixture:
        """The batch plan of training.

        Raises:
            ValueError: There is no train split.
        """
        if self._plan is None:
            raise ValueError("there is no train split to plan")
        return self._plan

    def accumulation(self, world_size: int) -> int:
        """Returns the micro-batches per rank and step. Lightning calls this ``accumulate_grad_batches``.

        The number is the same in every step of the run.

        Raises:
            ConfigError: ``trainer.accumulate_grad_batches`` is too small for ``data.part_tokens``.
        """
        least = -(-self.plan.num_micro_batches() // world_size)
        if self.accumulate and self.accumulate < least:
            raise ConfigError(
                "trainer.accumulate_grad_batches",
                f"must be at least {least}, which data.batch_tokens={self.config.batch_tokens} needs with "
                f"data.part_tokens={self.config.part_tokens}, got {self.accumulate}",
                "a larger data.part_tokens, or trainer.accumulate_grad_batches=0",
            )
        return self.accumulate or least

    def set_position(self, epoch: int, step: int) -> None:
        """Sets the position from which training continues.

        The next iteration over the train loader yields the rest of that epoch. If all its steps are done, the position
        is the start of the next epoch. Call this before the workers of the loader start.
        """
        steps = self.plan.num_steps(epoch)
        if not 0 <= step <= steps:
            raise ValueError(f"step {step} of an epoch of {steps} steps")
        self.position = (epoch + 1, 0) if step == steps else (epoch, step)
        if self._sampler is not None:
            self._sampler.position = self.position

    def batches_of(self, position: tuple[int, int]) -> Iterator[dict[str, Any]]:
        """Builds the micro-batches of this rank for the step at ``position`` (epoch, step) once more."""
        rank, world_size = self._rank()
        sampler = MicroBatchSampler(self.plan, rank, world_size, self.accumulation(world_size))
        sampler.position = position
        dataset = MicroBatchDataset(self.sources, "train")
        return (dataset[part] for part in itertools.islice(sampler, sampler.accumulation))

    def train_dataloader(self) -> DataLoader:
        """Returns the loader of this rank's micro-batches. Its length is that of a whole epoch, wherever it starts."""
        rank, world_size = self._rank()
        self._sampler = MicroBatchSampler(self.plan, rank, world_size, self.accumulation(world_size))
        self._sampler.position = self.position
        return self._loader("train", self._sampler)

    def val_dataloader(self) -> DataLoader:
        """Returns a loader that yields every example of val once, over all ranks."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader:
        """Returns a loader that yields every example of test once, over all ranks."""
        return self._eval_loader("test")

    def example(self, split: str) -> dict[str, Any] | None:
        """Returns a batch from the middle of a split, where texts are neither short nor long; None if it is empty."""
        for name, source in self.sources.items():
            if split in source.splits and (batches := source.evaluation(split, self.config.eval_tokens)):
                return MicroBatchDataset(self.sources, split)[(name, *batches[len(batches) // 2])]
        return None

    def _eval_loader(self, split: str) -> DataLoader:
        rank, world_size = self._rank()
        batches = [
            (name, indices, extra)
            for name, source in self.sources.items()
            for indices, extra in source.evaluation(split, self.config.eval_tokens)
        ]
        return self._loader(split, EvalSampler(batches, rank, world_size))

    def _loader(self, split: str, sampler: Sampler) -> DataLoader:
        return DataLoader(
            MicroBatchDataset(self.sources, split),
            sampler=sampler,
            batch_size=None,
            num_workers=self.config.num_workers,
            persistent_workers=self.config.num_workers > 0 and split == "train",
            collate_fn=_as_it_is,
            pin_memory=self.trainer is not None
            and self.trainer.strategy.root_device.type == "cuda",  # the GPU reads pinned memory
            generator=torch.Generator().manual_seed(self.seed),  # otherwise iter() would draw from the global state
        )

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)


class MicroBatchDataset(Dataset):
    """Turns micro-batches of indices into batches. The collation happens in a worker process if there are any."""

    def __init__(self, sources: Mapping[str, TaskData], split: str):
        self.sources, self.split = sources, split

    def __getitem__(self, part: tuple[str, np.ndarray, dict[str, Any]]) -> dict[str, Any]:
        name, indices, extra = part
        source = self.sources[name]
        encoded = source.splits[self.split]
        epoch = [extra["epoch"]] if "epoch" in extra else []
        batch = source.collate(encoded, indices, *epoch)
        return {**batch, "index": torch.from_numpy(encoded.index(indices)), "task": name, **extra}


class MicroBatchSampler(Sampler):
    """The micro-batches of one rank, from ``position`` to the end of that epoch.

    In accumulation a, rank r takes micro-batch ``a * world_size + r`` of the step. After the last micro-batch of an
    epoch, the position is the start of the next epoch. An iteration that is abandoned does not move it.
    """

    def __init__(self, plan: Mixture, rank: int, world_size: int, accumulation: int):
        self.plan, self.rank, self.world_size, self.accumulation = plan, rank, world_size, accumulation
        self.position: tuple[int, int] = (0, 0)

    def __len__(self) -> int:
        return self.plan.num_steps(self.position[0]) * self.accumulation

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, dict[str, int]]]:
        epoch, first = self.position  # read at the first micro-batch, since a loader with workers creates two iterators
        count = self.world_size * self.accumulation
        steps = self.plan.steps(epoch)
        for number in range(first, len(steps)):
            step = steps[number]
            parts = self.plan.micro_batches(step, count)[self.rank :: self.world_size]
            extra = {"tokens_of_step": step.tokens, "targets_of_step": step.targets, "parts": count, "epoch": epoch}
            extra["step_in_epoch"] = number
            for place, indices in enumerate(parts):
                if number == len(steps) - 1 and place == len(parts) - 1:
                    self.position = (epoch + 1, 0)
                yield step.task, indices, extra


class EvalSampler(Sampler):
    """The evaluation batches of one rank.

    Each rank gets the same number of batches of each task. Empty batches fill the gaps, since a metric that one rank
    never updates could not be combined over all ranks.
    """

    def __init__(self, batches: list[tuple[str, np.ndarray, dict[str, Any]]], rank: int, world_size: int):
        by_task: dict[str, list[tuple[str, np.ndarray, dict[str, Any]]]] = {}
        for batch in batches:
            by_task.setdefault(batch[0], []).append(batch)
        self.batches = []
        for name, own in by_task.items():
            empty = [(name, np.zeros(0, dtype=np.int64), {})] * (-len(own) % world_size)
            self.batches += [*own, *empty][rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[str, np.ndarray, dict[str, Any]]]:
        return iter(self.batches)


def _as_it_is(batch: Any) -> Any:
    return batch
