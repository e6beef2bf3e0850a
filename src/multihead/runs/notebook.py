"""What a notebook shows of a run: a table of its facts, and the bar of a training that is going on."""

from __future__ import annotations

import html
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.progress import TaskID

from multihead.config.training import Config
from multihead.errors import MultiheadError
from multihead.runs.card import Facts
from multihead.runs.tables import number

WIDTH = 100
"""Number of characters in a line of a notebook's output. Jupyter breaks longer lines anywhere."""
SECONDS_BETWEEN = 0.25
"""Least time between two pictures of the bar."""


def in_notebook() -> bool:
    """Whether standard output is the output of a notebook's cell."""
    return type(sys.stdout).__module__.startswith("ipykernel")


def describe(run_dir: Path, config: Config, parameters: int) -> dict[str, str]:
    """Returns what a reader wants to know of a run first, as texts by name.

    Args:
        run_dir: The run directory. It may hold no more than the model.
        config: The run's configuration.
        parameters: Number of parameters of the model.
    """
    try:
        found = Facts.read(run_dir, config)
    except MultiheadError:  # a damaged file is no reason to show nothing
        found = Facts(config, {}, {})
    facts = {"task": config.task.name, "data": config.data.name, "parameters": f"{parameters:,}"}
    if "steps" in found.result:
        facts["steps"] = f"{found.result['steps']:,}"
    return facts | {name: number(value) for name, value in found.scores.items()}


def in_line(run_dir: Path, facts: Mapping[str, str], score: str) -> str:
    """Returns one line about a run.

    Args:
        run_dir: The run directory.
        facts: What `describe` returns.
        score: The name of the metric that the line shows.
    """
    names = [name for name in ("task", "data", "parameters", "steps", score) if name in facts]
    return f"Run({str(run_dir)!r}: {', '.join(f'{name}={facts[name]}' for name in names)})"


def as_html(run_dir: Path, facts: Mapping[str, str], methods: Sequence[str]) -> str:
    """Returns a table with a row for each fact, and for the methods that the run has."""
    rows = {"run": str(run_dir), **facts, "methods": ", ".join(methods)}
    cells = "".join(
        f'<tr><th style="text-align: left">{html.escape(name)}</th>'
        f'<td style="text-align: left">{html.escape(text)}</td></tr>'
        for name, text in rows.items()
    )
    return f"<table><tbody>{cells}</tbody></table>"


class NotebookBar:
    """A bar of a notebook, with the methods of `rich.progress.Progress` that a training calls.

    rich and tqdm need the package ipywidgets to draw a bar in a notebook. This one is an HTML element that IPython
    replaces, and it disappears at the end.
    """

    def __init__(self) -> None:
        self.what, self.done, self.total = "", 0.0, 1.0
        self.fields: dict[str, Any] = {}
        self.shown = 0.0
        self.handle: Any = None

    def add_task(self, what: str, total: float, **fields: Any) -> TaskID:
        """Sets what the bar counts."""
        self.what, self.total, self.fields = what, total, fields
        return TaskID(0)

    def start(self) -> None:
        """Shows the bar below the cell."""
        from IPython.display import display

        self.handle = display(self, display_id=True)

    def update(
        self,
        task: TaskID,
        *,
        completed: float | None = None,
        description: str | None = None,
        refresh: bool = False,
        **fields: Any,
    ) -> None:
        """Takes new numbers, and shows them unless that was done a moment ago."""
        self.done = self.done if completed is None else completed
        self.what = self.what if description is None else description
        self.fields |= fields
        if refresh or time.monotonic() - self.shown > SECONDS_BETWEEN:
            self.shown = time.monotonic()
            self.handle.update(self)

    def stop(self) -> None:
        """Removes the bar."""
        self.handle.update({"text/plain": "", "text/html": ""}, raw=True)

    def __repr__(self) -> str:
        numbers = (str(value) for value in self.fields.values() if value)
        return "  ".join([self.what, f"{self.done:g}/{self.total:g}", *numbers])

    def _repr_html_(self) -> str:
        what, _, numbers = repr(self).partition("  ")
        bar = f'<progress value="{self.done:g}" max="{self.total:g}" style="width: 40%"></progress>'
        return f"<div>{html.escape(what)} {bar} {html.escape(numbers)}</div>"
