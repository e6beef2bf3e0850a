"""An LSTM and a CNN in place of the Transformer's layers, with as many parameters as what they replace.

    P=benchmarks/recurrent_and_convolutional.py
    python train.py task=lm plugin=$P model.attention=lstm model.feed_forward=none model.position=none
    python train.py task=lm plugin=$P model.attention=conv model.feed_forward=none

``lstm`` is stacked LSTMs of torch.nn (Hochreiter and Schmidhuber 1997), in both directions in an encoder. ``conv`` is
stacked convolutions with gated linear units (Dauphin et al. 2017, arXiv:1612.08083), centred in an encoder. Embeddings,
residual connections, norms, dropout and heads are the Transformer's.

With ``model.feed_forward=none``, as in the literature, a layer is only the LSTM or the convolution. It then has the
parameters of attention and feed-forward together. With ``dense``, it replaces self-attention alone. A decoder's
attention to the encoder stays multi-head attention. Both literatures have attention there (Bahdanau et al. 2015,
arXiv:1409.0473; Gehring et al. 2017, arXiv:1705.03122).

Shapes: B batch, T time, P pieces, D d_model, W width of the block.
"""

import functools
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_sequence, pad_sequence, unpack_sequence

from multihead.config.check import require, require_choice
from multihead.config.model import ModelConfig
from multihead.model.cache import KeyValueCache
from multihead.model.transformer import FeedForward, MultiHeadAttention, Scope
from multihead.plugin import Plugin

POSITIONS = ("none", "sinusoidal", "learned")


@dataclass(kw_only=True)
class LstmOptions:
    """The keys options.lstm.*"""

    width: int = 0
    """Hidden units of one direction. 0 means as many as match the parameters of what the block replaces."""


@dataclass(kw_only=True)
class ConvOptions:
    """The keys options.conv.*"""

    width: int = 0
    """Channels after the gate. 0 means as many as match the parameters of what the block replaces."""
    kernel: int = 5
    """Number of positions that a convolution sees: itself and those before it, or as many on both sides."""

    def __post_init__(self) -> None:
        require(self.kernel >= 1 and self.kernel % 2 == 1, "options.conv.kernel", "odd and at least 1", self.kernel)


