"""Trains a finished run again, and says whether the result is the same."""

from __future__ import annotations

import contextlib
import math
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from multihead import capabilities
from multihead.comparing.finished import FinishedRun
from multihead.config.compose import Composition, compose_from_run, read_config
from multihead.config.words import write
from multihead.config.yaml_file import load_yaml
from multihead.errors import DataError
from multihead.studying.again import (
    Changes,
    changed_circumstances,
    changed_data,
    environment_of,
    final_metrics,
    listed,
)
from multihead.training.build import starting
from multihead.training.job import train
from multihead.training.launch import local_ranks


@dataclass(frozen=True)
class Metric:
    """A metric of a run, then and now."""

    name: str
    then: float | None
    now: float | None
    verdict: str
    """same (to the last digit), within (the tolerance), differs, or missing."""
    decides: bool
    """Whether the answer depends on this metric if the circumstances differ."""


@dataclass(frozen=True)
class Reproduction:
    """A run that was trained again."""

    run: str
    reproduced: bool
    tolerance: float
    """The largest relative change of a metric that decides, if the circumstances differ."""
    metrics: list[Metric]
    differs: Changes
    """What differs between then and now besides the metrics; empty if nothing is known to differ."""
    seconds_then: float
    seconds_now: float


def reproduce_run(run: str, place: Path, tolerance: float, plugin: str, say: Callable[[str], None]) -> Reproduction:
    """Trains a finished run again from its own configuration.

    Args:
        run: The run directory.
        place: The directory of the new run.
        tolerance: The largest relative change of the monitored metric if the circumstances differ.
        plugin: The value of ``plugin=``, if the run needs one.
        say: Called with a line about what happens.

    Raises:
        ConfigError: If the run is not finished.
        DataError: If the data are missing or others than those of the run.
    """
    config = read_config("run", run)
    then, known = FinishedRun.read(run), environment_of(run)
    words = [write("plugin", plugin)] if plugin else []
    composition = compose_from_run(config, words, run=run)
    overrides = Path(run, "overrides.yaml")
    composition.words = [*(map(str, load_yaml(overrides)) if overrides.is_file() else []), *words]
    for name, value in {"run_dir": str(place), "resume": "", "logger": "none", "plan": False}.items():
        composition.put(name, value)
    seconds = float(then.result.get("seconds", 0.0))
    say(f"training {run} again; it took {duration(seconds)} then")
    again = trained_again(composition, place, int(known.get("threads") or 0), then.data, run)
    differs = changed_circumstances(known, environment_of(place)) | changed_data(then.data, again.data, "tokenizer_")
    metrics = _compared(final_metrics(then), final_metrics(again), then.monitor, tolerance)
    if differs:
        reproduced = all(metric.verdict in ("same", "within") for metric in metrics if metric.decides)
    else:
        reproduced = all(metric.verdict == "same" for metric in metrics)
    now = float(again.result.get("seconds", 0.0))
    return Reproduction(run, reproduced, tolerance, metrics, differs, seconds, now)


def trained_again(
    composition: Composition, place: Path, threads: int, data: Mapping[str, str], owner: str
) -> FinishedRun:
    """Trains as composed, if the data are the same. The screen stays quiet; train.log has the messages.

    Args:
        composition: The configuration, with its run directory.
        place: The run directory.
        threads: The number of threads then; 0 if it is not known.
        data: The fingerprints of then.
        owner: The run or the record, for messages.

    Raises:
        DataError: If the data are missing or others than then.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    with threads_of_then(composition, threads):
        prepared, _ = starting(composition)
        if changed := changed_data(data, prepared.fingerprints):
            pairs = [f"{key} was {then[:12]} and is {now[:12]}" for key, (then, now) in changed.items()]
            fix = "set MULTIHEAD_DATA to the folder with those data"
            raise DataError(owner, f"the data are not the same as then: {listed(pairs)}", fix)
        del prepared
        train(composition, quiet=True)
    return FinishedRun.read(str(place))


@contextlib.contextmanager
def threads_of_then(composition: Composition, threads: int) -> Iterator[None]:
    """Computes with as many threads as then, if the machine has the cores and no variable of the shell sets them."""
    import torch

    before = torch.get_num_threads()
    said = any(os.environ.get(name) for name in capabilities.THREADS)
    if not said and 1 <= threads <= capabilities.cores() and local_ranks(composition.config) == 1:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _compared(then: Mapping[str, float], now: Mapping[str, float], monitor: str, tolerance: float) -> list[Metric]:
    """Compares the metrics of two runs. Those by which the run was monitored decide, on validation and on test."""
    deciding = {f"{split}/{monitor.partition('/')[2]}" for split in ("val", "test")}
    found = []
    for name in dict.fromkeys([*then, *now]):
        first, second = then.get(name), now.get(name)
        if first is None or second is None:
            verdict = "missing"
        elif first == second or (math.isnan(first) and math.isnan(second)):
            verdict = "same"
        else:
            verdict = "within" if abs(second - first) <= tolerance * abs(first) else "differs"
        found.append(Metric(name, first, second, verdict, name in deciding))
    return found


def duration(seconds: float) -> str:
    """Returns a time for people: ``31 s``, ``2 min 58 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
