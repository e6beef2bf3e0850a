"""Writes the answer of a study: on the terminal, as JSON, as LaTeX, and as one HTML page with pictures."""

from __future__ import annotations

import json
import os
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console

from multihead.config.extras import install, installed
from multihead.runs.page import render_page
from multihead.runs.screen import Fitted
from multihead.studying.collect import StudyReport
from multihead.studying.latex import latex
from multihead.studying.pictures import draw_study
from multihead.studying.tables import percent, run_rows, rung_rows, statements, switch_rows, system_rows, verdict_rows

FILES = {"json": "report.json", "latex": "report.tex"}
PAGE = "report.html"


def answer_of(report: StudyReport) -> str:
    """Returns the verdict of the whole study in one sentence for each variant or switch."""
    if report.ablation or report.ladder:
        return ". ".join(statements(report)) + "."
    return ". ".join(found.statement for found in report.overall) + "."


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
        percent=percent(report.alpha),
        install="" if drawn else install("matplotlib"),
        pictures=list(draw_study(report)) if drawn else [],
    )


def write(report: StudyReport, folder: Path) -> None:
    """Writes the page, the LaTeX tables and the JSON into the study's folder, each beside its target first."""
    for name, text in ((PAGE, page(report)), (FILES["json"], as_json(report)), (FILES["latex"], latex(report))):
        beside = folder / f"{name}.{os.getpid()}.tmp"
        beside.write_text(text, encoding="utf-8")
        beside.replace(folder / name)
