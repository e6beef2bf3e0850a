"""Finished runs as a comparison reads them: where they are on the disk, and what their files hold."""

from __future__ import annotations

import csv
import glob
import json
import math
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from multihead.config.data import expected_fold_ratio
from multihead.config.keys import leaf_keys
from multihead.config.task import TASKS
from multihead.config.words import typed_as
from multihead.config.yaml_file import load_yaml
from multihead.errors import CheckpointError, ConfigError, DataError
from multihead.runs.files import read_json, read_metrics
from multihead.runs.listing import failure, run_dirs, state_of
from multihead.tables.records import flatten

MOST_REASON = 160
"""Number of characters of an error that a line about a failed run shows."""


@dataclass
class FinishedRun:
    """A run that has a result."""

    path: str
    """The run directory, as the user gave it or below what the user gave."""
    config: dict[str, Any]
    """The configuration as a tree."""
    result: dict[str, Any]
    """The content of result.json."""
    data: dict[str, str]
    """Fingerprints of the data splits and the tokenizers."""
    rows: dict[str, int] = field(default_factory=dict)
    """Split to its number of rows; empty for running text, and for runs of earlier versions."""
    lower_is_better: tuple[str, ...] = ()
    """The plugin's metrics that fall while a model gets better."""

    @classmethod
    def read(cls, path: str) -> FinishedRun:
        """Reads a run directory.

        Raises:
            ConfigError: If the run is not finished.
            CheckpointError: If one of its files cannot be read.
        """
        folder = Path(path)
        if not (folder / "result.json").is_file():
            fix = f"finish it by {typed_as('resume', str(path))}, or leave it out"
            raise ConfigError("runs", f"{path} has no result.json, because {why_unfinished(folder)}", fix)
        environment = read_json(folder / "environment.json", dict)
        config, result = load_yaml(folder / "config.yaml"), read_json(folder / "result.json", dict)
        data, rows = dict(environment.get("data") or {}), dict(environment.get("rows") or {})
        return cls(path, config, result, data, rows, tuple(environment.get("lower_is_better") or ()))

    @property
    def task(self) -> str:
        """Name of the task that the run learned."""
        return str(self.config.get("task", {}).get("name", ""))

    @property
    def data_name(self) -> str:
        """Name of the data set."""
        return str(self.config.get("data", {}).get("name", ""))

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))

    @property
    def folds(self) -> int:
        """Number of folds of the run's cross-validation; 0 without one."""
        return int(self.settings.get("data.folds") or 0)

    @property
    def fold(self) -> int | None:
        """The fold that is the run's test split; None without a cross-validation."""
        return int(self.settings.get("data.fold") or 0) if self.folds else None

    @property
    def fold_ratio(self) -> float:
        """Test rows by training rows of a cross-validation, as in `over_folds`; 0 without one.

        If the run has no numbers of rows, they are those that its configuration expects.
        """
        if not self.folds:
            return 0.0
        if self.rows.get("test") and self.rows.get("train"):
            return self.rows["test"] / self.rows["train"]
        data = self.config["data"]
        return expected_fold_ratio(self.folds, data.get("val"), data.get("splits") or {})

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Dotted key to value. A key that did not exist when the run was trained has its default."""
        tasks = [TASKS[self.task]] if self.task in TASKS else []
        defaults = {name: key.default for name, key in leaf_keys(tasks).items() if not key.is_mapping}
        return defaults | flatten(self.config)

    @property
    def monitor(self) -> str:
        """The validation metric that chose the run's best checkpoint."""
        return str(self.settings.get("task.monitor", "val/loss"))

    @property
    def test_data(self) -> str:
        """Fingerprint of the test split, or of the validation split if there is no test split."""
        return self.data.get("data_test") or self.data.get("data_val") or ""

    @property
    def test_looks(self) -> int:
        """How often the run's test split was read: once at its end, and once for each kept result of ``evaluate``."""
        return 1 + len(list(Path(self.path).glob("evaluate_test*.json")))

    def samples(self, task: str = "") -> list[dict[str, Any]]:
        """The examples of the last test, by index.

        Args:
            task: If the run learned several tasks, the one whose examples are returned.

        Raises:
            DataError: If a line cannot be read.
        """
        found: dict[int, dict[str, Any]] = {}
        path = Path(self.path, "samples.jsonl")
        if not path.is_file():
            return []
        with open(path, encoding="utf-8", newline="\n") as file:
            for number, line in enumerate(file, start=1):
                try:
                    sample = json.loads(line)
                    chosen = sample["split"] == "test" and (not task or sample.get("task") == task)
                    index = sample["index"]
                except (ValueError, KeyError, TypeError) as error:
                    what = f"not an example as JSON ({error})"
                    raise DataError(f"{path}:{number}", what, "copy the run again") from None
                if chosen:
                    found[index] = sample
        return [found[index] for index in sorted(found)]

    def column(self, name: str) -> list[tuple[float, float]]:
        """Steps and values of a column of metrics.csv; [] if the run has no such column."""
        path = Path(self.path, "metrics.csv")
        try:
            points = [(float(row["step"]), float(row[name])) for row in read_metrics(path) if row.get(name)]
        except (ValueError, KeyError, csv.Error) as error:
            raise DataError(str(path), f"cannot be read ({error})", "copy the run again") from None
        return [point for point in points if all(map(math.isfinite, point))]


