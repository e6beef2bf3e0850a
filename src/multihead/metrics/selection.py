"""Decides which validation is the best so far, by the monitored metric; if two are equal, the loss decides.

Some metrics do not change for a long time. BLEU stays 0 until an output has four words in a row right, and accuracy
stays 1 on an easy data set. The first validation would then always count as the best, if the loss did not decide.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

log = logging.getLogger("multihead")


def loss_beside(monitor: str, metrics: Mapping[str, float]) -> float:
    """The validation loss of the task that ``monitor`` belongs to, or nan if there is none."""
    own = f"{monitor.rpartition('/')[0]}/loss"
    return float(metrics.get(own, metrics.get("val/loss", math.nan)))


def is_better(value: float, loss: float, best: float, best_loss: float, mode: str) -> bool:
    """Whether a validation is better than the best so far.

    Args:
        value: The monitored metric; nan if it is undefined on the split, which is worse than any number.
        loss: The loss of the same validation, or nan if there is none.
        best: The metric of the best validation so far, or nan.
        best_loss: The loss of the best validation so far, or nan.
        mode: Whether a smaller or a larger metric is better: min or max.
    """
    if value != best and not (math.isnan(value) and math.isnan(best)):
        return math.isnan(best) or (value > best if mode == "max" else value < best)
    return loss < best_loss or (math.isnan(best_loss) and not math.isnan(loss))


def never_moved(values: Sequence[float]) -> bool:
    """Whether a metric had the same value, or was undefined, at all of at least two validations."""
    return len(values) >= 2 and (len(set(values)) == 1 or all(map(math.isnan, values)))


def judge(monitor: str, mode: str, metrics: Mapping[str, float], best: Mapping[str, Any]) -> tuple[float, bool]:
    """Compares a validation with the best one so far.

    Args:
        monitor: The monitored metric, which is ``task.monitor``.
        mode: Whether a smaller or a larger metric is better: min or max.
        metrics: The metrics of this validation by their logged names.
        best: ``value`` and ``metrics`` of the best validation so far; empty if this is the first one.

    Returns:
        The monitored metric, which is nan if it is undefined, and whether this validation is the best.
    """
    value = float(metrics.get(monitor, math.nan))
    if not best:
        return value, True
    best_loss = loss_beside(monitor, best["metrics"])
    return value, is_better(value, loss_beside(monitor, metrics), float(best["value"]), best_loss, mode)


def say_unmoved(monitor: str, values: Sequence[float]) -> None:
    """Logs a warning at the third validation, if the monitored metric has not changed since the first one."""
    if len(values) == 3 and never_moved(values):
        was = "is undefined" if math.isnan(values[0]) else f"is {values[0]:g}"
        log.warning("%s %s at each of 3 validations: the loss decides which checkpoint is best", monitor, was)
