"""What a comparison may say about two systems: on one task, and over several tasks."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist

BETTER, WORSE, UNDECIDED, UNDERPOWERED = "better", "worse", "undecided", "underpowered"
NO_RESULT = "no result yet"
KINDS = (BETTER, WORSE, UNDECIDED, UNDERPOWERED, NO_RESULT)
POWER = 0.8
"""Probability with which a difference must have been found to be called detectable."""


def detectable(comparisons: int) -> float:
    """Returns the difference that is found with probability `POWER`, in halves of a 95 % interval.

    It is that of the first step of Holm's method, whose level is 5 % by the number of comparisons, with quantiles of
    the normal distribution.
    """
    quantile = NormalDist().inv_cdf
    return (quantile(1 - 0.025 / comparisons) + quantile(POWER)) / quantile(0.975)


@dataclass(frozen=True)
class Overall:
    """What is said about a system beside another one, over all tasks."""

    variant: str
    verdict: str
    """One of `KINDS`."""
    statement: str
    baseline: str = ""


def over_tasks(variant: str, baseline: str, verdicts: Mapping[str, str]) -> Overall:
    """Returns the verdict over all tasks: better means better on at least one task, and worse on none.

    The verdicts of all tasks must have been corrected together. Then this one has no error of its own.

    Args:
        variant: The system that is judged.
        baseline: The other system.
        verdicts: The verdict of each task, one of `KINDS`.
    """
    of = {kind: [task for task, verdict in verdicts.items() if verdict == kind] for kind in KINDS}
    count = len(verdicts)
    listed = "; ".join(f"{kind} on {', '.join(tasks)}" for kind, tasks in of.items() if tasks)
    if of[BETTER] and of[WORSE]:
        return Overall(variant, UNDECIDED, f"{variant}: it depends on the task ({listed})", baseline)
    if of[BETTER] or of[WORSE]:
        verdict = BETTER if of[BETTER] else WORSE
        where = f"on {len(of[verdict])} of {count} task{'s' * (count > 1)}"
        rest = "" if len(of[verdict]) == count else f", and {'worse' if verdict == BETTER else 'better'} on none"
        return Overall(variant, verdict, f"{variant} is {verdict} than {baseline} {where}{rest} ({listed})", baseline)
    if len(of[NO_RESULT]) == count:
        return Overall(variant, NO_RESULT, f"{variant}: no result yet", baseline)
    if len(of[UNDERPOWERED]) == count:
        text = f"{variant}: there were too few runs to show a difference from {baseline} that matters ({listed})"
        return Overall(variant, UNDERPOWERED, text, baseline)
    text = f"{variant} is not distinguishable from {baseline} with this budget ({listed})"
    return Overall(variant, UNDECIDED, text, baseline)
