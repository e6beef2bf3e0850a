"""Draws where each head looks: the attention weights of one example.

Fused kernels never store these weights, so they are computed here once more.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from multihead.tasks.attention import by_kind, watched

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
    found: dict[str, dict[str, Any]] = {}
    for kind, maps in by_kind(member, seen).items():
        rows, columns = ([token for token in side if token][:MOST_TOKENS] for side in (maps.rows, maps.columns))
        if rows and columns:
            shown = maps.weights[:MOST_LAYERS, :MOST_HEADS, : len(rows), : len(columns)]
            found[kind] = {"weights": shown, "rows": rows, "columns": columns}
    return found


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
