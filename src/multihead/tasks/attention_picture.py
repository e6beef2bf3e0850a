"""Draws where each head looks, as a grid of maps. It needs matplotlib, which an extra installs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

    from multihead.tasks.attention import AttentionMaps

MOST_TOKENS = 24
"""Largest number of tokens that a picture shows of each side."""
MOST_LAYERS = MOST_HEADS = 4
"""Largest number of layers, and of heads in each layer, that a picture shows."""
CHARACTER = 0.08
"""Width of a character in a label, in inches."""
CELL = 0.16
"""Width and height of a weight, in inches."""
GAP = 3
"""Number of empty rows of the image above each layer; the captions of its heads take two of them."""
TITLES = {
    "encoder_self": "encoder, self-attention",
    "decoder_self": "decoder, self-attention",
    "decoder_cross": "decoder, attention to the encoder",
}


def draw(figure: Figure, maps: AttentionMaps) -> Axes:
    """Draws maps into an empty figure, whose size it sets, and returns the axes.

    All maps are drawn as one image, because one axis for each map would take seconds.
    """
    rows, columns = ([token for token in side if token][:MOST_TOKENS] for side in (maps.rows, maps.columns))
    weights = maps.weights[:MOST_LAYERS, :MOST_HEADS, : len(rows), : len(columns)]
    layers, heads, height, width = weights.shape
    below, beside = height + GAP, width + 1
    grid = torch.full((layers * below - 1, heads * beside - 1), math.nan)
    for layer, head in itertools.product(range(layers), range(heads)):
        first = layer * below + GAP - 1, head * beside
        grid[first[0] : first[0] + height, first[1] : first[1] + width] = weights[layer, head]
    rows, columns = _plain(rows), _plain(columns)
    left, bottom = (0.2 + CHARACTER * max(map(len, labels)) for labels in (rows, columns))
    inner, outer = (CELL * grid.size(1), CELL * grid.size(0)), (0.1, 0.5)  # inches
    size = left + inner[0] + outer[0], bottom + inner[1] + outer[1]
    figure.set_size_inches(size)
    place = left / size[0], bottom / size[1], inner[0] / size[0], inner[1] / size[1]
    axes = figure.add_axes(place, frameon=False)
    axes.imshow(grid.numpy(), cmap="Blues", vmin=0, vmax=1, aspect="auto", interpolation="nearest")
    for layer, head in itertools.product(range(layers), range(heads)):
        corner = head * beside - 0.5, layer * below + GAP - 2
        axes.text(*corner, f"layer {layer + 1}, head {head + 1}", fontsize=8, va="bottom")
    below_all = [head * beside + place for head in range(heads) for place in range(width)]
    axes.set_xticks(below_all, columns * heads, rotation=90, fontsize=7)
    beside_all = [layer * below + GAP - 1 + place for layer in range(layers) for place in range(height)]
    axes.set_yticks(beside_all, rows * layers, fontsize=7)
    axes.tick_params(length=0)
    axes.set_title("\n".join([TITLES.get(maps.kind, maps.kind), *_left_out(maps)]), fontsize=10, loc="left")
    return axes


def _left_out(maps: AttentionMaps) -> list[str]:
    """A line about what the picture does not show, or none."""
    sizes = {"layers": (maps.weights.size(0), MOST_LAYERS), "heads": (maps.weights.size(1), MOST_HEADS)}
    sizes["tokens"] = max(sum(map(bool, side)) for side in (maps.rows, maps.columns)), MOST_TOKENS
    parts = [f"{most} of {size} {name}" for name, (size, most) in sizes.items() if size > most]
    return [f"the first {', '.join(parts)}"] if parts else []


def _plain(tokens: Sequence[str]) -> list[str]:
    return [token[:12].replace("$", r"\$") for token in tokens]
