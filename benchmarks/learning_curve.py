"""Draws learning curves: ``python benchmarks/learning_curve.py docs/curve.png RUN [RUN ...]``."""

from __future__ import annotations

import sys
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

from multihead.runs.files import read_metrics


def series(run: str, name: str) -> tuple[list[float], list[float]]:
    """Returns millions of target tokens seen, and the metric, for each row that has the metric."""
    rows = [row for row in read_metrics(Path(run, "metrics.csv")) if row.get(name)]
    return [float(row["tokens"]) / 1e6 for row in rows], [float(row[name]) for row in rows]


def draw(picture: str, runs: list[str]) -> None:
    """Draws training and validation loss beside validation BLEU, with one colour for each run."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), constrained_layout=True)
    for number, run in enumerate(runs):
        colour, label = f"C{number}", Path(run).name
        left.plot(*series(run, "train/loss"), color=colour, alpha=0.4, label=f"{label}: train (label-smoothed)")
        left.plot(*series(run, "val/loss"), color=colour, marker="o", label=f"{label}: validation")
        right.plot(*series(run, "val/bleu"), color=colour, marker="o", label=label)
    left.set(xlabel="target tokens (millions)", ylabel="nats per token", ylim=(1, 6))
    right.set(xlabel="target tokens (millions)", ylabel="validation BLEU")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)
    figure.savefig(picture, dpi=120)
    print(f"wrote {picture}")


if __name__ == "__main__":
    if len(sys.argv) < 3:
        sys.exit("usage: python benchmarks/learning_curve.py PICTURE RUN [RUN ...]")
    draw(sys.argv[1], sys.argv[2:])
