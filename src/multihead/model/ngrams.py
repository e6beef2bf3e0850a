"""Hashed n-grams: embeddings that are added to those of the tokens, and a linear classifier of texts.

Shapes: B batch, T time, D d_model, C classes, P tokens before the first, N sizes of n-grams.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multihead.config.model import ModelConfig

if TYPE_CHECKING:
    from multihead.model.cache import Cache

NOTHING = -1
"""It stands for padding and for places before the beginning of a text."""
MULTIPLIER, PRIME = 1_000_003, 2**31 - 1


class NGramEmbedding(nn.Module):
    """Embeddings of hashed n-grams, as in fastText (Joulin et al. 2016, arXiv:1607.01759, section 2.1) and in
    Transformers with "over-encoding" (Huang et al. 2025, arXiv:2501.16975, section 3.2).

    Position t gets the sum of the vectors of its n-grams of 2 to ``ngram_max`` tokens. Each n-gram ends at t, so that
    nothing looks ahead. The tokens of an n-gram are hashed to a row of a table; several n-grams may share a row. Rows
    start at zero, so that an n-gram that training did not see adds nothing.

    Args:
        config: ``ngram_buckets`` rows of d_model; ``ngram_max`` tokens at most.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.num_before = config.ngram_max - 1
        self.weight = nn.Parameter(torch.zeros(config.ngram_buckets, config.d_model))  # row 0 stands for no n-gram

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        cache: Cache | None = None,
        segments: Tensor | None = None,
    ) -> Tensor:
        """Sums [B, T, D] of the vectors of the n-grams that end at each of T tokens.

        Args:
            tokens: [B, T].
            mask: [B, S]; its last T columns belong to these tokens; None if nothing is padded.
            cache: Holds the tokens before these, and keeps these for the next call.
            segments: [B, T], numbers of documents; an n-gram lies within one document.
        """
        length = tokens.size(1)
        context = tokens if mask is None else tokens.masked_fill(~mask[:, -length:], NOTHING)
        if cache is not None and cache.recent is not None:
            context = torch.cat((cache.recent, context), dim=1)
        else:
            context = F.pad(context, (self.num_before, 0), value=NOTHING)  # [B, P + T]
        if cache is not None:
            cache.recent = context[:, length:]
        if segments is not None:
            segments = F.pad(segments, (self.num_before, 0), value=NOTHING)
        rows = ngram_rows(context, range(2, self.num_before + 2), len(self.weight), segments)
        return F.embedding(rows, self.weight, padding_idx=0).sum(2)  # [B, T, N, D] to [B, T, D]


class NGramClasses(nn.Module):
    """Logits of classes from the n-grams of a text, beside those of a stack ("Wide & Deep", Cheng et al. 2016,
    arXiv:1606.07792, section 3.1), with the features of NB-SVM (Wang and Manning 2012, P12-2018, section 2.3).

    A text has or does not have each n-gram of 1 to ``most`` tokens. An n-gram adds to the logit of a class its
    log-count ratio in that class, which is fixed, times a weight, which is learned. The sum is divided by the square
    root of the number of n-grams, so that long texts are no surer than short ones. Weights start small and equal, which
    is a weak naive Bayes. The ratio of a rare n-gram is small, so that training cannot learn it by heart.

    Args:
        buckets: Number of rows that n-grams are hashed to; row 0 stands for no n-gram.
        most: Most tokens of an n-gram.
        num_classes: Number of logits.
    """

    GAIN = 5.0
    """Factor of the sum. Learning rates that suit embeddings, many numbers of which move together, are too small for
    one weight."""
    START = 0.1 / GAIN
    """Value that weights start with."""

    def __init__(self, buckets: int, most: int, num_classes: int):
        super().__init__()
        self.most = most
        self.ratio = nn.Parameter(torch.zeros(buckets, num_classes), requires_grad=False)
        self.weight = nn.Parameter(torch.full((buckets, num_classes), self.START))

    def forward(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """Logits [B, C] of ids [B, T]; real tokens are True in ``mask`` [B, T], and None means that all are real."""
        rows = self.rows(tokens, mask)  # [B, most * T]
        number = (rows != 0).sum(1, keepdim=True).clamp(min=1)
        votes = F.embedding(rows, self.weight) * F.embedding(rows, self.ratio)  # [B, most * T, C]
        return votes.sum(1) * (self.GAIN * number**-0.5)

    def rows(self, tokens: Tensor, mask: Tensor | None = None) -> Tensor:
        """The row of each n-gram of each text, once, and 0 elsewhere: [B, most * T]; arguments as in `forward`."""
        context = tokens if mask is None else tokens.masked_fill(~mask, NOTHING)
        context = F.pad(context, (self.most - 1, 0), value=NOTHING)
        rows = ngram_rows(context, range(1, self.most + 1), len(self.weight)).flatten(1).sort(1).values
        again = F.pad(rows[:, 1:] == rows[:, :-1], (1, 0), value=False)
        return rows.masked_fill(again, 0)

    @torch.no_grad()
    def start_from(self, counts: Tensor) -> None:
        """Sets the log-count ratios, smoothed by one.

        Args:
            counts: [buckets, C], number of texts of each class that have an n-gram with this row.
        """
        seen = counts.sum(1) > 0
        inside, outside = counts + 1.0, counts.sum(1, keepdim=True) - counts + 1.0
        ratio = (inside / inside[seen].sum(0)).log() - (outside / outside[seen].sum(0)).log()
        self.ratio.copy_(ratio * seen[:, None])


def ngram_rows(context: Tensor, sizes: Sequence[int], buckets: int, segments: Tensor | None = None) -> Tensor:
    """Rows [B, T, N] of the n-grams of N sizes that end at each of T tokens, 0 if there is none.

    Args:
        context: [B, P + T], with P tokens before the first, `NOTHING` at places without a token; P + 1 is the largest
            size.
        sizes: Numbers of tokens of the n-grams, ascending.
        buckets: Number of rows of the table.
        segments: [B, P + T], numbers of documents; an n-gram lies within one document.
    """
    most = sizes[-1]
    length = context.size(1) - most + 1
    rows = []
    for size in sizes:
        key = torch.full_like(context[:, most - 1 :], size)
        whole = torch.ones_like(key, dtype=torch.bool)
        for start in range(most - size, most):
            ids = context[:, start : start + length]
            key, whole = (key * MULTIPLIER + ids) % PRIME, whole & (ids != NOTHING)
            if segments is not None:
                whole &= segments[:, start : start + length] == segments[:, most - 1 :]
        rows.append(torch.where(whole, 1 + key % (buckets - 1), 0))
    return torch.stack(rows, -1)
