"""Writes the answer of a study: tables for the terminal, LaTeX, JSON, and one HTML page with pictures."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from multihead.comparing.report import latex_text
from multihead.comparing.verdicts import BETTER, WORSE
from multihead.config.extras import install, installed
from multihead.runs.page import render_page
from multihead.runs.screen import Fitted
from multihead.studying.ablation import ALL_TASKS, effect_text, statement
from multihead.studying.collect import StudyReport, SystemRow
from multihead.studying.pictures import draw_study
from multihead.studying.verdicts import Verdict, digits_for, unit_of

FILES = {"json": "report.json", "latex": "report.tex"}
PAGE = "report.html"


def answer_of(report: StudyReport) -> str:
    """Returns the verdict of the whole study in one sentence for each variant or switch."""
    if report.ablation or report.ladder:
        return ". ".join(statements(report)) + "."
    return ". ".join(found.statement for found in report.overall) + "."


# ---- tables, as rows of text


def verdict_rows(report: StudyReport) -> list[list[str]]:
    """Returns the table of comparisons. The first row is the head."""
    rows = [["task", "variant", "metric", "difference", f"{_percent(report.alpha)} interval", "seeds", "verdict"]]
    for found in report.verdicts:
        digits = digits_of(found)
        gap = "-" if found.difference is None else f"{found.difference:+.{digits}f}"
        ends = "-" if found.low is None else f"{found.low:.{digits}f} to {found.high:.{digits}f}"
        rows.append([found.task, found.variant, found.metric, gap, ends, str(found.seeds), found.verdict])
    return rows


def digits_of(found: Verdict) -> int:
    """Returns the decimals of a comparison's numbers."""
    if found.low is not None and found.high is not None:
        return digits_for(found.high - found.low)
    return digits_for(abs(found.difference or 0.0))


def system_rows(report: StudyReport) -> list[list[str]]:
    """Returns the table of systems with their costs. The first row is the head."""
    judged = "test folds" if report.folds else "validation"
    rows = [["task", "system", judged, "test", "parameters", "tokens/s", "training"]]
    for found in report.systems:
        digits = _digits(report, found.task)
        rows.append(
            [
                found.task,
                found.name,
                spread_text(found.mean, found.deviation, digits),
                "-" if report.folds else spread_text(found.test_mean, found.test_deviation, digits),
                f"{found.parameters:,}",
                f"{found.tokens_per_second:,.0f}" if found.tokens_per_second else "-",
                f"{found.minutes:.2f}" if found.minutes else "-",
            ]
        )
    return rows


def run_rows(report: StudyReport) -> list[list[str]]:
    """Returns the table of all runs that were started. The first row is the head."""
    rows = [["task", "system", "seed", "state", "validation", "minutes", "tries", "reason"]]
    for found in report.runs:
        value = "" if found.value is None else f"{found.value:.6g}"
        minutes = f"{found.seconds / 60:.2f}"
        cells = [found.task, found.name, str(found.seed), found.state, value, minutes, str(found.attempts)]
        rows.append([*cells, found.reason])
    return rows


def switch_rows(report: StudyReport) -> list[list[str]]:
    """Returns the table of an ablation, with one row for each switch on each task. The first row is the head."""
    rows = [["task", "rank", "switch", "left out of all", "added to none", "interaction", ""]]
    for found in report.ablation:
        digits = digits_of_effects(report, found.task)
        ranks = (
            "-"
            if found.first_rank is None
            else " to ".join(dict.fromkeys((str(found.first_rank), str(found.last_rank))))
        )
        effects = [effect_text(effect, digits) for effect in (found.left_out, found.added, found.interaction)]
        task = f"{found.task} (%)" if found.task == ALL_TASKS else found.task
        rows.append([task, ranks, found.name, *effects, "depends on the others" if found.flagged else ""])
    return rows


def rung_rows(report: StudyReport) -> list[list[str]]:
    """Returns the table of a ladder, with the compute and the loss of each system at each size."""
    rows = [["task", "size", *(f"{name}, {what}" for name in _systems(report) for what in ("compute", "loss"))]]
    for task, systems in report.rungs.items():
        for size in dict.fromkeys(rung.size for rungs in systems.values() for rung in rungs):
            cells = []
            for name in _systems(report):
                found = next((rung for rung in systems[name] if rung.size == size), None)
                mean = sum(found.losses) / len(found.losses) if found else 0.0
                cells += [f"{found.compute:.3g}", f"{mean:.4f}"] if found else ["-", "-"]
            rows.append([task, size, *cells])
    return rows


