"""Healthy-looking blocks with one defect each, as a plugin; the doctor must find every one by the check it names.

``multihead doctor plugin=tests/checking/defects.py model.attention=leaks_everything`` shows one of them.
"""

import random

import torch
import torch.nn.functional as F
from torch import nn

from multihead.model.positions import Positions, PositionTable
from multihead.model.transformer import FeedForward, Layer, MultiHeadAttention, Stack
from multihead.plugin import Plugin


class Plain(MultiHeadAttention):
    """Attention written out, so that one line of it can be wrong; healthy as it is."""

    def forward(self, x, scope, memory=None, cache=None):
        query = self._heads(self.query(x))
        if memory is not None and cache is not None and cache.length:
            key, value = cache.read()
        else:
            context = x if memory is None else memory
            key, value = self._heads(self.key(context)), self._heads(self.value(context))
            query, key = self.placed(query, key, scope, cache)
            if cache is not None:
                key, value = self.remembered(key, value, cache)
        query = query.reshape(key.size(0), -1, *query.shape[2:])  # beams of one source
        scores = torch.einsum("bthk,bshk->bhts", query, key) * self.head_dim**-0.5
        probs = self.attended(scores, self.hidden_from(scores, scope), scope)
        y = torch.einsum("bhts,bshk->bthk", probs, value)
        return self.output(y.reshape(x.size(0), x.size(1), -1))

    def placed(self, query, key, scope, cache):
        return query, key

    def remembered(self, key, value, cache):
        return cache.append(key, value)

    def hidden_from(self, scores, scope):
        """What each query may not see."""
        if scope.mask is not None:
            return ~scope.mask
        total = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device)
        return total.triu(1) if scope.causal else torch.zeros_like(total)

    def attended(self, scores, hidden, scope):
        probs = scores.masked_fill(hidden, -torch.inf).softmax(-1)
        return torch.where(hidden.expand_as(probs).all(-1, keepdim=True), torch.zeros_like(probs), probs)


class LeaksEverything(Plain):
    """The causal mask is forgotten."""

    def hidden_from(self, scores, scope):
        hidden = super().hidden_from(scores, scope)
        return torch.zeros_like(hidden) if scope.causal else hidden


class OffByOne(Plain):
    """The causal mask begins one place too late."""

    def hidden_from(self, scores, scope):
        hidden = super().hidden_from(scores, scope)
        return torch.ones_like(hidden).triu(2) if scope.causal else hidden


class SeesPadding(Plain):
    """Only the causal part of a mask is used."""

    def hidden_from(self, scores, scope):
        hidden = super().hidden_from(scores, scope)
        return torch.zeros_like(hidden) if hidden.size(-2) == 1 and scope.mask is not None else hidden


class ForgetsCache(Plain):
    """New tokens see only themselves."""

    def remembered(self, key, value, cache):
        past = cache.length
        key_so_far, value_so_far = cache.append(key, value)
        return key_so_far[:, past:], value_so_far[:, past:]

    def hidden_from(self, scores, scope):
        hidden = super().hidden_from(scores, scope)
        return hidden[..., -scores.size(-1) :]


class WrongPlaces(Plain):
    """Positions start at 0 again in each step of decoding."""

    def placed(self, query, key, scope, cache):
        places = (torch.arange(x.size(1), device=x.device).to(x.dtype)[:, None, None] for x in (query, key))
        return tuple(x * (1 + 0.1 * place) for x, place in zip((query, key), places, strict=True))


class NaNForPadding(Plain):
    """A row of which nothing is real divides by zero."""

    def attended(self, scores, hidden, scope):
        return scores.masked_fill(hidden, -torch.inf).softmax(-1)


class SoftmaxInBF16(Plain):
    """The softmax loses its digits."""

    def attended(self, scores, hidden, scope):
        return super().attended(scores.bfloat16(), hidden, scope).to(scores.dtype)


class OverflowsInFP16(Plain):
    """A constant that float16 cannot hold."""

    def attended(self, scores, hidden, scope):
        return super().attended(scores * 1e6 / 1e6, hidden, scope)


class CumulativeOverBatch(Plain):
    """A sum that runs over the texts."""

    def forward(self, x, scope, memory=None, cache=None):
        y = super().forward(x, scope, memory, cache)
        return y + 0.1 * y.cumsum(0)


class TimeFlip(Plain):
    """Reads the text backwards too."""

    def forward(self, x, scope, memory=None, cache=None):
        y = super().forward(x, scope, memory, cache)
        return y + 0.1 * y.flip(1) if memory is None else y


class OneHeadIsDetached(Plain):
    """Values learn nothing."""

    def forward(self, x, scope, memory=None, cache=None):
        for p in self.value.parameters():
            assert p.requires_grad
        value, self.value.forward = self.value.forward, lambda y: F.linear(y, self.value.weight.detach())
        try:
            return super().forward(x, scope, memory, cache)
        finally:
            self.value.forward = value