def why_unfinished(folder: Path) -> str:
    """Says why a run has no result."""
    state = state_of(folder)
    if state == "failed":
        reason = " ".join(failure(folder).split())
        return f"the run failed ({reason[:MOST_REASON]})" if reason else "the run failed"
    return "the run is still running" if state == "running" else "the run is not finished"


def find_runs(entry: str, key: str = "runs") -> list[str]:
    """The run directories that an entry of the command line stands for.

    Args:
        entry: A run directory, a folder with run directories below it, or a glob of those.
        key: The word of the command line that holds the entry.

    Raises:
        ConfigError: If there are none.
    """
    magic = glob.has_magic(entry) and not Path(entry).exists()
    folders = sorted(glob.glob(entry, recursive=True)) if magic else [entry]
    found = [os.path.normpath(path) for folder in folders if os.path.isdir(folder) for path in run_dirs(Path(folder))]
    if not found:
        what = "matches no run" if magic else "does not exist"
        if Path(entry).is_dir():
            what = "is not a run and contains none"
        raise ConfigError(key, f"{entry} {what}", f"{key}=outputs/...")
    return found


class Reader:
    """Reads runs, each once, also if it stands in two entries of the command line."""

    def __init__(self) -> None:
        self.runs: dict[Path, FinishedRun] = {}
        self.left_out: list[str] = []
        """A sentence for each run of ``group=`` that cannot be compared."""

    def entry(self, entry: str, key: str = "runs") -> list[FinishedRun]:
        """The finished runs of an entry; a folder or glob may hold others, which are left out with a sentence each.

        Args:
            entry: A run directory, a folder with run directories below it, or a glob of those.
            key: The word of the command line that holds the entry.

        Raises:
            ConfigError: If there are no finished runs, or if the entry is a single run that is not finished.
            CheckpointError: If the entry is a single run whose files are damaged.
        """
        found: list[FinishedRun] = []
        reasons: list[str] = []
        paths = find_runs(entry, key)
        for path in paths:
            try:
                found.append(self._once(path))
            except (ConfigError, CheckpointError) as error:
                if key == "runs" and len(paths) == 1:
                    raise
                reasons.append(error.what if path in error.what else f"{error.where} {error.what}")
        if not found:
            raise ConfigError(key, f"{entry} holds no finished run; {reasons[0]}", f"{key}=outputs/...")
        self.left_out += [f"left out: {reason}" for reason in reasons if f"left out: {reason}" not in self.left_out]
        return found

    def _once(self, path: str) -> FinishedRun:
        place = Path(path).resolve()
        if place not in self.runs:
            self.runs[place] = FinishedRun.read(path)
        return self.runs[place]


def require_one(runs: Sequence[FinishedRun], what: str, of: Callable[[FinishedRun], Any], fix: str) -> None:
    """Checks that runs agree in a property.

    Raises:
        ConfigError: With the names of two that differ.
    """
    first = runs[0]
    for other in runs[1:]:
        if of(other) != of(first):
            values = ", ".join(str(of(run))[:14] or "none" for run in (first, other))
            raise ConfigError("runs", f"{first.path} and {other.path} have different {what} ({values})", fix)
