"""``compare`` says which system is better, by how much, and whether that is more than chance."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from multihead.config.settings import read_words
from multihead.config.verbs import CompareSettings

if TYPE_CHECKING:
    from multihead.comparing.report import Report
    from multihead.runs.screen import Fitted


def run(words: Sequence[str]) -> int:
    """Runs ``multihead compare``; see `CompareSettings`."""
    settings, _ = read_words(CompareSettings, words)
    from rich.console import Console

    from multihead.comparing.compare import compare
    from multihead.comparing.report import outputs, render

    targets = outputs(settings.format, settings.out)
    report = compare(
        settings.runs,
        group=settings.group,
        names=settings.names,
        baseline=settings.baseline,
        metric=settings.metric,
    )
    messages = Console(stderr=True, highlight=False, soft_wrap=True)
    for text in report.warnings:
        messages.print(f"warning: {text}", style="yellow", markup=False)
    for kind, file in targets:
        text = render(report, kind)
        if file is None:
            sys.stdout.write(text)
            return 0
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    show(report)
    for _, file in targets:
        messages.print(f"wrote {file}", markup=False)
    return 0


def show(report: Report) -> None:
    """Prints tables and findings on standard output."""
    from multihead.comparing.report import pairs_rows, systems_rows
    from multihead.runs.screen import report_console

    console = report_console()
    better = "higher" if report.better == "max" else "lower"
    console.print(f"{report.metric} ({better} is better)", style="bold", markup=False)
    console.print(_table(systems_rows(report)))
    if report.pairs:
        console.print()
        console.print(_table(pairs_rows(report)))
        console.print()
    for pair in report.pairs:
        console.print(pair.statement, markup=False, soft_wrap=True)
    for text in report.notes:
        console.print(text, style="dim", markup=False, soft_wrap=True)


def _table(rows: list[list[str]]) -> Fitted:
    from multihead.runs.screen import Fitted

    head, *body = rows
    return Fitted(head, body, fold=(head[0], "test"))
