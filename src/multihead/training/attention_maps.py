"""Draws where each head looks: the attention weights of one example.

Fused kernels never store these weights, so they are computed here once more.
"""

from __future__ import annotations

import contextlib
import itertools
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from multihead.model.positions import rotate
from multihead.model.transformer import MultiHeadAttention, Scope, Stack

if TYPE_CHECKING:
    from multihead.tasks.base import Task

MOST_TOKENS = 24
"""Largest number of tokens that a picture shows of each side."""
MOST_LAYERS = MOST_HEADS = 4
"""Largest number of layers, and of heads in each layer, that a picture shows."""
CHARACTER = 0.08
"""Width of a character in a label, in inches."""
GAP = 3
"""Number of empty rows of the image above each layer; the captions of its heads take two of them."""
TITLES = {
    "encoder_self": "encoder, self-attention",
    "decoder_self": "decoder, self-attention",
    "decoder_cross": "decoder, attention to the encoder",
}


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

    It yields a dictionary by module name. For the first example it holds the input ids of each stack and the weights of
    each attention layer. An attention layer that a plugin has put in place of `MultiHeadAttention` is left out.
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
                seen[name] = attention_weights(module, x.to(dtype), scope, memory)[0]

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


@torch.no_grad()
def attention_maps(task: Task, batch: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Returns the attention weights of the first example of a batch, for each kind in `TITLES` that the task has.

    Each value holds ``weights`` [layers, H, T, S], cut to what a picture shows, and the tokens of its ``rows`` and
    ``columns``.
    """
    member, training = task.member(batch["task"]), task.training
    task.eval()
    with watched(task.model) as seen:
        member(batch)
    task.train(training)
    tokens = {name.rpartition(".")[2]: _tokens(member, name, ids) for name, ids in seen.items() if ids.dim() == 1}
    found: dict[str, dict[str, Any]] = {}
    for kind in TITLES:
        stack, _, part = kind.partition("_")
        names = [name for name in seen if f".{stack}.layers." in name and name.endswith(f"{part}_attention")]
        columns = tokens.get("encoder" if part == "cross" else stack, [])
        rows = tokens.get(stack, [])
        if names and rows and columns:
            shown = [seen[name][:MOST_HEADS, : len(rows), : len(columns)].cpu() for name in names[:MOST_LAYERS]]
            found[kind] = {"weights": torch.stack(shown), "rows": rows, "columns": columns}
    return found


def _tokens(member: Task, stack: str, ids: Tensor) -> list[str]:
    """Returns the first tokens of a stack's input as readable text.

    The encoder reads source or text, the decoder reads target or text. If the task has no such tokenizer, as a plugin's
    task may, the ids themselves are returned.
    """
    tokenizers = member.tokenizers
    tokenizer = tokenizers.get("source" if stack.endswith("encoder") else "target", tokenizers.get("text"))
    if tokenizer is None:
        return [str(int(i)) for i in ids[:MOST_TOKENS]]
    real = [int(i) for i in ids if int(i) != tokenizer.pad_id][:MOST_TOKENS]
    return [tokenizer.readable(i) for i in real]


def draw(found: dict[str, Any], title: str, path: Path) -> None:
    """Draws a grid of maps with a row for each layer and a column for each head; it needs matplotlib.

    All maps are drawn as one image, because one axis for each map would take seconds.
    """
    from matplotlib.figure import Figure

    weights, rows, columns = found["weights"], found["rows"], found["columns"]
    layers, heads, height, width = weights.shape
    below, beside = height + GAP, width + 1
    grid = torch.full((layers * below - 1, heads * beside - 1), math.nan)
    for layer, head in itertools.product(range(layers), range(heads)):
        first = layer * below + GAP - 1, head * beside
        grid[first[0] : first[0] + height, first[1] : first[1] + width] = weights[layer, head]
    rows, columns = _plain(rows), _plain(columns)
    left, bottom = (0.2 + CHARACTER * max(map(len, labels)) for labels in (rows, columns))
    inner, outer = (0.16 * grid.size(1), 0.16 * grid.size(0)), (0.1, 0.3)  # inches
    size = left + inner[0] + outer[0], bottom + inner[1] + outer[1]
    figure = Figure(figsize=size)
    place = left / size[0], bottom / size[1], inner[0] / size[0], inner[1] / size[1]
    axes = figure.add_axes(place, frameon=False)
    axes.imshow(grid.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for layer, head in itertools.product(range(layers), range(heads)):
        place = head * beside - 0.5, layer * below + GAP - 2
        axes.text(*place, f"layer {layer + 1}, head {head + 1}", fontsize=8, va="bottom")
    below_all = [head * beside + place for head in range(heads) for place in range(width)]
    axes.set_xticks(below_all, columns * heads, rotation=90, fontsize=7)
    beside_all = [layer * below + GAP - 1 + place for layer in range(layers) for place in range(height)]
    axes.set_yticks(beside_all, rows * layers, fontsize=7)
    axes.tick_params(length=0)
    axes.set_title(title, fontsize=10)
    figure.savefig(path, dpi=80)


def _plain(tokens: Sequence[str]) -> list[str]:
    return [token[:12].replace("$", r"\$") for token in tokens]


def draw_all(task: Task, batch: dict[str, Any], folder: Path) -> list[Path]:
    """Writes ``attention_KIND.png`` for each kind of attention that the task has.

    Raises:
        ImportError: matplotlib, which an extra installs, is missing.
    """
    import matplotlib  # noqa: F401

    paths = []
    for kind, found in attention_maps(task, batch).items():
        folder.mkdir(exist_ok=True)
        paths.append(folder / f"attention_{kind}.png")
        draw(found, TITLES[kind], paths[-1])
    return paths
