"""The batch plan: which examples belong to each optimizer step.

It is a pure function of (seed, epoch, lengths) and does not depend on the number of ranks. A step holds at most
``batch_tokens`` real target tokens. It consists of buckets, which are drawn at random from all buckets of the epoch.
The examples of a bucket have nearly equal widths and at most ``part_tokens`` target tokens. So a step mixes short and
long sentences, and each micro-batch is padded little.

Buckets are the leaves of a k-d tree over the widths (source and target length). Its cuts vary from epoch to epoch. A
step is cut into micro-batches, one for each rank and accumulation; they are whole buckets or pieces of buckets.

Shapes: N examples, C padded columns (for translation source and target).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from multihead.errors import ConfigError

CUT_TOLERANCE = 0.1
"""A cut may save this share less padding than the best cut. This is why epochs differ."""
TRIES = 3
"""Number of random divisions that are tried before the examples are cut in the order of their lengths."""


@dataclass(frozen=True)
class Step:
    """The examples of one optimizer step."""

    buckets: tuple[np.ndarray, ...]
    """Indices of the examples of each bucket. The widths in a bucket are nearly equal."""
    tokens: int
    """Number of real target tokens."""
    targets: int
    """Number of terms of the loss: the target tokens, or those of them that are predicted."""
    task: str = ""
    """Name of the task that the step belongs to."""

    @property
    def indices(self) -> np.ndarray:
        """All examples of the step, int64."""
        return np.concatenate(self.buckets)


class BatchPlan:
    """The steps of every epoch. Every epoch has the same number of steps.

    Args:
        target_lengths: Real target tokens of each example, int [N].
        widths: Lengths that are padded to the widest example of a micro-batch, int [N, C].
        batch_tokens: Most real target tokens of a step.
        part_tokens: Most real target tokens of a bucket, and so of a micro-batch.
        seed: Seed of the order of every epoch.
        targets: Terms of the loss of each example, int [N]; None takes the target tokens.

    Raises:
        ConfigError: One example alone is above a limit.
    """

    def __init__(
        self,
        target_lengths: np.ndarray,
        widths: np.ndarray,
        *,
        batch_tokens: int,
        part_tokens: int,
        seed: int,
        targets: np.ndarray | None = None,
    ):
        self.lengths = np.asarray(target_lengths, dtype=np.int64)
        self.targets = self.lengths if targets is None else np.asarray(targets, dtype=np.int64)
        widths = _columns(widths)
        self.widths = widths.astype(np.uint16) if widths.max(initial=0) < 1 << 16 else widths  # sorted much faster
        self._work = widths.sum(axis=1)
        self.seed = seed
        longest = int(self.lengths.max(initial=0))
        for key, limit in (("data.part_tokens", part_tokens), ("data.batch_tokens", batch_tokens)):
            if longest > limit:
                raise ConfigError(
                    key, f"must be at least {longest}, the number of tokens of the longest target, got {limit}"
                )
        self.buckets_per_step = -(-batch_tokens // part_tokens)
        self.bucket_tokens = max(longest, batch_tokens // self.buckets_per_step)
        if self.bucket_tokens * self.buckets_per_step > batch_tokens:  # one long example: fewer, larger buckets
            self.buckets_per_step = batch_tokens // self.bucket_tokens
        # Boxes of equal weight must stay below bucket_tokens although they are cut at whole examples. So an example
        # weighs more than its tokens, as if its box had to keep room for one more example of the same length.
        self._weights = self.lengths * (1 + self.lengths / self.bucket_tokens)
        count = self._least_buckets()
        self._num_steps = -(-count // self.buckets_per_step)
        self._last: tuple[int, list[Step]] = (-1, [])

    def num_steps(self, epoch: int) -> int:
        """Number of optimizer steps of an epoch."""
        return self._num_steps

    def steps(self, epoch: int) -> list[Step]:
        """Returns the steps of an epoch. Every example belongs to exactly one step."""
        if self._last[0] != epoch:
            rng = np.random.Generator(np.random.PCG64([self.seed, epoch]))
            buckets = self._buckets(rng)
            order = rng.permutation(len(buckets))
            groups = [[buckets[i] for i in chosen] for chosen in np.array_split(order, self._num_steps)]
            self._last = (epoch, [self._step(group) for group in groups if group])
        return self._last[1]

    def _step(self, buckets: Sequence[np.ndarray]) -> Step:
        tokens, targets = (int(sum(counts[b].sum() for b in buckets)) for counts in (self.lengths, self.targets))
        return Step(tuple(buckets), tokens, targets)

    def tokens(self, epoch: int) -> np.ndarray:
        """Returns the real target tokens of each step of an epoch, int64."""
        return np.array([step.tokens for step in self.steps(epoch)], dtype=np.int64)

    def num_micro_batches(self) -> int:
        """Returns the least number of micro-batches per step so that none exceeds ``part_tokens``."""
        return self.buckets_per_step

    def micro_batches(self, step: Step, count: int) -> list[np.ndarray]:
        """Cuts a step into ``count`` micro-batches of similar cost, the costliest first. The last ones may be empty.

        Args:
            step: One of `steps`.
            count: Number of ranks times accumulation. If it is below `num_micro_batches`, buckets are joined.
        """
        parts = self._packed(step.buckets, count) if count < len(step.buckets) else self._pieces(step.buckets, count)
        if count % len(step.buckets):  # whole buckets do not share out evenly
            mixed = divide(step.indices, count, self._work, self.widths)
            fits = max(self.lengths[part].sum() for part in mixed) <= self.bucket_tokens or count < len(step.buckets)
            if fits and max(map(self.cost, mixed)) < max(map(self.cost, parts)):
                parts = mixed
        parts.sort(key=self.cost, reverse=True)
        return parts + [np.zeros(0, dtype=np.int64)] * (count - len(parts))

    def cost(self, indices: np.ndarray) -> int:
        """Returns the positions of a micro-batch, padding included, over all columns."""
        return len(indices) * int(self.widths[indices].max(axis=0).sum()) if len(indices) else 0

    def padding(self, count: int) -> float:
        """Returns the share of positions without a token in the first epoch, with ``count`` micro-batches per step."""
        cut = [part for step in self.steps(0) for part in self.micro_batches(step, count)]
        return 1 - sum(int(self.widths[part].sum()) for part in cut) / sum(self.cost(part) for part in cut)

    def _least_buckets(self) -> int:
        """Returns the number of buckets of an epoch. A cut at whole examples never needs more."""
        count = len(self.lengths)
        if count == 0:
            raise ConfigError("data.train", "must have at least one example")
        if self.lengths.sum() <= self.bucket_tokens:
            return 1
        roomy = int(np.ceil(self._weights.sum() / self.bucket_tokens))
        return min(count, max(roomy, len(self._in_order(np.argsort(self.lengths, kind="stable")))))

    def _buckets(self, rng: np.random.Generator) -> list[np.ndarray]:
        """Returns the buckets of one epoch: at least one and at most `buckets_per_step` for each step."""
        most = self._num_steps * self.buckets_per_step
        for _ in range(TRIES):
            shuffled = rng.permutation(len(self.lengths))
            buckets = divide(shuffled, most, self._weights, self.widths, rng)
            if self._even_out(buckets):
                break
        else:
            buckets = self._in_order(shuffled[np.argsort(self.lengths[shuffled], kind="stable")])
        while len(buckets) < self._num_steps:
            largest = max(range(len(buckets)), key=lambda i: len(buckets[i]))
            buckets[largest : largest + 1] = np.array_split(buckets[largest], 2)
        return buckets

    def _in_order(self, order: np.ndarray) -> list[np.ndarray]:
        """Fills one bucket after the other. They are never too full and never too many, but they are padded more."""
        ends = np.cumsum(self.lengths[order])
        buckets, start, done = [], 0, 0
        while start < len(order):
            end = int(np.searchsorted(ends, done + self.bucket_tokens, side="right"))
            buckets.append(order[start:end])
            start, done = end, ends[end - 1]
        return buckets

    def _even_out(self, buckets: list[np.ndarray]) -> bool:
        """Moves examples out of full buckets to where they add least padding. Returns False if no bucket has room."""
        tokens = np.array([self.lengths[bucket].sum() for bucket in buckets])
        if not (tokens > self.bucket_tokens).any():
            return True
        sizes = np.array([len(bucket) for bucket in buckets])
        tops = np.stack([self.widths[bucket].max(axis=0) for bucket in buckets]).astype(np.int64)  # [buckets, C]
        for full in np.flatnonzero(tokens > self.bucket_tokens):
            while tokens[full] > self.bucket_tokens:
                lengths = self.lengths[buckets[full]]
                excess = tokens[full] - self.bucket_tokens
                enough = np.flatnonzero(lengths >= excess)
                chosen = int(enough[np.argmin(lengths[enough])]) if len(enough) else int(np.argmax(lengths))
                example = buckets[full][chosen]
                grown = np.maximum(tops, self.widths[example])
                added = (grown - tops).sum(axis=1) * sizes + grown.sum(axis=1)
                room = tokens + self.lengths[example] <= self.bucket_tokens
                if not room.any():
                    return False
                to = int(np.argmin(np.where(room, added, np.iinfo(np.int64).max)))
                buckets[full] = np.delete(buckets[full], chosen)
                buckets[to] = np.append(buckets[to], example)
                tokens[full] -= self.lengths[example]
                tokens[to] += self.lengths[example]
                sizes[full], sizes[to], tops[to] = sizes[full] - 1, sizes[to] + 1, grown[to]
        return True

    def _pieces(self, buckets: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
        """Cuts buckets into ``count`` pieces altogether. The costliest buckets get the most pieces."""
        pieces = np.ones(len(buckets), dtype=np.int64)
        costs = np.array([self.cost(bucket) for bucket in buckets], dtype=np.float64)
        for _ in range(count - len(buckets)):
            pieces[np.argmax(costs / pieces)] += 1
        return [
            piece
            for bucket, many in zip(buckets, pieces, strict=True)
            for piece in divide(bucket, int(many), self._work, self.widths)
        ]

    def _packed(self, buckets: Sequence[np.ndarray], count: int) -> list[np.ndarray]:
        """Joins whole buckets into ``count`` micro-batches: the costliest bucket first, into the lightest one."""
        parts: list[list[np.ndarray]] = [[] for _ in range(count)]
        loads = np.zeros(count)
        for bucket in sorted(buckets, key=self.cost, reverse=True):
            lightest = int(np.argmin(loads))
            parts[lightest].append(bucket)
            loads[lightest] += self.cost(bucket)
        return [np.concatenate(part) for part in parts if part]


def divide(
    indices: np.ndarray,
    count: int,
    weights: np.ndarray,
    widths: np.ndarray,
    rng: np.random.Generator | None = None,
) -> list[np.ndarray]:
    """Divides examples into ``count`` boxes of equal weight and little padding by a k-d tree.

    Each cut is made where it saves most padding.

    Args:
        indices: The examples. Their order decides if widths are equal.
        count: Number of boxes. Fewer are returned only if there are fewer examples.
        weights: Weights that each box gets an equal share of [N].
        widths: Padded lengths, int [N, C].
        rng: Chooses among nearly equal cuts. If it is None, the best cut is taken.
    """
    boxes, waiting = [], [(indices, count)]
    while waiting:
        box, many = waiting.pop()
        if many == 1 or len(box) <= 1:
            boxes.append(box)
            continue
        orders = [box[np.argsort(widths[box, column], kind="stable")] for column in range(widths.shape[1])]
        cuts = [_cuts(order, many, weights, widths) for order in orders]
        best = min(int(cost.min()) for cost, _ in cuts)
        limit = best
        if rng is not None:
            limit = best + CUT_TOLERANCE * (len(box) * int(widths[box].max(axis=0).sum()) - best)
        choices = [(column, cut) for column, (cost, _) in enumerate(cuts) for cut in np.flatnonzero(cost <= limit)]
        column, cut = choices[0 if rng is None else int(rng.integers(len(choices)))]
        place = cuts[column][1][cut]
        left = int(cut) + 1
        waiting += [(orders[column][place:], many - left), (orders[column][:place], left)]
    return boxes


def _cuts(order: np.ndarray, many: int, weights: np.ndarray, widths: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Returns the padded positions after each of the ``many - 1`` cuts of ``order``, and the places of the cuts."""
    ends = np.cumsum(weights[order])
    goals = np.arange(1, many) * (ends[-1] / many)
    after = np.clip(np.searchsorted(ends, goals), 1, len(order) - 1)
    before_is_nearer = goals - ends[after - 1] <= ends[after] - goals
    places = np.where(before_is_nearer, after, np.minimum(after + 1, len(order) - 1))
    starts = np.concatenate([[0], places])
    # For an empty segment reduceat returns the element itself, which belongs to a neighbouring segment anyway.
    tops = np.maximum.reduceat(widths[order], starts, axis=0).astype(np.int64)  # [many, C]
    left = np.maximum.accumulate(tops, axis=0)[:-1].sum(axis=1)
    right = np.maximum.accumulate(tops[::-1], axis=0)[::-1][1:].sum(axis=1)
    return places * left + (len(order) - places) * right, places


def eval_batches(widths: np.ndarray, max_tokens: int) -> list[np.ndarray]:
    """Returns batches that hold all examples once, sorted by the first column and then by the others, longest first.

    Args:
        widths: Lengths, int [N] or [N, C].
        max_tokens: Most positions of a batch in its widest column, padding included. A single example may have more.
    """
    widths = _columns(widths)
    order = np.lexsort(widths.T[::-1])[::-1]
    batches, start = [], 0
    while start < len(order):
        tops = np.maximum.accumulate(widths[order[start : start + max_tokens]].max(axis=1))
        fits = int(np.searchsorted(tops * np.arange(1, len(tops) + 1), max_tokens, side="right"))
        end = start + max(1, fits)
        batches.append(order[start:end])
        start = end
    return batches


def _columns(widths: np.ndarray) -> np.ndarray:
    widths = np.asarray(widths, dtype=np.int64)
    return widths[:, None] if widths.ndim == 1 else widths
