"""Cuts rows into splits and folds, so that no text is on both sides of a cut."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from multihead.errors import DataError
from multihead.text.inputs import without_answers

if TYPE_CHECKING:
    from multihead.data.corpus import Rows

FEW = 5
"""If a held-out split expects fewer rows of a class than this, its rows are drawn class by class."""
KEPT = 2
"""Number of rows of each class that stay in train."""


def hold_out(
    rows: Rows, sizes: Mapping[str, float], seed: int, classes: Sequence[str] | None = None
) -> dict[str, Rows]:
    """Cuts rows into train and held-out splits so that no source, no text and no target sentence is in two splits.

    Rows joined by an identical text, directly or through others, stay together; groups are drawn in a random order
    that depends on the seed only. A group that is too large for what a split still lacks stays in train. All texts of
    the first role join rows. Texts of other roles do if they are sentences: an answer that many rows share
    (`text.inputs.without_answers`) may be in several splits.

    A large split is drawn from all rows alike, which gives each class about its share. If a split expects fewer than
    `FEW` rows of a class, rows are drawn class by class in proportion. Each class then gets at least one row in each
    split if there is room, and keeps at least `KEPT` in train. A split that is given as a share grows up to a row for
    each class, but not beyond a tenth of all rows.

    Args:
        rows: All rows.
        sizes: Split to a share (below 1) or a number of rows.
        seed: Seed of the draw.
        classes: Class of each row. None draws from all rows alike.

    Returns:
        The rows of each split of ``sizes``, and of "train", each in the original order.

    Raises:
        DataError: There are too few rows.
    """
    roots, inverse, counts = np.unique(_groups(rows), return_inverse=True, return_counts=True)
    order = np.random.default_rng([seed, 0x5B117]).permutation(len(roots))
    wanted = {split: max(1, round(size * len(rows))) if size < 1 else int(size) for split, size in sizes.items()}
    class_sizes, orders = np.array([len(rows)]), [order]
    if classes is not None:
        _, of_row, by_class = np.unique(np.array(classes, dtype=object), return_inverse=True, return_counts=True)
        if any(by_class.min() * count < FEW * len(rows) for count in wanted.values()):
            room = max(2, min(len(by_class), len(rows) // 10))
            wanted = {split: max(count, room) if sizes[split] < 1 else count for split, count in wanted.items()}
            class_sizes = by_class
            orders = [order[of_row[roots[order]] == number] for number in range(len(by_class))]
    if sum(wanted.values()) >= len(rows):
        what = f"data.splits holds out all of the {len(rows)} rows and leaves none to train on"
        raise DataError(rows.origin(0), what, f"data.splits.{next(iter(sizes))}=0.1")
    split_of_group = np.zeros(len(roots), dtype=np.int64)
    for number, split in enumerate(sizes, start=1):
        for place, quota in enumerate(
            _quotas(wanted[split], class_sizes, [int(counts[left].sum()) for left in orders])
        ):
            taken, orders[place] = _take(orders[place], counts, quota)
            split_of_group[taken] = number
        if not (split_of_group == number).any():
            raise DataError(
                rows.origin(0), f"there are too few different rows to hold out a {split} split", f"data.{split}=FILE"
            )
    parts = split_of_group[inverse]
    found = {name: rows.select(np.flatnonzero(parts == number)) for number, name in enumerate(["train", *sizes])}
    for split in sizes:
        found[split].held_out = True
    return found


def fold_out(rows: Rows, folds: int, fold: int, seed: int, classes: Sequence[str] | None = None) -> tuple[Rows, Rows]:
    """Cuts rows into those of one fold and the others, so that no text is on both sides, as in `hold_out`.

    The groups of rows that share texts are put into the folds in a random order, the largest first. Each goes into the
    fold that has the fewest rows of its class, then into the one with the fewest rows. So all folds have about the same
    size and the same classes.

    Args:
        rows: All rows.
        folds: Number of folds of a partition.
        fold: Number of the fold. Those from ``folds`` on belong to further partitions.
        seed: Seed of the order.
        classes: Class of each row. None makes the sizes alike only.

    Returns:
        The other rows and the rows of the fold, each in the original order.

    Raises:
        DataError: There are fewer groups than folds.
    """
    roots, inverse, counts = np.unique(_groups(rows), return_inverse=True, return_counts=True)
    if len(roots) < folds:
        what = f"there are too few different rows for {folds} folds: {len(roots)}"
        raise DataError(rows.origin(0), what, f"data.folds={max(2, len(roots))}")
    order = np.random.default_rng([seed, 0xF01D, fold // folds]).permutation(len(roots))
    order = order[np.argsort(-counts[order], kind="stable")]
    by_class: dict[str, np.ndarray] = {}
    sizes, fold_of_group = np.zeros(folds, dtype=np.int64), np.zeros(len(roots), dtype=np.int64)
    for group in order:
        own = by_class.setdefault(classes[int(roots[group])] if classes else "", np.zeros(folds, dtype=np.int64))
        place = int(np.lexsort((sizes, own))[0])
        own[place] += counts[group]
        sizes[place] += counts[group]
        fold_of_group[group] = place
    chosen = fold_of_group[inverse] == fold % folds
    rest, test = rows.select(np.flatnonzero(~chosen)), rows.select(np.flatnonzero(chosen))
    test.held_out = True
    return rest, test


def _quotas(wanted: int, class_sizes: np.ndarray, left: Sequence[int]) -> list[int]:
    """Returns the number of rows that a split takes of each class. ``left`` rows remain of each."""
    if len(left) == 1:
        return [wanted]
    spare = [max(0, int(count) - KEPT) for count in left]
    return shares(class_sizes.tolist(), min(wanted, sum(spare)), [min(1, most) for most in spare], spare)


def _take(order: np.ndarray, counts: np.ndarray, most: int) -> tuple[list[int], np.ndarray]:
    """Returns the first groups of an order that fit into ``most`` rows, and the order of the remaining ones."""
    taken: list[int] = []
    passed_over: list[int] = []
    position = 0
    while most and position < len(order):
        group = int(order[position])
        position += 1
        if counts[group] <= most:
            taken.append(group)
            most -= int(counts[group])
        else:
            passed_over.append(group)
    return taken, np.concatenate([passed_over, order[position:]]).astype(np.int64)


def shares(sizes: Sequence[int], count: int, least: Sequence[int], most: Sequence[int]) -> list[int]:
    """Distributes ``count`` in proportion to ``sizes`` by largest remainders, each share between its bounds.

    Args:
        sizes: Numbers to which the shares are proportional.
        count: Sum of the shares, at most the sum of ``most``.
        least: Lower bounds. They are ignored if their sum exceeds ``count``.
        most: Upper bounds.
    """
    least = list(least) if sum(least) <= count else [0] * len(sizes)
    exact = [count * size / sum(sizes) for size in sizes]
    found = [max(low, min(high, int(share))) for low, high, share in zip(least, most, exact, strict=True)]
    while (rest := count - sum(found)) != 0:
        step = 1 if rest > 0 else -1
        free = [i for i, share in enumerate(found) if (share < most[i] if step > 0 else share > least[i])]
        found[max(free, key=lambda i: (step * (exact[i] - found[i]), -i))] += step
    return found


def _groups(rows: Rows) -> np.ndarray:
    """Returns for each row the smallest row to which identical texts in a column join it (union-find)."""
    parent = list(range(len(rows)))

    def root(row: int) -> int:
        while parent[row] != row:
            parent[row] = row = parent[parent[row]]
        return row

    for number, texts in enumerate(texts for role, texts in rows.columns.items() if role != "label"):
        first: dict[str, int] = {}
        for row, text in enumerate(without_answers(texts) if number else texts):
            if text is None:
                continue
            other = first.setdefault(text, row)
            if other != row:
                a, b = root(other), root(row)
                parent[max(a, b)] = min(a, b)
    return np.array([root(row) for row in range(len(rows))], dtype=np.int64)
