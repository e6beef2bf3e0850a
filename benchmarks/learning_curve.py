"""Draws learning curves: ``python benchmarks/learning_curve.py docs/curve.png RUN [RUN ...] [metric=val/bleu]``."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from rounds import split_words

from multihead.runs.files import read_metrics

AXES = {"tokens": ("target tokens (millions)", 1e6), "seconds": ("minutes, with validations", 60.0)}
"""What a curve may run along, each a column of metrics.csv: its label, and the unit in that column's units."""


def series(run: str, name: str, along: str = "tokens") -> tuple[list[float], list[float]]:
    """Returns places on an axis of `AXES`, and the metric there, for each row that has the metric."""
    rows = [row for row in read_metrics(Path(run, "metrics.csv")) if row.get(name)]
    return [float(row[along]) / AXES[along][1] for row in rows], [float(row[name]) for row in rows]


def draw(picture: str, runs: list[str], metric: str) -> None:
    """Draws training and validation loss beside a metric by tokens and by minutes, with one colour for each run."""
    figure, (left, *right) = plt.subplots(1, 3, figsize=(13, 3.8), constrained_layout=True)
    for number, run in enumerate(runs):
        colour, label = f"C{number}", Path(run).name
        left.plot(*series(run, "train/loss"), color=colour, alpha=0.4, label=f"{label}: train (label-smoothed)")
        left.plot(*series(run, "val/loss"), color=colour, marker="o", label=f"{label}: validation")
        for axes, along in zip(right, AXES, strict=True):
            axes.plot(*series(run, metric, along), color=colour, marker="o", label=label)
    left.set(xlabel=AXES["tokens"][0], ylabel="nats per token", ylim=(1, 6))
    for axes, along in zip(right, AXES, strict=True):
        axes.set(xlabel=AXES[along][0], ylabel=metric)
    for axes in (left, *right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(picture, dpi=120)
    print(f"wrote {picture}")


if __name__ == "__main__":
    settings, paths = split_words(sys.argv[1:], {"metric": "val/bleu"})
    if len(paths) < 2:
        raise SystemExit(__doc__)
    draw(paths[0], paths[1:], settings["metric"])