def _systems(report: StudyReport) -> list[str]:
    """The baseline and the variants, in their order."""
    return list(dict.fromkeys(row.name for row in report.systems))


def statements(report: StudyReport) -> list[str]:
    """Returns the answer of a study in words: what its ladder, its switches or its comparisons say."""
    if report.ladder:
        return [found.statement for found in report.ladder]
    return switch_statements(report) if report.ablation else [found.statement for found in report.verdicts]


def digits_of_effects(report: StudyReport, task: str) -> int:
    """Returns the decimals of the effects of a task, which show two digits of its narrowest interval."""
    effects = [each.left_out for each in report.ablation if each.task == task]
    widths = [e.high - e.low for e in effects if e.low is not None and e.high is not None and e.high > e.low]
    return digits_for(min(widths)) if widths else 2


def switch_statements(report: StudyReport) -> list[str]:
    """Returns what the ablation says about each switch: over all tasks, or on the only one."""
    if not report.ablation:
        return []
    task = report.ablation[0].task
    unit = "%" if task == ALL_TASKS else unit_of(report.metrics[task])
    digits = digits_of_effects(report, task)
    return [statement(found, unit, digits) for found in report.ablation if found.task == task]


def spread_text(mean: float | None, deviation: float | None, digits: int) -> str:
    """Formats a mean with its deviation."""
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" if deviation is None else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def _digits(report: StudyReport, task: str) -> int:
    """Returns the decimals of a task's metric, which show two digits of its smallest deviation."""
    spreads = [row.deviation for row in report.systems if row.task == task and row.deviation]
    if spreads:
        return digits_for(min(spreads))
    means = [abs(row.mean) for row in report.systems if row.task == task and row.mean]
    return 2 if means and max(means) >= 10 else 4


def _percent(alpha: float) -> str:
    return f"{100 * (1 - alpha):g} %"


# ---- the terminal


def show(report: StudyReport, console: Console, folder: Path) -> None:
    """Prints the answer: what each system reached and cost, the comparisons, and the verdicts in words."""

    def say(text: str, style: str = "") -> None:
        console.print(text, markup=False, highlight=False, soft_wrap=True, style=style or None)

    say(f"\n{report.question}", "bold")
    for text in report.warnings:
        say(f"warning: {text}", "yellow")
    head, *body = system_rows(report)
    console.print(Fitted(head, body, left=("system",), optional=("training", "tokens/s", "parameters", "test")))
    say("")
    head, *body = verdict_rows(report)
    console.print(Fitted(head, body, left=("variant", "metric", "verdict"), optional=("metric", "seeds")))
    say("")
    if report.ablation:
        head, *body = switch_rows(report)
        console.print(Fitted(head, body, left=("switch", ""), optional=("interaction",)))
        say("above 0, the switch helps; the interaction is the first effect minus the second", "dim")
        say("")
    if report.ladder:
        head, *body = rung_rows(report)
        console.print(Fitted(head, body, left=("size",)))
        say("")
    for text in statements(report):
        say(text)
    failed = [run for run in report.runs if run.state == "failed"]
    for run in failed:
        say(f"failed: {run.task} {run.name} seed {run.seed}: {run.reason}")
    for text in [*report.notes, counts(report)]:
        say(text, "dim")
    say(f"answer: {answer_of(report)}" if report.ended else "the study has not ended; the same command goes on", "bold")
    lacks = "" if installed("matplotlib") else f" (tables only; for pictures {install('matplotlib')})"
    say(f"report: {folder / PAGE}{lacks}")


