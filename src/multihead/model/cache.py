"""What the decoder keeps between two steps of decoding: keys and values of every layer.

Shapes: B rows, T new tokens, S tokens so far, G key-value heads, K head_dim, P tokens that n-grams look back to.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor


class KeyValueCache:
    """Keys and values of one attention, in buffers [S, B, G, K] that grow by blocks and are filled in place.

    Time is the first dimension because a CPU then reads one query per row, and selects rows, fastest.
    """

    BLOCK = 16
    """Number of tokens by which a full buffer grows; the first call of `append` allocates no spare room."""

    def __init__(self) -> None:
        self.length = 0
        self._key = self._value = torch.empty(0)

    def read(self) -> tuple[Tensor, Tensor]:
        """The keys and values so far, each [B, S, G, K]."""
        return self._key[: self.length].transpose(0, 1), self._value[: self.length].transpose(0, 1)

    def append(self, key: Tensor, value: Tensor) -> tuple[Tensor, Tensor]:
        """Adds the keys and values [B, T, G, K] of new tokens; returns those of all tokens so far."""
        past, self.length = self.length, self.length + key.size(1)
        key, value = key.transpose(0, 1), value.transpose(0, 1)
        if past == 0:
            self._key, self._value = key, value
        else:
            if self.length > self._key.size(0):
                room = key.new_empty(key.size(0) + self.BLOCK, *key.shape[1:])
                self._key, self._value = torch.cat((self._key, room)), torch.cat((self._value, room))
            self._key[past : self.length], self._value[past : self.length] = key, value
        return self.read()

    def select(self, rows: Tensor) -> None:
        """Keeps these rows, in this order."""
        if self.length:
            self._key, self._value = (_rows(x, rows, self.length) for x in (self._key, self._value))

    def replace(self, rows: Tensor, other: KeyValueCache, dropped: int) -> None:
        """Overwrites the end of these rows with a shorter cache; drops the first ``dropped`` columns of all rows."""
        places = slice(self.length - other.length, self.length)
        self._key[places, rows], self._value[places, rows] = other._key[: other.length], other._value[: other.length]
        self._key, self._value = self._key[dropped:], self._value[dropped:]
        self.length -= dropped


@dataclass
class LayerCache:
    """The caches of one layer's two attentions."""

    self_attention: KeyValueCache = field(default_factory=KeyValueCache)
    cross_attention: KeyValueCache = field(default_factory=KeyValueCache)


class Cache:
    """What the decoder keeps between steps, so that a step costs one token: keys and values of every layer.

    Rows are hypotheses. ``memory`` has one row per source. If there are more rows than sources, the rows of one source
    are neighbours, and all sources have the same number of rows.
    """

    def __init__(self, num_layers: int, memory: Tensor | None, memory_mask: Tensor | None):
        self.length = 0
        self.memory, self.memory_mask = memory, memory_mask
        self.layers = [LayerCache() for _ in range(num_layers)]
        self._mask: Tensor | None = None  # [B, S]; None if no row is padded
        self.recent: Tensor | None = None  # [B, P], the last tokens, if there are n-grams

    def extend(self, tokens: Tensor, mask: Tensor | None) -> Tensor | None:
        """Counts new tokens [B, T]; returns the mask [B, S] of all tokens so far, None if nothing is padded."""
        if mask is not None or self._mask is not None:
            old = tokens.new_ones(len(tokens), self.length, dtype=torch.bool) if self._mask is None else self._mask
            new = torch.ones_like(tokens, dtype=torch.bool) if mask is None else mask
            self._mask = torch.cat((old, new), dim=1)
        self.length += tokens.size(1)
        return self._mask

    def select(self, rows: Tensor, sources: Tensor | None = None) -> None:
        """Keeps the rows at these indices, in this order; an index may occur several times.

        Args:
            rows: Indices of rows of the batch.
            sources: Indices of rows of the memory; None leaves the memory as it is.
        """
        if self._mask is not None:
            self._mask = self._mask[rows]
        if self.recent is not None:
            self.recent = self.recent[rows]
        for layer in self.layers:
            layer.self_attention.select(rows)
            if sources is not None:
                layer.cross_attention.select(sources)
        if sources is not None and self.memory is not None:
            self.memory = self.memory[sources]
            self.memory_mask = None if self.memory_mask is None else self.memory_mask[sources]

    def replace(self, rows: Tensor, other: Cache) -> None:
        """Overwrites these rows with a shorter cache, so that both end together; drops columns that no row sees."""
        assert self._mask is not None, "rows of different length have a mask"
        start, mask = self.length - other.length, self._mask.clone()
        mask[rows, :start], mask[rows, start:] = False, True if other._mask is None else other._mask
        dropped = int(mask.any(0).byte().argmax())
        self._mask, self.length = mask[:, dropped:], self.length - dropped
        if self.recent is not None and other.recent is not None:
            self.recent = self.recent.index_copy(0, rows, other.recent)
        for layer, new in zip(self.layers, other.layers, strict=True):
            layer.self_attention.replace(rows, new.self_attention, dropped)


def _rows(x: Tensor, rows: Tensor, length: int) -> Tensor:
    """``x[:, rows]`` of a buffer that is filled to ``length``; copies the filled part only."""
    chosen = x.new_empty(x.size(0), len(rows), *x.shape[2:])
    torch.index_select(x[:length].flatten(2), 1, rows, out=chosen[:length].flatten(2))
    return chosen
