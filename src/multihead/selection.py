"""Which validation is the best so far: by the monitored metric, and between equals by the loss.

A metric that does not move says nothing: BLEU stays 0 while no output has four words in a row right, and accuracy stays
1 on an easy set. Then the loss decides, instead of the order in which checkpoints were validated.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence


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
