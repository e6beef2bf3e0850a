"""Pictures of a sweep, drawn by matplotlib; most of them are Optuna's."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from multihead.config.sweep import Sweep
from multihead.runs.page import embedded
from multihead.sweeping.importance import no_importances, varied_parameters
from multihead.sweeping.ledger import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MIN_COMPLETE = 2
"""Fewer complete trials cannot be compared."""
COLOURS = {"complete": "#0072b2", "pruned": "#a67c00", "failed": "#d55e00", "running": "#7f7f7f", "orphaned": "#7f7f7f"}


def draw_sweep(sweep: Sweep, rows: Sequence[Row], study: Any) -> Iterator[tuple[str, str]]:
    """Titles and images, each as an address that holds the image; only those that the trials give a reason for."""
    complete = [row for row in rows if row.state == "complete"]
    if len(complete) >= MIN_COMPLETE:
        yield "History", _by_optuna("plot_optimization_history", study, target_name=sweep.metric)
    if any(row.curve for row in rows):
        yield "Learning curves", embedded(_learning_curves(sweep, rows))
    if len(complete) < MIN_COMPLETE:
        return
    varied = varied_parameters(complete)
    if varied:
        yield "Slices", _by_optuna("plot_slice", study, params=varied, target_name=sweep.metric)
    if not no_importances(rows):
        yield "Importance of parameters (PED-ANOVA)", _by_optuna("plot_param_importances", study, params=varied)
    if len(varied) > 1:
        picture = _by_optuna("plot_parallel_coordinate", study, params=varied, target_name=sweep.metric)
        yield "Parallel coordinates", picture


def _by_optuna(name: str, study: Any, **options: Any) -> str:
    """An image by one of the functions of ``optuna.visualization.matplotlib``."""
    import matplotlib
    import matplotlib.pyplot as plt
    import numpy as np
    from optuna.visualization import matplotlib as optunas

    plt.switch_backend("agg")  # another one would open a window
    draw: Callable[..., Any] = getattr(optunas, name)
    with matplotlib.rc_context(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Optuna calls these drawings experimental
        axes = np.ravel(draw(study, **options))
        for each in axes:
            each.set_title("")
        figure = axes[0].figure
        figure.suptitle("")
        image = embedded(figure)
        plt.close(figure)
    return image


def _learning_curves(sweep: Sweep, rows: Sequence[Row]) -> Figure:
    """The metric by optimizer step: a line for each trial, in the colour of its state."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6))
    axes = figure.add_subplot()
    for row in rows:
        steps = sorted(row.curve)
        values = [row.curve[step] for step in steps]
        axes.plot(steps, values, color=COLOURS[row.state], marker="o", markersize=2.5, linewidth=1.1)
    for state in dict.fromkeys(row.state for row in rows if row.curve):
        axes.plot([], [], color=COLOURS[state], label=state)
    axes.legend(frameon=False)
    axes.set_xlabel("step")
    axes.set_ylabel(sweep.metric, parse_math=False)
    axes.grid(alpha=0.3)
    return figure
