"""Heads: they turn the backbone's hidden states into logits over a vocabulary and their loss, or over classes.

Shapes: N positions (or sources), D d_model, V vocabulary; B batch, T time, S source time, C classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multihead.model.kernels import product
from multihead.model.ngrams import NGramClasses

CACHED_ROWS, CACHED_LOGITS = 32, 2**17
"""On a CPU, the softmax takes at least this many rows at once, or as many rows as hold this many logits."""
LEAST_PROBABILITY = 1e-30
"""Lower bound of a mixture's probabilities, whose logarithm is taken."""


class VocabularyHead(nn.Module):
    """Hidden states to logits: the last linear map of section 3.4 of the paper (arXiv:1706.03762).

    Args:
        d_model: Width of what the map reads.
        vocab_size: Number of logits.
        tied: The weight [V, D] of an embedding to share (Press and Wolf 2017, arXiv:1608.05859). None creates a
            separate matrix, initialised as embeddings are.
        bias: Whether each logit has a bias.
        transform: What hidden states go through before the map (``model.output_transform``).
    """

    weight: Tensor

    def __init__(
        self,
        d_model: int,
        vocab_size: int,
        tied: Tensor | None = None,
        bias: bool = False,
        transform: nn.Module | None = None,
    ):
        super().__init__()
        if tied is None:
            tied = nn.Parameter(torch.empty(vocab_size, d_model))
            nn.init.normal_(tied, std=d_model**-0.5)
        assert tied.shape == (vocab_size, d_model), f"tied weight is {tuple(tied.shape)}, not {(vocab_size, d_model)}"
        self.weight = tied
        self.bias = nn.Parameter(torch.zeros(vocab_size)) if bias else None
        self.transform = transform or nn.Identity()

    def forward(self, hidden: Tensor) -> Tensor:
        """Logits [..., V] of hidden states [..., D]."""
        return F.linear(self.transform(hidden), self.weight, self.bias)

    def loss(self, hidden: Tensor, labels: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Sum over N positions of the cross-entropy in nats.

        Args:
            hidden: [N, D], real positions only.
            labels: [N].
            label_smoothing: Share of the target distribution that is spread over the vocabulary (section 5.4 of the
                paper), as in `torch.nn.functional.cross_entropy`.
        """
        hidden, weight = self.transform(hidden), self.weight
        if self.bias is not None:  # one more column, which every hidden state multiplies by 1
            hidden = torch.cat((hidden, hidden.new_ones(len(hidden), 1)), dim=1)
            weight = torch.cat((weight, self.bias[:, None].to(weight.dtype)), dim=1)
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            return _ChunkedCrossEntropy.apply(hidden, weight, labels, label_smoothing, dtype)

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


@dataclass
class CopySource:
    """What a `CopyHead` may copy: the tokens of N sources, and a key for each of them."""

    ids: Tensor
    """The tokens [N, S]."""
    keys: Tensor
    """The keys [N, S, D], which the attention of the head compares with its queries."""
    mask: Tensor | None
    """The real tokens [N, S]; None if nothing is padded."""

    def select(self, rows: Tensor) -> CopySource:
        """The sources at these indices."""
        return CopySource(self.ids[rows], self.keys[rows], None if self.mask is None else self.mask[rows])


class CopyHead(VocabularyHead):
    """Takes tokens from the vocabulary or from the source: a pointer-generator (See et al. 2017, arXiv:1704.04368,
    section 2.2). Source and target have one vocabulary.

    p(token) = g * softmax(W h)[token] + (1 - g) * (sum of the attention to the places of the source that hold it).
    Here g = sigmoid(w [h; c] + b), and c is the sum of the keys weighted by the attention. The attention belongs to the
    head; its scores are scaled dot products. The key of a place is a projection of the memory at this place and at the
    place before. So a copy can continue after the last token that was copied, as an induction head does (Olsson et al.
    2022, arXiv:2209.11895). The head starts as one: its projections start as identities.

    Args:
        d_model: Width of the hidden states and of the memory.
        vocab_size: Number of tokens.
        tied: As in `VocabularyHead`.
    """

    def __init__(self, d_model: int, vocab_size: int, tied: Tensor | None = None):
        super().__init__(d_model, vocab_size, tied)
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(2 * d_model, d_model)
        self.gate = nn.Linear(2 * d_model, 1)
        nn.init.eye_(self.query.weight)
        nn.init.eye_(self.key.weight[:, :d_model])  # the half for the place before; the other half stays torch's

    def source(self, ids: Tensor, memory: Tensor, mask: Tensor | None) -> CopySource:
        """What may be copied from ids [N, S] with their memory [N, S, D]; a mask [N, S] of None means all are real."""
        before = F.pad(memory, (0, 0, 1, 0))[:, :-1]
        return CopySource(ids, self.key(torch.cat((before, memory), dim=-1)), mask)

    def shares(self, hidden: Tensor, source: CopySource) -> Tensor:
        """g, then 1 - g divided among the places of the source: [B, T, 1 + S] for hidden states [B, T, D].

        B may be N * beams: the beams of one source are neighbours.
        """
        keys, (batch, length, width) = source.keys, hidden.shape
        query = self.query(hidden).view(keys.size(0), -1, width)  # [N, B // N * T, D]
        scores = _exact(query @ keys.transpose(1, 2)) * width**-0.5  # [N, B // N * T, S]
        if source.mask is not None:
            scores = scores.masked_fill(~source.mask[:, None], -torch.inf)
        attention = scores.softmax(-1)
        context = (attention.to(keys.dtype) @ keys).view(batch, length, width)
        gate = _exact(self.gate(torch.cat((hidden, context), dim=-1)))  # [B, T, 1]
        return torch.cat((gate.sigmoid(), (-gate).sigmoid() * attention.view(batch, length, -1)), dim=-1)

    def forward(self, hidden: Tensor, source: CopySource) -> Tensor:
        """log p [B, T, V] of hidden states [B, T, D]; or [B, V] of hidden states [B, D], one position each."""
        states = hidden if hidden.ndim == 3 else hidden[:, None]
        shares, ids = self.shares(states, source), source.ids[:, None]  # [B, T, 1 + S], [N, 1, S]
        if ids.size(0) != states.size(0):
            ids = ids.repeat_interleave(states.size(0) // ids.size(0), 0)
        ids = ids + torch.zeros_like(shares[..., :1], dtype=ids.dtype)  # [B, T, S]
        log_probs = self.log_probs(states.flatten(0, 1), shares.flatten(0, 1), ids.flatten(0, 1))
        return log_probs.view(*hidden.shape[:-1], -1)

    def loss(self, hidden: Tensor, labels: Tensor, shares: Tensor, ids: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Sum over N positions of the cross-entropy of the mixture in nats.

        Args:
            hidden: [N, D], real positions only.
            labels: [N].
            shares: [N, 1 + S], what `shares` returned.
            ids: [N, S], tokens of the source.
            label_smoothing: As in `VocabularyHead.loss`.
        """
        device = hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        with torch.autocast(device, enabled=False):
            return _MixtureCrossEntropy.apply(hidden, self.weight, shares, ids, labels, label_smoothing, dtype)

    def evaluate(self, hidden: Tensor, labels: Tensor, shares: Tensor, ids: Tensor) -> tuple[Tensor, Tensor]:
        """Cross-entropy [N] in nats, and whether the label is the most probable token [N]; arguments as in `loss`."""
        nats, hits = [], []
        rows = _chunk_rows(hidden.device.type, self.weight.size(0), torch.float32)
        for some, label, share, tokens in zip(*(x.split(rows) for x in (hidden, labels, shares, ids)), strict=True):
            log_probs = self.log_probs(some, share, tokens)
            nats.append(F.nll_loss(log_probs, label, reduction="none"))
            hits.append(log_probs.argmax(-1) == label)
        return torch.cat(nats), torch.cat(hits)

    def log_probs(self, hidden: Tensor, shares: Tensor, ids: Tensor) -> Tensor:
        """log p [N, V] of hidden states [N, D], shares [N, 1 + S] and ids [N, S]."""
        return _mix(_exact(F.linear(hidden, self.weight)).softmax(-1), shares, ids).log()


def _exact(x: Tensor) -> Tensor:
    """``x`` in float32, or in float64 if it is so already."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _mix(probs: Tensor, shares: Tensor, ids: Tensor) -> Tensor:
    """The mixture [N, V] of a softmax [N, V] and of the copied tokens; it is never 0."""
    return (probs * shares[:, :1]).scatter_add(1, ids, shares[:, 1:]).clamp(min=LEAST_PROBABILITY)


class _MixtureCrossEntropy(torch.autograd.Function):
    """Linear map, mixture and cross-entropy together, some rows at a time, as in `_ChunkedCrossEntropy`.

    Let t be the target distribution, m the mixture, p the softmax and r = t / m. The gradient of a share is -r at its
    token; that of g is -(mean of r under p). The gradient of the logits is g * p * (mean of r under p - r).
    """

    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        weight: Tensor,
        shares: Tensor,
        ids: Tensor,
        labels: Tensor,
        smoothing: float,
        dtype: torch.dtype,
    ) -> Tensor:
        exact = torch.promote_types(hidden.dtype, torch.float32)
        rows, matrix = hidden.to(dtype), weight.to(dtype)
        total = torch.zeros((), dtype=exact, device=hidden.device)
        grad_hidden, grad_weight, grad_shares = (x.new_zeros(x.shape, dtype=exact) for x in (hidden, weight, shares))
        size = _chunk_rows(hidden.device.type, weight.size(0), dtype)
        for start in range(0, len(labels), size):
            chunk = slice(start, start + size)
            logits = product(rows[chunk], matrix)
            pieces = logits, shares[chunk], ids[chunk], labels[chunk, None], grad_shares[chunk]
            total += _mixture_to_grad(*pieces, smoothing)
            grad_hidden[chunk] = product(logits, matrix.T)
            grad_weight += logits.T @ rows[chunk]
        ctx.save_for_backward(grad_hidden, grad_weight, grad_shares)
        ctx.dtypes = hidden.dtype, weight.dtype, shares.dtype
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        grads = [(x * grad).to(dtype) for x, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)]
        return (*grads, None, None, None, None)


def _mixture_to_grad(
    logits: Tensor, shares: Tensor, ids: Tensor, labels: Tensor, grad_shares: Tensor, smoothing: float
) -> Tensor:
    """Sum of the cross-entropy of the mixture; writes its gradients over ``logits`` [N, V] and ``grad_shares``."""
    total = torch.zeros((), dtype=shares.dtype, device=logits.device)
    size = _cached_rows(logits)
    pieces = (x.split(size) for x in (logits, shares, ids, labels, grad_shares))
    for some, share, tokens, label, grad_share in zip(*pieces, strict=True):
        probs = torch.softmax(some, 1, shares.dtype)
        mixed = _mix(probs, share, tokens)
        target = torch.full_like(probs, smoothing / probs.size(1))
        target.scatter_add_(1, label, target.new_full(label.shape, 1 - smoothing))
        total -= (target * mixed.log()).sum()
        ratio = target.div_(mixed)
        mean = (ratio * probs).sum(1, keepdim=True)
        grad_share[:, :1] = -mean
        grad_share[:, 1:] = -ratio.gather(1, tokens)
        some.copy_(probs * (mean - ratio) * share[:, :1])
    return total


def _chunk_rows(device: str, vocab_size: int, dtype: torch.dtype) -> int:
    """Number of rows whose logits take 16 MiB on a CPU, which reuses that memory, and 256 MiB on other devices."""
    return max(1, (2**24 if device == "cpu" else 2**28) // (vocab_size * dtype.itemsize))


def _cached_rows(logits: Tensor) -> int:
    """Number of rows of logits [N, V] that stay in a CPU's cache during their softmax; all rows on other devices."""
    return max(CACHED_ROWS, CACHED_LOGITS // logits.size(1)) if logits.device.type == "cpu" else len(logits)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """Linear map and cross-entropy together, some rows at a time, so that no [N, V] array exists.

    The gradient of a chunk's logits overwrites them, and the next chunk reuses the memory. On a CPU, the softmax takes
    so few rows at a time that they stay in the cache. Sums are in float32 even if matrix products are in bfloat16.
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
            chunk = slice(start, start + size)
            logits = product(rows[chunk], matrix)
            total += _cross_entropy_to_grad(logits, labels[chunk, None], 1 - smoothing, exact)
            grad_hidden[chunk] = product(logits, matrix.T)
            if dtype == exact:
                torch.addmm(grad_weight, logits.T, rows[chunk], out=grad_weight)
            else:
                grad_weight += logits.T @ rows[chunk]
        if smoothing:  # every entry gets an even share of the target
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
    """Sum over rows of logsumexp - target * logit of the label; writes its gradient over ``logits`` [N, V]."""
    total = torch.zeros((), dtype=exact, device=logits.device)
    size = _cached_rows(logits)
    for some, label in zip(logits.split(size), labels.split(size), strict=True):
        largest, chosen = some.amax(1).to(exact), some.gather(1, label).to(exact)
        probs = torch.softmax(some, 1, exact)
        logsumexp = largest - probs.amax(1).log()  # the largest probability is at least 1 / V
        total += logsumexp.sum() - target * chosen.sum()
        some.copy_(probs.scatter_add_(1, label, probs.new_full(label.shape, -target)))
    return total


class PooledClassifier(nn.Module):
    """One vector for each text, dropout, and a linear map to the classes.

    Args:
        d_model: Width of the hidden states.
        num_classes: Number of logits.
        pooling: How the vector is taken from the hidden states: the ``first`` or the ``last`` real position (in a
            causal stack only the last has seen the whole text), their ``mean`` or ``max``, or with ``attention`` their
            mean weighted by a softmax of products with a learned query (Yang et al. 2016, N16-1174, section 2.2).
        dropout: Share of the vector that is zeroed in training.
        ngrams: A second classifier, which sees the n-grams of the text; None for none.
        ngram_share: Weight of the second classifier's logits in the mean of both.
        activation: Function of a dense layer that the vector goes through first; ``none`` has no such layer.
        bias: Whether the linear map has a bias.
    """

    def __init__(
        self,
        d_model: int,
        num_classes: int,
        pooling: str,
        dropout: float,
        ngrams: NGramClasses | None = None,
        ngram_share: float = 0.0,
        activation: str = "none",
        bias: bool = True,
    ):
        super().__init__()
        self.pooling = pooling
        self.ngrams, self.ngram_share = ngrams, ngram_share
        if pooling == "attention":
            self.query = nn.Parameter(torch.zeros(d_model))  # starts as the mean
        self.activation = {"none": None, "tanh": torch.tanh, "relu": F.relu, "gelu": F.gelu}[activation]
        self.dense = nn.Linear(d_model, d_model) if self.activation else nn.Identity()
        self.dropout = nn.Dropout(dropout)
        self.output = nn.Linear(d_model, num_classes, bias=bias)
        nn.init.normal_(self.output.weight, std=d_model**-0.5)
        if bias:
            nn.init.zeros_(self.output.bias)

    def forward(self, hidden: Tensor, mask: Tensor | None = None, tokens: Tensor | None = None) -> Tensor:
        """Logits [B, C]; arguments as in `opinions`."""
        return self.joined(self.opinions(hidden, mask, tokens))

    def joined(self, opinions: Sequence[Tensor]) -> Tensor:
        """The weighted mean [B, C] of the logits that `opinions` returned."""
        if self.ngrams is None:
            return opinions[0]
        return (1 - self.ngram_share) * opinions[0] + self.ngram_share * opinions[1]

    def opinions(self, hidden: Tensor, mask: Tensor | None = None, tokens: Tensor | None = None) -> list[Tensor]:
        """Logits [B, C] of the pooled state and, if there is a second classifier, of the n-grams.

        Args:
            hidden: [B, T, D].
            mask: [B, T], True at real positions; None if all are real.
            tokens: Ids [B, T]; only the second classifier needs them.
        """
        pooled = self.dense(self.pool(hidden, mask))
        pooled = pooled if self.activation is None else self.activation(pooled)
        logits = self.output(self.dropout(pooled))
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


class Regressor(PooledClassifier):
    """One number for each text. The linear map gives standardised numbers, which this class scales.

    Args:
        d_model: Width of the hidden states.
        pooling: As in `PooledClassifier`, and so are ``dropout``, ``activation`` and ``bias``.
        dropout: Share of the vector that is zeroed in training.
        activation: Function of a dense layer; ``none`` has no such layer.
        bias: Whether the linear map has a bias.
        mean: What a standardised 0 stands for.
        deviation: What a standardised difference of 1 stands for.
    """

    def __init__(
        self,
        d_model: int,
        pooling: str,
        dropout: float,
        activation: str = "none",
        bias: bool = True,
        *,
        mean: float = 0.0,
        deviation: float = 1.0,
    ):
        super().__init__(d_model, 1, pooling, dropout, activation=activation, bias=bias)
        self.mean, self.deviation = mean, deviation

    def joined(self, opinions: Sequence[Tensor]) -> Tensor:
        """The numbers [B, 1] in the original units and float64, from what `opinions` returned.

        In float32, numbers far from zero, such as dates, would be rounded to steps that are larger than their
        differences.
        """
        return opinions[0].double() * self.deviation + self.mean