class BatchNorm(FeedForward):
    """Normalises over all texts of a batch."""

    def __init__(self, config):
        super().__init__(config)
        self.norm = nn.BatchNorm1d(config.d_model)

    def forward(self, x):
        return self.norm(super().forward(x).transpose(1, 2)).transpose(1, 2)


class MeanOverPlaces(FeedForward):
    """Adds the mean over all places, padding included."""

    def forward(self, x):
        y = super().forward(x)
        return y + y.mean(1, keepdim=True)


class NormOverTime(FeedForward):
    """Normalises over the time."""

    def forward(self, x):
        y = super().forward(x)
        return y / (1e-3 + y.pow(2).mean((1, 2), keepdim=True).sqrt())


class ScaledByBatch(FeedForward):
    """Divides by the number of texts."""

    def forward(self, x):
        return super().forward(x) / x.size(0)


class UnregisteredBuffer(FeedForward):
    """A random matrix that is neither saved nor moved."""

    def __init__(self, config):
        super().__init__(config)
        self.mix = torch.randn(config.d_model) * 0.1 + 1

    def forward(self, x):
        return super().forward(x) * self.mix.to(x.dtype)


class ParametersInAList(FeedForward):
    """Layers in a plain list are not trained."""

    def __init__(self, config):
        super().__init__(config)
        self.more = [nn.Linear(config.d_model, config.d_model)]

    def forward(self, x):
        return super().forward(x) + F.linear(x, self.more[0].weight.to(x.dtype))


class OtherDevice(FeedForward):
    """A tensor that is always made on the CPU."""

    def forward(self, x):
        return super().forward(x) * torch.ones(x.size(-1), dtype=x.dtype, device="cpu")


class Counts(FeedForward):
    """Changes with the number of passes that it has seen in training."""

    def __init__(self, config):
        super().__init__(config)
        self.calls = 0

    def forward(self, x):
        self.calls += self.training
        return super().forward(x) * (1 + 0.1 * min(self.calls, 50))


class CountsAlways(FeedForward):
    """Changes with every pass."""

    def __init__(self, config):
        super().__init__(config)
        self._calls = 0

    def forward(self, x):
        self._calls += 1
        return super().forward(x) * (1 + 0.1 * self._calls)


class Unused(FeedForward):
    """A parameter that nothing uses."""

    def __init__(self, config):
        super().__init__(config)
        self.unused = nn.Parameter(torch.ones(3))


class Detached(FeedForward):
    """The gate learns nothing."""

    def __init__(self, config):
        super().__init__(config)
        self.share = nn.Parameter(torch.ones(config.d_model))

    def forward(self, x):
        return super().forward(x) * self.share.detach()


class DropoutInEvaluation(FeedForward):
    """Dropout that never stops."""

    def forward(self, x):
        return F.dropout(super().forward(x), 0.1, training=True)


class RandomInEvaluation(FeedForward):
    """Noise that never stops."""

    def forward(self, x):
        return super().forward(x) + 0.01 * torch.randn_like(x)


class InPlace(FeedForward):
    """Changes the residual stream."""

    def forward(self, x):
        return super().forward(x.mul_(1.0))


class Exploding(FeedForward):
    """Starts with weights that are far too large."""

    def forward(self, x):
        return 1e4 * super().forward(x)


class Vanishing(FeedForward):
    """Starts with weights that are far too small."""

    def forward(self, x):
        return 1e-6 * super().forward(x)


class Unseeded(FeedForward):
    """Draws from a source that no seed reaches."""

    def forward(self, x):
        noise = random.SystemRandom().random() if self.training else 0.5
        return super().forward(x) * (1 + 0.01 * noise)


class ReturnsHalf(FeedForward):
    """Returns another type."""

    def forward(self, x):
        return super().forward(x).half()


class Infinite(FeedForward):
    """The logarithm of a number that may be negative."""

    def forward(self, x):
        return super().forward(x) + 0 * x.log()


class BatchStatistics(FeedForward):
    """Scales by what the whole batch has in common, in training only."""

    def forward(self, x):
        y = super().forward(x)
        return y / (0.1 + y.std()) if self.training else y


class WrongShape(FeedForward):
    """Returns one place too few."""

    def forward(self, x):
        return super().forward(x)[:, :-1]


class LongTextsOverflow(FeedForward):
    """A product over places that becomes infinite in a long text."""

    def forward(self, x):
        scale = torch.full_like(x[..., :1], 30.0).cumprod(1)
        return super().forward(x) * (scale / scale)


