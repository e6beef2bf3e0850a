"""Computes metrics of classification, by torchmetrics' functions on the outputs of all ranks.

A metric that is undefined on a split is left out, such as the area under a curve if all examples have the same class.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import csv
import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from multihead.errors import side_output

CALIBRATION_BINS = 15
"""Number of bins of the expected calibration error, as in Guo et al. 2017 (arXiv:1706.04599)."""

MOST_SHOWN = 12
"""A confusion matrix of at most so many classes is shown whole. The files always hold all classes."""
EXTREMES = 10
"""If there are more than twice so many classes, the screen shows so many of the best and of the worst by F1."""


def class_metrics(probabilities: Tensor, predicted: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Returns metrics of examples that have one class each.

    - ``accuracy``: the share of examples whose class is right.
    - ``f1/NAME``: F1 of each class.
    - ``macro_f1``: the mean F1 of the classes that occur or were predicted.
    - ``mcc``: Matthews' correlation coefficient, or 0 if it is 0/0.
    - ``auroc``: the area under the ROC curve of each class against the rest, as the mean over the classes.
    - ``ece``: the expected calibration error of the most probable class.

    Args:
        probabilities: Probability of each class [N, C].
        predicted: Numbers of the predicted classes [N].
        labels: Numbers of the true classes [N].
        names: Names of the classes.
    """
    from torchmetrics.functional import classification as functional  # takes seconds

    count = len(names)
    if len(labels) == 0:
        return {}
    f1 = functional.multiclass_f1_score(predicted, labels, count, average="none")
    metrics = {
        "accuracy": functional.multiclass_accuracy(predicted, labels, count, average="micro"),
        "macro_f1": functional.multiclass_f1_score(predicted, labels, count, average="macro"),
        "mcc": _mcc(predicted, labels, count),
        "ece": functional.multiclass_calibration_error(probabilities, labels, count, n_bins=CALIBRATION_BINS),
        **_mean_auroc(probabilities, torch.nn.functional.one_hot(labels, count)),
        **{f"f1/{name}": value for name, value in zip(names, f1, strict=True)},
    }
    return {name: float(value) for name, value in metrics.items()}


def label_set_metrics(
    probabilities: Tensor, predicted: Tensor, labels: Tensor, names: Sequence[str]
) -> dict[str, float]:
    """Returns metrics of examples that have any number of classes.

    - ``accuracy``: the share of examples for which exactly the right classes were predicted (subset accuracy).
    - ``f1/NAME``: F1 of each class, or 0 if the class neither occurs nor was predicted.
    - ``macro_f1``: the mean F1 of all classes, also of those.
    - ``micro_f1``: F1 of all decisions together, one for each example and class.
    - ``auroc``: as in `class_metrics`.
    - ``mcc`` and ``ece``: over all decisions, one for each example and class.

    Args:
        probabilities: Probability of each class [N, C].
        predicted: 1 for each predicted class, else 0 [N, C].
        labels: 1 for each class of the example, else 0 [N, C].
        names: Names of the classes.
    """
    from torchmetrics.functional import classification as functional

    if len(labels) == 0:
        return {}
    f1 = torch.stack([functional.binary_f1_score(predicted[:, i], labels[:, i]) for i in range(len(names))])
    each, truth = probabilities.flatten(), labels.flatten()
    metrics = {
        "accuracy": (predicted == labels).all(1).double().mean(),
        "macro_f1": f1.mean(),
        "micro_f1": functional.binary_f1_score(predicted.flatten(), truth),
        "mcc": _mcc(predicted.flatten(), truth, 2),
        "ece": functional.binary_calibration_error(each, truth, n_bins=CALIBRATION_BINS),
        **_mean_auroc(probabilities, labels),
        **{f"f1/{name}": value for name, value in zip(names, f1, strict=True)},
    }
    return {name: float(value) for name, value in metrics.items()}


def _mcc(predicted: Tensor, labels: Tensor, count: int) -> Tensor:
    """Returns Matthews' correlation coefficient for C classes (Gorodkin 2004), or 0 if it is 0/0, as scikit-learn does.

    torchmetrics gives other numbers if all predictions, or all labels, are of one class.

    Args:
        predicted: Numbers of the predicted classes [N].
        labels: Numbers of the true classes [N].
        count: The number of classes C.
    """
    chosen, true = (torch.bincount(x.long(), minlength=count).double() for x in (predicted, labels))  # [C]
    total, right = len(labels), (predicted == labels).sum().double()
    spread = (total**2 - chosen.square().sum()) * (total**2 - true.square().sum())
    covariance = right * total - chosen @ true
    return covariance / spread.sqrt() if spread > 0 else torch.zeros((), dtype=torch.float64)


