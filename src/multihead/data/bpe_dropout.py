"""BPE-dropout (Provilkov et al. 2020, arXiv:1910.13267): training texts that are cut into subwords in several ways.

Only training sees these cuts. Validation, test and prediction cut a text as its tokenizer does.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from multihead.config.check import require
from multihead.data.encode import Encoded
from multihead.data.tokenizer import Tokenizer

MOST_CUTS = 64
"""Most cuts of a word that are drawn. Further occurrences of the word draw from these."""


class Cutter:
    """Cuts words into subwords at random.

    Args:
        tokenizer: A tokenizer of the kind bpe.
        dropout: Probability that a merge is left out.
        seed: Seed of the draws.
    """

    def __init__(self, tokenizer: Tokenizer, dropout: float, seed: int):
        self._ids = {entry: number for number, entry in enumerate(tokenizer.vocab)}
        self._ranks = {pair: rank for rank, pair in enumerate(tokenizer.merges)}
        self._dropout, self._random = dropout, random.Random(seed)
        self._cuts: dict[str, list[list[int]]] = {}

    def ids(self, word: str) -> list[int]:
        """Returns the ids of one cut of a word."""
        cuts = self._cuts.setdefault(word, [])
        if len(cuts) == MOST_CUTS:
            return cuts[int(self._random.random() * MOST_CUTS)]
        cuts.append([self._ids[subword] for subword in self.subwords(word)])
        return cuts[-1]

    def subwords(self, word: str) -> list[str]:
        """Returns the subwords of a fresh cut of a word, by algorithm 1 of the paper.

        At each step, each possible merge is left out with the probability of the dropout. The merge that was learned
        first among the others is done wherever it was not left out. If all are left out, the word stays as it is.
        """
        subwords, ranks, draw = list(word), self._ranks, self._random.random
        while len(subwords) > 1:
            pairs = enumerate(itertools.pairwise(subwords))
            kept = [(ranks[pair], i) for i, pair in pairs if pair in ranks and draw() >= self._dropout]
            if not kept:
                break
            first = min(kept)[0]
            places = {i for rank, i in kept if rank == first}
            merged, i = [], 0
            while i < len(subwords):
                width = 2 if i in places else 1
                merged.append("".join(subwords[i : i + width]))
                i += width
            subwords = merged
        return subwords


def recut(
    encoded: Encoded,
    columns: Mapping[str, Sequence[str]],
    tokenizers: Mapping[str, Tokenizer],
    *,
    dropout: float,
    copies: int,
    seed: int,
) -> Encoded:
    """Returns all rows of the train split ``copies`` times, each time with other cuts of the texts.

    Args:
        encoded: The rows, cut as the tokenizers do. Roles without a tokenizer, such as labels, stay as they are.
        columns: Role to the texts of the rows.
        tokenizers: Role to its tokenizer.
        dropout: Probability that a merge is left out (``tokenizer.dropout``).
        copies: Number of times (``tokenizer.dropout_copies``).
        seed: Seed of the draws.

    Raises:
        ConfigError: A tokenizer is not of the kind bpe.
    """
    arrays = {}
    for number, role in enumerate(role for role in encoded.roles if role in tokenizers and role in columns):
        tokenizer = tokenizers[role]
        what = "0 unless the tokenizer is of the kind bpe"
        require(tokenizer.kind == "bpe", "tokenizer.dropout", what, dropout, "tokenizer.dropout=0")
        cutter = Cutter(tokenizer, dropout, seed * len(tokenizers) + number)
        arrays[role] = _arrays(cutter, [tokenizer.pieces(text) for text in columns[role]], copies)
    return encoded.recut(copies, arrays)


def _arrays(cutter: Cutter, texts: Sequence[list[str]], copies: int) -> tuple[np.ndarray, np.ndarray]:
    """Returns the ids of all copies of the texts in one array, and the offsets of the texts in it."""
    lengths: list[int] = []

    def all_ids() -> Iterable[int]:
        for _ in range(copies):
            for words in texts:
                count = 0
                for word in words:
                    ids = cutter.ids(word)
                    count += len(ids)
                    yield from ids
                lengths.append(count)

    flat = np.fromiter(all_ids(), dtype=np.int32)
    return flat, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]).astype(np.int64)
