"""The answer of a study as tables for LaTeX's package booktabs."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from multihead.comparing.report import latex_text, signed
from multihead.comparing.verdicts import BETTER, WORSE
from multihead.studying.ablation import ALL_TASKS, Effect, Switch
from multihead.studying.collect import StudyReport
from multihead.studying.tables import digits_of_effects, digits_of_metric, percent, rank_text, systems_of
from multihead.studying.verdicts import digits_for, unit_of

Row = list[str]
"""The cells of a row, escaped."""
ARROWS = {"max": r"$\uparrow$", "min": r"$\downarrow$"}
FLAG = r"$^{*}$"
"""Stands behind an interaction whose interval does not contain 0."""


def latex(report: StudyReport) -> str:
    """Returns the tables of a study.

    An ablation has the ranked effects of its switches, and a ladder its sizes with their losses and the factors. A
    ladder's sizes show the test metric too. All other studies, and ablations beside their effects, have a table of the
    systems.
    """
    if report.ladder:
        tables = [_sizes(report), _factors(report)]
    else:
        tables = [*([_effects(report)] if report.ablation else []), _systems(report)]
    return "\n".join(["% needs \\usepackage{booktabs}", *tables])


def _table(columns: str, head: Row, groups: Sequence[Sequence[Row]], caption: str) -> str:
    """A table with a rule between the groups of its rows."""
    lines = [
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{{columns}}}",
        r"\toprule",
        " & ".join(head) + r" \\",
    ]
    for rows in groups:
        lines += [r"\midrule", *(" & ".join(row) + r" \\" for row in rows)]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}", ""])


# ---- the systems of any study


def _systems(report: StudyReport) -> str:
    """The test metric of each system on each task.

    An arrow shows whether more or less is better. A system is in bold if a verdict singles it out; `_bold` says which.
    """
    tasks = list(report.metrics)
    cells = {(row.task, row.name): row for row in report.systems}
    bold = {task: _bold(report, task) for task in tasks}
    units = {task: latex_text(report.metrics[task].replace("val/", "")) for task in tasks}
    heads = [f"{latex_text(task)} ({units[task]} {ARROWS[report.better[task]]})" for task in tasks]
    rows = []
    for name in systems_of(report):
        row = [latex_text(name)]
        for task in tasks:
            own = cells[task, name]
            text = _spread(own.test_mean, own.test_deviation, digits_of_metric(report, task))
            row.append(rf"\textbf{{{text}}}" if name in bold[task] else text)
        sizes = sorted({cells[task, name].parameters for task in tasks})
        rows.append([*row, " to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1])))])
    over = (
        "folds; the verdicts are of the same"
        if report.folds
        else "seeds on the test split; the verdicts are those of validation"
    )
    parts = [f"Mean and standard deviation over {over}."]
    base = latex_text(report.baseline)
    if any(bold.values()):
        parts += [f"Bold, by the verdicts: a variant better than {base}, or {base} if all variants are worse."]
    if not report.ablation:
        parts += [f"{latex_text(found.statement)}." for found in report.verdicts]
    return _table("l" + "r" * (len(tasks) + 1), ["system", *heads, "parameters"], [rows], " ".join(parts))


def _bold(report: StudyReport, task: str) -> set[str]:
    """Returns the systems of a task that the table prints in bold, which are those that a verdict singles out.

    These are the variants that are better than the baseline; or the baseline, if all variants are worse. The switches
    of an ablation have several references, so that none is singled out there.
    """
    said = {found.variant: found.verdict for found in report.verdicts if found.task == task}
    if report.ablation or not said:
        return set()
    if all(verdict == WORSE for verdict in said.values()):
        return {report.baseline}
    return {name for name, verdict in said.items() if verdict == BETTER}


def _spread(mean: float | None, deviation: float | None, digits: int) -> str:
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" + ("" if deviation is None else rf" $\pm$ {deviation:.{digits}f}")


# ---- an ablation


def _effects(report: StudyReport) -> str:
    """The switches, ranked over all tasks and on each task, with the intervals of their effects."""
    alone = any(found.added for found in report.ablation)
    head = ["task", "rank", "switch", "left out of all", *(["added to none", "interaction"] if alone else [])]
    groups = []
    for task in dict.fromkeys(found.task for found in report.ablation):
        unit = "%" if task == ALL_TASKS else unit_of(report.metrics[task])
        names = [latex_text(f"{task} ({unit})")]
        switches, digits = [found for found in report.ablation if found.task == task], digits_of_effects(report, task)
        names += [""] * (len(switches) - 1)
        groups.append([[name, *_switch(found, digits, alone)] for name, found in zip(names, switches, strict=True)])
    said = "Effects of the switches, with intervals in brackets. Above 0, the switch helps. "
    said += f"The {latex_text(percent(report.alpha))} intervals of all effects hold together"
    said += ", and so do those of all interactions. " if alone else ". "
    said += "If ranks overlap, chance may explain the order."
    if any(found.flagged for found in report.ablation):
        said += f" {FLAG} The effect depends on the other switches."
    return _table("lll" + "r" * (len(head) - 3), head, groups, said)


def _switch(found: Switch, digits: int, alone: bool) -> Row:
    effects = [found.left_out, *([found.added, found.interaction] if alone else [])]
    cells = [_effect(effect, digits) for effect in effects]
    cells[-1] += FLAG * found.flagged
    return [rank_text(found), latex_text(found.name), *cells]


def _effect(effect: Effect | None, digits: int) -> str:
    if effect is None or effect.value is None:
        return "-"
    value = f"${signed(effect.value, digits, plus=True)}$"
    if effect.low is None or effect.high is None:
        return value
    return f"{value} (${signed(effect.low, digits, plus=True)}$ to ${signed(effect.high, digits, plus=True)}$)"


# ---- a ladder


def _sizes(report: StudyReport) -> str:
    """The compute and the losses of each system at each size."""
    cells = {(row.task, row.name): row for row in report.systems}
    groups = []
    for task, systems in report.rungs.items():
        for size in dict.fromkeys(rung.size for rungs in systems.values() for rung in rungs):
            rows, cell = [], f"{task}.{size}"
            for name in systems_of(report):
                found, own = next((rung for rung in systems[name] if rung.size == size), None), cells[cell, name]
                digits = digits_of_metric(report, cell)
                losses = found.losses if found else []
                mean = statistics.fmean(losses) if losses else None
                deviation = statistics.stdev(losses) if len(losses) > 1 else None
                rows.append([
                    *(("", "") if rows else (latex_text(task), latex_text(size))),
                    latex_text(name),
                    _scientific(found.compute) if found else "-",
                    _spread(mean, deviation, digits),
                    _spread(own.test_mean, own.test_deviation, digits),
                ])  # fmt: skip
            groups.append(rows)
    head = ["task", "size", "system", f"compute ({latex_text(report.compute)})", "validation", "test"]
    metrics = {cell.rpartition(".")[0]: metric.replace("val/", "") for cell, metric in report.metrics.items()}
    judged = "; ".join(f"{task}: {metric}" for task, metric in metrics.items())
    caption = f"The sizes, with mean and standard deviation of the loss over seeds ({judged})."
    return _table("lllrrr", head, groups, latex_text(caption))


def _scientific(value: float) -> str:
    """Formats a number with three digits, and large or small ones with a power of ten."""
    digits, _, power = f"{value:.3g}".partition("e")
    return rf"${digits} \times 10^{{{int(power)}}}$" if power else digits


def _factors(report: StudyReport) -> str:
    """How much compute each variant is worth."""
    rows = []
    for found in report.ladder:
        factor = "-" if found.factor is None else _factor(found.factor, found.factor)
        ends = "-"
        if found.low is not None and found.high is not None and found.factor is not None:
            width = found.high - found.low
            factor, ends = _factor(found.factor, width), f"{_factor(found.low, width)} to {_factor(found.high, width)}"
        exponent = "-" if found.exponent is None else f"${found.exponent:.3f}$"
        names = [latex_text(found.task), latex_text(found.variant)]
        rows.append([*names, exponent, factor, ends, found.verdict])
    base, level = latex_text(report.baseline), latex_text(percent(report.alpha))
    optima = ", ".join(f"{task} {value:.4g}" for task, value in {f.task: f.optimum for f in report.ladder}.items())
    said = f"For the same loss, {base} needs so many times the compute of the variant. "
    said += f"The {level} intervals hold together. The losses follow $L = L_0 + a C^{{-b}}$, with $L_0$: "
    said += f"{latex_text(optima)}. " + " ".join(f"{latex_text(found.statement)}." for found in report.ladder)
    return _table("llrrrl", ["task", "variant", "$b$", "factor", "interval", "verdict"], [rows], said)


def _factor(value: float, width: float) -> str:
    return f"{value:.{max(2, digits_for(width))}f}"