class Lstm(nn.Module):
    """One LSTM, or with ``causal=False`` one in each direction, and a linear map back to the residual stream.

    The forget gates start open (a bias of 1: Jozefowicz et al. 2015). If several texts or padding share a row, each
    piece starts from the zero state.
    """

    def __init__(self, config: ModelConfig, options: LstmOptions, *, causal: bool):
        super().__init__()
        require_choice("model.position", config.position, POSITIONS)
        self.causal = causal
        directions = 1 if causal else 2
        build = functools.partial(nn.LSTM, config.d_model, batch_first=True, bidirectional=not causal)
        width = options.width or matched_width(
            config, lambda width: [build(width), nn.Linear(width * directions, config.d_model)]
        )
        self.lstm = build(width)
        self.output = nn.Linear(width * directions, config.d_model)
        for name, parameter in self.lstm.named_parameters():
            if name.startswith("bias_ih"):
                nn.init.ones_(parameter.detach()[width : 2 * width])

    def forward(
        self, x: Tensor, scope: Scope, memory: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Maps [B, T, D] to [B, T, D]. The cache holds outputs, and in each call's last column the cell's state."""
        past = 0 if cache is None else cache.length
        with torch.autocast(x.device.type, enabled=False):  # the recurrence adds up what it rounds
            x = x.to(self.lstm.weight_hh_l0.dtype)
            pieces = pieces_of(x, scope.mask, past, self.causal)
            if pieces is None:
                y, (_, cell) = self.lstm(x, self._state(cache, scope.mask))  # [B, T, W]
            else:
                packed, (_, cell) = self.lstm(pack_sequence(pieces, enforce_sorted=False))
                y = torch.cat(unpack_sequence(packed)).view(*x.shape[:2], -1)
                last = torch.tensor([len(piece) for piece in pieces], device=x.device).cumsum(0) % x.size(1) == 0
                cell = cell[:, last]  # state of the piece that ends the row
        if cache is not None:
            cells = torch.zeros_like(y)
            cells[:, -1] = cell[0]
            cache.append(y[:, :, None], cells[:, :, None])
        return self.output(y)

    def _state(self, cache: KeyValueCache | None, mask: Tensor | None) -> tuple[Tensor, Tensor] | None:
        """Returns output and cell [1, B, W] with which the past ended. They are zero in rows whose past is hidden."""
        if cache is None or not cache.length:
            return None
        hidden, cell = (x[None, :, -1, 0] for x in cache.read())
        if mask is not None:
            seen = mask[:, 0, 0, cache.length - 1, None]  # [B, 1]
            hidden, cell = hidden * seen, cell * seen
        return hidden.contiguous(), cell.contiguous()


class GatedConvolution(nn.Module):
    """(X * W + b) times sigmoid(X * V + c) and a linear map back to the residual stream.

    It sees nothing beyond the ends of a text. If several texts or padding share a row, zeros stand between them.
    """

    def __init__(self, config: ModelConfig, options: ConvOptions, *, causal: bool):
        super().__init__()
        require_choice("model.position", config.position, POSITIONS)
        self.causal = causal
        self.before = options.kernel - 1 if causal else options.kernel // 2
        self.after = options.kernel - 1 - self.before
        build = functools.partial(nn.Conv1d, config.d_model, kernel_size=options.kernel)
        width = options.width or matched_width(
            config, lambda width: [build(2 * width), nn.Linear(width, config.d_model)]
        )
        self.conv = build(2 * width)
        self.output = nn.Linear(width, config.d_model)

    def forward(
        self, x: Tensor, scope: Scope, memory: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Maps [B, T, D] to [B, T, D]. The cache holds the inputs."""
        past = 0 if cache is None else cache.length
        if past == 0 and scope.mask is not None:
            x = x.masked_fill(padding_of(x, scope.mask)[..., None], 0.0)
        pieces = pieces_of(x, scope.mask, past, self.causal, padding_is_zero=True)
        if pieces is not None:
            y = self._gated(F.pad(pad_sequence(pieces, batch_first=True), (0, 0, self.before, self.after)))  # [P, L, W]
            y = torch.cat([row[: len(piece)] for row, piece in zip(y, pieces, strict=True)]).view(*x.shape[:2], -1)
        else:
            y = self._gated(torch.cat((self._context(x, cache, scope.mask), F.pad(x, (0, 0, 0, self.after))), dim=1))
        if cache is not None:
            cache.append(x[:, :, None], x[:, :, None])
        return self.output(y)

    def _gated(self, x: Tensor) -> Tensor:
        """Returns [B, T, W] for [B, before + T + after, D]."""
        return F.glu(self.conv(x.transpose(1, 2)), dim=1).transpose(1, 2)

    def _context(self, x: Tensor, cache: KeyValueCache | None, mask: Tensor | None) -> Tensor:
        """Returns the inputs [B, before, D] before ``x``. They are zeros if there are none or if they are hidden."""
        if cache is None or not cache.length or not self.before:
            return x.new_zeros(x.size(0), self.before, x.size(2))
        context = cache.read()[0][:, -self.before :, 0]
        if mask is not None:
            context = context * mask[:, 0, 0, max(0, cache.length - self.before) : cache.length, None]
        return F.pad(context, (0, 0, self.before - context.size(1), 0))


class OrdinaryAttention(MultiHeadAttention):
    """Multi-head attention, whatever the options of the blocks beside it are."""

    def __init__(self, config: ModelConfig, options: LstmOptions | ConvOptions):
        super().__init__(config)


class NoFeedForward(nn.Module):
    """Adds nothing to the residual stream."""

    def __init__(self, config: ModelConfig):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Returns zeros in the shape of ``x``. The norm before them keeps a gradient."""
        return x * 0.0


def padding_of(x: Tensor, mask: Tensor) -> Tensor:
    """Returns which positions of ``x`` [B, T, D] are padding, [B, T]: those that do not even see themselves."""
    return ~mask[:, 0].expand(x.size(0), x.size(1), -1).diagonal(0, 1, 2)


def pieces_of(
    x: Tensor, mask: Tensor | None, past: int, causal: bool, padding_is_zero: bool = False
) -> list[Tensor] | None:
    """Returns the texts [T', D] that share the rows of ``x`` [B, T, D], in order, or None if each row is one text.

    A text ends at a position that does not see the one before it, or in both directions if the two do not see each
    other. So packed documents are texts, and padding is one too. Padding that cannot reach the text beside it stays
    with it.

    Args:
        x: New positions.
        mask: What they may see of the past and themselves, [B or 1, 1, T or 1, past + T]. None hides nothing.
        past: Number of positions in the cache. The next ones are real and belong to the row's last text.
        causal: Whether the future is hidden anyway.
        padding_is_zero: Whether ``x`` is zero in padding, so that padding at the ends of a row tells its text nothing.
    """
    batch, length = x.shape[:2]
    if mask is None or length == 1:
        return None
    sees = mask[:, 0].expand(batch, length, -1)[..., past:]  # [B, T, T]
    linked = sees.diagonal(-1, 1, 2)  # [B, T - 1]: whether t + 1 sees t
    if not causal:
        linked = linked & sees.diagonal(1, 1, 2)
    if past == 0:
        padding = padding_of(x, mask)
        linked = linked | (padding[:, 1:] & (padding[:, :-1] | causal))
        if padding_is_zero:
            leading = (~padding).cumsum(1) == 0  # nothing but padding until here
            linked = linked | padding[:, 1:] | leading[:, :-1]
    if bool(linked.all()):
        return None
    assert past == 0, "padding or another document after what is cached"
    starts = F.pad(~linked, (1, 0), value=True).flatten().nonzero()[:, 0]  # in rows laid end to end
    return list(x.flatten(0, 1).tensor_split(starts[1:].cpu()))


def matched_width(config: ModelConfig, build: Callable[[int], list[nn.Module]]) -> int:
    """Returns the width with which the block's number of parameters is closest to that of attention, or of attention
    and feed-forward."""
    with torch.device("meta"):
        replaced = [MultiHeadAttention(config)] + ([FeedForward(config)] if config.feed_forward == "none" else [])
        budget, low, high = count(replaced), 1, 2
        while count(build(high)) < budget:
            low, high = high, 2 * high
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if count(build(middle)) < budget else (low, middle)
        return min((low, high), key=lambda width: abs(count(build(width)) - budget))


def count(modules: list[nn.Module]) -> int:
    """Returns the number of parameters."""
    return sum(parameter.numel() for module in modules for parameter in module.parameters())


PLUGIN = Plugin(
    attention={
        "lstm": functools.partial(Lstm, causal=False),
        "lstm_decoder": OrdinaryAttention,
        "conv": functools.partial(GatedConvolution, causal=False),
    },
    causal_attention={
        "lstm": functools.partial(Lstm, causal=True),
        "lstm_decoder": functools.partial(Lstm, causal=True),
        "conv": functools.partial(GatedConvolution, causal=True),
    },
    cross_attention=dict.fromkeys(("lstm", "lstm_decoder", "conv"), OrdinaryAttention),
    feed_forward={"none": NoFeedForward},
    options={"lstm": LstmOptions, "lstm_decoder": LstmOptions, "conv": ConvOptions},
)
