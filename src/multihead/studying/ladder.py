"""How much compute a variant is worth: one line through the losses of several sizes, and one beside it.

The losses of a ladder of sizes follow

    loss = optimum + a C^-b,        so        log(loss - optimum) = log a - b log C

with C the compute of a training (Kaplan et al. 2020, arXiv:2001.08361; Hoffmann et al. 2022, arXiv:2203.15556). The
optimum is known here: that of the built-in grammar, or a number in the file. So the fit is a straight line by least
squares. Baseline and variant have the same exponent b and each its own a. With C, the variant reaches the loss that the
baseline reaches with k C, where

    log k = (log a_baseline - log a_variant) / b.

**The interval** of log k is that of a ratio of two estimates with Gaussian errors (Fieller 1954,
doi:10.1111/j.2517-6161.1954.tb00159.x), with Student's distribution. A point of the fit is the mean over the seeds of
one size. So the residuals hold both the noise of the seeds and what no straight line can follow, and there are
2 S - 3 degrees of freedom with S sizes. A bootstrap over seeds has too short intervals, since three seeds vary less
among themselves than among all seeds (`benchmarks/ladder_simulation.py` measures both).

**Different exponents.** If the exponents of both differ by more than chance, k depends on the compute. This is said,
with k at the smallest and at the largest size. If k is above 1 at one of them and below 1 at the other, the variant is
neither better nor worse.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy import special

from multihead.comparing.verdicts import BETTER, NO_RESULT, UNDECIDED, UNDERPOWERED, WORSE
from multihead.studying.schedule import Key, Plan, Results

Minutes = Mapping[tuple[str, str], float]
"""Mean minutes of a run of each task and system."""
LEAST_SIZES = 3
"""With fewer sizes, two lines have no residuals to speak of."""
MOST_FACTOR = 1e9
"""An interval that reaches beyond this factor, or below its inverse, says as little as one without an end."""


@dataclass(frozen=True)
class Rung:
    """The runs of a system at one size."""

    size: str
    compute: float
    """Floating-point operations or minutes of one training."""
    losses: Sequence[float]
    """The validation loss of each seed."""


@dataclass(frozen=True)
class Worth:
    """How much compute a variant is worth on a task."""

    task: str
    variant: str
    baseline: str
    verdict: str
    """better if the whole interval is above 1, worse if it is below; underpowered if it has no end. If the exponents
    differ, both also ask for a factor on the same side of 1 at the smallest and the largest size; else undecided."""
    statement: str
    optimum: float
    factor: float | None = None
    """The baseline needs so many times the compute of the variant for the same loss."""
    low: float | None = None
    high: float | None = None
    exponent: float | None = None
    """The common b."""
    scale: float | None = None
    """a of the baseline."""
    variant_scale: float | None = None
    exponents: tuple[float, float] | None = None
    """b of the baseline and of the variant, if each had its own."""
    exponents_differ: bool = False
    at_ends: tuple[float, float] | None = None
    """The factor at the smallest and at the largest size, if the exponents differ; None if it cannot be said."""


@dataclass(frozen=True)
class Fit:
    """Two parallel lines through the points of baseline and variant, and how sure they are."""

    difference: float
    """log a of the baseline minus log a of the variant."""
    exponent: float
    intercept: float
    """log a of the baseline."""
    covariance: np.ndarray
    """Of difference and exponent [2, 2]."""
    freedom: int


def fit(base: Sequence[Rung], variant: Sequence[Rung], optimum: float) -> Fit:
    """Fits the two lines. The points are the logarithms of compute and of the mean loss above the optimum.

    Raises:
        ValueError: If a mean loss is not above the optimum.
    """
    x, y = _points([*base, *variant], optimum)
    own = np.array([0.0] * len(base) + [1.0] * len(variant))
    design = np.stack([np.ones_like(x), -own, -x], 1)  # log a, difference, exponent
    solution, _, _, _ = np.linalg.lstsq(design, y, rcond=None)
    freedom = len(y) - 3
    variance = float(((y - design @ solution) ** 2).sum()) / freedom
    covariance = variance * np.linalg.inv(design.T @ design)
    return Fit(float(solution[1]), float(solution[2]), float(solution[0]), covariance[1:, 1:], freedom)


def _points(rungs: Sequence[Rung], optimum: float) -> tuple[np.ndarray, np.ndarray]:
    gaps = np.array([float(np.mean(rung.losses)) - optimum for rung in rungs])
    if (gaps <= 0).any():
        rung = rungs[int(gaps.argmin())]
        raise ValueError(f"the loss at {rung.size} is not above the optimum {optimum:g}")
    return np.log([rung.compute for rung in rungs]), np.log(gaps)


def factor_interval(found: Fit, level: float) -> tuple[float, float] | None:
    """Returns Fieller's interval of the factor.

    It is None if it has no end, or reaches beyond `MOST_FACTOR`, because the losses hardly fall with compute.

    Args:
        found: The fit.
        level: Probability that the interval does not contain the factor.
    """
    t = float(special.stdtrit(found.freedom, 1 - level / 2))
    top, bottom = found.difference, found.exponent
    v_top, v_bottom, both = found.covariance[0, 0], found.covariance[1, 1], found.covariance[0, 1]
    a = bottom**2 - t**2 * v_bottom  # the interval holds all r with (top - r bottom)^2 <= t^2 var(top - r bottom)
    b = top * bottom - t**2 * both
    c = top**2 - t**2 * v_top
    if a <= 0 or bottom <= 0:
        return None
    root = math.sqrt(max(0.0, b**2 - a * c))
    return _factors((b - root) / a, (b + root) / a)


def _factors(low: float, high: float) -> tuple[float, float] | None:
    """The factors of two logarithms; None if one is beyond `MOST_FACTOR`."""
    return (math.exp(low), math.exp(high)) if max(abs(low), abs(high)) <= math.log(MOST_FACTOR) else None


def slopes(
    base: Sequence[Rung], variant: Sequence[Rung], optimum: float, level: float
) -> tuple[tuple[float, float], bool]:
    """Returns the exponents if each system has its own, and whether they differ by more than chance (Student's t)."""
    found, total, spread, count = [], 0.0, 0.0, 0
    for rungs in (base, variant):
        x, y = _points(rungs, optimum)
        centred = x - x.mean()
        slope = float(centred @ y) / float(centred @ centred)
        total += float(((y - y.mean() - slope * centred) ** 2).sum())
        spread += 1 / float(centred @ centred)
        count += len(x)
        found.append(-slope)
    error = math.sqrt(total / (count - 4) * spread) if count > 4 else math.inf
    bound = float(special.stdtrit(max(1, count - 4), 1 - level / 2))
    return (found[0], found[1]), abs(found[0] - found[1]) > bound * error > 0


def worth(
    task: str,
    names: tuple[str, str],
    base: Sequence[Rung],
    variant: Sequence[Rung],
    optimum: float,
    level: float,
    ended: bool = True,
) -> Worth:
    """Returns how much compute a variant is worth.

    Args:
        task: The task.
        names: The baseline and the variant.
        base: The sizes of the baseline that have results.
        variant: Those of the variant.
        optimum: The loss that no model can get below.
        level: Probability that the interval does not contain the factor.
        ended: Whether all runs have ended.
    """
    baseline, name = names
    if min(len(base), len(variant)) < LEAST_SIZES:
        verdict = UNDERPOWERED if ended else NO_RESULT
        text = f"{task}: {min(len(base), len(variant))} sizes have results of {name} and {baseline}; it takes "
        return Worth(task, name, baseline, verdict, f"{text}{LEAST_SIZES}", optimum)
    try:
        found = fit(base, variant, optimum)
    except ValueError as error:
        return Worth(task, name, baseline, UNDERPOWERED, f"{task}: {error}, so that no line can be fitted", optimum)
    ends, (own, differ) = factor_interval(found, level), slopes(base, variant, optimum, level)
    if ends is None:
        text = f"{task}: the losses fall too little with compute to say what {name} is worth (exponent "
        text += f"{found.exponent:.2g}); use sizes that differ more"
        return Worth(task, name, baseline, UNDERPOWERED, text, optimum, exponent=found.exponent)
    factor = math.exp(found.difference / found.exponent)
    at_ends = _at_ends(base, variant, optimum, own) if differ else None
    same_side = not differ or (at_ends is not None and (min(at_ends) > 1 or max(at_ends) < 1))
    verdict = UNDECIDED if not same_side else BETTER if ends[0] > 1 else WORSE if ends[1] < 1 else UNDECIDED
    return Worth(
        task=task,
        variant=name,
        baseline=baseline,
        verdict=verdict,
        statement=_statement(task, names, factor, ends, level, own if differ else None, at_ends),
        optimum=optimum,
        factor=factor,
        low=ends[0],
        high=ends[1],
        exponent=found.exponent,
        scale=math.exp(found.intercept),
        variant_scale=math.exp(found.intercept - found.difference),
        exponents=own,
        exponents_differ=differ,
        at_ends=at_ends,
    )


def _at_ends(
    base: Sequence[Rung], variant: Sequence[Rung], optimum: float, exponents: tuple[float, float]
) -> tuple[float, float] | None:
    """The factor at the variant's smallest and largest compute, if each system has its own line.

    None if the losses of the baseline do not fall with compute, so that no compute of it reaches those of the variant.
    """
    if exponents[0] <= 0:
        return None
    heights = []
    for rungs, exponent in zip((base, variant), exponents, strict=True):
        x, y = _points(rungs, optimum)
        heights.append(float(y.mean() + exponent * x.mean()))
    places = [math.log(min(r.compute for r in variant)), math.log(max(r.compute for r in variant))]
    reached = [heights[1] - exponents[1] * place for place in places]  # log(loss - optimum) of the variant there
    first, last = [(heights[0] - y) / exponents[0] - place for y, place in zip(reached, places, strict=True)]
    return _factors(first, last)


def _statement(
    task: str,
    names: tuple[str, str],
    factor: float,
    ends: tuple[float, float],
    level: float,
    exponents: tuple[float, float] | None,
    at_ends: tuple[float, float] | None,
) -> str:
    baseline, name = names
    text = f"{task}: {name} is worth {factor:.2f} times the compute of {baseline} "
    text += f"({100 * (1 - level):.3g} % interval {ends[0]:.2f} to {ends[1]:.2f})"
    if ends[0] <= 1 <= ends[1]:
        text += ", so that they are not distinguishable"
    if exponents:
        text += f". Their exponents differ ({exponents[0]:.2f} and {exponents[1]:.2f}), so it depends on the compute"
    if at_ends:
        text += f": {at_ends[0]:.2f} at the smallest size, {at_ends[1]:.2f} at the largest"
    return text


# ---- from a study


def rungs_of(
    plan: Plan,
    results: Results,
    facts: Mapping[str, Any],
    minutes: Minutes,
    task: str,
    arm: str,
) -> list[Rung]:
    """The sizes of a system that have results.

    Args:
        plan: The study's plan, whose tasks are ``TASK.SIZE``.
        results: The results so far.
        facts: What the study's ledger knows beside its plan.
        minutes: Mean minutes of a run of each task and system.
        task: The task without a size.
        arm: The baseline or a variant.
    """
    found = []
    for size in facts["ladder"]["sizes"]:
        cell = f"{task}.{size}"
        values = [results.get(Key(cell, arm, index)) for index in range(len(plan.seeds))]
        losses = [value for value in values if value is not None]
        flops = facts["sizes"][f"{cell}/{arm}"]["flops"] * facts["steps"][f"{cell}/{arm}"]
        compute = minutes.get((cell, arm), 0.0) if facts["ladder"]["compute"] == "minutes" else flops
        if losses and compute:
            found.append(Rung(size, compute, losses))
    return found


def climb(
    plan: Plan, results: Results, facts: Mapping[str, Any], minutes: Minutes, ended: bool
) -> tuple[list[Worth], dict[str, dict[str, list[Rung]]]]:
    """What each variant is worth on each task, and the sizes behind it by task and system.

    The arguments are those of `rungs_of`, and whether all runs have ended.
    """
    tasks = list(dict.fromkeys(cell.rpartition(".")[0] for cell in plan.tasks))
    level = plan.alpha / (len(tasks) * len(plan.variants))
    rungs = {task: {arm: rungs_of(plan, results, facts, minutes, task, arm) for arm in plan.arms} for task in tasks}
    return [
        worth(
            task,
            (plan.baseline, arm),
            rungs[task][plan.baseline],
            rungs[task][arm],
            facts["ladder"]["optimum"][task],
            level,
            ended,
        )
        for task in tasks
        for arm in plan.variants
    ], rungs
