"""A temperature and thresholds of classes, which are fitted on the validation split after training.

A run directory keeps them in ``model/calibration.json``; ``predict`` and ``evaluate`` use them from then on.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import json
import math
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
    """The probability from which on a text is classified as one class, and what it gives on the validation split."""

    value: float
    """It is the least probability; if it is above 1, no text is classified as the class."""
    criterion: str
    """It is ``precision:P`` or ``cost:C``, as `choose_threshold` takes it."""
    precision: float | None = None
    """Share of the texts classified as the class that really are of the class; None if there are none."""
    recall: float | None = None
    """Share of the texts of the class that are classified as the class; None if there are none."""
    decided: int = 0
    """Number of texts that are classified as the class."""
    positives: int = 0
    """Number of texts of the class."""

    @classmethod
    def chosen(cls, scores: Tensor, positive: Tensor, criterion: str) -> Threshold:
        """The threshold that `choose_threshold` finds, with its precision and recall; arguments as there."""
        value = choose_threshold(scores, positive, criterion)
        reached = scores >= value
        right, decided, positives = int((reached & positive).sum()), int(reached.sum()), int(positive.sum())
        share = lambda whole: right / whole if whole else None  # noqa: E731
        return cls(value, criterion, share(decided), share(positives), decided, positives)

    def __str__(self) -> str:
        right = round((self.recall or 0) * self.positives)
        precision, recall = "not defined (no text is classified as it)", "not defined (no text is of the class)"
        if self.precision is not None:
            precision = f"{self.precision:.4g} ({right} of {self.decided})"
        if self.recall is not None:
            recall = f"{self.recall:.4g} ({right} of {self.positives})"
        return f"threshold {self.value:.4g} ({self.criterion}): precision {precision}, recall {recall}"


@dataclass
class Calibration:
    """How logits become probabilities, and probabilities decisions; the defaults change nothing."""

    temperature: float = 1.0
    """Logits are divided by it (Guo et al. 2017, arXiv:1706.04599)."""
    thresholds: dict[str, Threshold] = field(default_factory=dict)
    """It maps names of classes to thresholds."""

    @classmethod
    def load(cls, path: Path) -> Calibration:
        """The calibration in a file; the default one if there is no file.

        Raises:
            CheckpointError: The file is damaged.
        """
        if not path.is_file():
            return cls()
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
            thresholds = {name: Threshold(**entry) for name, entry in content["thresholds"].items()}
            read = cls(content["temperature"], thresholds)
            flaw = _flaw(read)
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            flaw = f"{type(error).__name__}: {error}"
        if flaw:
            raise CheckpointError(str(path), f"is damaged ({flaw})", "delete it, and calibrate again")
        return read

    def content(self) -> bytes:
        """Returns the content of the file that `read` reads."""
        return (json.dumps({"format": FORMAT, **asdict(self)}, ensure_ascii=False, indent=1) + "\n").encode()

    def probabilities(self, logits: Tensor, multi_label: bool = False) -> Tensor:
        """Probabilities of the classes [N, C] from logits [N, C]; with ``multi_label``, each class by itself."""
        logits = logits / self.temperature
        return logits.sigmoid() if multi_label else logits.softmax(-1)

    def nats(self, logits: Tensor, labels: Tensor, multi_label: bool = False) -> Tensor:
        """Mean -log p of the labels over examples; with ``multi_label``, over examples and classes."""
        logits = logits / self.temperature
        return (
            F.binary_cross_entropy_with_logits(logits, labels.to(logits))
            if multi_label
            else F.cross_entropy(logits, labels)
        )

    def decide(self, probabilities: Tensor, names: Sequence[str], multi_label: bool = False) -> Tensor:
        """The class of each example [N]; with ``multi_label``, 1 for each class that it has [N, C].

        If examples have one class each, the answer is a class that reaches its threshold: the one that exceeds it by
        the largest factor. If none does, it is the most probable class without a threshold. With ``multi_label``, an
        example has each class that reaches its threshold; classes without a threshold of their own have one half.
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

    def facts(self) -> dict[str, Any]:
        """Entries of result.json about it; none if it changes nothing."""
        facts: dict[str, Any] = {}
        if self.temperature != 1.0:
            facts |= {"calibrated": True, "temperature": self.temperature}
        for name, threshold in self.thresholds.items():
            mark = f"/{name}" if len(self.thresholds) > 1 else ""
            facts |= {f"threshold{mark}": threshold.value, f"threshold_criterion{mark}": threshold.criterion}
            on_val = {"precision": threshold.precision, "recall": threshold.recall}
            facts |= {f"threshold_val_{what}{mark}": value for what, value in on_val.items() if value is not None}
        if len(self.thresholds) == 1:
            facts["threshold_label"] = next(iter(self.thresholds))
        return facts

    def refit(
        self,
        logits: Tensor,
        labels: Tensor,
        names: Sequence[str],
        multi_label: bool = False,
        *,
        temperature: bool | None = None,
        threshold: str = "",
        label: str = "",
    ) -> Calibration:
        """Another calibration, fitted on a validation split. Existing thresholds are chosen again by their criteria.

        Args:
            logits: Logits of the validation split [N, C].
            labels: Its classes: numbers [N], or 0 and 1 for each class [N, C].
            names: Names of the classes.
            multi_label: Whether examples have any number of classes.
            temperature: True fits one, False sets it to 1, None keeps the present one.
            threshold: The criterion of one more threshold, ``none`` to drop all thresholds, or empty.
            label: The class that the threshold is for.

        Raises:
            ConfigError: There is no such class, or no threshold meets the criterion.
        """
        logits = logits.double()
        degrees = self.temperature if temperature is None else 1.0
        if temperature:
            degrees = fit_temperature(logits, labels, multi_label)
        criteria = {name: chosen.criterion for name, chosen in self.thresholds.items()}
        if threshold == "none":
            criteria = {}
        elif threshold:
            require_choice("threshold_label", label, names)
            criteria = (criteria if multi_label else {}) | {label: threshold}
        result = Calibration(degrees)
        probabilities = result.probabilities(logits, multi_label)
        for name, criterion in criteria.items():
            number = list(names).index(name)
            positive = labels[:, number] == 1 if multi_label else labels == number
            result.thresholds[name] = Threshold.chosen(probabilities[:, number], positive, criterion)
        return result


