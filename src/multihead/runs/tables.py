"""Numbers and tables for people."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from multihead.runs.screen import Fitted

log = logging.getLogger("multihead")


def summary(result: Mapping[str, Any], samples: Sequence[Mapping[str, str]], next_commands: Sequence[str]) -> None:
    """Shows the metrics of a finished run, sample outputs, and what to type next.

    Args:
        result: The run's result.
        samples: The texts of each sample by name. An ``output`` that equals the ``reference`` is green.
        next_commands: Commands that the user can paste.
    """
    parts: list[RenderableType] = ["", metrics_table(result)]
    if samples:
        grid = Table.grid(padding=(0, 2), expand=False)
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for i, sample in enumerate(samples):
            if i:
                grid.add_row("", "")
            for name, text in sample.items():
                style = "green" if text == sample.get("reference") else "bold"
                grid.add_row(Text(printable(name)), Text(printable(text), style=style if name == "output" else ""))
        parts += ["", Padding(grid, (0, 0, 0, 1), expand=False)]
    log.info("", extra={"renderable": Group(*parts)})
    if next_commands:  # plain text is not cut at the terminal's width and can be copied
        log.info("\nnext:\n%s", "\n".join(f"  {command}" for command in next_commands))


def metrics_table(result: Mapping[str, Any]) -> Table:
    """Returns a table of a result's numbers: test metrics first, then validation, then the others."""
    numbers = {k: v for k, v in result.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    order = {"test": 0, "val": 1, "train": 2}
    names = sorted(numbers, key=lambda name: order.get(name.partition("/")[0] if "/" in name else "", 3))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    table.add_column()
    table.add_column(justify="right")
    for name in names:
        value = duration(numbers[name]) if name == "seconds" else number(numbers[name])
        table.add_row(name, Text(value, style="bold" if name.startswith("test/") else ""))
    return table


def plain_table(title: str, rows: Sequence[Sequence[Any]]) -> Table:
    """Returns a table of rows. The first row is the head, and columns of numbers are aligned to the right."""
    head, *body = rows
    table = Table(box=None, padding=(0, 2, 0, 1), title=Text(printable(title), style="dim"), title_justify="left")
    for place, name in enumerate(head):
        numeric = bool(body) and isinstance(body[0][place], int | float)
        table.add_column(Text(printable(str(name))), justify="right" if numeric else "left")
    for row in body:
        table.add_row(*(Text(printable(f"{cell:,}" if isinstance(cell, int) else str(cell))) for cell in row))
    return table


def runs_table(results: Mapping[str, Mapping[str, Any]]) -> Fitted:
    """Returns a table of several runs' metrics with a column for each run."""
    names = {name: None for result in results.values() for name, value in result.items() if isinstance(value, float)}
    rows = [[n, *(number(result[n]) if n in result else "" for result in results.values())] for n in names]
    return Fitted(["metric", *results], rows, fold=list(results))


def printable(text: str) -> str:
    """Returns ``text`` in one line, with line breaks and tabs as ``\\n`` and ``\\t``, as `predict` writes them.

    Other control characters are replaced, because they could move a terminal's cursor.
    """
    text = text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return "".join(char if char.isprintable() else "�" for char in text)


def short(name: str) -> str:
    """Returns a metric's name without its split."""
    return name.partition("/")[2] or name


def number(value: float) -> str:
    """Formats a number for people: integers with separators, others with two decimals or few digits."""
    if isinstance(value, int) or (abs(value) >= 1000 and math.isfinite(value)):
        return f"{value:,.0f}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.2e}"


def duration(seconds: float) -> str:
    """Formats seconds as ``1:02:03``, or as ``-:--:--`` if they are not known."""
    if not math.isfinite(seconds):
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
