"""What a study says before its first run: what it compares, what it can find, and what its budget pays."""

from __future__ import annotations

import math
from dataclasses import replace

from multihead.config.study import LEAST_SEEDS
from multihead.studying.schedule import Plan
from multihead.studying.sequential import Design, detectable
from multihead.studying.verdicts import unit_of


def outline(plan: Plan, equal: str) -> str:
    """Says what a study compares and when it looks. Nothing of it is measured.

    Args:
        plan: The study's plan; its words may be missing.
        equal: What the baseline and its variants have in common.
    """
    design = plan.design
    ways = {"max": "higher", "min": "lower"}
    judged = ", ".join(f"{task} by {plan.metrics[task]} ({ways[plan.better[task]]} is better)" for task in plan.tasks)
    runs, count = len(plan.arms) * len(plan.tasks), design.comparisons
    beside = f"{plan.baseline} or no_switch" if plan.contrasts else plan.baseline
    text = f"{judged}; equal: {equal}\n{runs} runs a {plan.round_word}; {count} comparison{'s' * (count > 1)} with "
    text += f"{beside}. "
    text += f"If all systems are equal, the probability that any is called different is at most {plan.alpha:g}.\n"
    if plan.every_seed:
        return text + f"at most {design.most} seeds, with a look after each from seed {design.first} on"
    if plan.folds:
        return text + f"{design.most} folds ({plan.folds} a partition), with one look after the last"
    return text + f"{design.most} seeds, with one look after the last"


def capability(plan: Plan, power: float, seeds: int = 0, when: str = "") -> str:
    """Says what a study can detect before the spread of its seeds is known.

    Args:
        plan: The study's plan.
        power: The wanted probability.
        seeds: Number of seeds that the budget pays; 0 means all.
        when: What must hold, if it is not the number of seeds alone.
    """
    design = plan.design
    seeds = seeds or design.most
    when = when or f"with {seeds} {plan.round_word}{'s' * (seeds > 1)}"
    if seeds < design.first:
        return f"{when}, no difference can be found, because the first look is at {design.first} seeds"
    effect = detectable(design, power, seeds)
    text = f"{when}, a difference of {effect:.2f} standard deviations of the differences between {plan.round_word}s "
    text += f"is found with probability {power:g}; this deviation is known after the first {plan.round_word}s"
    for task, smallest in plan.smallest.items():
        unit = unit_of(plan.metrics[task])
        text += f"\n{task}: {smallest:g} {unit} is found if that deviation is at most {smallest / effect:.2g} {unit}"
    return text


def prospect(plan: Plan, power: float) -> str:
    """Says what a study can detect before it is known how many seeds its budget pays."""
    when = f"if the budget pays all {len(plan.seeds)} seeds" if plan.budget else ""
    return capability(plan, power, when=when)


def paid(plan: Plan, seconds: float, search: float) -> int:
    """Returns about how many seeds the budget pays. The first one runs in any case.

    Args:
        plan: The study's plan.
        seconds: Time of all runs of one seed.
        search: Time of the tuning.
    """
    most = len(plan.seeds)
    if not plan.budget or seconds <= 0:
        return most
    return min(most, max(1, int((plan.budget - search) / seconds)))


def purchase(plan: Plan, power: float, seconds: float, search: float) -> str:
    """Says what a study can detect with the seeds that its budget pays, and how it can detect more.

    Args:
        plan: The study's plan.
        power: The wanted probability.
        seconds: Time of all runs of one seed.
        search: Time of the tuning.
    """
    design, seeds = plan.design, paid(plan, seconds, search)
    if seeds == design.most:
        return capability(plan, power)

    def finds(design: Design) -> str:
        return f"finds {detectable(design, power):.2f} deviations with probability {power:g}"

    def budget(count: int) -> str:
        return f"budget={math.ceil((search + count * seconds) / 60)}m"

    fixes = []
    if seeds >= (LEAST_SEEDS if plan.every_seed else 2):
        text = f"max_seeds: {seeds}" if plan.every_seed else f"only {seeds} seeds"
        fixes.append(f"write {text} and type a new name= ({finds(replace(design, most=seeds))})")
    elif plan.every_seed and design.most > design.first:
        fixes.append(f"type {budget(design.first)} for {design.first} seeds")
    fixes.append(f"type {budget(design.most)} for all {design.most} seeds ({finds(design)})")
    text = f"the budget pays about {seeds} of {design.most} seeds; {capability(plan, power, seeds)}"
    return f"{text}\nto find smaller differences, {', or '.join(fixes)}"
