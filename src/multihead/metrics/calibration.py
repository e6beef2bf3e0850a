"""What is decided after training, on the validation split: a temperature and thresholds of classes.

Both stand in the capsule as ``model/calibration.json``; predict and evaluate use them from then on.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from multihead.config.check import require_choice
from multihead.config.verbs import read_criterion
from multihead.errors import CheckpointError, ConfigError

FILE = "calibration.json"
FORMAT = 1
COLDEST, HOTTEST = 1e-2, 1e2


@dataclass
class Threshold:
    """From which probability on a class is decided for, and why."""

    value: float
    """Least probability; above 1 never."""
    criterion: str
    """``precision:P`` or ``cost:C``, as `choose_threshold` takes it."""
    precision: float | None = None
    """Share of the validation rows decided for that are of the class; None if there are none."""
    recall: float | None = None
    """Share of the validation rows of the class that were decided for; None if there are none."""
    decided: int = 0
    """Validation rows decided for."""
    positives: int = 0
    """Validation rows of the class."""

    @classmethod
    def chosen(cls, scores: Tensor, positive: Tensor, criterion: str) -> Threshold:
        """The threshold that `choose_threshold` finds, with what it gives on the rows that it was chosen on.

        Args:
            scores: Probabilities of the class [N].
            positive: Whether rows are of the class [N].
            criterion: As `read_criterion` reads it.
        """
        value = choose_threshold(scores, positive, criterion)
        reached = scores >= value
        right, decided, positives = int((reached & positive).sum()), int(reached.sum()), int(positive.sum())
        share = lambda whole: right / whole if whole else None  # noqa: E731
        return cls(value, criterion, share(decided), share(positives), decided, positives)

    def said(self) -> str:
        """What it gives on the validation split, in words."""
        right = round((self.recall or 0) * self.positives)
        precision = (
            "none decided for" if self.precision is None else f"{self.precision:.4g} ({right} of {self.decided})"
        )
        recall = "no row of the class" if self.recall is None else f"{self.recall:.4g} ({right} of {self.positives})"
        return f"threshold {self.value:.4g} ({self.criterion}): precision {precision}, recall {recall}"


@dataclass
class Calibration:
    """How logits become probabilities, and probabilities decisions; as it is made, it changes nothing."""

    temperature: float = 1.0
    """Logits are divided by it (Guo et al. 2017, arXiv:1706.04599)."""
    thresholds: dict[str, Threshold] = field(default_factory=dict)
    """By class name."""

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """What a file says; a new one where there is no file.

        Raises:
            CheckpointError: The file is damaged.
        """
        if not path.is_file():
            return cls()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            thresholds = {name: Threshold(**entry) for name, entry in content["thresholds"].items()}
            made = cls(content["temperature"], thresholds)
            flaw = _flaw(made)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            flaw = f"{type(error).__name__}: {error}"
        if flaw:
            raise CheckpointError(str(path), f"is damaged ({flaw})", "delete it, and calibrate again")
        return made

    def save(self, path: Path) -> None:
        """Writes the file; beside it first, then renamed."""
        beside = path.with_name(path.name + ".tmp")
        content = json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False, indent=1)
        beside.write_text(content + "\n", encoding="utf-8")
        os.replace(beside, path)

    def probabilities(self, logits: Tensor, multi_label: bool = False) -> Tensor:
        """Of every class [N, C]; they sum to 1 unless examples have several classes."""
        logits = logits / self.temperature
        return logits.sigmoid() if multi_label else logits.softmax(-1)

    def nats(self, logits: Tensor, labels: Tensor, multi_label: bool = False) -> Tensor:
        """Mean -log p of the labels over examples (with several classes over examples and classes)."""
        logits = logits / self.temperature
        return (
            F.binary_cross_entropy_with_logits(logits, labels.to(logits))
            if multi_label
            else F.cross_entropy(logits, labels)
        )

    def decide(self, probabilities: Tensor, names: Sequence[str], multi_label: bool = False) -> Tensor:
        """The class of each example [N], or with several 1 for each class that it has [N, C].

        Of one class each: a class with a threshold is decided for where it reaches it (of several, the one that
        exceeds its own by the largest factor), else the most probable class without one. Of several: each class where
        it reaches its threshold, one half unless it has its own.
        """
        limits = [self.thresholds[name].value if name in self.thresholds else None for name in names]
        if multi_label:
            least = probabilities.new_tensor([0.5 if limit is None else limit for limit in limits])
            return (probabilities >= least).long()
        own = torch.tensor([limit is not None for limit in limits], device=probabilities.device)
        free = probabilities.masked_fill(own, -1.0) if not own.all() else probabilities
        if not own.any():
            return free.argmax(-1)
        least = probabilities.new_tensor([math.inf if limit is None else limit for limit in limits])
        factor, reached = (probabilities / least).max(-1)
        return torch.where(factor >= 1, reached, free.argmax(-1))

    def described(self) -> dict[str, Any]:
        """What metrics say of it; nothing where it changes nothing."""
        said: dict[str, Any] = {}
        if self.temperature != 1.0:
            said |= {"calibrated": True, "temperature": self.temperature}
        for name, threshold in self.thresholds.items():
            mark = f"/{name}" if len(self.thresholds) > 1 else ""
            said |= {f"threshold{mark}": threshold.value, f"threshold_criterion{mark}": threshold.criterion}
            on_val = {"precision": threshold.precision, "recall": threshold.recall}
            said |= {f"threshold_val_{what}{mark}": value for what, value in on_val.items() if value is not None}
        if len(self.thresholds) == 1:
            said["threshold_label"] = next(iter(self.thresholds))
        return said


@dataclass
class Request:
    """What ``evaluate`` is asked to decide: ``calibrate=true threshold=precision:0.99 threshold_label=spam``."""

    calibrate: bool | None = None
    """Fit a temperature; False takes it back, None leaves what stands."""
    threshold: str = ""
    """The criterion of a threshold, ``none`` to take thresholds back, or empty."""
    label: str = ""
    """The class that the threshold is of."""

    def fulfil(
        self, calibration: Calibration, logits: Tensor, labels: Tensor, names: Sequence[str], multi_label: bool = False
    ) -> Calibration:
        """The calibration with what was asked for, fitted on a validation split.

        A threshold that stands already is chosen anew by its criterion where the temperature changes.

        Args:
            calibration: What stands so far.
            logits: Of the validation split [N, C].
            labels: Its classes, [N], or [N, C] of 0 and 1.
            names: Of the classes.
            multi_label: Whether examples have any number of classes.

        Raises:
            ConfigError: There is no such class, or no threshold does what is asked.
        """
        logits = logits.double()
        temperature = calibration.temperature if self.calibrate is None else 1.0
        if self.calibrate:
            temperature = fit_temperature(logits, labels, multi_label)
        criteria = {name: threshold.criterion for name, threshold in calibration.thresholds.items()}
        if self.threshold == "none":
            criteria = {}
        elif self.threshold:
            require_choice("threshold_label", self.label, names)
            criteria = (criteria if multi_label else {}) | {self.label: self.threshold}
        result = Calibration(temperature)
        probabilities = result.probabilities(logits, multi_label)
        for name, criterion in criteria.items():
            number = list(names).index(name)
            positive = labels[:, number] == 1 if multi_label else labels == number
            result.thresholds[name] = Threshold.chosen(probabilities[:, number], positive, criterion)
        return result


def _flaw(made: Calibration) -> str:
    """Why a calibration can be none of ours; empty where it can."""
    numbers = {"temperature": made.temperature}
    numbers |= {f"threshold of {name}": threshold.value for name, threshold in made.thresholds.items()}
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
            return f"{name} {number!r}"
    for threshold in made.thresholds.values():
        shares = (threshold.precision, threshold.recall)
        if not isinstance(threshold.criterion, str):
            return "a criterion is no text"
        if not all(share is None or (isinstance(share, int | float) and 0 <= share <= 1) for share in shares):
            return "a precision or recall is no share"
    return "" if made.temperature > 0 else f"temperature {made.temperature}"


def fit_temperature(logits: Tensor, labels: Tensor, multi_label: bool = False) -> float:
    """The temperature of least negative log-likelihood (Guo et al. 2017, section 4.2), from 0.01 to 100; of equal ones
    the highest.

    The likelihood is concave in the inverse temperature, so that bisection of its derivative finds the maximum.

    Args:
        logits: [N, C].
        labels: [N], or [N, C] of 0 and 1.
        multi_label: Whether examples have any number of classes.
    """
    logits = logits.double()
    if multi_label:
        of_label = (logits * labels).sum()
    else:
        of_label = logits.gather(1, labels[:, None]).sum()

    def slope(inverse: float) -> float:
        """Derivative of the summed -log p by the inverse temperature."""
        scaled = logits * inverse
        expected = logits * (scaled.sigmoid() if multi_label else scaled.softmax(1))
        return float(expected.sum() - of_label)

    low, high = math.log(1 / HOTTEST), math.log(1 / COLDEST)
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if slope(math.exp(middle)) < 0 else (low, middle)
    return math.exp(-(low + high) / 2)


def choose_threshold(scores: Tensor, positive: Tensor, criterion: str) -> float:
    """The threshold, half-way between two scores, that a criterion asks for.

    ``precision:P``: the most positives found (the highest recall) where a share of at least P of what is decided for
    is right. ``cost:C``: the least cost, where a false positive costs C false negatives; of equal ones the highest.

    Args:
        scores: Probabilities of the class [N].
        positive: Whether examples are of the class [N].
        criterion: As `read_criterion` reads it.

    Raises:
        ConfigError: No threshold reaches the precision.
    """
    kind, number = read_criterion(criterion)
    order = scores.argsort(descending=True, stable=True)
    sorted_scores, hits = scores[order].double(), positive[order].long().cumsum(0)
    distinct = torch.ones(len(order), dtype=torch.bool, device=scores.device)
    distinct[:-1] = sorted_scores[:-1] != sorted_scores[1:]  # a cut below each distinct score
    ends = torch.nonzero(distinct).flatten()
    found, decided = hits[ends], ends + 1
    if kind == "precision":
        precision = found / decided
        enough = torch.nonzero((precision >= number) & (found > 0)).flatten()
        if len(enough) == 0:
            best = float(precision.max())
            what = f"no threshold reaches {criterion} on the validation split; the best precision is {best:.4g}"
            raise ConfigError("threshold", what, f"threshold=precision:{math.floor(best * 100) / 100:g}")
        reached = found[enough]
        place = int(enough[int((reached == reached.max()).long().argmax())])  # of equal recall the most precise
    else:
        cost = number * (decided - found) + (hits[-1] - found)
        place = int(cost.argmin())
        if float(hits[-1]) <= float(cost[place]):
            top = float(sorted_scores[0])
            return (top + 1) / 2 if top < 1 else math.nextafter(1.0, 2.0)
    upper = float(sorted_scores[ends[place]])
    lower = float(sorted_scores[ends[place + 1]]) if place + 1 < len(ends) else 0.0
    return (upper + lower) / 2
