"""Which validation is the best so far: by the monitored metric, and between equals by the loss.

A metric that does not move says nothing: BLEU stays 0 while no output has four words in a row right, and accuracy stays
1 on an easy set. Then the loss decides, instead of the order in which checkpoints were validated.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

log = logging.getLogger("multihead")


def loss_beside(monitor: str, metrics: Mapping[str, float]) -> float:
    """The validation loss of the task that ``monitor`` belongs to; nan where there is none."""
    own = f"{monitor.rpartition('/')[0]}/loss"
    return float(metrics.get(own, metrics.get("val/loss", math.nan)))


def is_better(value: float, loss: float, best: float, best_loss: float, mode: str) -> bool:
    """Whether a validation is better than the best so far.

    Args:
        value: Of the monitored metric; nan where the split does not define it, which is worse than any number.
        loss: Of the same validation; nan where there is none.
        best: The metric's best value so far; nan where there is none.
        best_loss: The loss that came with it.
        mode: min or max.
    """
    if value != best and not (math.isnan(value) and math.isnan(best)):
        return math.isnan(best) or (value > best if mode == "max" else value < best)
    return loss < best_loss or (math.isnan(best_loss) and not math.isnan(loss))


def never_moved(values: Sequence[float]) -> bool:
    """Whether a metric was the same, or not defined, at all of at least two validations."""
    return len(values) >= 2 and (len(set(values)) == 1 or all(map(math.isnan, values)))


def judge(monitor: str, mode: str, metrics: Mapping[str, float], best: Mapping[str, Any]) -> tuple[float, bool]:
    """The monitored metric among those of a validation, nan where it is not defined, and whether it is the best.

    Args:
        monitor: ``task.monitor``.
        mode: min or max.
        metrics: Of this validation, by logged name.
        best: ``value`` and ``metrics`` of the best one so far; empty where there is none.
    """
    value = float(metrics.get(monitor, math.nan))
    if not best:
        return value, True
    best_loss = loss_beside(monitor, best["metrics"])
    return value, is_better(value, loss_beside(monitor, metrics), float(best["value"]), best_loss, mode)


def say_unmoved(monitor: str, values: Sequence[float]) -> None:
    """A warning at the third validation where the monitored metric has not moved since the first."""
    if len(values) == 3 and never_moved(values):
        was = "is not defined" if math.isnan(values[0]) else f"is {values[0]:g}"
        log.warning("%s %s at each of 3 validations: the loss decides which checkpoint is best", monitor, was)
