"""Which blocks of running text are masked, and which of their tokens are hidden; pure functions of seed and place.

Shapes: N blocks, T block size.
"""

from __future__ import annotations

import math

import numpy as np

MASK, OTHER = 0.8, 0.1
"""Shares of the hidden tokens that show ``<mask>`` and a random token; the rest show themselves (arXiv:1810.04805)."""
GOLDEN = (math.sqrt(5) - 1) / 2
"""The fractional parts of its multiples are spread most evenly over [0, 1)."""


def masked_blocks(starts: np.ndarray, block_size: int, share: float, seed: int) -> np.ndarray:
    """Which of the blocks at these positions of a stream are masked, bool [N].

    Of the blocks of an epoch, the share is masked, at nearly equal distances. Each epoch begins to cut at another
    place. So the positions of its blocks are its own, and what is masked in one epoch may be causal in another.
    """
    number = -(-starts // block_size)  # of the block in its epoch
    offset = (number * block_size - starts + seed) * math.sqrt(2)  # it differs from epoch to epoch
    return (number * GOLDEN + offset) % 1 < share


def num_hidden(tokens: np.ndarray, share: float) -> np.ndarray:
    """The number of hidden tokens of masked blocks with so many tokens, int64 [N]: the rounded share."""
    return np.round(share * tokens).astype(np.int64)


def hide(
    inputs: np.ndarray,
    labels: np.ndarray,
    rng: np.random.Generator,
    *,
    share: float,
    mask_id: int,
    plain: range,
    shift: int,
) -> None:
    """Hides tokens of a block in place: inputs [T] show something else, and only the labels [T] of these are left.

    Args:
        inputs: What the model sees.
        labels: The tokens of the block; below 0 where there is none.
        rng: Chooses the tokens.
        share: Share of the tokens that are hidden.
        mask_id: Id of ``<mask>``.
        plain: Ids from which random tokens are drawn.
        shift: Number of positions by which the input of a label stands behind it. With 1, the input of the last label
            lies outside of the block.
    """
    places = np.flatnonzero(labels >= 0)
    places = rng.permutation(places)[: int(num_hidden(np.array(len(places)), share))]
    hidden = labels[places]
    labels[:] = -1
    labels[places] = hidden
    kind = rng.random(len(places))
    shown = np.where(kind < MASK, mask_id, hidden)
    others = (kind >= MASK) & (kind < MASK + OTHER)
    if plain:
        shown[others] = rng.integers(plain.start, plain.stop, size=int(others.sum()))
    seen = places + shift
    inputs[seen[seen < len(inputs)]] = shown[seen < len(inputs)]
