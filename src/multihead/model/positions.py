"""Position schemes: how the model knows the order of tokens. `new_positions` chooses one by ``model.position``.

A scheme acts at one of three places, each a method of `Positions`: on the embeddings (`PositionTable`), on the scores
of the attention (`ALiBi`, `Relative`), or on queries and keys (`Rotary`). To add a scheme, write a subclass that
overrides this method, and give it a name: in a plugin's ``positions``, or in `new_positions` here and in ``POSITIONS``
of `multihead.config.model`.

Shapes: B batch, T new positions, S = past + T positions, D d_model, H heads, K head_dim.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from multihead.config.check import require_choice
from multihead.config.model import POSITIONS, ModelConfig

LEAST_TURNS, MOST_TURNS = 1, 4
"""With fewer turns a wavelength is stretched, with more it is left (Llama 3.1's low and high frequency factors)."""


def new_positions(config: ModelConfig, causal: bool) -> Positions:
    """The scheme of ours that ``config.position`` names, for a decoder (``causal``) or an encoder.

    Raises:
        ConfigError: There is no such scheme.
    """
    require_choice("model.position", config.position, POSITIONS)
    tables = dict.fromkeys(("sinusoidal", "learned"), PositionTable)
    biases = {"alibi": ALiBi, "relative": Relative, "learned_relative": LearnedRelative}
    schemes = {"rotary": Rotary, "none": Positions} | tables | biases
    return schemes[config.position](config, causal)


class Positions(nn.Module):
    """The scheme ``none`` and the base of the others: embeddings, scores, queries and keys stay as they are.

    Args:
        config: Sizes.
        causal: Whether keys never follow their query, as in a decoder.
    """

    changes_scores = False
    """Whether `add_to_scores` returns numbers, so that even a causal mask alone must be written out."""

    def __init__(self, config: ModelConfig, causal: bool):
        super().__init__()

    def add_to_embeddings(self, x: Tensor, scale: float, positions: Tensor | None, past: int) -> Tensor:
        """Embeddings [B, T, D] times ``scale``, plus what stands for their positions.

        Args:
            x: Embeddings [B, T, D].
            scale: Factor of the embeddings (section 3.4 of the paper).
            positions: [B, T]; None stands for ``past``, ``past`` + 1, ...
            past: Number of tokens before these.
        """
        return x * scale

    def add_to_scores(self, mask: Tensor | None, length: int, total: int, dtype: torch.dtype) -> Tensor | None:
        """The boolean mask, or what is added to the scores instead: -inf hides.

        Args:
            mask: Broadcastable to [B, H, T, S], True = may be attended to; None hides nothing.
            length: T, the number of queries, which are the last positions.
            total: S, the number of keys.
            dtype: Of the scores.
        """
        return mask

    def rotation(
        self, x: Tensor, positions: Tensor | None, past: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor] | None:
        """Cosines and sines that `rotate` turns queries and keys by, [T, 1, K / 2] or [B, T, 1, K / 2]; None for none.

        Args:
            x: Embeddings [B, T, D].
            positions: As in `add_to_embeddings`.
            past: Number of tokens before these.
            dtype: Of queries and keys.
        """
        return None


class PositionTable(Positions):
    """One vector for each position, added to the embedding: sinusoids (section 3.5 of the paper), or learned."""

    weight: Tensor

    def __init__(self, config: ModelConfig, causal: bool):
        super().__init__(config, causal)
        self.scheme, self.max_len, self.offset = config.position, config.max_len, 0
        width = config.width_of_embeddings
        if config.position == "sinusoidal":
            self.register_buffer("weight", sinusoids(config.max_len, width, config.sinusoid_order), persistent=False)
        else:  # `Stack` scales it as it scales the embedding
            self.offset = config.position_offset
            self.weight = nn.Parameter(nn.init.normal_(torch.empty(self.offset + config.max_len, width)))

    def add_to_embeddings(self, x: Tensor, scale: float, positions: Tensor | None, past: int) -> Tensor:
        """As in `Positions`.

        Raises:
            ValueError: The sequence is longer than the table.
        """
        end = past + x.size(1)  # only a caller's own positions may lie below: looking at them waits for the device
        if end > self.max_len and positions is not None and not torch.compiler.is_exporting():
            end = int(positions.max()) + 1 if positions.numel() else 0
        if end > self.max_len:
            raise ValueError(
                f"a sequence of {end} tokens is longer than model.max_len={self.max_len}, "
                f"the length of the table of {self.scheme} positions"
            )
        table = self.weight[self.offset :]
        return torch.add(table[past:end] if positions is None else table[positions], x, alpha=scale)


class Rotary(Positions):
    """Queries and keys are turned by an angle in proportion to their position (RoFormer, Su et al. 2021,
    arXiv:2104.09864), so that their product depends on the distance alone.
    """

    stretch: Tensor | None

    def __init__(self, config: ModelConfig, causal: bool):
        super().__init__(config, causal)
        self.rotary_dim, self.theta = config.rotary_dim, config.rope_theta
        self.register_buffer("stretch", rope_stretch(config), persistent=False)

    def rotation(
        self, x: Tensor, positions: Tensor | None, past: int, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor] | None:
        if positions is None:
            positions = torch.arange(past, past + x.size(1), device=x.device)
        cos, sin = rotary_angles(positions, self.rotary_dim, self.theta, self.stretch)
        return cos.to(dtype), sin.to(dtype)


class ALiBi(Positions):
    """Each head subtracts its slope times the distance from the scores (Press et al. 2022, arXiv:2108.12409)."""

    changes_scores = True
    slopes: Tensor

    def __init__(self, config: ModelConfig, causal: bool):
        super().__init__(config, causal)
        self.register_buffer("slopes", alibi_slopes(config.num_heads), persistent=False)

    def add_to_scores(self, mask: Tensor | None, length: int, total: int, dtype: torch.dtype) -> Tensor | None:
        return alibi_bias(self.slopes, length, total, mask).to(dtype)  # [B or 1, H, T, S]


class Relative(Positions):
    """Each head adds a learned bias to the scores, one for each bucket of distances (Raffel et al. 2020,
    arXiv:1910.10683, section 2.1). All layers of a stack share the biases. With ``causal``, all buckets are for keys
    before their query.
    """

    changes_scores = True

    def __init__(self, config: ModelConfig, causal: bool):
        super().__init__(config, causal)
        self.causal, self.max_distance = causal, config.relative_max_distance
        self.weight = nn.Parameter(torch.empty(config.relative_buckets, config.num_heads))

    def add_to_scores(self, mask: Tensor | None, length: int, total: int, dtype: torch.dtype) -> Tensor | None:
        place = torch.arange(total, device=self.weight.device)
        distance = place - place[total - length :, None]  # key - query, [T, S]
        buckets = relative_buckets(distance, len(self.weight), self.max_distance, self.causal)
        bias = self.weight[buckets].permute(2, 0, 1)[None].to(dtype)  # [1, H, T, S]
        return bias if mask is None else torch.where(mask, bias, -math.inf)


class LearnedRelative(PositionTable):
    """A learned vector for each position, and the biases of `Relative` (MPNet, Song et al. 2020, arXiv:2004.09297)."""

    changes_scores = True

    def __init__(self, config: ModelConfig, causal: bool):
        super().__init__(config, causal)
        self.biases = Relative(config, causal)

    def add_to_scores(self, mask: Tensor | None, length: int, total: int, dtype: torch.dtype) -> Tensor | None:
        return self.biases.add_to_scores(mask, length, total, dtype)


def relative_buckets(distance: Tensor, num_buckets: int, max_distance: int, causal: bool) -> Tensor:
    """The bucket of each distance (key minus query), as in T5.

    Keys after the query have the upper half of the buckets, unless attention is causal. Of each half, the first half
    holds one distance a bucket. The others grow in proportion to the logarithm of the distance up to ``max_distance``.
    """
    half = num_buckets if causal else num_buckets // 2
    exact = half // 2
    size = (-distance).clamp(min=0) if causal else distance.abs()
    log = torch.log(size.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    bucket = torch.where(size < exact, size, (exact + (log * (half - exact)).long()).clamp(max=half - 1))
    return bucket if causal else bucket + half * (distance > 0)


def segment_positions(segments: Tensor) -> Tensor:
    """Positions [B, T] counted from the start of each segment; ``segments`` [B, T] holds the number of the segment."""
    place = torch.arange(segments.size(1), device=segments.device).expand_as(segments)
    starts = torch.ones_like(segments, dtype=torch.bool)
    starts[:, 1:] = segments[:, 1:] != segments[:, :-1]
    return place - torch.where(starts, place, 0).cummax(1).values


def sinusoids(max_len: int, d_model: int, order: str = "alternating") -> Tensor:
    """The table [max_len, D] of section 3.5: sines in the even columns, cosines in the odd ones.

    With the order ``halves``, all sines stand before all cosines.
    """
    angle = _angles(torch.arange(max_len), d_model, 10000.0)
    if order == "halves":
        return torch.cat((angle.sin(), angle.cos()), dim=-1)
    return torch.stack((angle.sin(), angle.cos()), dim=-1).flatten(-2)


def rotary_angles(
    positions: Tensor, rotary_dim: int, theta: float = 10000.0, stretch: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Cosines and sines [..., T, 1, R / 2] of positions [..., T].

    Args:
        positions: From 0.
        rotary_dim: R, the number of a head's K dimensions that are turned.
        theta: The base of the wavelengths.
        stretch: By which each of the R / 2 wavelengths is multiplied; None leaves them.
    """
    angle = _angles(positions, rotary_dim, theta)[..., None, :]
    angle = angle if stretch is None else angle / stretch
    return angle.cos(), angle.sin()


def rope_stretch(config: ModelConfig) -> Tensor | None:
    """By which each of the R / 2 wavelengths is multiplied (``model.rope_scaling``); None if by 1.

    ``linear`` (Chen et al. 2023, arXiv:2306.15595) multiplies all. ``llama3`` multiplies those longer than the length
    of pretraining, leaves those shorter than a quarter of it, and between the two mixes frequencies, as Llama 3.1 does.
    """
    if config.rope_scaling == "none":
        return None
    turned = _angles(torch.ones(()), config.rotary_dim, config.rope_theta)  # frequencies, [R / 2]
    if config.rope_scaling == "linear":
        return torch.full_like(turned, config.rope_factor)
    turns = config.rope_original_len * turned / (2 * math.pi)  # in a text of pretraining
    kept = ((turns - LEAST_TURNS) / (MOST_TURNS - LEAST_TURNS)).clamp(0, 1)
    return 1 / ((1 - kept) / config.rope_factor + kept)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turns the pairs (i, i + R / 2) of each head of [B, T, H, K] by their position's angles; the rest of K stays.

    The paper pairs neighbours (2 i, 2 i + 1). This is the same up to a permutation of the columns of query and key.
    """
    cos, sin = rotation
    half = cos.size(-1)
    first, second, *rest = x.split(half, dim=-1)
    return torch.cat((first * cos - second * sin, first * sin + second * cos, *rest), dim=-1)


def _angles(positions: Tensor, width: int, base: float) -> Tensor:
    """Position / base^(2 i / width), [..., width / 2], in float32 whatever the default type."""
    exponent = torch.arange(0, width, 2, device=positions.device, dtype=torch.float32) / width
    return positions[..., None].float() * base**-exponent


def alibi_slopes(num_heads: int) -> Tensor:
    """The slope of each head [H] (section 3 of the paper on ALiBi), as in the authors' code.

    For n heads, n a power of two, they are 2^(-8 / n), 2^(-16 / n), ... For another number they are those of the next
    smaller power of two, then every second slope of the next larger one.
    """
    power = 2 ** int(math.log2(num_heads))
    slopes = [2 ** (-8 * (i + 1) / power) for i in range(power)]
    slopes += [2 ** (-4 * (2 * i + 1) / power) for i in range(num_heads - power)]
    return torch.tensor(slopes, dtype=torch.float32)


def alibi_bias(slopes: Tensor, length: int, total: int, mask: Tensor | None) -> Tensor:
    """-slope * |i - j| of the last ``length`` of ``total`` positions, -inf where ``mask`` hides: [B or 1, H, T, S]."""
    key = torch.arange(total, device=slopes.device)
    distance = (key[total - length :, None] - key).abs()  # [T, S]
    bias = -slopes.float()[:, None, None] * distance  # [H, T, S]
    return bias[None] if mask is None else torch.where(mask, bias, -math.inf)
