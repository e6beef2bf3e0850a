"""What a sweep has found: its table for the console, and one HTML page of pictures that needs nothing else."""

from __future__ import annotations

import html
import os
import statistics
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from multihead.config.sweep import Sweep
from multihead.runs.screen import Fitted
from multihead.sweeping.ledger import Row

ORDER = ("complete", "running", "orphaned", "pruned", "failed")
COLOURS = {"complete": "#0072b2", "pruned": "#a67c00", "failed": "#d55e00", "running": "#7f7f7f", "orphaned": "#7f7f7f"}
MIN_COMPLETE = 2
"""Trials without which there is nothing to compare."""
MIN_IMPORTANCE = 10
"""Complete trials without which a parameter's importance is chance."""
STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 76rem; margin: 2rem auto; padding: 0 1rem; color: #222; }
h1 { font-size: 1.5rem; } h2 { font-size: 1.15rem; margin-top: 2.2rem; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .2rem .7rem; text-align: left; border-bottom: 1px solid #ddd; }
td.number { text-align: right; } .failed { color: #b34700; } .muted { color: #777; }
code { background: #f3f3f3; padding: .1rem .3rem; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
"""


def sort_rows(sweep: Sweep, rows: Sequence[Row]) -> list[Row]:
    """The best first, then what runs, then what was stopped as hopeless, then what failed."""
    sign = -1 if sweep.goal == "maximize" else 1
    return sorted(rows, key=lambda row: (ORDER.index(row.state), sign * (row.value or 0.0), row.number))


def best_row(rows: Sequence[Row], goal: str) -> Row | None:
    """The complete trial with the best value; the first of equals."""
    done = [row for row in rows if row.value is not None]
    if not done:
        return None
    return (max if goal == "maximize" else min)(done, key=lambda row: row.value)


def value_of(row: Row) -> str:
    """The value, with the deviation over seeds where there are several."""
    if row.value is None:
        return f"({row.curve[max(row.curve)]:.4g})" if row.curve else ""
    by_seed = row.record.get("by_seed", [])
    spread = f" ± {statistics.stdev(by_seed):.2g}" if len(by_seed) > 1 else ""
    return f"{row.value:.6g}{spread}"


def time_of(row: Row) -> str:
    """How long it took, over all attempts."""
    seconds = row.record.get("seconds", row.record.get("elapsed", 0.0))
    return (
        f"{seconds / 3600:.1f} h"
        if seconds >= 7200
        else f"{seconds / 60:.1f} min"
        if seconds >= 120
        else f"{seconds:.0f} s"
    )


def line_of(row: Row, sweep: Sweep, best: Row | None) -> str:
    """A line on a trial that has just been settled."""
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
    """Writes the page; beside its target first, then renamed."""
    figures = []
    for title, draw in _pictures(sweep, rows, study):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Optuna's drawings are called experimental in part
            figure = draw()
        figure.update_layout(
            title=None, margin={"t": 30, "l": 60, "r": 20, "b": 50}, height=420, template="simple_white"
        )
        body = figure.to_html(full_html=False, include_plotlyjs=False, config={"displaylogo": False})
        figures.append(f"<h2>{html.escape(title)}</h2><div class=scroll>{body}</div>")
    beside = path.with_suffix(f".{os.getpid()}.tmp")
    beside.write_text(_page(sweep, rows, figures), encoding="utf-8")
    beside.replace(path)


def _page(sweep: Sweep, rows: Sequence[Row], figures: Sequence[str]) -> str:
    script = ""
    if figures:
        from plotly.offline import get_plotlyjs

        script = f"<script>{get_plotlyjs()}</script>"
    counts = ", ".join(
        f"{sum(row.state == state for row in rows)} {state}" for state in ORDER if any(r.state == state for r in rows)
    )
    best = best_row(rows, sweep.goal)
    words = " ".join(best.record.get("words", [])) if best else ""
    lead = f"<p>{counts or 'no trials yet'}; {sweep.method} search, {html.escape(sweep.metric)} {sweep.goal}d.</p>"
    if best:
        command = f"<code>python train.py {html.escape(words)}</code>"
        lead += f"<p>Best: trial {best.number}, {html.escape(value_of(best))}: {command}</p>"
        if why := no_importances(rows):
            lead += f"<p class=muted>Importance of parameters: not known ({html.escape(why)}).</p>"
    if not figures:
        lead += f"<p class=muted>Pictures need plotly and {MIN_COMPLETE} complete trials.</p>"
    return (
        f"<!doctype html><html lang=en><meta charset=utf-8><title>Sweep {html.escape(sweep.name)}</title>"
        f"<style>{STYLE}</style>{script}<h1>Sweep {html.escape(sweep.name)}</h1>{lead}"
        f"{''.join(figures)}<h2>Trials</h2><div class=scroll>{_html_table(sweep, rows)}</div></html>\n"
    )


def _html_table(sweep: Sweep, rows: Sequence[Row]) -> str:
    head, body = cells(sweep, rows)
    lines = ["<table><tr>" + "".join(f"<th>{html.escape(cell)}</th>" for cell in head) + "</tr>"]
    for line in body:
        kind = " class=failed" if line[1] == "failed" else " class=muted" if line[1] == "pruned" else ""
        lines.append(f"<tr{kind}>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>")
    return "".join(lines) + "</table>"


def _pictures(sweep: Sweep, rows: Sequence[Row], study: Any) -> list[tuple[str, Callable[[], Any]]]:
    """Titles and what draws them; none where plotly is missing."""
    try:
        import plotly  # noqa: F401
    except ImportError:
        return []
    import optuna.visualization as draw

    found: list[tuple[str, Callable[[], Any]]] = []
    complete = [row for row in rows if row.state == "complete"]
    if any(row.curve for row in rows):
        found.append(("Learning curves", lambda: learning_curves(sweep, rows)))
    if len(complete) < MIN_COMPLETE:
        return found
    name = sweep.metric
    history = ("History", lambda: draw.plot_optimization_history(study, target_name=name))
    found.insert(0, history)
    varied = [p.name for p in sweep.swept if len({str(row.values.get(p.name)) for row in complete}) > 1]
    if varied:
        found.append(("Slices", lambda: draw.plot_slice(study, params=varied, target_name=name)))
    if not no_importances(rows):
        found.append(
            ("Importance of parameters (PED-ANOVA)", lambda: draw.plot_param_importances(study, params=varied))
        )
    if len(varied) > 1:
        found.append(("Parallel coordinates", lambda: draw.plot_parallel_coordinate(study, varied, target_name=name)))
    return found


def learning_curves(sweep: Sweep, rows: Sequence[Row]) -> Any:
    """The metric against optimizer steps, a line for each trial, coloured by what became of it."""
    import plotly.graph_objects as go

    figure, seen = go.Figure(), set()
    for row in rows:
        steps = sorted(row.curve)
        values = ", ".join(f"{name}={_short(value)}" for name, value in row.values.items())
        figure.add_scatter(
            x=steps,
            y=[row.curve[step] for step in steps],
            mode="lines+markers",
            name=row.state,
            legendgroup=row.state,
            showlegend=row.state not in seen,
            line={"color": COLOURS[row.state], "width": 1.3},
            marker={"size": 4},
            hovertemplate=f"trial {row.number}: %{{y:.4g}} at step %{{x}}<br>{html.escape(values)}<extra></extra>",
        )
        seen.add(row.state)
    figure.update_xaxes(title="optimizer steps")
    figure.update_yaxes(title=sweep.metric)
    return figure


def no_importances(rows: Sequence[Row]) -> str:
    """Why importances would be noise: too few complete trials, or values that differ less than those of equal trials.

    Of one parameter the share is 100 % whatever it does. Equal trials are the seeds of one point.
    """
    complete = [row for row in rows if row.state == "complete"]
    names = dict.fromkeys(name for row in complete for name in row.values)
    varied = [name for name in names if len({str(row.values.get(name)) for row in complete}) > 1]
    if len(varied) < 2:
        return f"{len(varied)} of the parameters differ{'s' * (len(varied) == 1)} between complete trials; it takes 2"
    if len(complete) < MIN_IMPORTANCE:
        return f"{len(complete)} complete trials; it takes {MIN_IMPORTANCE}"
    deviations = [statistics.stdev(s) for row in complete if len(s := row.record.get("by_seed", [])) > 1]
    noise = max([1e-6 * max(abs(row.value) for row in complete), *(deviations and [statistics.mean(deviations)])])
    spread = statistics.stdev(row.value for row in complete)
    if spread <= noise:
        return f"the trials' values differ by no more than chance (deviation {spread:.2g}, of equal trials {noise:.2g})"
    return ""


def importances(study: Any, rows: Sequence[Row]) -> dict[str, float]:
    """Share of each parameter in whether a trial is among the better (arXiv:2304.10255); {} for `no_importances`."""
    import optuna

    if no_importances(rows):
        return {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return dict(optuna.importance.get_param_importances(study))
