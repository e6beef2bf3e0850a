"""What stands on the backbone's hidden states: logits over a vocabulary and their loss, logits over classes.

Shapes: N positions, D d_model, V vocabulary; B batch, T time, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multihead.kernels import product
from multihead.ngrams import NGramClasses

CACHED_ROWS = 32
"""Rows of logits whose softmax is made at once on a CPU."""


class VocabularyHead(nn.Module):
    """Hidden states to logits: the last linear map of section 3.4 of the paper (arXiv:1706.03762), without bias.

    Args:
        d_model: Width of the hidden states.
        vocab_size: Number of logits.
        tied: The embedding [V, D] to share (Press and Wolf 2017, arXiv:1608.05859); None makes a matrix of its own,
            initialised as embeddings are.
    """

    def __init__(self, d_model: int, vocab_size: int, tied: nn.Parameter | None = None):
        super().__init__()
        if tied is None:
            tied = nn.Parameter(torch.empty(vocab_size, d_model))
            nn.init.normal_(tied, std=d_model**-0.5)
        assert tied.shape == (vocab_size, d_model), f"tied weight is {tuple(tied.shape)}, not {(vocab_size, d_model)}"
        self.weight = tied

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        return F.linear(hidden, self.weight)

    def loss(self, hidden: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Sum over N positions of the cross-entropy in nats, label-smoothed as `torch.nn.functional.cross_entropy`.

        Args:
            hidden: [N, D], real positions only.
            labels: [N].
            label_smoothing: Share of the target distribution spread over the vocabulary (section 5.4 of the paper).
        """
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            return _ChunkedCrossEntropy.apply(hidden, self.weight, labels, label_smoothing, dtype)

    def evaluate(self, hidden: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy [N] in nats, and whether the largest logit is the label's [N], without an [N, V] array.

        Args:
            hidden: [N, D], real positions only.
            labels: [N].
        """
        nats, hits = [], []
        rows = _chunk_rows(hidden.device.type, self.weight.size(0), torch.float32)
        for some, label in zip(hidden.split(rows), labels.split(rows), strict=True):
            logits = self(some).float()
            nats.append(F.cross_entropy(logits, label, reduction="none"))
            hits.append(logits.argmax(-1) == label)
        return torch.cat(nats), torch.cat(hits)


def _chunk_rows(device: str, vocab_size: int, dtype: torch.dtype) -> int:
    """So many rows of logits at a time take 16 MiB on a CPU, whose memory is then reused, and 256 MiB elsewhere."""
    return max(1, (2**24 if device == "cpu" else 2**28) // (vocab_size * dtype.itemsize))


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Linear map and cross-entropy at once, some rows at a time.

    The gradient of a chunk's logits takes their place, and no chunk's logits outlive it: no [N, V] array. On a CPU
    its softmax is made of so few rows at a time that they stay in the cache. Sums are in float32 whatever the matrices
    are multiplied in.
    """

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, labels: Tensor, smoothing: float, dtype: torch.dtype
    ) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        rows, matrix = hidden.to(dtype), weight.to(dtype)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        grad_hidden = torch.empty(hidden.shape, dtype=exact, device=hidden.device)
        grad_weight = torch.zeros(weight.shape, dtype=exact, device=hidden.device)
        size = _chunk_rows(hidden.device.type, weight.size(0), dtype)
        for start in range(0, len(labels), size):
            part = slice(start, start + size)
            logits = product(rows[part], matrix)
            total += _cross_entropy_to_grad(logits, labels[part, None], 1 - smoothing, exact)
            grad_hidden[part] = product(logits, matrix.T)
            if dtype == exact:
                torch.addmm(grad_weight, logits.T, rows[part], out=grad_weight)
            else:
                grad_weight += logits.T @ rows[part]
        if smoothing:  # an even share of the target is for every entry
            spread = smoothing / weight.size(0)
            hidden_sum, weight_sum = hidden.sum(0, dtype=exact), weight.sum(0, dtype=exact)
            total -= spread * (hidden_sum @ weight_sum)
            grad_hidden -= spread * weight_sum
            grad_weight -= spread * hidden_sum
        ctx.save_for_backward(grad_hidden, grad_weight)
        ctx.dtypes = hidden.dtype, weight.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_weight = ctx.saved_tensors
        return (grad_hidden * grad).to(ctx.dtypes[0]), (grad_weight * grad).to(ctx.dtypes[1]), None, None, None


