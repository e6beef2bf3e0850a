"""The Transformer of "Attention Is All You Need" (Vaswani et al. 2017, arXiv:1706.03762), whole before parts.

- `Transformer` is an encoder, a decoder or both. Sections in this file are those of the paper.
- `Stack` is the encoder or the decoder: embedding, layers, final norm. It builds the masks, once per pass (`_scope`).
- `Layer` is self-attention, attention to the encoder's output in a decoder that has one, and a feed-forward.
- `MultiHeadAttention` computes attention; the softmax itself is in `attend` of `kernels.py`.
- `FeedForward` holds the activations.
- `Blocks` names the classes of all these parts. A plugin replaces any of them by its own.

`norms.py` holds the norms, `positions.py` the position schemes; `new_norm` and `new_positions` choose. `heads.py` turns
hidden states into logits, so that the backbone is the same for all tasks, with the same parameter names.

Shapes: B batch, T target time, S source time (keys), D d_model, H heads, G key-value heads, K head_dim, N rows of the
memory: B, or fewer if B // N beams share one source. Masks are boolean, True = may be attended to.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from multihead.config.check import require
from multihead.config.model import GATED, ModelConfig
from multihead.model.cache import Cache, KeyValueCache, LayerCache
from multihead.model.kernels import attend
from multihead.model.ngrams import NGramEmbedding
from multihead.model.norms import RMSNorm, new_norm, norm_eps
from multihead.model.positions import Positions, new_positions, rotate, segment_positions


class Transformer(nn.Module):
    """An encoder, a decoder, or both (section 3.1).

    Args:
        config: Sizes and mechanisms.
        source_vocab_size: Vocabulary of the encoder; None means no encoder and no cross-attention.
        target_vocab_size: Vocabulary of the decoder; None means no decoder.
        blocks: The classes of all parts; by default those of this file.

    Raises:
        ConfigError: Two vocabularies of different size cannot share their embedding.
    """

    def __init__(
        self,
        config: ModelConfig,
        *,
        source_vocab_size: int | None,
        target_vocab_size: int | None,
        blocks: Blocks | None = None,
    ):
        super().__init__()
        self.blocks = blocks = blocks or Blocks()
        self.config = config
        self.encoder: Stack | None = None
        self.decoder: Stack | None = None
        if source_vocab_size is not None:
            depth = config.num_encoder_layers
            self.encoder = blocks.stack(config, source_vocab_size, depth, blocks, causal=False, cross=False)
        if target_vocab_size is not None:
            layers, cross = config.num_decoder_layers, self.encoder is not None
            self.decoder = blocks.stack(config, target_vocab_size, layers, blocks, causal=True, cross=cross)
        if self.encoder and self.decoder and config.tie_embeddings in ("source_target", "all"):
            what = f"none or target_output if the vocabularies differ ({source_vocab_size} and {target_vocab_size})"
            require(source_vocab_size == target_vocab_size, "model.tie_embeddings", what, config.tie_embeddings)
            self.decoder.embedding.weight = self.encoder.embedding.weight

    def forward(
        self,
        source: Tensor | None = None,
        source_mask: Tensor | None = None,
        target: Tensor | None = None,
        target_mask: Tensor | None = None,
    ) -> Tensor:
        """Hidden states of the decoder if a target is given, else of the encoder.

        Arguments are those of `encode` and `decode`. Without a source the decoder runs alone.

        Raises:
            ValueError: Neither a source nor a target is given, or there is no stack that reads it.
        """
        if target is None:
            if source is None:
                raise ValueError("a Transformer needs a source, a target or both")
            return self.encode(source, source_mask)
        memory = None if source is None else self.encode(source, source_mask)
        return self.decode(target, target_mask=target_mask, memory=memory, memory_mask=source_mask)

    def stack(self, name: str) -> Stack:
        """The ``encoder`` or the ``decoder``.

        Raises:
            ValueError: This model has none.
        """
        stack = self.encoder if name == "encoder" else self.decoder
        if stack is None:
            raise ValueError(f"this Transformer has no {name}")
        return stack

    def compile_layers(self) -> None:
        """Compiles every layer in place for any length; parameter names stay the same."""
        for stack in filter(None, (self.encoder, self.decoder)):
            for layer in stack.layers:
                layer.compile(dynamic=True)

    def recompute_layers(self) -> None:
        """In training, layers keep only their input; the backward pass computes the rest again (arXiv:1604.06174)."""
        for stack in filter(None, (self.encoder, self.decoder)):
            stack.recompute = True

    def encode(
        self,
        source: Tensor,
        source_mask: Tensor | None = None,
        segments: Tensor | None = None,
        types: Tensor | None = None,
    ) -> Tensor:
        """The memory [B, S, D] of source ids [B, S].

        Args:
            source: Ids.
            source_mask: [B, S]; None if nothing is padded.
            segments: [B, S], as in `decode`.
            types: [B, S], 0 in the first text of a pair and 1 in the second; None is all 0. It needs
                ``model.segment_types``.

        Raises:
            ValueError: This model has no encoder.
        """
        return self.stack("encoder")(source, source_mask, segments=segments, types=types)

    def decode(
        self,
        target: Tensor,
        *,
        target_mask: Tensor | None = None,
        positions: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: Cache | None = None,
        segments: Tensor | None = None,
        bidirectional: Tensor | bool = False,
        types: Tensor | None = None,
    ) -> Tensor:
        """Hidden states [B, T, D] of target ids [B, T]; each position sees itself and the positions before it.

        Args:
            target: Ids; with a cache, those that follow the ids in it.
            target_mask: [B, T], needed only if the left is padded: causality hides padding on the right already.
            positions: [B, T]; by default they are counted from each row's first real token.
            memory: The encoder's output [N, S, D]; with a cache, the cache holds it.
            memory_mask: [N, S]; None if nothing is padded.
            cache: A cache that `new_cache` returned; it grows by T.
            segments: [B, T], numbers of the documents that are packed in a row. Attention stays within a document,
                and its positions start at 0. It cannot be used with a cache.
            bidirectional: [B], the rows in which each position also sees the positions after it; True stands for all
                rows. It cannot be used with a cache.
            types: [B, T], as in `encode`.

        Raises:
            ValueError: This model has no decoder.
        """
        more: dict[str, Any] = {} if bidirectional is False else {"bidirectional": bidirectional}
        more |= {} if types is None else {"types": types}  # a plugin's stack may take neither
        return self.stack("decoder")(target, target_mask, positions, memory, memory_mask, cache, segments, **more)

    def new_cache(self, memory: Tensor | None = None, memory_mask: Tensor | None = None) -> Cache:
        """An empty cache for `decode`. It takes the memory [N, S, D], which is then not given to `decode`."""
        return Cache(len(self.stack("decoder").layers), memory, memory_mask)


class Stack(nn.Module):
    """The encoder, or with ``causal`` the decoder (section 3.1): embedding, layers and final norm.

    Args:
        config: Sizes and mechanisms.
        vocab_size: Number of tokens.
        num_layers: Number of layers.
        blocks: The classes of the parts.
        causal: Whether a position sees only itself and the positions before it.
        cross: Whether the layers attend to a memory.
    """

    def __init__(
        self, config: ModelConfig, vocab_size: int, num_layers: int, blocks: Blocks, *, causal: bool, cross: bool
    ):
        super().__init__()
        self.causal = causal
        self.recompute = False
        width = config.width_of_embeddings
        self.scale = math.sqrt(width) if config.embedding_scale else 1.0
        self.embedding: Any = blocks.embedding(config, vocab_size)
        self.ngrams = NGramEmbedding(config) if config.ngram_buckets else None
        self.positions = blocks.positions(config, causal)
        self.types = nn.Embedding(config.segment_types, width) if config.segment_types else None
        self.embedding_norm = blocks.norm(config, width) if config.embedding_norm else nn.Identity()
        self.widen = nn.Linear(width, config.d_model) if config.embedding_width else nn.Identity()
        self.dropout = Dropout(config.dropout)
        own = min(1, num_layers) if config.share_layers else num_layers
        layers = [blocks.layer(config, blocks, causal=causal, cross=cross) for _ in range(own)]
        self.layers = nn.ModuleList(layers * num_layers if config.share_layers else layers)
        self.norm = blocks.norm(config, config.d_model) if config.norm_placement == "pre" else nn.Identity()
        self._initialise(config)

    def forward(
        self,
        tokens: Tensor,
        mask: Tensor | None = None,
        positions: Tensor | None = None,
        memory: Tensor | None = None,
        memory_mask: Tensor | None = None,
        cache: Cache | None = None,
        segments: Tensor | None = None,
        types: Tensor | None = None,
        bidirectional: Tensor | bool = False,
    ) -> Tensor:
        """Hidden states [B, T, D] of ids [B, T]; arguments as in `Transformer.decode`."""
        if cache is not None:
            mask = cache.extend(tokens, mask)  # [B, S] of all tokens so far
            memory, memory_mask = cache.memory, cache.memory_mask
        if positions is None and mask is not None and self.causal:
            positions = (mask.cumsum(1) - 1).clamp(min=0)[:, -tokens.size(1) :]  # [B, T]
        if positions is None and segments is not None:
            positions = segment_positions(segments)  # [B, T]
        past = 0 if cache is None else cache.length - tokens.size(1)
        x = self.embedding(tokens)  # [B, T, D]
        if self.ngrams is not None:
            x = x + self.ngrams(tokens, mask, cache, segments)
        x = self.positions.add_to_embeddings(x, self.scale, positions, past)
        if self.types is not None:  # without types, everything is of the first text
            x = x + (self.types.weight[0] if types is None else self.types(types))
        x = self.widen(self.dropout(self.embedding_norm(x)))  # [B, T, D]
        scope = self._scope(x, mask, positions, past, segments, bidirectional)
        shown = None if memory_mask is None else memory_mask[:, None, None, :]  # [N, 1, 1, S]
        return self.norm(self.run_layers(x, scope, memory, Scope(scope.dtype, shown), cache))

    def run_layers(
        self, x: Tensor, scope: Scope, memory: Tensor | None, memory_scope: Scope, cache: Cache | None
    ) -> Tensor:
        """Maps embeddings [B, T, D] through all layers to [B, T, D]; a plugin's stack may order them otherwise.

        Args:
            x: Embeddings with what stands for their positions.
            scope: What self-attention may attend to.
            memory: The encoder's output [N, S, D]; None if there is none.
            memory_scope: What cross-attention may attend to.
            cache: Keys and values of earlier positions, by layer.
        """
        for index, layer in enumerate(self.layers):
            if self.recompute and self.training:
                x = checkpoint(layer, x, scope, memory, memory_scope, use_reentrant=False)
            else:
                x = layer(x, scope, memory, memory_scope, None if cache is None else cache.layers[index])
        return x

    def _scope(
        self,
        x: Tensor,
        key_mask: Tensor | None,
        positions: Tensor | None,
        past: int,
        segments: Tensor | None = None,
        bidirectional: Tensor | bool = False,
    ) -> Scope:
        """What each of the T new positions may attend to among S = ``past`` + T; without a mask if none is needed."""
        length, total = x.size(1), past + x.size(1)
        device = x.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else x.dtype
        mask = None if key_mask is None else key_mask[:, None, None, :]  # [B, 1, 1, S]
        if segments is not None:
            same = segments[:, None, :, None] == segments[:, None, None, :]  # [B, 1, T, T]
            mask = same if mask is None else mask & same
        mixed = isinstance(bidirectional, Tensor)
        causal = bool(self.causal and length > 1 and bidirectional is not True)
        if causal and (past or mask is not None or self.positions.changes_scores or mixed):
            causal = False
            before = torch.ones(1, 1, length, total, dtype=torch.bool, device=x.device).tril(past)  # [1, 1, T, S]
            itself = before.triu(past)
            if mixed:
                before = before | bidirectional[:, None, None, None]  # [B, 1, T, S]
            if mask is None:
                mask = before
            else:  # a padded query sees itself, so that its row of the softmax is not empty
                mask = (before & mask) | itself  # [B, 1, T, S]
        mask = self.positions.add_to_scores(mask, length, total, dtype)
        return Scope(dtype, mask, causal, self.positions.rotation(x, positions, past, dtype))

    @torch.no_grad()
    def _initialise(self, config: ModelConfig) -> None:
        """Draws embeddings with variance 1 / d_model, since they are scaled by sqrt(d_model); matrices Xavier-uniform.

        With ``depth_scaled``, projections into the residual stream start smaller by 1 / sqrt(2 * layers), as in GPT-2
        (Radford et al. 2019, section 2.3), so that the variance of the stream does not grow with depth. A module of a
        layer that has the method ``at_depth`` gets the number of its layer, from 1, and the number of layers. A module
        that has the method ``initialise`` has the last word on its own parameters.
        """
        nn.init.normal_(self.embedding.weight, std=config.d_model**-0.5)
        types = () if self.types is None else self.types.parameters()
        for table in (*self.positions.parameters(), *types):
            nn.init.normal_(table, std=config.d_model**-0.5)
        for name, module in self.layers.named_modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
                if config.init == "depth_scaled" and name.endswith((".output", ".down")):
                    module.weight /= math.sqrt(2 * len(self.layers))
        for number, layer in enumerate(dict.fromkeys(self.layers), 1):  # a shared layer has the number 1
            for module in layer.modules():
                if (at_depth := getattr(module, "at_depth", None)) is not None:
                    at_depth(number, len(self.layers))
        for module in self.modules():
            if (initialise := getattr(module, "initialise", None)) is not None:
                initialise()


class Layer(nn.Module):
    """Self-attention, cross-attention if the decoder has a memory, and feed-forward (section 3.1).

    Each sub-layer has a residual connection around it, dropout on its output (section 5.4) and a norm. The norm comes
    after the sum in the paper (``post``). With ``pre`` it comes before the sub-layer (Xiong et al. 2020,
    arXiv:2002.04745), and training depends less on the warm-up.
    """

    def __init__(self, config: ModelConfig, blocks: Blocks, *, causal: bool, cross: bool):
        super().__init__()
        self.pre, self.parallel = config.norm_placement == "pre", config.parallel
        attention = blocks.causal_attention if causal else None
        self.self_attention = (attention or blocks.attention)(config)
        self.self_attention_norm = blocks.norm(config, config.d_model)
        if cross:
            self.cross_attention = (blocks.cross_attention or blocks.attention)(config)
            self.cross_attention_norm = blocks.norm(config, config.d_model)
        self.feed_forward = blocks.feed_forward(config)
        self.feed_forward_norm = blocks.norm(config, config.d_model)
        self.dropout = Dropout(config.dropout)

    def forward(
        self,
        x: Tensor,
        scope: Scope,
        memory: Tensor | None = None,
        memory_scope: Scope | None = None,
        cache: LayerCache | None = None,
    ) -> Tensor:
        """Maps the residual stream [B, T, D] to the next layer's."""
        own, crossed = (None, None) if cache is None else (cache.self_attention, cache.cross_attention)
        if self.parallel:
            y = self.dropout(self.feed_forward(self.feed_forward_norm(x)))
            if memory is not None:
                crossing = self.cross_attention(self.cross_attention_norm(x), memory_scope, memory, cache=crossed)
                y = y + self.dropout(crossing)
            return x + y + self.dropout(self.self_attention(self.self_attention_norm(x), scope, cache=own))
        if self.pre:
            x = x + self.dropout(self.self_attention(self.self_attention_norm(x), scope, cache=own))
            if memory is not None:
                y = self.cross_attention(self.cross_attention_norm(x), memory_scope, memory, cache=crossed)
                x = x + self.dropout(y)
            return x + self.dropout(self.feed_forward(self.feed_forward_norm(x)))
        x = self.self_attention_norm(x + self.dropout(self.self_attention(x, scope, cache=own)))
        if memory is not None:
            y = self.cross_attention(x, memory_scope, memory, cache=crossed)
            x = self.cross_attention_norm(x + self.dropout(y))
        return self.feed_forward_norm(x + self.dropout(self.feed_forward(x)))


