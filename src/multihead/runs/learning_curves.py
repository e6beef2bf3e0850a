"""The content of a run's metrics.csv as a pandas frame and as learning curves. Both packages come with an extra."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from multihead.config.extras import require_package
from multihead.config.keys import nearest_name
from multihead.errors import CheckpointError, ConfigError
from multihead.runs.files import Row, read_metrics

if TYPE_CHECKING:
    import pandas
    from matplotlib.axes import Axes

FILE = "metrics.csv"
SIZE = 4.8, 3.2
"""Width and height of the curves of one metric, in inches."""
Curves = Mapping[str, Sequence[tuple[float, float]]]
"""The steps and values of each metric."""


def frame(run_dir: Path) -> pandas.DataFrame:
    """Returns the rows of metrics.csv by step, with a column for each metric and NaN where a row has no value.

    Raises:
        ConfigError: If pandas is not installed.
        CheckpointError: If the run directory has no metrics.csv.
    """
    require_package("pandas", "run.metrics", "a frame")
    import pandas

    rows = _rows(run_dir)
    columns = {name: [float(row[name] or "nan") for row in rows] for name in rows[0]}
    whole = {name: [int(value) for value in columns.pop(name)] for name in ("step", "tokens")}
    index = pandas.Index(whole["step"], name="step")
    return pandas.DataFrame({"tokens": whole["tokens"], **columns}, index=index)


def plot(run_dir: Path, names: Sequence[str]) -> list[Axes]:
    """Draws curves by step, and returns an axes for each name.

    Args:
        run_dir: The run directory.
        names: Columns of metrics.csv, such as ``val/bleu``, or names without a split: ``loss`` draws the losses of
            both training and validation.

    Raises:
        ConfigError: If matplotlib is not installed, or if metrics.csv has no such column.
        CheckpointError: If the run directory has no metrics.csv.
    """
    require_package("matplotlib", "run.plot", "a picture")
    import matplotlib.pyplot as plt

    curves = _curves(run_dir)
    chosen = [_of_name(name, curves) for name in names]
    figure, grid = plt.subplots(1, len(names), figsize=(SIZE[0] * len(names), SIZE[1]), squeeze=False)
    for axes, name, columns in zip(grid[0], names, chosen, strict=True):
        for column in columns:
            steps, values = zip(*curves[column], strict=True)
            axes.plot(steps, values, label=column, marker="o" if len(steps) < 10 else None, markersize=3)
        axes.set(xlabel="step", ylabel=name)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False)
    figure.tight_layout()
    return list(grid[0])


def _rows(run_dir: Path) -> list[Row]:
    """The complete rows of metrics.csv.

    Raises:
        CheckpointError: If there are none.
    """
    if rows := read_metrics(run_dir / FILE):
        return rows
    what = "does not exist or is empty; prediction does not need it, but learning curves do"
    raise CheckpointError(str(run_dir / FILE), what, "copy the whole run directory")


def _curves(run_dir: Path) -> Curves:
    rows = _rows(run_dir)
    columns = [name for name in rows[0] if "/" in name]
    found = {name: [(float(row["step"]), float(row[name])) for row in rows if row[name]] for name in columns}
    return {name: points for name, points in found.items() if points}


def _of_name(name: str, curves: Curves) -> list[str]:
    """The columns that a name stands for.

    Raises:
        ConfigError: If there are none.
    """
    found = [column for column in (name, f"train/{name}", f"val/{name}") if column in curves]
    if not found:
        near = nearest_name(name, list(curves)) or next(iter(curves), "")
        raise ConfigError("run.plot", f"metrics.csv has no {name}; it has {', '.join(curves)}", f'run.plot("{near}")')
    return found
