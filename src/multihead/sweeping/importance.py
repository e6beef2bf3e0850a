"""How much each parameter of a sweep matters, and when that cannot be known."""

from __future__ import annotations

import statistics
import warnings
from collections.abc import Sequence
from typing import Any

from multihead.sweeping.ledger import Row

MIN_IMPORTANCE = 10
"""With fewer complete trials, a parameter's importance is chance."""


def varied_parameters(complete: Sequence[Row]) -> list[str]:
    """The parameters that differ between complete trials."""
    names = dict.fromkeys(name for row in complete for name in row.values)
    return [name for name in names if len({str(row.values.get(name)) for row in complete}) > 1]


def no_importances(rows: Sequence[Row]) -> str:
    """Why importances would be noise; empty if they would not.

    Either there are too few complete trials, or their values differ less than those of equal trials, which are the
    seeds of one point. If only one parameter differs, its share is 100 % whatever it does.
    """
    complete = [row for row in rows if row.state == "complete"]
    varied = varied_parameters(complete)
    if len(varied) < 2:
        return f"{len(varied)} of the parameters differ{'s' * (len(varied) == 1)} between complete trials; it takes 2"
    if len(complete) < MIN_IMPORTANCE:
        return f"{len(complete)} complete trials; it takes {MIN_IMPORTANCE}"
    values = [row.value for row in complete if row.value is not None]
    deviations = [statistics.stdev(s) for row in complete if len(s := row.record.get("by_seed", [])) > 1]
    noise = max(1e-6 * max(map(abs, values)), statistics.mean(deviations or [0.0]))
    spread = statistics.stdev(values)
    if spread <= noise:
        return f"the trials' values differ by no more than chance (deviation {spread:.2g}, of equal trials {noise:.2g})"
    return ""


def importances(study: Any, rows: Sequence[Row]) -> dict[str, float]:
    """Each parameter's share in whether a trial is among the better ones (PED-ANOVA, arXiv:2304.10255).

    Returns:
        {} if `no_importances` gives a reason.
    """
    import optuna

    if no_importances(rows):
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(optuna.importance.get_param_importances(study))