class MultiHeadAttention(nn.Module):
    """softmax(Q K^T / sqrt(K)) V in parallel heads (sections 3.2.1 and 3.2.2).

    With ``num_kv_heads``, fewer heads of keys and values serve groups of queries (Ainslie et al. 2023,
    arXiv:2305.13245). With ``qk_norm``, queries and keys are normalised in each head (Henry et al. 2020,
    arXiv:2010.04245). A plugin's class takes the same arguments in the constructor and in `forward`. A subclass changes
    one step of it: `keys_and_values`, `mix`, or what is done with `attended`.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.head_dim = config.head_dim
        self.dropout = config.attention_dropout
        self.scale = None if config.attention_scale else 1.0
        self.width = width = config.num_heads * config.head_dim
        kv_width = config.kv_heads * config.head_dim
        places = config.attention_bias
        bias_in = config.bias if places == "auto" else places in ("qkv", "all")
        bias_out = config.bias if places == "auto" else places == "all"
        self.query = nn.Linear(config.d_model, width, bias=bias_in)
        self.key = nn.Linear(config.d_model, kv_width, bias=bias_in)
        self.value = nn.Linear(config.d_model, kv_width, bias=bias_in)
        self.output = nn.Linear(width, config.d_model, bias=bias_out)
        eps = norm_eps(config, "rms_norm")
        self.query_norm = RMSNorm(config.head_dim, eps) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(config.head_dim, eps) if config.qk_norm else nn.Identity()

    def forward(
        self, x: Tensor, scope: Scope, memory: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """Attends from ``x`` [B, T, D] to itself, or to ``memory`` [N, S, D].

        Args:
            x: Queries.
            scope: What may be attended to, and how queries and keys are rotated.
            memory: None for self-attention. B may be N * beams: beams of one source are neighbours and share its keys.
            cache: Keeps keys and values between steps. Cross-attention computes them at the first step only.
        """
        return self.output(self.attended(x, scope, memory, cache))

    def attended(
        self, x: Tensor, scope: Scope, memory: Tensor | None = None, cache: KeyValueCache | None = None
    ) -> Tensor:
        """What `forward` gives to the last linear map: the heads side by side [B, T, H * K]."""
        batch, length, _ = x.shape
        x = x.to(scope.dtype)  # once, not by autocast in each projection
        query = self.query_norm(self._heads(self.query(x)))  # [B, T, H, K]
        if memory is not None and cache is not None and cache.length:
            key, value = cache.read()
        else:
            key, value = self.keys_and_values(x if memory is None else memory.to(scope.dtype), scope)  # [N, S, G, K]
            if scope.rotation is not None:
                query, key = rotate(query, scope.rotation), rotate(key, scope.rotation)
            if cache is not None:
                key, value = cache.append(key, value)
        if key.size(0) != batch:  # beams of one source are further queries to it, not copies of it
            query = query.reshape(key.size(0), -1, *query.shape[2:])  # [N, B // N * T, H, K]
        y = self.mix(query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2), scope)
        return y.transpose(1, 2).reshape(batch, length, self.width)  # of [N, H, B // N * T, K]

    def keys_and_values(self, context: Tensor, scope: Scope) -> tuple[Tensor, Tensor]:
        """The keys, not yet rotated, and the values of ``context`` [N, S, D], each [N, S, G, K]; the cache keeps them.

        Args:
            context: The queries' own sequence, or the memory.
            scope: As in `forward`.
        """
        return self.key_norm(self._heads(self.key(context))), self._heads(self.value(context))

    def mix(self, query: Tensor, key: Tensor, value: Tensor, scope: Scope) -> Tensor:
        """The values, averaged by what each query attends to: [N, H, T, K].

        Args:
            query: [N, H, T, K], the last T of S positions in self-attention.
            key: [N, G, S, K].
            value: [N, G, S, K].
            scope: As in `forward`.
        """
        dropout = self.dropout if self.training else 0.0
        return attend(query, key, value, scope.mask, scope.causal, dropout, self.scale)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (-1, self.head_dim))


class FeedForward(nn.Module):
    """f(x W1) W2 with f = max(0, .) (section 3.3) or another; or (f(x W1) * x W3) W2 (Shazeer 2020, arXiv:2002.05202).

    A plugin's class takes the same arguments in the constructor and in `forward`.
    """

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.activation = activation(config)
        self.up = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.gate = nn.Linear(config.d_model, config.d_ff, bias=config.bias) if config.activation in GATED else None
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.bias)
        self.dropout = Dropout(config.ff_dropout)

    def forward(self, x: Tensor) -> Tensor:
        """Maps [B, T, D] to [B, T, D], each position by itself."""
        y = self.activation(self.up(x))  # [B, T, d_ff]
        if self.gate is not None:
            y = y * self.gate(x)
        return self.down(self.dropout(y))


@dataclass
class Scope:
    """What the queries of one pass may attend to; all layers share it."""

    dtype: torch.dtype
    """The type of the matrix products: autocast's, or that of the weights."""
    mask: Tensor | None = None
    """It is boolean or is added to the scores, broadcastable to [N, H, T, S]; None hides nothing."""
    causal: bool = False
    """Whether each position sees only itself and the positions before it; the mask is None then."""
    rotation: tuple[Tensor, Tensor] | None = None
    """Cosines and sines for `rotate`, [T, 1, K / 2] or [B, T, 1, K / 2]."""


