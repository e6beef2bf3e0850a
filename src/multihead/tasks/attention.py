"""Where the heads of a model look: the weights of each attention layer in one forward pass.

Shapes: B batch, T queries, S keys, D d_model, H heads, G key-value heads, K head_dim, P passes, L layers.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from multihead.config.extras import require_package
from multihead.model.positions import rotate
from multihead.model.transformer import MultiHeadAttention, Scope, Stack
from multihead.tasks.base import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

KINDS = ("encoder_self", "decoder_self", "decoder_cross")
"""Kinds of attention: that of the encoder, that of the decoder, and the decoder's attention to the encoder."""


@dataclass(frozen=True)
class AttentionMaps:
    """The weights of one kind of attention for one text."""

    weights: Tensor
    """[L, H, T, S]: for each layer and head, a row of weights for each query. A row sums to 1."""
    rows: list[str]
    """The T tokens that look, as people read them. Padding at the end is empty texts."""
    columns: list[str]
    """The S tokens that are looked at."""
    kind: str = ""
    """One of `KINDS`, for the title of a picture."""

    def plot(self) -> Axes:
        """Draws a grid of maps with a row for each layer and a column for each head, and returns the axes.

        It shows at most the first four layers, four heads and 24 tokens; the title says so if there are more.

        Raises:
            ConfigError: If matplotlib is not installed.
        """
        require_package("matplotlib", "maps.plot", "a picture")
        import matplotlib.pyplot as plt

        from multihead.tasks.attention_picture import draw

        return draw(plt.figure(), self)


def attention_weights(attention: MultiHeadAttention, x: Tensor, scope: Scope, memory: Tensor | None = None) -> Tensor:
    """Computes softmax(Q K^T / sqrt(K)) [B, H, T, S]; `MultiHeadAttention.forward` returns only its product with V.

    Args:
        attention: The layer.
        x: Queries [B, T, D].
        scope: What each query may attend to, as `MultiHeadAttention.forward` takes it.
        memory: The encoder's output [B, S, D]; None for self-attention.
    """
    context = x if memory is None else memory
    split = lambda y: y.unflatten(-1, (-1, attention.head_dim))  # noqa: E731
    query = attention.query_norm(split(attention.query(x)))  # [B, T, H, K]
    key = attention.key_norm(split(attention.key(context)))  # [B, S, G, K]
    if scope.rotation is not None:
        query, key = rotate(query, scope.rotation), rotate(key, scope.rotation)
    key = key.repeat_interleave(query.size(2) // key.size(2), dim=2)
    scores = torch.einsum("bthk,bshk->bhts", query.float(), key.float())
    scores = scores * (attention.scale or attention.head_dim**-0.5)
    if scope.causal:
        scores = scores.masked_fill(~torch.ones_like(scores, dtype=torch.bool).tril(), -torch.inf)
    if scope.mask is not None and scope.mask.dtype == torch.bool:
        scores = scores.masked_fill(~scope.mask, -torch.inf)
    elif scope.mask is not None:
        scores = scores + scope.mask
    return scores.softmax(-1)


@contextlib.contextmanager
def watched(model: nn.Module) -> Iterator[dict[str, Any]]:
    """Records each forward pass that runs inside this context.

    It yields a dictionary by module name. For the first example it holds the input ids of each stack, and of each
    attention layer the weights [P, H, T, S] of its P passes: one, or as many as layers share it. An attention layer
    that a plugin has put in place of `MultiHeadAttention` is left out.
    """
    seen: dict[str, Any] = {}
    handles = []

    def keep_tokens(name: str) -> Any:
        def hook(module: nn.Module, arguments: tuple, options: dict[str, Any]) -> None:
            seen[name] = arguments[0][0]

        return hook

    def keep_weights(name: str) -> Any:
        def hook(module: MultiHeadAttention, arguments: tuple, options: dict[str, Any]) -> None:
            x, scope, memory, *_ = (*arguments, None)
            dtype = module.query.weight.dtype
            with torch.autocast(x.device.type, enabled=False):
                memory = None if memory is None else memory.to(dtype)
                weights = attention_weights(module, x.to(dtype), scope, memory)[:1]
            seen[name] = torch.cat([seen[name], weights]) if name in seen else weights

        return hook

    for name, module in model.named_modules():
        if isinstance(module, Stack):
            handles.append(module.register_forward_pre_hook(keep_tokens(name), with_kwargs=True))
        elif type(module) is MultiHeadAttention:
            handles.append(module.register_forward_pre_hook(keep_weights(name), with_kwargs=True))
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def by_kind(task: Task, seen: Mapping[str, Any]) -> dict[str, AttentionMaps]:
    """Sorts what `watched` has recorded: a kind of `KINDS` to its maps, if the model has this kind.

    Args:
        task: The task that ran. Its tokenizers make the ids readable.
        seen: What `watched` yielded.
    """
    tokens = {name.rpartition(".")[2]: _tokens(task, name, ids) for name, ids in seen.items() if ids.dim() == 1}
    found = {}
    for kind in KINDS:
        stack, _, part = kind.partition("_")
        layers = [seen[name] for name in seen if f".{stack}.layers." in name and name.endswith(f"{part}_attention")]
        if layers:
            columns = tokens["encoder" if part == "cross" else stack]
            found[kind] = AttentionMaps(torch.cat(layers).cpu(), tokens[stack], columns, kind)
    return found


def _tokens(task: Task, stack: str, ids: Tensor) -> list[str]:
    """The tokens of a stack's input as readable text.

    The encoder reads source or text, the decoder reads target or text. If the task has no such tokenizer, as a plugin's
    task may, the ids themselves are returned.
    """
    tokenizers = task.tokenizers
    tokenizer = tokenizers.get("source" if stack.endswith("encoder") else "target", tokenizers.get("text"))
    if tokenizer is None:
        return [str(int(i)) for i in ids]
    real = len(ids) - next((n for n, i in enumerate(reversed(ids.tolist())) if i != tokenizer.pad_id), len(ids))
    return [*tokenizer.readable_all(ids[:real].tolist()), *[""] * (len(ids) - real)]


@torch.inference_mode()
def attention(task: Task, text: str, target: str = "") -> dict[str, AttentionMaps]:
    """The attention maps of one forward pass over a text; without a target, a task that writes reads its own output."""
    target = target or task.written(text)
    with watched(task.model) as seen:
        task.read(text, target)
    return by_kind(task, seen)