def _cross_entropy_to_grad(logits: Tensor, labels: Tensor, target: float, exact: torch.dtype) -> Tensor:
    """Sum of logsumexp - target * logit of the label over rows; in place, ``logits`` [N, V] become its gradient."""
    total = torch.zeros((), dtype=exact, device=logits.device)
    size = CACHED_ROWS if logits.device.type == "cpu" else len(logits)
    for some, label in zip(logits.split(size), labels.split(size), strict=True):
        largest, chosen = some.amax(1).to(exact), some.gather(1, label).to(exact)
        probs = torch.softmax(some, 1, exact)
        logsumexp = largest - probs.amax(1).log()  # the largest probability is at least 1 / V
        total += logsumexp.sum() - target * chosen.sum()
        some.copy_(probs.scatter_add_(1, label, probs.new_full(label.shape, -target)))
    return total


class PooledClassifier(nn.Module):
    """One vector for a text, dropout, and a linear map to its classes.

    Args:
        d_model: Width of the hidden states.
        num_classes: Number of logits.
        pooling: What the vector is: the hidden state of the ``first`` or of the ``last`` real position (which in a
            causal stack is the only one that saw everything), their ``mean`` or ``max``, or with ``attention`` their
            mean weighted by a softmax of products with a learned query (Yang et al. 2016, section 2.2).
        dropout: Share of the vector that is zeroed in training.
        ngrams: Logits by the n-grams of the text; None has none.
        ngram_share: Weight of these in the mean of both.
    """

    def __init__(
        self,
        d_model: int,
        num_classes: int,
        pooling: str,
        dropout: float,
        ngrams: NGramClasses | None = None,
        ngram_share: float = 0.0,
    ):
        super().__init__()
        self.pooling = pooling
        self.ngrams, self.ngram_share = ngrams, ngram_share
        if pooling == "attention":
            self.query = nn.Parameter(torch.zeros(d_model))  # starts as the mean
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(d_model, num_classes)
        nn.init.normal_(self.output.weight, std=d_model**-0.5)
        nn.init.zeros_(self.output.bias)

    def forward(self, hidden: Tensor, mask: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        """Logits [B, C]; arguments as in `opinions`."""
        return self.joined(self.opinions(hidden, mask, tokens))

    def joined(self, opinions: Sequence[Tensor]) -> Tensor:
        """The weighted mean [B, C] of what `opinions` gave."""
        if self.ngrams is None:
            return opinions[0]
        return (1 - self.ngram_share) * opinions[0] + self.ngram_share * opinions[1]

    def opinions(self, hidden: Tensor, mask: Tensor | None = None, tokens: Tensor | None = None) -> list[Tensor]:
        """Logits [B, C] of the pooled state and, where there are, of the n-grams.

        Args:
            hidden: [B, T, D].
            mask: [B, T], True at real positions; None if all are.
            tokens: Ids [B, T], where there are n-grams.
        """
        logits = self.output(self.dropout(self.pool(hidden, mask)))
        return [logits] if self.ngrams is None else [logits, self.ngrams(tokens, mask)]

    def pool(self, hidden: Tensor, mask: Tensor | None = None) -> Tensor:
        """The vector [B, D] of each text; arguments as in `forward`, padding on the right."""
        if self.pooling == "first":
            return hidden[:, 0]
        if self.pooling == "last":
            ends = slice(None) if mask is None else torch.arange(hidden.size(0), device=hidden.device)
            return hidden[ends, -1 if mask is None else mask.sum(1) - 1]
        if self.pooling == "max":
            return (hidden if mask is None else hidden.masked_fill(~mask[..., None], -torch.inf)).amax(1)
        if self.pooling == "attention":
            scores = (hidden * self.query).sum(-1) * hidden.size(-1) ** -0.5  # [B, T]
        else:
            scores = hidden.new_zeros(hidden.shape[:2])
        scores = scores if mask is None else scores.masked_fill(~mask, -torch.inf)
        return (scores.softmax(1)[..., None] * hidden).sum(1)
