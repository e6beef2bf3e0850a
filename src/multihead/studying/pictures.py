"""Pictures of a study, drawn by matplotlib: intervals of the differences, and learning curves by tokens and minutes."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from multihead.comparing.curves import stroke
from multihead.runs.page import embedded
from multihead.studying.collect import Point, StudyReport
from multihead.studying.verdicts import unit_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

VERDICT_COLOURS = {"better": "#009e73", "worse": "#d55e00"}


def draw_study(report: StudyReport) -> Iterator[tuple[str, str]]:
    """Yields the title and the address of each picture."""
    if any(found.low is not None for found in report.verdicts):
        yield "Differences", embedded(_intervals(report))
    for task in report.rungs:
        if any(report.rungs[task].values()):
            yield f"Ladder: {task}", embedded(_ladder(report, task))
    for task, systems in report.curves.items():
        if report.rungs:
            continue  # a ladder has too many curves
        if any(systems.values()):
            yield f"Learning curves: {task}", embedded(_curves(report, task))


def _intervals(report: StudyReport) -> Figure:
    """The differences with their intervals, one panel for each task; to the right of 0 the variant is better."""
    from matplotlib.figure import Figure

    tasks = list(report.metrics)
    variants = list(dict.fromkeys(found.variant for found in report.verdicts))
    figure = Figure(figsize=(3.2 * len(tasks), 1.0 + 0.4 * len(variants)))
    for panel, task in enumerate(tasks):
        axes = figure.add_subplot(1, len(tasks), panel + 1)
        for found in report.verdicts:
            if found.task != task or found.difference is None:
                continue
            place, colour = variants.index(found.variant), VERDICT_COLOURS.get(found.verdict, "#7f7f7f")
            if found.low is not None and found.high is not None:
                axes.plot([found.low, found.high], [place, place], color=colour, linewidth=2)
            axes.plot(found.difference, place, "o", color=colour)
        axes.axvline(0, color="black", linewidth=0.8)
        axes.set_yticks(range(len(variants)), variants if panel == 0 else [""] * len(variants))
        axes.set_ylim(len(variants) - 0.5, -0.5)
        if report.better[task] == "min":
            axes.invert_xaxis()
        axes.set_title(task, fontsize=10)
        axes.set_xlabel(f"{unit_of(report.metrics[task])}, right: better", fontsize=9)
        axes.spines[["top", "right"]].set_visible(False)
    return figure


def _ladder(report: StudyReport, task: str) -> Figure:
    """The losses above the optimum against compute, both logarithmic, with the fitted lines."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(6, 4))
    axes = figure.add_subplot()
    fits = {found.variant: (found.variant_scale, found.exponent) for found in report.ladder if found.task == task}
    first = next((found for found in report.ladder if found.task == task and found.scale), None)
    optimum = next(found.optimum for found in report.ladder if found.task == task)
    if first:
        fits[report.baseline] = (first.scale, first.exponent)
    for number, (name, rungs) in enumerate(report.rungs[task].items()):
        colour, line = stroke(number)
        for rung in rungs:
            above = [loss - optimum for loss in rung.losses]
            axes.plot([rung.compute] * len(above), above, "o", color=colour, markersize=3)
        scale, exponent = fits.get(name, (None, None))
        if scale is not None and exponent is not None and rungs:
            ends = [min(r.compute for r in rungs), max(r.compute for r in rungs)]
            drawn = [scale * compute**-exponent for compute in ends]
            axes.plot(ends, drawn, color=colour, linestyle=line, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    _finish(axes, "compute of a run", f"{report.metrics[next(iter(report.metrics))]} - {optimum:.4g}")
    return figure


def _curves(report: StudyReport, task: str) -> Figure:
    """The validation metric of a task: each run thin, the mean over seeds thick."""
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter

    figure = Figure(figsize=(10, 3.4))
    for panel, (axis, label) in enumerate((("tokens", "target tokens"), ("minutes", "minutes of training"))):
        axes = figure.add_subplot(1, 2, panel + 1)
        for number, (name, runs) in enumerate(report.curves[task].items()):
            colour, line = stroke(number)
            for run in runs:
                axes.plot(*_xy(run, axis), color=colour, linewidth=0.6, alpha=0.4)
            if runs:
                axes.plot(*_xy(_mean_run(runs), axis), color=colour, linestyle=line, linewidth=2, label=name)
        if axis == "tokens":
            axes.xaxis.set_major_formatter(EngFormatter())  # 200 k
        _finish(axes, label, report.metrics[task])
    return figure


def _finish(axes: Axes, label: str, metric: str) -> None:
    axes.set_xlabel(label)
    axes.set_ylabel(metric)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False, fontsize=9)


def _xy(run: Sequence[Point], axis: str) -> tuple[list[float], list[float]]:
    return [getattr(point, axis) for point in run], [point.value for point in run]


def _mean_run(runs: Sequence[Sequence[Point]]) -> list[Point]:
    """Returns the mean of runs, validation by validation, as far as all of them go."""
    return [
        Point(*(statistics.fmean(getattr(run[i], name) for run in runs) for name in ("tokens", "minutes", "value")))
        for i in range(min(map(len, runs)))
    ]
