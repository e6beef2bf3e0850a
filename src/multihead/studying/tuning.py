"""Tunes every variant and the baseline with the same number of trials over the same keys, each by a sweep of its own.

The sweeps choose on the validation split. They have seeds of their own, so that no run of the study is one by which its
values were chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import yaml
from rich.console import Console

from multihead.config.many_runs import StudySettings, SweepSettings
from multihead.config.merge import Composition
from multihead.config.study import Study
from multihead.config.sweep import COMMAND, GOALS, PROGRAM, check, read_sweep
from multihead.errors import ConfigError, MachineError
from multihead.sweeping.frozen import launch
from multihead.sweeping.ledger import SETTLED, spent
from multihead.sweeping.report import best_row
from multihead.sweeping.runner import Runner

FOLDER = "tuning"


@dataclass(frozen=True)
class Tuned:
    """What the search found for a variant or the baseline on a task."""

    words: list[str]
    """The best values as words."""
    value: float
    """The validation metric of the best trial."""
    trials: int
    failed: int
    seconds: float
    """Seconds of all trials."""


def write_file(study: Study, folder: Path, name: str, words: Sequence[str], composition: Composition) -> Path:
    """Writes the sweep file of one search, and returns it."""
    assert study.tune is not None
    task = composition.config.task
    goal = next(goal for goal, mode in GOALS.items() if mode == task.monitor_mode)
    tree = {
        "program": PROGRAM,
        "name": name,
        "method": study.tune.method,
        "metric": {"name": task.monitor, "goal": goal},
        "run_cap": study.tune.trials,
        "parameters": study.tune.parameters,
        "command": [*COMMAND[:3], *words, COMMAND[3]],
    }
    file = folder / "tune.yaml"
    folder.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump(tree, sort_keys=False), encoding="utf-8")
    return file


def tune(
    study: Study, folder: Path, words: Sequence[str], typed: Sequence[str], settings: StudySettings, console: Console
) -> Tuned:
    """Runs the search of one variant or the baseline on one task. A search that was interrupted goes on.

    Args:
        study: The study.
        folder: The search's folder.
        words: The words of the runs.
        typed: The words of the frozen copies of plugin and folders, which no file may name.
        settings: The settings of the command.
        console: Where trials are shown.

    Raises:
        ConfigError: If a trial would not be valid.
        MachineError: If all trials failed.
    """
    from multihead.config.compose import compose

    name = f"{study.name}.{folder.parent.name}.{folder.name}"
    file = write_file(study, folder, name, words, compose([*words, *typed]))
    sweep = read_sweep(str(file))
    try:
        first = check(sweep, typed)
    except ConfigError as error:
        raise ConfigError(study.at("tune", "parameters"), f"{name}: {error.what}", error.fix) from error
    wanted = SweepSettings(
        file=str(file),
        workers=settings.workers,
        budget=str(sweep.run_cap),
        trial_time=settings.run_time,
        storage=settings.storage,
    )
    options = {"storage": settings.storage, "val_every": first.config.trainer.val_every_n_steps}
    ledger = launch(sweep, folder, typed, wanted, first, options)
    Runner(sweep, folder, wanted, ledger, first, console).run(sweep.run_cap, 0.0, list(typed))
    rows = ledger.rows()
    ended, planned = sum(row.state in SETTLED for row in rows), sweep.run_cap
    if sweep.method == "grid":
        planned = min(planned, sweep.grid_size())
    if ended < planned:
        what = f"its workers ended after {ended} of {planned} trials"
        raise MachineError(f"tuning {name}", what, "look at the messages above; the same command goes on")
    best = best_row(rows, sweep.goal)
    if best is None or best.value is None:
        reason = next((row.record.get("reason", "") for row in rows if row.state == "failed"), "no trial ended")
        raise MachineError(f"tuning {name}", f"all of its trials failed; the first: {reason}", f"see {folder}/trials")
    varied = best.values
    chosen = [f"{p.name}={p.values[0] if p.constant else varied[p.name]}" for p in sweep.parameters]
    failed = sum(row.state == "failed" for row in rows)
    return Tuned(chosen, best.value, len(rows), failed, sum(spent(row) for row in rows))
