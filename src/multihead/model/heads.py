"""What stands on the backbone's hidden states: logits over a vocabulary and their loss, logits over classes.

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
"""On a CPU the softmax is made of so many rows of logits at once: at least these, or as many as these logits are."""
LEAST_PROBABILITY = 1e-30
"""Of a mixture, whose logarithm is taken."""


class VocabularyHead(nn.Module):
    """Hidden states to logits: the last linear map of section 3.4 of the paper (arXiv:1706.03762).

    Args:
        d_model: Width of what the map reads.
        vocab_size: Number of logits.
        tied: The embedding [V, D] to share (Press and Wolf 2017, arXiv:1608.05859); None makes a matrix of its own,
            initialised as embeddings are.
        bias: Whether each logit has a bias.
        transform: What hidden states go through before the map (``model.output_transform``).
    """

    def __init__(
        self,
        d_model: int,
        vocab_size: int,
        tied: nn.Parameter | None = None,
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
        """Sum over N positions of the cross-entropy in nats, label-smoothed as `torch.nn.functional.cross_entropy`.

        Args:
            hidden: [N, D], real positions only.
            labels: [N].
            label_smoothing: Share of the target distribution spread over the vocabulary (section 5.4 of the paper).
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
    """What a `CopyHead` may copy: the tokens of N sources, and the keys that say where each of them stands."""

    ids: Tensor
    """[N, S]."""
    keys: Tensor
    """[N, S, D]."""
    mask: Tensor | None
    """[N, S], None where nothing is padded."""

    def select(self, rows: Tensor) -> CopySource:
        """The sources at these indices."""
        return CopySource(self.ids[rows], self.keys[rows], None if self.mask is None else self.mask[rows])


class CopyHead(VocabularyHead):
    """Tokens of the vocabulary or of the source: a pointer-generator (See et al. 2017, arXiv:1704.04368, section 2.2).

    p(token) = g * softmax(W h)[token] + (1 - g) * (sum of the attention to the places of the source that hold it), with
    g = sigmoid(w [h; c] + b), where c is what the attention sees. The attention is one of its own, scaled dot products.
    The key of a place is a projection of the memory there and before: a copy goes on where the last token stands
    before, an induction head (Olsson et al. 2022, arXiv:2209.11895), and starts as one, from identities. Source and
    target have one vocabulary.

    Args:
        d_model: Width of the hidden states and of the memory.
        vocab_size: Number of tokens.
        tied: As in `VocabularyHead`.
    """

    def __init__(self, d_model: int, vocab_size: int, tied: nn.Parameter | None = None):
        super().__init__(d_model, vocab_size, tied)
        self.query = nn.Linear(d_model, d_model)
        self.key = nn.Linear(2 * d_model, d_model)
        self.gate = nn.Linear(2 * d_model, 1)
        nn.init.eye_(self.query.weight)
        nn.init.eye_(self.key.weight[:, :d_model])  # of the place before; that of the place itself is torch's

    def source(self, ids: Tensor, memory: Tensor, mask: Tensor | None) -> CopySource:
        """What may be copied from source ids [N, S] with their memory [N, S, D] and mask [N, S] (None: all real)."""
        before = F.pad(memory, (0, 0, 1, 0))[:, :-1]
        return CopySource(ids, self.key(torch.cat((before, memory), dim=-1)), mask)

    def shares(self, hidden: Tensor, source: CopySource) -> Tensor:
        """g, and 1 - g shared out among the places of the source: [B, T, 1 + S] of hidden states [B, T, D].

        B may be N * beams: a source's beams stand together.
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
        """log p [B, T, V] of hidden states [B, T, D], or [B, V] of one position each [B, D]."""
        states = hidden if hidden.ndim == 3 else hidden[:, None]
        shares, ids = self.shares(states, source), source.ids[:, None]  # [B, T, 1 + S], [N, 1, S]
        if ids.size(0) != states.size(0):
            ids = ids.repeat_interleave(states.size(0) // ids.size(0), 0)
        ids = ids + torch.zeros_like(shares[..., :1], dtype=ids.dtype)  # [B, T, S]
        log_probs = self._log_probs(states.flatten(0, 1), shares.flatten(0, 1), ids.flatten(0, 1))
        return log_probs.view(*hidden.shape[:-1], -1)

    def loss(self, hidden: Tensor, labels: Tensor, shares: Tensor, ids: Tensor, label_smoothing: float = 0.0) -> Tensor:
        """Sum over N positions of the cross-entropy of the mixture in nats.

        Args:
            hidden: [N, D], real positions only.
            labels: [N].
            shares: [N, 1 + S], of `shares`.
            ids: [N, S], the source's tokens.
            label_smoothing: Share of the target distribution spread over the vocabulary.
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
            log_probs = self._log_probs(some, share, tokens)
            nats.append(F.nll_loss(log_probs, label, reduction="none"))
            hits.append(log_probs.argmax(-1) == label)
        return torch.cat(nats), torch.cat(hits)

    def _log_probs(self, hidden: Tensor, shares: Tensor, ids: Tensor) -> Tensor:
        """[N, V] of [N, D], [N, 1 + S] and [N, S]."""
        return _mix(_exact(F.linear(hidden, self.weight)).softmax(-1), shares, ids).log()


def _exact(x: Tensor) -> Tensor:
    """In float32 at least."""
    return x.to(torch.promote_types(x.dtype, torch.float32))


def _mix(probs: Tensor, shares: Tensor, ids: Tensor) -> Tensor:
    """The mixture [N, V], never 0, of a softmax [N, V] and of what is copied."""
    return (probs * shares[:, :1]).scatter_add(1, ids, shares[:, 1:]).clamp(min=LEAST_PROBABILITY)


class _MixtureCrossEntropy(torch.autograd.Function):
    """Linear map, mixture and cross-entropy at once, some rows at a time, as in `_ChunkedCrossEntropy`.

    With the target distribution t and the mixture m, r = t / m: the gradient of a share is -r at its token (of g, minus
    the mean of r under the softmax p), that of the logits g * p * (mean of r under p - r).
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
            part = slice(start, start + size)
            logits = product(rows[part], matrix)
            pieces = logits, shares[part], ids[part], labels[part, None], grad_shares[part]
            total += _mixture_to_grad(*pieces, smoothing)
            grad_hidden[part] = product(logits, matrix.T)
            grad_weight += logits.T @ rows[part]
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
    """Cross-entropy of the mixture, summed; in place, ``logits`` [N, V] become its gradient, and that of the shares."""
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
    """So many rows of logits at a time take 16 MiB on a CPU, whose memory is then reused, and 256 MiB elsewhere."""
    return max(1, (2**24 if device == "cpu" else 2**28) // (vocab_size * dtype.itemsize))


def _cached_rows(logits: Tensor) -> int:
    """So many rows of logits [N, V] stay in a CPU's cache while their softmax is made; elsewhere all of them."""
    return max(CACHED_ROWS, CACHED_LOGITS // logits.size(1)) if logits.device.type == "cpu" else len(logits)


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
    size = _cached_rows(logits)
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
