"""The answer of a study: a verdict for each comparison and for each variant over all tasks, with its words."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from multihead.comparing.scores import UNITS
from multihead.comparing.verdicts import BETTER, NO_RESULT, UNDECIDED, UNDERPOWERED, WORSE, Overall, over_tasks
from multihead.studying.schedule import Pair, Plan, Results, gains, is_negligible
from multihead.studying.sequential import detectable, deviation_of, found_different, interval


@dataclass(frozen=True)
class Verdict:
    """What a study says about a variant on a task."""

    task: str
    variant: str
    verdict: str
    """better, worse, undecided, underpowered, or no result yet."""
    statement: str
    metric: str
    seeds: int
    """Number of seeds at which both the variant and the baseline have a result."""
    difference: float | None
    """Mean of the metric of the variant minus that of the baseline, over the same seeds."""
    low: float | None
    """The interval of the difference. All intervals of the study hold together with probability 1 - alpha."""
    high: float | None
    deviation: float
    """Standard deviation of the differences between the seeds."""
    detectable: float | None
    """The difference that this number of seeds would have shown with the wanted probability."""


def judge(plan: Plan, results: Results, power: float, *, ended: bool = True) -> list[Verdict]:
    """Returns the verdict of each comparison, in the order of tasks and variants.

    Args:
        plan: The study's plan.
        results: The results so far.
        power: The wanted probability of finding a difference.
        ended: Whether the study has ended. If not, a comparison without a look has no result yet.
    """
    paths = gains(plan, results)
    decided = found_different(paths, plan.design)
    return [_verdict(plan, pair, path, decided.get(pair, 0), power, ended) for pair, path in paths.items()]


def _verdict(plan: Plan, pair: Pair, path: Sequence[float], sign: int, power: float, ended: bool) -> Verdict:
    metric, seeds = plan.metrics[pair.task], len(path)
    flip = 1.0 if plan.better[pair.task] == "max" else -1.0
    found, deviation = interval(path, plan.design), deviation_of(path)
    ends = sorted((flip * found[0], flip * found[1])) if found else None
    seen = detectable(plan.design, power, seeds) * deviation if seeds >= plan.design.first and deviation else None
    smallest = plan.smallest.get(pair.task)
    if sign:
        verdict = BETTER if sign > 0 else WORSE
    elif seen is None and not ended:
        verdict = NO_RESULT
    elif seen is None or (smallest is not None and seen > smallest and not is_negligible(plan, pair, path)):
        verdict = UNDERPOWERED
    else:
        verdict = UNDECIDED
    return Verdict(
        task=pair.task,
        variant=pair.arm,
        verdict=verdict,
        statement=_statement(plan, pair, path, verdict, seen, power),
        metric=metric,
        seeds=seeds,
        difference=flip * sum(path) / seeds if seeds else None,
        low=ends[0] if ends else None,
        high=ends[1] if ends else None,
        deviation=deviation,
        detectable=seen,
    )


def unit_of(metric: str) -> str:
    """Returns the unit of a metric, as people write it."""
    name = metric.rpartition("/")[2]
    return UNITS.get(name, name.replace("_", " "))


def _statement(plan: Plan, pair: Pair, path: Sequence[float], verdict: str, seen: float | None, power: float) -> str:
    """The verdict in words."""
    reference, unit, design = plan.sides(pair.arm)[1], unit_of(plan.metrics[pair.task]), plan.design
    both = f"{pair.arm} and {reference}"
    if not path and verdict == NO_RESULT:
        return f"{pair.task}: no result yet, because no seed has a result of {both}"
    if not path:
        return f"{pair.task}: {both} cannot be compared, because no seed has a result of both"
    mean, found, seeds = (
        sum(path) / len(path),
        interval(path, design),
        f"{len(path)} {plan.round_word}{'s' * (len(path) > 1)}",
    )
    if found is None:
        why = f"the first look is at {design.first} seeds" if len(path) < design.first else "all differences are equal"
        return f"{pair.task}: {both} are not distinguishable yet ({seeds}; {why})"
    digits = digits_for(found[1] - found[0])
    level = f"{100 * (1 - plan.alpha):g} % interval"
    flip = 1 if plan.better[pair.task] == "max" else -1
    if verdict in (BETTER, WORSE):
        sign = 1 if mean > 0 else -1
        ends = sorted((sign * found[0], sign * found[1]))
        gap = f"{abs(mean):.{digits}f} {unit} ({level} {ends[0]:.{digits}f} to {ends[1]:.{digits}f}; {seeds})"
        holm = "" if ends[0] > 0 else "; Holm's method decides this, although the interval contains 0"
        return f"{pair.task}: {pair.arm} is {verdict} than {reference} by {gap}{holm}"
    ends = sorted((flip * found[0], flip * found[1]))
    gap = f"difference {flip * mean:+.{digits}f} {unit}, {level} {ends[0]:.{digits}f} to {ends[1]:.{digits}f}, {seeds}"
    smallest = plan.smallest.get(pair.task)
    if is_negligible(plan, pair, path):
        return f"{pair.task}: {both} do not differ by as much as {smallest:g} {unit} ({gap})"
    text = f"{pair.task}: {both} are not distinguishable with this budget ({gap}): a difference of {seen:.{digits}f} "
    text += f"{unit} would have been seen with probability {power:g}"
    if verdict == UNDERPOWERED and smallest is not None and seen is not None and plan.folds:
        text += f", but {smallest:g} matters; more rows would show it"
    elif verdict == UNDERPOWERED and smallest is not None and seen is not None:
        needed = math.ceil(len(path) * (seen / smallest) ** 2)
        text += f", but {smallest:g} matters, which takes about {needed} seeds"
    return text


def digits_for(width: float) -> int:
    """Returns the number of decimals at which a width shows two digits."""
    return min(6, max(0, 1 - math.floor(math.log10(width)))) if width > 0 else 2


def overall(plan: Plan, verdicts: Sequence[Verdict]) -> list[Overall]:
    """Returns the verdict of each variant over all tasks; `over_tasks` says how."""
    return [
        over_tasks(arm, plan.sides(arm)[1], {found.task: found.verdict for found in verdicts if found.variant == arm})
        for arm in plan.variants
    ]
