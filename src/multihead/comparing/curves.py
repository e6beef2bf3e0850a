"""Curves of a comparison, drawn by matplotlib."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from multihead.comparing.report import Curve

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#a67c00", "#56b4e9", "#8a5cd0", "#7f7f7f")
"""Colours of systems, in turn (after Okabe & Ito). Colour-blind people can distinguish them."""
LINES = ("solid", "dashed", "dotted")
"""Lines of systems: each line is used with all colours before the next one."""
MAX_POINTS = 400
"""A curve is drawn with at most so many points."""


def stroke(system: int) -> tuple[str, str]:
    """Colour and line of a system's curves."""
    return COLOURS[system % len(COLOURS)], LINES[system // len(COLOURS) % len(LINES)]


def draw(curves: Sequence[Curve]) -> Figure:
    """Curves by step, in the colours and lines of their systems; a curve of one point is a dot."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6))
    axes = figure.add_subplot()
    for curve in curves:
        colour, line = stroke(curve.system)
        steps, values = zip(*thinned(curve.points), strict=True)
        marker = "o" if len(steps) == 1 else None
        axes.plot(steps, values, color=colour, linestyle=line, marker=marker, linewidth=1.3, alpha=0.85)
    axes.set_xlabel("step")
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def thinned(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """At most `MAX_POINTS` points, each the mean of as many neighbours, so that no peak depends on the choice."""
    size = math.ceil(len(points) / MAX_POINTS)
    groups = [points[i : i + size] for i in range(0, len(points), size)]
    return [(sum(x for x, _ in group) / len(group), sum(y for _, y in group) / len(group)) for group in groups]