def _mean_auroc(probabilities: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Returns the mean area under the ROC curve of the classes that some examples have and others do not."""
    from torchmetrics.functional import classification as functional

    number = truth.sum(0)
    defined = [int(i) for i in torch.nonzero((number > 0) & (number < len(truth))).flatten()]
    areas = [functional.binary_auroc(probabilities[:, i], truth[:, i]) for i in defined]
    return {"auroc": torch.stack(areas).mean()} if areas else {}


@dataclass
class Confusion:
    """A confusion matrix: it counts how often each class was predicted for each class."""

    names: list[str]
    """Names of the classes."""
    counts: list[list[int]]
    """If examples have one class each, [C][C] with a row for each class and a column for each prediction. Otherwise
    [C][4]: true positives, false positives, false negatives and true negatives of each class."""
    multi_label: bool = False
    """Whether examples can have any number of classes."""

    @classmethod
    def of(cls, predicted: Tensor, labels: Tensor, names: Sequence[str], multi_label: bool = False) -> Confusion:
        """Counts predictions and labels, as `class_metrics` or `label_set_metrics` take them."""
        count = len(names)
        if not multi_label:
            cells = torch.bincount(labels * count + predicted, minlength=count * count).view(count, count)
            return cls(list(names), cells.tolist())
        yes, true = predicted.bool(), labels.bool()
        cells = torch.stack([yes & true, yes & ~true, ~yes & true, ~yes & ~true]).sum(1).T
        return cls(list(names), cells.tolist(), multi_label=True)

    @property
    def columns(self) -> list[str]:
        """The names of the columns of `counts`."""
        outcomes = ["true positives", "false positives", "false negatives", "true negatives"]
        return outcomes if self.multi_label else self.names

    def rows(self) -> list[list[str | int]]:
        """Returns the table with its head: the first column names the class, the others count predictions."""
        corner = "class" if self.multi_label else "class \\ predicted"
        body = [[name, *row] for name, row in zip(self.names, self.counts, strict=True)]
        return [[corner, *self.columns], *body]

    def summary(self) -> list[list[str | int]]:
        """Returns the table with its head, or the most frequent confusions if there are many classes."""
        if self.multi_label or len(self.names) <= MOST_SHOWN:
            return self.rows()
        wrong = [
            [name, self.names[j], count]
            for i, (name, row) in enumerate(zip(self.names, self.counts, strict=True))
            for j, count in enumerate(row)
            if i != j and count
        ]
        wrong.sort(key=lambda cell: -cell[2])
        return [["class", "predicted as", "examples"], *wrong[:MOST_SHOWN]]

    def classes(self) -> list[list[str | int | float]]:
        """Returns F1, precision, recall and numbers of examples of each class, with a head. A score of 0/0 is 0."""
        found: list[list[str | int | float]] = []
        for place, (name, row) in enumerate(zip(self.names, self.counts, strict=True)):
            right = row[0] if self.multi_label else row[place]
            predicted = row[0] + row[1] if self.multi_label else sum(each[place] for each in self.counts)
            examples = row[0] + row[2] if self.multi_label else sum(row)
            scores = (2 * right, predicted + examples), (right, predicted), (right, examples)
            found.append([name, *(above / max(1, below) for above, below in scores), examples, predicted])
        return [["class", "f1", "precision", "recall", "examples", "predicted"], *found]

    def write_classes(self, folder: Path, name: str) -> list[list[str | int | float]]:
        """Writes ``NAME.csv`` with the scores of all classes; returns the best and the worst if there are many.

        The returned table is empty if there are at most twice `EXTREMES` classes.
        """
        head, *body = self.classes()
        with open(folder / f"{name}.csv", "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows([head, *body])
        if len(body) <= 2 * EXTREMES:
            return []
        shown = [[round(cell, 3) if isinstance(cell, float) else cell for cell in row] for row in body]
        shown.sort(key=lambda row: -float(row[1]))
        rest = f"... {len(body) - 2 * EXTREMES} more in {name}.csv"
        return [head, *shown[:EXTREMES], [rest, *[""] * (len(head) - 1)], *shown[-EXTREMES:]]

    def write(self, folder: Path, name: str) -> list[Path]:
        """Writes ``NAME.csv``, ``NAME.json`` and, if matplotlib is installed, ``NAME.png``."""
        files = [folder / f"{name}.csv", folder / f"{name}.json"]
        with open(files[0], "w", encoding="utf-8", newline="") as file:
            csv.writer(file, lineterminator="\n").writerows(self.rows())
        content = {"classes": self.names, "columns": self.columns, "counts": self.counts}
        files[1].write_text(json.dumps(content, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
        picture = folder / f"{name}.png"
        with side_output("the picture of the confusion matrix"):
            files += [picture] if self.draw(picture) else []
        return files

    def draw(self, path: Path) -> bool:
        """Draws the table, with each row shaded by its shares; returns False if matplotlib is not installed."""
        if importlib.util.find_spec("matplotlib") is None:
            return False
        from matplotlib.figure import Figure

        rows, columns = len(self.counts), len(self.counts[0])
        figure = Figure(figsize=(2 + 0.6 * max(columns, 4), 1.5 + 0.45 * max(rows, 4)), layout="constrained")
        axes = figure.subplots()
        shares = [[cell / max(1, sum(row)) for cell in row] for row in self.counts]
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1, aspect="auto")
        axes.set_xticks(range(columns), [_plain(name) for name in self.columns], rotation=45, ha="right")
        axes.set_yticks(range(rows), [_plain(name) for name in self.names])
        axes.set_xlabel("" if self.multi_label else "predicted")
        axes.set_ylabel("class")
        if rows * columns <= 400:
            for i, row in enumerate(self.counts):
                for j, cell in enumerate(row):
                    shade = "white" if shares[i][j] > 0.5 else "black"
                    axes.text(j, i, f"{cell:,}", ha="center", va="center", color=shade, fontsize=8)
        figure.savefig(path, dpi=120)
        return True


def _plain(name: str) -> str:
    r"""Returns at most 24 characters of a name, which matplotlib shows literally (``$`` would start a formula)."""
    cut = name if len(name) <= 24 else name[:23] + "…"
    return cut.replace("$", r"\$")
