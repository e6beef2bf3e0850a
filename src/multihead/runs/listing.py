"""The runs below a folder: where they are, what is known of each, which ones match a filter, and in which order."""

from __future__ import annotations

import datetime
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multihead.config.yaml_file import load_yaml
from multihead.errors import CheckpointError
from multihead.runs.files import read_json, whole_lines
from multihead.runs.lock import in_use
from multihead.tables.records import flatten

NOT_RUNS = ("checkpoints", "model", "wandb", "tensorboard", "pictures", "vocabulary")
"""Folders of a run directory."""
TRACES = {"environment.json", "result.json"}
"""Files beside config.yaml by which a run directory is recognised: W&B, too, writes a config.yaml."""


@dataclass
class Listed:
    """A run as a list shows it."""

    run: str
    """The run directory."""
    task: str
    data: str
    model: str
    """Width x encoder layers + decoder layers, as configured."""
    parameters: int | None
    state: str
    """One of `RUN_STATES`: a stopped run can go on with ``resume=``."""
    metric: str
    """The metric that is monitored, such as ``val/loss``."""
    best: float | None
    """The best value of that metric so far."""
    better: str
    """Either min or max."""
    steps: int
    seconds: float
    """Time of training, over all attempts."""
    size: int
    """Bytes on disk."""
    date: str
    """The time in UTC at which the run began."""


def run_dirs(folder: Path) -> Iterator[Path]:
    """The run directories at or below a folder, in the order of their names; a run holds no other runs."""
    for here, names, files in os.walk(folder):
        if "config.yaml" in files and TRACES & set(files):
            names[:] = ()
            yield Path(here)
        else:
            names[:] = sorted(name for name in names if name not in NOT_RUNS and not name.startswith("."))


def list_runs(folder: Path, wanted: Mapping[str, Any], state: str = "") -> tuple[list[Listed], list[str]]:
    """The runs below a folder, and a line for each that cannot be read.

    Args:
        folder: All folders below it are searched.
        wanted: Dotted keys of the configuration with the values that a run must have.
        state: One of `RUN_STATES`, or empty for all.
    """
    found, damaged = [], []
    for place in run_dirs(folder):
        try:
            listed, tree = read(place)
        except (CheckpointError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            damaged.append(f"{place}: {str(error).removeprefix(f'{place}/') or type(error).__name__}")
            continue
        if _matches(tree, wanted) and state in ("", listed.state):
            found.append(listed)
    return found, damaged


def read(folder: Path) -> tuple[Listed, dict[str, Any]]:
    """What is known of a run, and its configuration.

    Raises:
        CheckpointError: If one of its files cannot be read.
    """
    result, events = _json(folder / "result.json"), list(_events(folder / "events.jsonl"))
    packed = _json(folder / "model" / "model.json").get("config") if result else None  # faster to read than YAML
    tree = packed or load_yaml(folder / "config.yaml")
    task, model = tree["task"], tree["model"]
    best = [event for event in events if event["event"] == "validated" and event.get("best")]
    metric = task["monitor"]
    value = best[-1].get(metric) if best else result.get(metric)
    began = (events[0]["time"] if events else _modified(folder / "config.yaml"))[:19].replace("T", " ")
    listed = Listed(
        run=str(folder),
        task=task["name"],
        data=tree["data"]["name"],
        model=f"{model['d_model']} x {model['num_encoder_layers']}+{model['num_decoder_layers']}",
        parameters=result.get("parameters"),
        state=_state(folder, result, events),
        metric=metric,
        best=value if isinstance(value, int | float) else None,
        better=task["monitor_mode"],
        steps=result.get("steps") or max((event.get("step", 0) for event in events), default=0),
        seconds=result.get("seconds") or _seconds(folder / "metrics.csv"),
        size=sum(_size(Path(here) / name) for here, _, files in os.walk(folder) for name in files),
        date=began,
    )
    return listed, tree


def ordered(runs: Sequence[Listed], by: str) -> list[Listed]:
    """Newest, longest, largest or best first. By metric, runs of one task and metric stand together."""
    if by == "metric":
        return sorted(runs, key=_by_metric)
    name = {"time": "seconds"}.get(by, by)
    return sorted(runs, key=lambda listed: getattr(listed, name) or ("" if name == "date" else 0), reverse=True)


def _by_metric(listed: Listed) -> tuple[str, str, str, float]:
    sign = {"min": 1, "max": -1}[listed.better]
    return listed.task, listed.data, listed.metric, math.inf if listed.best is None else sign * listed.best


def _state(folder: Path, result: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    if in_use(folder):
        return "running"
    if result:
        return "finished"
    last = events[-1]["event"] if events else ""
    return "failed" if last == "failed" or (folder / "crash.txt").exists() else "stopped"


def state_of(folder: Path) -> str:
    """One of `RUN_STATES`.

    Raises:
        CheckpointError: If the result of the run cannot be read.
    """
    return _state(folder, _json(folder / "result.json"), list(_events(folder / "events.jsonl")))


def failure(folder: Path) -> str:
    """The error with which a run failed; empty if it has not failed, or if it could not write the error down."""
    events = list(_events(folder / "events.jsonl"))
    return str(events[-1].get("reason", "")) if events and events[-1]["event"] == "failed" else ""


def _matches(tree: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    leaves = flatten(tree) if wanted else {}
    return all(name in leaves and _same(leaves[name], value) for name, value in wanted.items())


def _same(value: Any, wanted: Any) -> bool:
    """Whether two values mean the same; 1e-3, which YAML reads as text, is a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(wanted) == value
        except (TypeError, ValueError):
            return False
    return value == wanted or (isinstance(value, str) and value == str(wanted))


def _json(file: Path) -> dict[str, Any]:
    """A mapping; an empty one if there is no file."""
    return read_json(file, dict) if file.is_file() else {}


def _events(file: Path) -> Iterator[dict[str, Any]]:
    """The events of a run, without lines that are not readable."""
    for line in whole_lines(file):
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict) and isinstance(content.get("event"), str) and isinstance(content.get("time"), str):
            yield content


def _seconds(file: Path) -> float:
    """The clock of the last whole row of metrics.csv."""
    try:
        head, *rows = whole_lines(file)
        return float(rows[-1].split(",")[head.split(",").index("seconds")])
    except (OSError, ValueError, IndexError):
        return 0.0


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # deleted meanwhile
        return 0


def _modified(file: Path) -> str:
    return datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC).isoformat()
