"""Sentence pairs as ids, as the benchmark wrote them: flat arrays and where each row ends. Needs numpy only."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np


class Pairs:
    """Rows of ids of both sides, without marks.

    Args:
        folder: Holds ``pairs.npz`` with ``source``, ``source_ends``, ``target`` and ``target_ends``.
    """

    def __init__(self, folder: Path):
        arrays = np.load(folder / "pairs.npz")
        self.source = np.split(arrays["source"], arrays["source_ends"][:-1])
        self.target = np.split(arrays["target"], arrays["target_ends"][:-1])

    def __len__(self) -> int:
        return len(self.source)

    def batches(self, size: int) -> Iterator[np.ndarray]:
        """Indices of so many rows in random order, for ever; the rest of an epoch is left out."""
        rng = np.random.default_rng(0)
        while True:
            order = rng.permutation(len(self))
            yield from (order[start : start + size] for start in range(0, len(self) - size + 1, size))


def padded(rows: list[np.ndarray], before: list[int], after: list[int], fill: int) -> np.ndarray:
    """Rows between their marks, padded at the right to the longest: int64 [B, T]."""
    width = max(map(len, rows)) + len(before) + len(after)
    batch = np.full((len(rows), width), fill, dtype=np.int64)
    for line, row in zip(batch, rows, strict=True):
        line[: len(row) + len(before) + len(after)] = [*before, *row, *after]
    return batch
