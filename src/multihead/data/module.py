"""Batches for Lightning: encoded splits, a task's pure ``lengths`` and ``collate``, and the batch plan.

Nothing here draws from the global random state, and the position in the data is (epoch, step): skipping to it costs
nothing and does not depend on the number of workers or ranks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import lightning
import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from multihead.config.data import DataConfig
from multihead.data.encode import Encoded
from multihead.data.plan import BatchPlan, eval_batches
from multihead.errors import ConfigError

Lengths = Callable[[Encoded], tuple[np.ndarray, np.ndarray]]
"""A task's (real target tokens [N], padded widths [N, C]) of every example."""
Collate = Callable[[Encoded, np.ndarray], dict[str, Any]]
"""A task's batch of the examples of these indices; no indices must give an empty, well-formed batch."""


class DataModule(lightning.LightningDataModule):
    """Loaders of the splits there are.

    A training batch is one part of a step: what ``collate`` gives, and ``tokens_of_step`` (real target tokens of the
    whole step, int), ``parts`` (ranks x accumulation, int) and ``index`` (rows of the split, LongTensor [B]). One of
    evaluation has ``index`` alone beside the task's own; under several ranks it may be empty.

    Args:
        splits: Encoded rows of train, val and test, as many as there are.
        config: Sizes of steps and parts, number of workers.
        lengths: The task's lengths.
        collate: The task's batches.
        seed: Of the batch plan.
        accumulate: Micro-batches per rank and step; 0 takes the least that ``part_tokens`` allows.
    """

    def __init__(
        self,
        splits: Mapping[str, Encoded],
        config: DataConfig,
        *,
        lengths: Lengths,
        collate: Collate,
        seed: int,
        accumulate: int = 0,
    ):
        super().__init__()
        self.splits, self.config = dict(splits), config
        self.lengths, self.collate = lengths, collate
        self.seed, self.accumulate = seed, accumulate
        self.plan: BatchPlan | None = None
        """The plan of training; None without a train split."""
        if "train" in self.splits:
            target_lengths, widths = lengths(self.splits["train"])
            self.plan = BatchPlan(
                target_lengths,
                widths,
                batch_tokens=config.batch_tokens,
                part_tokens=config.part_tokens,
                seed=seed,
            )
        self._position = (0, 0)
        self._sampler: PartSampler | None = None

    def accumulation(self, world_size: int) -> int:
        """Micro-batches per rank and step, constant over the run: Lightning's ``accumulate_grad_batches``.

        Raises:
            ConfigError: ``trainer.accumulate_grad_batches`` is too small for ``data.part_tokens``.
        """
        least = -(-self.plan.num_parts() // world_size)
        if self.accumulate and self.accumulate < least:
            raise ConfigError(
                "trainer.accumulate_grad_batches",
                f"must be at least {least} where data.batch_tokens={self.config.batch_tokens} is cut into parts of "
                f"data.part_tokens={self.config.part_tokens}, got {self.accumulate}",
                "a larger data.part_tokens, or trainer.accumulate_grad_batches=0",
            )
        return self.accumulate or least

    def set_position(self, epoch: int, step: int) -> None:
        """Sets where training goes on: the next iteration over the train loader yields the rest of that epoch.

        All steps of an epoch done is the start of the next one. To be called before the loader's workers start.
        """
        steps = self.plan.num_steps(epoch)
        if not 0 <= step <= steps:
            raise ValueError(f"step {step} of an epoch of {steps} steps")
        self._position = (epoch + 1, 0) if step == steps else (epoch, step)
        if self._sampler is not None:
            self._sampler.position = self._position

    def position_at(self, num_steps: int) -> tuple[int, int]:
        """(epoch, step) after so many optimizer steps of a run, as `set_position` takes it."""
        return self.plan.position(num_steps)

    def train_dataloader(self) -> DataLoader:
        """This rank's parts; its length is that of a whole epoch, in micro-batches, wherever it starts."""
        rank, world_size = self._rank()
        self._sampler = PartSampler(self.plan, rank, world_size, self.accumulation(world_size))
        self._sampler.position = self._position
        return self._loader("train", self._sampler)

    def val_dataloader(self) -> DataLoader:
        """Every example of val once, over all ranks."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader:
        """Every example of test once, over all ranks."""
        return self._eval_loader("test")

    def _eval_loader(self, split: str) -> DataLoader:
        rank, world_size = self._rank()
        _, widths = self.lengths(self.splits[split])
        batches = eval_batches(widths, self.config.eval_tokens)
        return self._loader(split, EvalSampler(batches, rank, world_size))

    def _loader(self, split: str, sampler: Sampler) -> DataLoader:
        return DataLoader(
            PartDataset(self.splits[split], self.collate),
            sampler=sampler,
            batch_size=None,
            num_workers=self.config.num_workers,
            persistent_workers=self.config.num_workers > 0 and split == "train",
            collate_fn=_as_it_is,
            generator=torch.Generator().manual_seed(self.seed),  # else iter() draws from the global state
        )

    def _rank(self) -> tuple[int, int]:
        return (self.trainer.global_rank, self.trainer.world_size) if self.trainer is not None else (0, 1)


class PartDataset(Dataset):
    """Parts to batches: collates in the worker, where there are some."""

    def __init__(self, encoded: Encoded, collate: Collate):
        self.encoded, self.collate = encoded, collate

    def __getitem__(self, part: tuple[np.ndarray, dict[str, int]]) -> dict[str, Any]:
        indices, extra = part
        index = torch.from_numpy(self.encoded.rows[indices])
        return {**self.collate(self.encoded, indices), "index": index, **extra}


class PartSampler(Sampler):
    """One rank's parts of the steps from ``position`` to the end of that epoch.

    In accumulated micro-batch a rank r takes part ``a * world_size + r``. Handing out an epoch's last part moves the
    position to the next epoch; an iteration that is given up leaves it where it was.
    """

    def __init__(self, plan: BatchPlan, rank: int, world_size: int, accumulation: int):
        self.plan, self.rank, self.world_size, self.accumulation = plan, rank, world_size, accumulation
        self.position = (0, 0)

    def __len__(self) -> int:
        return self.plan.num_steps(self.position[0]) * self.accumulation

    def __iter__(self) -> Iterator[tuple[np.ndarray, dict[str, int]]]:
        epoch, first = self.position  # read at the first part: a loader with workers makes two iterators
        count = self.world_size * self.accumulation
        steps = self.plan.steps(epoch)
        for number in range(first, len(steps)):
            step = steps[number]
            parts = self.plan.parts(step, count)[self.rank :: self.world_size]
            extra = {"tokens_of_step": step.tokens, "parts": count}
            for place, indices in enumerate(parts):
                if number == len(steps) - 1 and place == len(parts) - 1:
                    self.position = (epoch + 1, 0)
                yield indices, extra


class EvalSampler(Sampler):
    """One rank's batches of evaluation: as many on each rank, filled up with empty ones."""

    def __init__(self, batches: list[np.ndarray], rank: int, world_size: int):
        lacking = max(-len(batches) % world_size, world_size - len(batches))
        empty = [np.zeros(0, dtype=np.int64)] * lacking
        self.batches = [*batches, *empty][rank::world_size]

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[tuple[np.ndarray, dict[str, int]]]:
        return iter([(indices, {}) for indices in self.batches])


def _as_it_is(batch: dict[str, Any]) -> dict[str, Any]:
    return batch
