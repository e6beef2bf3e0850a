"""Metrics of classification: the outputs of all ranks, gathered once, and torchmetrics' functions on them.

What cannot be said of a split (the area under a curve where all examples are of one class) is left out.

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
from torchmetrics import Metric
from torchmetrics.functional import classification as functional
from torchmetrics.utilities import dim_zero_cat

from multihead.errors import side_output

CALIBRATION_BINS = 15
"""Of the expected calibration error, as in Guo et al. 2017 (arXiv:1706.04599)."""

MOST_SHOWN = 12
"""Classes up to which a confusion matrix is shown whole; the files always are."""


class Outputs(Metric):
    """Logits [N, C] and labels ([N], or [N, C] of 0 and 1) of all examples of all ranks.

    Args:
        num_classes: C.
        multi_label: Whether labels are [N, C].
    """

    is_differentiable = False
    full_state_update = False
    logits: list[Tensor]
    labels: list[Tensor]

    def __init__(self, num_classes: int, multi_label: bool):
        super().__init__()
        self.num_classes, self.multi_label = num_classes, multi_label
        self.add_state("logits", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, logits: Tensor, labels: Tensor) -> None:
        """Adds a batch, which may be empty; every rank adds at least one."""
        self.logits.append(logits.detach().double())
        self.labels.append(labels)

    def compute(self) -> tuple[Tensor, Tensor]:
        """All logits (float64) and all labels."""
        return dim_zero_cat(self.logits), dim_zero_cat(self.labels)


def class_metrics(probabilities: Tensor, predicted: Tensor, labels: Tensor, names: Sequence[str]) -> dict[str, float]:
    """Metrics of examples with one class each.

    ``accuracy``; ``f1/NAME`` of each class and their mean ``macro_f1`` over the classes that occur or were predicted;
    ``mcc`` (Matthews' correlation coefficient, 0 where it is 0/0); ``auroc``, the mean over classes of one against the
    rest; ``ece``, the expected calibration error of the most probable class.

    Args:
        probabilities: [N, C].
        predicted: Numbers of the classes decided for [N].
        labels: Numbers of the classes [N].
        names: Of the classes.
    """
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
    """Metrics of examples with any number of classes.

    ``accuracy`` is the share of examples all of whose classes are right, and none besides (subset accuracy);
    ``f1/NAME`` of each class, 0 for one that neither occurs nor was predicted, and their mean ``macro_f1`` over all
    classes, those included; ``auroc`` as in `class_metrics`; ``mcc`` and ``ece`` are over all decisions, one for each
    example and class.

    Args:
        probabilities: [N, C].
        predicted: 1 for each class decided for [N, C].
        labels: 1 for each class of the example [N, C].
        names: Of the classes.
    """
    count = len(names)
    if len(labels) == 0:
        return {}
    f1 = functional.multilabel_f1_score(predicted, labels, count, average="none")
    each, truth = probabilities.flatten(), labels.flatten()
    metrics = {
        "accuracy": functional.multilabel_exact_match(predicted, labels, count),
        "macro_f1": functional.multilabel_f1_score(predicted, labels, count, average="macro"),
        "mcc": _mcc(predicted.flatten(), truth, 2),
        "ece": functional.binary_calibration_error(each, truth, n_bins=CALIBRATION_BINS),
        **_mean_auroc(probabilities, labels),
        **{f"f1/{name}": value for name, value in zip(names, f1, strict=True)},
    }
    return {name: float(value) for name, value in metrics.items()}


def _mcc(predicted: Tensor, labels: Tensor, count: int) -> Tensor:
    """Matthews' correlation coefficient for C classes (Gorodkin 2004), as scikit-learn has it: 0 where it is 0/0.

    torchmetrics gives other numbers where all predictions, or all labels, are of one class.

    Args:
        predicted: Numbers of the classes decided for [N].
        labels: Numbers of the classes [N].
        count: C.
    """
    chosen, true = (torch.bincount(x.long(), minlength=count).double() for x in (predicted, labels))  # [C]
    total, right = len(labels), (predicted == labels).sum().double()
    spread = (total**2 - chosen.square().sum()) * (total**2 - true.square().sum())
    covariance = right * total - chosen @ true
    return covariance / spread.sqrt() if spread > 0 else torch.zeros((), dtype=torch.float64)


def _mean_auroc(probabilities: Tensor, truth: Tensor) -> dict[str, Tensor]:
    """Mean area under the ROC curve over the classes that some examples have and some have not."""
    number = truth.sum(0)
    defined = [int(i) for i in torch.nonzero((number > 0) & (number < len(truth))).flatten()]
    areas = [functional.binary_auroc(probabilities[:, i], truth[:, i]) for i in defined]
    return {"auroc": torch.stack(areas).mean()} if areas else {}


@dataclass
class Confusion:
    """How often which class was taken for which."""

    names: list[str]
    """Of the classes."""
    counts: list[list[int]]
    """[C][C] of one class each: row the class, column the prediction. Of several: [C][4], true positives, false
    positives, false negatives, true negatives of each class."""
    multi_label: bool = False
    """Whether examples have any number of classes."""

    @classmethod
    def of(cls, predicted: Tensor, labels: Tensor, names: Sequence[str], multi_label: bool = False) -> Confusion:
        """Counted from decisions and labels as in `class_metrics` or `label_set_metrics`."""
        count = len(names)
        if not multi_label:
            cells = torch.bincount(labels * count + predicted, minlength=count * count).view(count, count)
            return cls(list(names), cells.tolist())
        yes, true = predicted.bool(), labels.bool()
        cells = torch.stack([yes & true, yes & ~true, ~yes & true, ~yes & ~true]).sum(1).T
        return cls(list(names), cells.tolist(), multi_label=True)

    @property
    def columns(self) -> list[str]:
        """Heads of the columns of `counts`."""
        outcomes = ["true positives", "false positives", "false negatives", "true negatives"]
        return outcomes if self.multi_label else self.names

    def rows(self) -> list[list[str | int]]:
        """The table with a head: the first column names the class, the others count predictions."""
        corner = "class" if self.multi_label else "class \\ predicted"
        body = [[name, *row] for name, row in zip(self.names, self.counts, strict=True)]
        return [[corner, *self.columns], *body]

    def summary(self) -> list[list[str | int]]:
        """The table, or of many classes the most frequent confusions, with a head."""
        if self.multi_label or len(self.names) <= MOST_SHOWN:
            return self.rows()
        wrong = [
            [name, self.names[j], count]
            for i, (name, row) in enumerate(zip(self.names, self.counts, strict=True))
            for j, count in enumerate(row)
            if i != j and count
        ]
        wrong.sort(key=lambda cell: -cell[2])
        return [["class", "taken for", "examples"], *wrong[:MOST_SHOWN]]

    def write(self, folder: Path, name: str) -> list[Path]:
        """Writes ``NAME.csv``, ``NAME.json`` and, where matplotlib is installed, ``NAME.png``."""
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
        """A picture, each row shaded by its shares; False where matplotlib, an extra, is not installed."""
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
    r"""A class name that matplotlib takes literally (``$`` would start a formula), at most 24 characters."""
    cut = name if len(name) <= 24 else name[:23] + "…"
    return cut.replace("$", r"\$")