class NormOverPlaces(nn.Module):
    """A norm that divides by the size of the whole text."""

    def __init__(self, config, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return x / (1e-6 + x.pow(2).mean((1, 2), keepdim=True)).sqrt() * self.weight


class IgnoresPast(PositionTable):
    """Every step of decoding begins at position 0."""

    def add_to_embeddings(self, x, scale, positions, past):
        return super().add_to_embeddings(x, scale, positions, 0)


class CountsPadding(PositionTable):
    """Padding on the left has positions too."""

    def add_to_embeddings(self, x, scale, positions, past):
        return super().add_to_embeddings(x, scale, None, past)


class SaysNothing(Positions):
    """Positions that change nothing."""


class MeanOfTheText(nn.Embedding):
    """Adds the mean of all embeddings of the text."""

    def __init__(self, config, vocab_size):
        super().__init__(vocab_size, config.width_of_embeddings)

    def forward(self, ids):
        x = super().forward(ids)
        return x + x.mean(1, keepdim=True)


class ForgetsMemory(Layer):
    """Has a cross-attention and never calls it."""

    def forward(self, x, scope, memory=None, memory_scope=None, cache=None):
        return super().forward(x, scope, None, memory_scope, cache)


class SkipsTheLast(Stack):
    """Leaves out the last layer."""

    def run_layers(self, x, scope, memory, memory_scope, cache):
        for number, layer in enumerate(self.layers[:-1]):
            x = layer(x, scope, memory, memory_scope, None if cache is None else cache.layers[number])
        return x


class CountingSGD(torch.optim.SGD):
    """Its steps grow with a counter that is not part of its state."""

    def __init__(self, groups, config):
        super().__init__(groups, lr=config.lr)
        self.count = 0

    def step(self, closure=None):
        self.count += 1
        for group in self.param_groups:
            for p in group["params"]:
                if p.grad is not None:
                    p.data.add_(p.grad, alpha=-1e-3 * self.count)


def mean_loss(task, batch):
    """The mean over the targets instead of their sum."""
    return F.cross_entropy(*task.logits_and_labels(batch))


ATTENTION = {
    "plain": (Plain, None),
    "leaks_everything": (LeaksEverything, "causality"),
    "off_by_one": (OffByOne, "causality"),
    "time_flip": (TimeFlip, "causality"),
    "sees_padding": (SeesPadding, "padding"),
    "forgets_cache": (ForgetsCache, "cache"),
    "wrong_places": (WrongPlaces, "cache"),
    "nan_for_padding": (NaNForPadding, "lengths"),
    "softmax_in_bf16": (SoftmaxInBF16, "precision"),
    "overflows_in_fp16": (OverflowsInFP16, "precision"),
    "cumulative_over_batch": (CumulativeOverBatch, "batch"),
    "detached_values": (OneHeadIsDetached, "gradients"),
}
"""Name to the class, and to the check that must find it; None if it is healthy."""
FEED_FORWARD = {
    "batch_norm": (BatchNorm, "batch"),
    "mean_over_places": (MeanOverPlaces, "padding"),
    "norm_over_time": (NormOverTime, "causality"),
    "scaled_by_batch": (ScaledByBatch, "batch"),
    "unregistered_buffer": (UnregisteredBuffer, "registration"),
    "parameters_in_a_list": (ParametersInAList, "registration"),
    "other_device": (OtherDevice, "registration"),
    "counts": (Counts, "resume"),
    "counts_always": (CountsAlways, "evaluation"),
    "unused": (Unused, "gradients"),
    "detached": (Detached, "gradients"),
    "dropout_in_evaluation": (DropoutInEvaluation, "evaluation"),
    "random_in_evaluation": (RandomInEvaluation, "evaluation"),
    "in_place": (InPlace, "outputs"),
    "exploding": (Exploding, "scales"),
    "vanishing": (Vanishing, "scales"),
    "unseeded": (Unseeded, "repeat"),
    "returns_half": (ReturnsHalf, "outputs"),
    "infinite": (Infinite, "outputs"),
    "batch_statistics": (BatchStatistics, "micro_batches"),
    "wrong_shape": (WrongShape, "outputs"),
    "long_texts_overflow": (LongTextsOverflow, "lengths"),
}

OTHERS = {
    "model.norm": {"norm_over_places": (NormOverPlaces, "causality")},
    "model.position": {
        "ignores_past": (IgnoresPast, "cache"),
        "counts_padding": (CountsPadding, "padding"),
        "says_nothing": (SaysNothing, "order"),
    },
    "model.embedding": {"mean_of_the_text": (MeanOfTheText, "causality")},
    "model.layer": {"forgets_memory": (ForgetsMemory, "gradients")},
    "model.stack": {"skips_the_last": (SkipsTheLast, "gradients")},
    "optim.name": {"counting": (CountingSGD, "resume")},
    "task.loss": {"mean": (mean_loss, "micro_batches")},
}
"""Key to name to the same, for the other slots."""


def all_defects():
    """Key, name, class and check of each defect."""
    tables = {"model.attention": ATTENTION, "model.feed_forward": FEED_FORWARD, **OTHERS}
    return [(key, name, cls, check) for key, table in tables.items() for name, (cls, check) in table.items() if check]


def _added(key):
    return {name: cls for name, (cls, _) in OTHERS[key].items()}


PLUGIN = Plugin(
    attention={name: cls for name, (cls, _) in ATTENTION.items()},
    feed_forward={name: cls for name, (cls, _) in FEED_FORWARD.items()},
    norms=_added("model.norm"),
    positions=_added("model.position"),
    embeddings=_added("model.embedding"),
    layers=_added("model.layer"),
    stacks=_added("model.stack"),
    optimizers=_added("optim.name"),
    losses=_added("task.loss"),
)
