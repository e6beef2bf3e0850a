"""``compare``: which system is better, by how much, and whether that is more than chance."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from multihead.config.keys import nearest_name
from multihead.config.words import entries_of, path_of
from multihead.errors import ConfigError

if TYPE_CHECKING:
    from multihead.comparing.report import Report
    from multihead.runs.screen import Fitted

WORDS = ("runs", "group", "names", "baseline", "metric", "format", "out")
LISTS = ("runs", "group", "names", "format")


def run(words: Sequence[str]) -> int:
    """``multihead compare runs=[A,B] [names=[x,y]] [baseline=A] [metric=KEY] [format=html] [out=FILE]``."""
    from rich.console import Console

    from multihead.comparing.compare import compare
    from multihead.comparing.report import outputs, render

    options = parse(words)
    targets = outputs(options["format"], options["out"])
    report = compare(
        options["runs"],
        group=options["group"],
        names=options["names"],
        baseline=options["baseline"],
        metric=options["metric"],
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


def parse(words: Sequence[str]) -> dict[str, Any]:
    """The words of the command line: texts, and lists if the name is one of `LISTS`.

    Raises:
        ConfigError: If a word is not one of `WORDS`, or no run is named.
    """
    options: dict[str, Any] = {name: [] if name in LISTS else "" for name in WORDS}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in WORDS or not equals:
            near = nearest_name(name, WORDS)
            fix = f"{near}={value}" if near else ""
            raise ConfigError(name, f"compare takes {', '.join(f'{known}=' for known in WORDS)}", fix)
        if name in LISTS:
            options[name] += entries_of(name, value)
        else:
            options[name] = path_of(name, value) if name == "out" else value
    if not options["runs"] and not options["group"]:
        raise ConfigError("runs", "is missing: which runs to compare?", "runs=[outputs/A,outputs/B] or group=FOLDER")
    return options


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