def counts(report: StudyReport) -> str:
    """Says how many runs there were, and how often the test split was read."""
    states = [run.state for run in report.runs]
    listed = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    runs = f"{len(states)} run{'s' * (len(states) != 1)} ({listed or 'none'})"
    looks = f"{report.test_looks} time{'s' * (report.test_looks != 1)}"
    if report.folds:
        partitions = max(1, report.most_seeds // report.folds)
        often = "once" if partitions == 1 else f"once in each of {partitions} partitions"
        return (
            f"{runs}, {report.minutes:.1f} minutes of runs. The verdicts are those of the test folds: each text is "
            f"tested {often}. Test folds were read {looks}."
        )
    return (
        f"{runs}, {report.minutes:.1f} minutes of runs. The verdicts are those of validation. "
        f"The test split was read {looks}, and nothing was chosen by it."
    )


# ---- files


def as_json(report: StudyReport) -> str:
    """Returns everything but the curves as JSON, with unrounded numbers."""
    content: dict[str, Any] = {key: value for key, value in asdict(report).items() if key != "curves"}
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def latex(report: StudyReport) -> str:
    """Returns a table for LaTeX's package booktabs: the test metric of each system on each task.

    An arrow shows whether more or less is better. A system is in bold if a verdict singles it out; `_bold` says which.
    """
    tasks = list(report.metrics)
    names = list(dict.fromkeys(row.name for row in report.systems))
    cells = {(row.task, row.name): row for row in report.systems}
    bold = {task: _bold(report, task) for task in tasks}
    arrows = {"max": r"$\uparrow$", "min": r"$\downarrow$"}
    units = {
        task: f"{latex_text(report.metrics[task].replace('val/', ''))} {arrows[report.better[task]]}" for task in tasks
    }
    heads = [f"{latex_text(task)} ({units[task]})" for task in tasks]
    lines = [
        "% needs \\usepackage{booktabs}",
        r"\begin{table}",
        r"\centering",
        rf"\begin{{tabular}}{{l{'r' * (len(tasks) + 1)}}}",
        r"\toprule",
        " & ".join(["system", *heads, "parameters"]) + r" \\",
        r"\midrule",
    ]
    for name in names:
        row = [latex_text(name)]
        for task in tasks:
            text = _latex_cell(cells[task, name], _digits(report, task))
            row.append(rf"\textbf{{{text}}}" if name in bold[task] else text)
        sizes = sorted({cells[task, name].parameters for task in tasks})
        row.append(" to ".join(f"{size:,}" for size in dict.fromkeys((sizes[0], sizes[-1]))))
        lines.append(" & ".join(row) + r" \\")
    said = " ".join(latex_text(found.statement) + "." for found in report.verdicts)
    over = (
        "folds; the verdicts are of the same"
        if report.folds
        else "seeds on the test split; the verdicts are those of validation"
    )
    marked = any(bold.values())
    base = latex_text(report.baseline)
    legend = f"Bold, by the verdicts: a variant better than {base}, or {base} if all variants are worse. " * marked
    caption = f"Mean and standard deviation over {over}. {legend}{said}"
    lines += [r"\bottomrule", r"\end{tabular}", rf"\caption{{{caption}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


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


def _latex_cell(row: SystemRow, digits: int) -> str:
    if row.test_mean is None:
        return "-"
    deviation = "" if row.test_deviation is None else rf" $\pm$ {row.test_deviation:.{digits}f}"
    return f"{row.test_mean:.{digits}f}{deviation}"


def page(report: StudyReport) -> str:
    """Returns one page with the answer, the tables, and pictures of intervals and learning curves."""
    drawn = installed("matplotlib")
    return render_page(
        "studying/report.html",
        title=f"Study {report.name}",
        report=report,
        answer=answer_of(report),
        verdicts=verdict_rows(report),
        systems=system_rows(report),
        runs=run_rows(report),
        switches=switch_rows(report) if report.ablation else [],
        rungs=rung_rows(report) if report.ladder else [],
        statements=statements(report),
        states=[run.state for run in report.runs],
        counts=counts(report),
        percent=_percent(report.alpha),
        install="" if drawn else install("matplotlib"),
        pictures=list(draw_study(report)) if drawn else [],
    )


def write(report: StudyReport, folder: Path) -> None:
    """Writes the page, the LaTeX table and the JSON into the study's folder, each beside its target first."""
    for name, text in ((PAGE, page(report)), (FILES["json"], as_json(report)), (FILES["latex"], latex(report))):
        beside = folder / f"{name}.{os.getpid()}.tmp"
        beside.write_text(text, encoding="utf-8")
        beside.replace(folder / name)
