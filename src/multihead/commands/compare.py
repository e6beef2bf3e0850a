"""``compare`` says which system is better, by how much, and whether that is more than chance."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from multihead.config.settings import read_words
from multihead.config.verbs import CompareSettings

if TYPE_CHECKING:
    from multihead.comparing.report import Comparison, Report
    from multihead.runs.screen import Fitted


def run(words: Sequence[str]) -> int:
    """Runs ``multihead compare``; see `CompareSettings`."""
    settings, _ = read_words(CompareSettings, words)
    from rich.console import Console

    from multihead.comparing.compare import compare_tasks
    from multihead.comparing.overview import render
    from multihead.comparing.report import outputs

    targets = outputs(settings.format, settings.out)
    found = compare_tasks(
        settings.runs,
        group=settings.group,
        names=settings.names,
        baseline=settings.baseline,
        metric=settings.metric,
        smallest=settings.limits(),
    )
    messages = Console(stderr=True, highlight=False)
    several = len(found.reports) > 1
    warnings = [(task if several else "", text) for task, report in found.reports.items() for text in report.warnings]
    for task, text in [*(("", text) for text in found.warnings), *warnings]:
        messages.print(f"warning: {task}{': ' * bool(task)}{text}", style="yellow", markup=False)
    for kind, file in targets:
        text = render(found, kind)
        if file is None:
            sys.stdout.write(text)
            return 0
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    if several:
        show_all(found)
    else:
        show(next(iter(found.reports.values())))
    for _, file in targets:
        messages.print(f"wrote {file}", markup=False)
    return 0


def show_all(found: Comparison) -> None:
    """Prints the comparison of each task, the table over all tasks, and what it says."""
    from multihead.comparing.overview import legend, looks_text, overview_rows
    from multihead.runs.screen import report_console

    console = report_console()
    for task, report in found.reports.items():
        show(report, f"{task}: ")
        console.print()
    console.print("all tasks", style="bold")
    console.print(_table(overview_rows(found)))
    for text in (legend(found), looks_text(found)):
        console.print(text, style="dim", markup=False)
    for each in found.overall:
        console.print(each.statement, markup=False)


def show(report: Report, task: str = "") -> None:
    """Prints tables and findings of one task on standard output. ``task`` begins the first line."""
    from multihead.comparing.report import pairs_rows, systems_rows
    from multihead.runs.screen import report_console

    console = report_console()
    better = "higher" if report.better == "max" else "lower"
    console.print(f"{task}{report.metric} ({better} is better)", style="bold", markup=False)
    console.print(_table(systems_rows(report)))
    if report.pairs:
        console.print()
        console.print(_table(pairs_rows(report)))
        console.print()
    for pair in report.pairs:
        console.print(pair.statement, markup=False)
    for text in report.notes:
        console.print(text, style="dim", markup=False)


def _table(rows: list[list[str]]) -> Fitted:
    from multihead.runs.screen import Fitted

    head, *body = rows
    return Fitted(head, body, fold=(head[0], "test"))