def _flaw(read: Calibration) -> str:
    """What is wrong with the numbers that a file gave; empty if nothing is."""
    numbers = {"temperature": read.temperature}
    numbers |= {f"threshold of {name}": threshold.value for name, threshold in read.thresholds.items()}
    for name, number in numbers.items():
        if isinstance(number, bool) or not isinstance(number, int | float) or not 0 <= number < math.inf:
            return f"{name} {number!r}"
    for threshold in read.thresholds.values():
        shares = (threshold.precision, threshold.recall)
        if not isinstance(threshold.criterion, str):
            return "a criterion that is not a text"
        if not all(share is None or (isinstance(share, int | float) and 0 <= share <= 1) for share in shares):
            return "a precision or recall outside of [0, 1]"
    return "" if read.temperature > 0 else f"temperature {read.temperature}"


def fit_temperature(logits: Tensor, labels: Tensor, multi_label: bool = False) -> float:
    """The temperature with the least -log p of the labels (Guo et al. 2017, section 4.2), in [0.01, 100].

    The likelihood is concave in the inverse temperature, so that bisection of its derivative finds the maximum. If
    several temperatures are equally good, the result is the highest.

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
    """The threshold that a criterion asks for. It lies half-way between two scores.

    ``precision:P`` is the threshold with the highest recall at which at least the share P of the texts classified as
    the class really are of the class. ``cost:C`` is the highest threshold of least cost, if a false positive costs as
    much as C false negatives.

    Args:
        scores: Probabilities of the class [N].
        positive: Whether texts are of the class [N].
        criterion: A text that `read_criterion` reads.

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