class Dropout(nn.Module):
    """Dropout (section 5.4). On a CPU each element takes 16 random bits, which is twice as fast as torch's own."""

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def forward(self, x: Tensor) -> Tensor:
        """In training, zeroes elements with probability p and scales the others by 1 / (1 - p)."""
        in_16_bits = self.training and 0 < self.p <= 1 - 2**-16
        if not in_16_bits or x.device.type != "cpu" or torch.compiler.is_compiling():
            return F.dropout(x, self.p, self.training)
        bits = torch.empty(-(-x.numel() // 4), dtype=torch.int64).random_(-(2**63), None).view(torch.int16)
        keep = bits[: x.numel()].view(x.shape) >= round(self.p * 2**16) - 2**15
        return x * keep.to(x.dtype).mul_(1 / (1 - self.p))


def new_embedding(config: ModelConfig, vocab_size: int) -> nn.Module:
    """One vector for each token."""
    return nn.Embedding(vocab_size, config.width_of_embeddings)


def activation(config: ModelConfig) -> Callable[[Tensor], Tensor]:
    """The function inside the feed-forward; of gated ones, that of the gate."""
    gelu_tanh = functools.partial(F.gelu, approximate="tanh")
    return {
        "relu": F.relu,
        "gelu": F.gelu,
        "gelu_tanh": gelu_tanh,
        "silu": F.silu,
        "relu2": _squared_relu,
        "swiglu": F.silu,
        "geglu": F.gelu,
        "geglu_tanh": gelu_tanh,
    }[config.activation]


def _squared_relu(x: Tensor) -> Tensor:
    return F.relu(x).square()


@dataclass
class Blocks:
    """The classes of a model's parts. A plugin replaces some by its own, which are called with the same arguments.

    Linear maps of the layers start Xavier-uniform with biases of 0, the parameters of embeddings and positions normal;
    a part that wants otherwise defines the method ``initialise``. A part of a layer that depends on the depth defines
    ``at_depth(number, total)``: its stack calls it once, before ``initialise``, with the number of the layer, from 1,
    and the number of layers.
    """

    attention: Callable[..., nn.Module] = MultiHeadAttention
    """(config) to every attention for which the next two fields name no other class."""
    causal_attention: Callable[..., nn.Module] | None = None
    """(config) to the self-attention of a decoder."""
    cross_attention: Callable[..., nn.Module] | None = None
    """(config) to the attention of a decoder to the memory."""
    feed_forward: Callable[..., nn.Module] = FeedForward
    """(config) to the feed-forward, which maps [B, T, D] to [B, T, D]."""
    norm: Callable[..., nn.Module] = new_norm
    """(config, width) to a norm, which maps [..., width] to [..., width]."""
    positions: Callable[..., Positions] = new_positions
    """(config, causal) to the position scheme of a stack."""
    embedding: Callable[..., nn.Module] = new_embedding
    """(config, vocab_size) to a module that maps ids [B, T] to [B, T, E], where E is ``config.width_of_embeddings``.

    Its ``weight`` [V, E] is what ``model.tie_embeddings`` shares.
    """
    layer: Callable[..., nn.Module] = Layer
    """(config, blocks, causal=, cross=) to a layer."""
    stack: Callable[..., Stack] = Stack
    """(config, vocab_size, num_layers, blocks, causal=, cross=) to an encoder or a decoder."""
