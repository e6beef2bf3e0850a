"""What the contestants of decoding share: inputs, weights, and passes over the test set. Needs numpy only."""

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

import numpy as np
from pace import Pace


class TestSet:
    """Source ids, and the file that the outputs go to.

    Args:
        folder: Holds ``sources.json`` and ``weights.npz``.
        name: The contestant's.
    """

    def __init__(self, folder: Path, name: str):
        self.sources: list[list[int]] = json.loads((folder / "sources.json").read_text())
        self._file = folder / f"{name}.outputs.json"

    def serve(self, pace: Pace, batch: int, search: Callable[[list[list[int]]], Iterable[Sequence[int]]]) -> None:
        """Decodes all sources, longest first in batches of so many, again and again.

        ``search`` takes source ids without marks and returns target ids without marks.
        """
        pace.ready()
        while True:
            self._file.write_text(json.dumps(in_batches(self.sources, search, batch)))
            pace.step(len(self.sources))


def in_batches(
    sources: Sequence[list[int]], search: Callable[[list[list[int]]], Iterable[Sequence[int]]], batch: int = 64
) -> list[list[int]]:
    """The outputs of a search, in order, longest sources first in batches of so many."""
    order = sorted(range(len(sources)), key=lambda i: -len(sources[i]))
    outputs: list[list[int]] = [[] for _ in order]
    batches = [order[start : start + batch] for start in range(0, len(order), batch)]
    found = [search([sources[i] for i in chosen]) for chosen in batches]
    for i, ids in zip(order, itertools.chain.from_iterable(found), strict=True):
        outputs[i] = [int(token) for token in ids]
    return outputs


def weights(folder: Path) -> dict[str, np.ndarray]:
    """Multihead's parameters by name, and ``sinusoids``."""
    return dict(np.load(folder / "weights.npz"))


def until_end(ids: Sequence[int], eos: int, drop: Sequence[int]) -> list[int]:
    """The ids before the end mark, without those to drop."""
    ids = list(ids)
    return [token for token in (ids[: ids.index(eos)] if eos in ids else ids) if token not in drop]
