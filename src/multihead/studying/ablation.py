"""The effects of the switches of an ablation: left out of all, added to none, and whether the two differ.

With f the metric of a run, turned so that more is better, the effects of a switch X at one seed are

    left out      f(all) - f(all without X)
    added         f(X alone) - f(none)
    interaction   left out - added

The interaction is 0 if the switches do not depend on each other. All three are means over the same seeds, and have the
repeated confidence intervals of `sequential`, which hold at any look. The intervals of all effects hold together with
probability 1 - alpha, and so do those of all interactions.

Over all tasks, an effect is in percent: that of each task is divided by the mean of the metric of all switches, and the
mean over tasks is taken seed by seed. Its noise includes that of the tasks; the divisors are taken as known.

The rank of a switch is an interval, too: 1 plus the number of switches whose whole interval lies above its own, up to
the number of switches minus those whose whole interval lies below. As the intervals hold together, so do these ranks
(Klein, Wright and Wieczorek 2020, doi:10.1111/rssc.12402). Where chance explains an order, the ranks overlap.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from multihead.comparing.verdicts import BETTER, NO_RESULT, UNDECIDED, UNDERPOWERED, WORSE
from multihead.config.study import ONLY, WITHOUT
from multihead.studying.schedule import Key, Plan, Results
from multihead.studying.sequential import Design, interval

ALL_TASKS = "all tasks"


@dataclass(frozen=True)
class Effect:
    """An effect with its interval; above 0, the switch helps."""

    value: float | None
    low: float | None
    high: float | None
    seeds: int
    verdict: str
    """Whether the switch is better or worse than its absence, or undecided. Without an interval it is underpowered, or
    no result yet as long as the study goes on."""


@dataclass(frozen=True)
class Switch:
    """What is known of a switch on a task, or over all tasks in percent."""

    task: str
    name: str
    left_out: Effect
    added: Effect | None
    interaction: Effect | None
    """The difference between both effects. Its interval says whether it is flagged."""
    verdict: str
    """That of the effect when the switch is left out."""
    flagged: bool = False
    """Whether the effect of the switch depends on the other switches: the interval of the interaction leaves out 0."""
    first_rank: int | None = None
    """The best rank that chance allows; None without an interval."""
    last_rank: int | None = None


def is_ablation(plan: Plan) -> bool:
    """Whether a plan is that of an ablation."""
    return bool(plan.contrasts)


def ablation(plan: Plan, results: Results, *, ended: bool = True) -> list[Switch]:
    """Returns the switches over all tasks and on each task, each ranked by the effect of leaving it out.

    Args:
        plan: The study's plan.
        results: The results so far.
        ended: Whether the study has ended. If not, an effect without an interval has no result yet.
    """
    names = [name.removeprefix(WITHOUT) for name in plan.contrasts if name.startswith(WITHOUT)]
    added = any(name.startswith(ONLY) for name in plan.contrasts)
    groups = len(plan.tasks) + (len(plan.tasks) > 1)
    effects = replace(plan.design, comparisons=len(names) * groups * (1 + added))
    interactions = replace(plan.design, comparisons=len(names) * groups)
    found, shares = [], dict[str, dict[str, list[dict[int, float]]]]()
    for task in plan.tasks:
        paths = {name: _paths(plan, results, task, name, added) for name in names}
        found += _ranked([_switch(task, name, paths[name], effects, interactions, ended) for name in names])
        scale = _scale(plan, results, task)
        shares[task] = {
            name: [{i: 100 * value / scale for i, value in path.items()} for path in three] if scale else []
            for name, three in paths.items()
        }
    if len(plan.tasks) > 1 and all(three and all(three) for of_task in shares.values() for three in of_task.values()):
        together = [
            _switch(
                ALL_TASKS, name, _mean_paths([shares[task][name] for task in plan.tasks]), effects, interactions, ended
            )
            for name in names
        ]
        return [*_ranked(together), *found]
    return found


def _paths(plan: Plan, results: Results, task: str, name: str, added: bool) -> list[dict[int, float]]:
    """The effects of a switch by seed: left out, added, and their difference."""
    sign = 1.0 if plan.better[task] == "max" else -1.0

    def gain(contrast: str, flip: float) -> dict[int, float]:
        variant, reference = plan.sides(contrast)
        pairs = [(results.get(Key(task, variant, i)), results.get(Key(task, reference, i)))
                 for i in range(len(plan.seeds))]  # fmt: skip
        return {i: sign * flip * (a - b) for i, (a, b) in enumerate(pairs) if a is not None and b is not None}

    out = gain(f"{WITHOUT}{name}", -1.0)
    if not added:
        return [out]
    alone = gain(f"{ONLY}{name}", 1.0)
    return [out, alone, {i: out[i] - alone[i] for i in out if i in alone}]


def _scale(plan: Plan, results: Results, task: str) -> float:
    """The size of the metric of a task, by which its effects become shares: the mean of the runs with all switches."""
    values = [v for i in range(len(plan.seeds)) if (v := results.get(Key(task, plan.baseline, i))) is not None]
    return abs(sum(values) / len(values)) if values else 0.0


def _mean_paths(tasks: Sequence[Sequence[Mapping[int, float]]]) -> list[dict[int, float]]:
    """The means over tasks, at the seeds that all tasks have."""
    return [
        {i: sum(path[i] for path in paths) / len(paths) for i in paths[0] if all(i in path for path in paths)}
        for paths in zip(*tasks, strict=True)
    ]


def _switch(
    task: str, name: str, paths: Sequence[Mapping[int, float]], effects: Design, other: Design, ended: bool
) -> Switch:
    out, *rest = [_effect(path, design, ended) for path, design in zip(paths, (effects, effects, other), strict=False)]
    alone, interaction = rest if rest else (None, None)
    flagged = interaction is not None and interaction.verdict in (BETTER, WORSE)
    return Switch(task, name, out, alone, interaction, out.verdict, flagged)


def _effect(path: Mapping[int, float], design: Design, ended: bool) -> Effect:
    values = [path[i] for i in sorted(path)]
    mean, ends = (sum(values) / len(values) if values else None), interval(values, design)
    if ends is None:
        return Effect(mean, None, None, len(values), UNDERPOWERED if ended else NO_RESULT)
    verdict = BETTER if ends[0] > 0 else WORSE if ends[1] < 0 else UNDECIDED
    return Effect(mean, *ends, len(values), verdict)


def _ranked(switches: Sequence[Switch]) -> list[Switch]:
    """The switches by the effect of leaving them out, the largest first, with the ranks that chance allows."""
    known = [each.left_out for each in switches if each.left_out.low is not None]

    def ranks(own: Effect) -> tuple[int | None, int | None]:
        if own.low is None or own.high is None:
            return None, None
        above = sum(other.low > own.high for other in known if other.low is not None)
        below = sum(other.high < own.low for other in known if other.high is not None)
        return 1 + above, len(switches) - below

    placed = [
        replace(each, first_rank=first, last_rank=last) for each in switches for first, last in [ranks(each.left_out)]
    ]
    return sorted(placed, key=lambda each: -(each.left_out.value if each.left_out.value is not None else float("-inf")))


# ---- words


def effect_text(effect: Effect | None, digits: int) -> str:
    """Formats an effect with its interval."""
    if effect is None or effect.value is None:
        return "-"
    if effect.low is None:
        return f"{effect.value:+.{digits}f}"
    return f"{effect.value:+.{digits}f} ({effect.low:+.{digits}f} to {effect.high:+.{digits}f})"


def statement(found: Switch, unit: str, digits: int) -> str:
    """Says what a switch does, and whether it depends on the others."""
    said = {BETTER: "helps", WORSE: "hurts", UNDECIDED: "has no effect that this budget shows"}
    if found.verdict == NO_RESULT:
        return f"{found.name}: no result yet"
    if found.verdict == UNDERPOWERED:
        why = "all differences are equal, or too few seeds have results"
        return f"{found.name}: the runs cannot say what it does, because {why}"
    text = f"{found.name} {said[found.verdict]}: {effect_text(found.left_out, digits)} {unit} beside the others"
    if found.added is not None:
        text += f", {effect_text(found.added, digits)} alone"
    if found.flagged:
        text += f". It depends on the other switches: the effects differ by {effect_text(found.interaction, digits)}"
    return text
