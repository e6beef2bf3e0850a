"""Training of a unigram language model of pieces (arXiv:1804.10959): EM over all segmentations, then pruning.

The `tokenizers` library trains one too, but its order of summation differs from process to process, so that the same
text gives another vocabulary. This module processes all words at once, in a fixed order.

Shapes: W words, E edges (a piece that may stand at a place of a word), P pieces.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np

LONGEST_PIECE = 16
SEED_FACTOR = 8
"""Number of seed pieces for each piece of the final vocabulary."""
KEPT_SHARE = 0.75
"""Share of the pieces that a round of pruning keeps."""
EM_STEPS = 2
MOST_WORDS = 200_000
"""Largest number of words that are used. The most frequent ones are taken."""


def train_unigram(words: Mapping[str, int], alphabet: list[str], size: int) -> list[tuple[str, float]]:
    """Returns pieces with their log-probabilities, the most probable first. They always include the alphabet.

    Args:
        words: Words with their counts. They consist of characters of the alphabet.
        alphabet: Single characters.
        size: Largest number of pieces, at least ``len(alphabet)``.
    """
    words = dict(sorted(words.items(), key=lambda pair: (-pair[1], pair[0]))[:MOST_WORDS])
    weights = np.array(list(words.values()), dtype=np.float64)
    pieces, counts = _seed(words, alphabet, SEED_FACTOR * size)
    scores = _log_share(counts)
    lattice = _Lattice(list(words), pieces)
    while True:
        for _ in range(EM_STEPS):
            counts = lattice.expected(scores, weights, len(pieces))
            scores = _log_share(counts)
        if len(pieces) <= size:
            break
        kept = _prune(pieces, counts, scores, len(alphabet), max(size, int(KEPT_SHARE * len(pieces))))
        lattice.keep(kept, len(pieces))
        pieces, scores = [pieces[i] for i in kept], scores[kept]
    return sorted(zip(pieces, scores.tolist(), strict=True), key=lambda piece: (-piece[1], piece[0]))


def _log_share(counts: np.ndarray) -> np.ndarray:
    """Returns log-probabilities. A piece that is never used gets a count far below one."""
    counts = np.maximum(counts, 1e-3)
    return np.log(counts / counts.sum())


def _seed(words: Mapping[str, int], alphabet: list[str], size: int) -> tuple[list[str], np.ndarray]:
    """Returns the alphabet and the substrings that cover most characters (count x length), with their counts."""
    found: Counter[str] = Counter()
    for word, count in words.items():
        for start in range(len(word)):
            for end in range(start + 1, min(len(word), start + LONGEST_PIECE) + 1):
                found[word[start:end]] += count
    longer = [(count * len(piece), piece) for piece, count in found.items() if len(piece) > 1 and count > 1]
    longer.sort(key=lambda pair: (-pair[0], pair[1]))
    pieces = [*alphabet, *(piece for _, piece in longer[: max(0, size - len(alphabet))])]
    return pieces, np.array([max(found[piece], 1e-3) for piece in pieces])


def _prune(pieces: list[str], counts: np.ndarray, scores: np.ndarray, fixed: int, size: int) -> np.ndarray:
    """Returns the indices of the pieces to keep: the first ``fixed``, and those that the likelihood needs most."""
    longer = pieces[fixed:]
    lattice = _Lattice(longer, pieces, whole=False)
    loss = np.full(len(pieces), np.inf)
    loss[fixed:] = counts[fixed:] * (scores[fixed:] - lattice.best(scores))
    return np.sort(np.argsort(-loss, kind="stable")[:size])


class _Lattice:
    """All segmentations of words. There is one node for each place in a word.

    Args:
        words: The words.
        pieces: The pieces.
        whole: Whether a piece may be a whole word.
    """

    def __init__(self, words: list[str], pieces: list[str], whole: bool = True):
        index = {piece: i for i, piece in enumerate(pieces)}
        longest = max(map(len, pieces))
        starts, ends, ids, levels, first, last = [], [], [], [], [], []
        base = 0
        for word in words:
            length = len(word)
            first.append(base)
            last.append(base + length)
            for end in range(1, length + 1):
                for start in range(max(0, end - longest), end):
                    piece = index.get(word[start:end])
                    if piece is not None and (whole or end - start < length):
                        starts.append(base + start)
                        ends.append(base + end)
                        ids.append(piece)
                        levels.append(end)
            base += length + 1
        self.num_nodes = base
        self.starts, self.ends, self.ids, self.levels, self.first, self.last = (
            np.array(numbers, dtype=np.int64) for numbers in (starts, ends, ids, levels, first, last)
        )
        self._sort()

    def keep(self, kept: np.ndarray, num_pieces: int) -> None:
        """Drops the edges of all pieces that are not in ``kept``. Those of ``kept`` get the numbers 0, 1, ..."""
        number = np.full(num_pieces, -1)
        number[kept] = np.arange(len(kept))
        ids = number[self.ids]
        left = ids >= 0
        self.starts, self.ends, self.levels = self.starts[left], self.ends[left], self.levels[left]
        self.ids = ids[left]
        self._sort()

    def _sort(self) -> None:
        place = np.zeros(self.num_nodes, dtype=np.int64)  # place of each node in its word
        place[self.ends] = self.levels
        self.by_end = self._groups(self.levels, self.ends)
        self.by_start = self._groups(-place[self.starts], self.starts)

    def expected(self, scores: np.ndarray, weights: np.ndarray, num_pieces: int) -> np.ndarray:
        """Returns the expected count of every piece over all segmentations of all words (E step), float64 [P]."""
        edge = scores[self.ids]
        ahead = self._sweep(edge, self.by_end, self.starts, self.first, np.logaddexp)
        behind = self._sweep(edge, self.by_start, self.ends, self.last, np.logaddexp)
        total = np.repeat(ahead[self.last], self.last - self.first + 1)  # [nodes]
        weight = np.repeat(weights, self.last - self.first + 1)
        share = np.exp(ahead[self.starts] + edge + behind[self.ends] - total[self.ends]) * weight[self.ends]
        return np.bincount(self.ids, weights=share, minlength=num_pieces)

    def best(self, scores: np.ndarray) -> np.ndarray:
        """Returns the log-probability of the best segmentation of every word, float64 [W]."""
        return self._sweep(scores[self.ids], self.by_end, self.starts, self.first, np.maximum)[self.last]

    @staticmethod
    def _groups(levels: np.ndarray, nodes: np.ndarray) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Returns for each level its edges sorted by node, where the edges of each node begin, and the nodes."""
        order = np.lexsort((nodes, levels))
        cuts = np.flatnonzero(np.diff(levels[order])) + 1
        groups = []
        for edges in np.split(order, cuts):
            firsts = np.flatnonzero(np.diff(nodes[edges], prepend=-1))
            groups.append((edges, firsts, nodes[edges][firsts]))
        return groups

    def _sweep(
        self, edge: np.ndarray, groups: list, sources: np.ndarray, roots: np.ndarray, join: np.ufunc
    ) -> np.ndarray:
        """Computes the values of the nodes level by level from the roots, by ``join`` over the edges of each node."""
        values = np.full(self.num_nodes, -np.inf)
        values[roots] = 0.0
        for edges, firsts, nodes in groups:
            values[nodes] = join.reduceat(values[sources[edges]] + edge[edges], firsts)
        return values
