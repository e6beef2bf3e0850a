"""Draws the attention weights of one example at the end of a run.

Fused kernels never store these weights, so they are computed here once more.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from multihead.tasks import attention_picture
from multihead.tasks.attention import AttentionMaps, by_kind, watched

if TYPE_CHECKING:
    from multihead.tasks.base import Task


@torch.no_grad()
def attention_maps(task: Task, batch: dict[str, Any]) -> dict[str, AttentionMaps]:
    """Returns the attention weights of the first example of a batch, for each kind of attention that the task has."""
    member, training = task.member(batch["task"]), task.training
    task.eval()
    with watched(task.model) as seen:
        member(batch)
    task.train(training)
    return {kind: maps for kind, maps in by_kind(member, seen).items() if any(maps.rows) and any(maps.columns)}


def draw(maps: AttentionMaps, path: Path) -> None:
    """Draws maps into a file."""
    from matplotlib.figure import Figure

    figure = Figure()
    attention_picture.draw(figure, maps)
    figure.savefig(path, dpi=80)


def draw_all(task: Task, batch: dict[str, Any], folder: Path) -> list[Path]:
    """Writes ``attention_KIND.png`` for each kind of attention that the task has.

    Raises:
        ImportError: matplotlib, which an extra installs, is missing.
    """
    import matplotlib  # noqa: F401

    paths = []
    for kind, maps in attention_maps(task, batch).items():
        folder.mkdir(exist_ok=True)
        paths.append(folder / f"attention_{kind}.png")
        draw(maps, paths[-1])
    return paths
