"""The report of a sweep: a table for the console, and one HTML page with pictures."""

from __future__ import annotations

import os
import shlex
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from multihead.config.extras import install, installed
from multihead.config.sweep import Sweep
from multihead.errors import ConfigError
from multihead.runs.page import render_page
from multihead.runs.screen import Fitted
from multihead.sweeping.importance import importances, no_importances
from multihead.sweeping.ledger import Row, spent
from multihead.sweeping.pictures import MIN_COMPLETE, draw_sweep

REPORT = "report.html"
ORDER = ("complete", "running", "orphaned", "pruned", "failed")


def sort_rows(sweep: Sweep, rows: Sequence[Row]) -> list[Row]:
    """The best trials first, then running, then pruned, then failed ones."""
    sign = -1 if sweep.goal == "maximize" else 1
    return sorted(rows, key=lambda row: (ORDER.index(row.state), sign * (row.value or 0.0), row.number))


def best_row(rows: Sequence[Row], goal: str) -> Row | None:
    """The complete trial with the best value; the first one if several are equal."""
    sign = -1 if goal == "maximize" else 1
    done = [(sign * row.value, row.number, row) for row in rows if row.value is not None]
    return min(done, default=(0.0, 0, None))[2]


def count_states(rows: Sequence[Row]) -> str:
    """How many trials are in each state, such as ``3 complete, 1 failed``; empty without trials."""
    states = [row.state for row in rows]
    return ", ".join(f"{states.count(state)} {state}" for state in ORDER if state in states)


def value_of(row: Row) -> str:
    """The value, with the deviation over seeds if there are several. An unfinished trial has its last one, in ()."""
    if row.value is None:
        return f"({row.curve[max(row.curve)]:.4g})" if row.curve else ""
    by_seed = row.record.get("by_seed", [])
    spread = f" ± {statistics.stdev(by_seed):.2g}" if len(by_seed) > 1 else ""
    return f"{row.value:.6g}{spread}"


def time_of(row: Row) -> str:
    """The time of a trial over all attempts."""
    seconds = spent(row)
    if seconds >= 7200:
        return f"{seconds / 3600:.1f} h"
    return f"{seconds / 60:.1f} min" if seconds >= 120 else f"{seconds:.0f} s"


def line_of(row: Row, sweep: Sweep, best: Row | None) -> str:
    """A line about a trial that has just ended."""
    values = " ".join(f"{name}={value}" for name, value in row.values.items())
    if row.state == "failed":
        return f"trial {row.number} failed: {row.record.get('reason', '')}  ({values}; {row.record.get('log', '')})"
    mark = "  best so far" if best is row else ""
    stopped = ", stopped early" if row.state == "pruned" else ""
    return f"trial {row.number}: {sweep.metric} {value_of(row)}{stopped}  {time_of(row)}  {values}{mark}"


def cells(sweep: Sweep, rows: Sequence[Row]) -> tuple[list[str], list[list[str]]]:
    """Head and rows of the table of trials."""
    head = ["trial", "state", sweep.metric, *(parameter.name for parameter in sweep.swept), "time", "tries", "reason"]
    body = []
    for row in sort_rows(sweep, rows):
        values = [_short(row.values.get(parameter.name, "")) for parameter in sweep.swept]
        tries = str(row.record.get("attempt", 1))
        reason = row.record.get("reason", "")
        body.append([str(row.number), row.state, value_of(row), *values, time_of(row), tries, reason])
    return head, body


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def console_table(sweep: Sweep, rows: Sequence[Row]) -> Fitted:
    """The table of trials for a console."""
    head, body = cells(sweep, rows)
    return Fitted(head, body, left=("state", "reason"), fold=("reason",), optional=("tries", "reason", "time"))


# The page


def write_report(path: Path, sweep: Sweep, rows: Sequence[Row], study: Any) -> None:
    """Writes the page beside its target and renames it, so that a reader never sees half a page."""
    drawn = installed("matplotlib")
    best = best_row(rows, sweep.goal)
    head, body = cells(sweep, rows)
    text = render_page(
        "sweeping/report.html",
        title=f"Sweep {sweep.name}",
        sweep=sweep,
        counts=count_states(rows),
        best=best,
        best_value=value_of(best) if best else "",
        command=f"python train.py {shlex.join(best.record.get('words', []))}" if best else "",
        no_importances=no_importances(rows),
        install="" if drawn else install("matplotlib"),
        min_complete=MIN_COMPLETE,
        pictures=list(draw_sweep(sweep, rows, study)) if drawn else [],
        trials=[head, *body],
        states=[row.state for row in sort_rows(sweep, rows)],
    )
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    beside.write_text(text, encoding="utf-8")
    beside.replace(path)


def best_command(rows: Sequence[Row], sweep: Sweep) -> str:
    """Returns the command that trains the best configuration.

    Raises:
        ConfigError: If no trial is complete.
    """
    row = best_row(rows, sweep.goal)
    if row is None:
        raise ConfigError("best", f"no trial of {sweep.name} is complete yet", "status=true shows the trials")
    return "python train.py " + shlex.join(row.record.get("words", sweep.point(row.values)))


def show(console: Console, sweep: Sweep, rows: Sequence[Row], folder: Path, study: Any) -> None:
    """Prints the table of trials, the best one's command, and where the pictures are."""
    console.print(console_table(sweep, rows))
    console.print(count_states(rows) or "no trials yet")
    if found := importances(study, rows):
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found.items())
        console.print(f"importance of parameters: {shares}", highlight=False, soft_wrap=True)
    elif best_row(rows, sweep.goal):
        console.print(f"importance of parameters: not known ({no_importances(rows)})", highlight=False, soft_wrap=True)
    if best_row(rows, sweep.goal):
        console.print("best: " + best_command(rows, sweep), highlight=False, markup=False, soft_wrap=True)
    lacks = "" if installed("matplotlib") else f" (a table only; for pictures {install('matplotlib')})"
    console.print(f"pictures: {folder / REPORT}{lacks}", highlight=False, soft_wrap=True, markup=False)
