"""``runs``: the runs below a folder, with state and best metric; filtered by any key, sorted."""

from __future__ import annotations

import datetime
import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multihead.comparing.systems import read_json, run_dirs
from multihead.config.keys import Key, find, flatten, leaf_keys, nearest_name, unknown_key
from multihead.config.task import TASKS
from multihead.config.words import path_of
from multihead.config.words import read as read_value
from multihead.config.yaml_file import load_yaml
from multihead.errors import CheckpointError, ConfigError
from multihead.runs.lock import in_use

WORDS = {"dir": "outputs", "state": "", "sort": "date", "limit": "0", "format": "table"}
STATES = ("running", "finished", "failed", "stopped")
SORTS = ("date", "metric", "time", "size", "steps", "parameters")
FORMATS = ("table", "jsonl")
SHORT = {"task": "task.name", "data": "data.name", "optim": "optim.name"}
"""Words for groups, whose choice a run's configuration holds as a name."""


@dataclass
class Listed:
    """One run."""

    run: str
    """Its directory."""
    task: str
    data: str
    model: str
    """Width x layers of the encoder + layers of the decoder, as configured."""
    parameters: int | None
    state: str
    """One of `STATES`: stopped is neither running nor finished nor failed; ``resume=`` goes on with it."""
    metric: str
    """What it is monitored by, ``val/loss``."""
    best: float | None
    """The best value of it so far."""
    better: str
    """min or max."""
    steps: int
    seconds: float
    """Of training, over all attempts."""
    size: int
    """Bytes on disk."""
    date: str
    """When it began, UTC."""


def run(words: Sequence[str]) -> int:
    """``multihead runs [dir=FOLDER] [KEY=VALUE ...] [state=] [sort=] [limit=] [format=]``."""
    options, wanted = parse(words)
    folder = Path(options["dir"])
    if not folder.is_dir():
        raise ConfigError("dir", f"{folder} is not a directory", "dir=FOLDER with runs somewhere below")
    found, damaged = [], []
    for place in run_dirs(folder):
        try:
            listed, tree = read(place)
        except (CheckpointError, OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            damaged.append(f"{place}: {str(error).removeprefix(f'{place}/') or type(error).__name__}")
            continue
        if _matches(tree, wanted) and options["state"] in ("", listed.state):
            found.append(listed)
    found = ordered(found, options["sort"])[: int(options["limit"]) or None]
    if options["format"] == "jsonl":
        sys.stdout.writelines(json.dumps(asdict(listed)) + "\n" for listed in found)
    else:
        _show(found, folder)
    for line in damaged:
        sys.stderr.write(f"not readable: {' '.join(line.split())[:300]}\n")
    return 0


def parse(words: Sequence[str]) -> tuple[dict[str, str], dict[str, Any]]:
    """Our own words, and the values that keys of the configuration must have.

    Raises:
        ConfigError: A word is neither, or its value cannot be.
    """
    options, wanted = dict(WORDS), {}
    keys: Mapping[str, Key] = {}
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise ConfigError(word, "runs takes key=value", "multihead runs --help")
        if name in WORDS:
            options[name] = path_of(name, value) if name == "dir" else value
            continue
        keys = keys or leaf_keys(TASKS.values())
        if name not in SHORT and not name.startswith("options.") and find(name, keys) is None:
            near = nearest_name(name, WORDS)
            if near:
                raise ConfigError(name, f"runs takes {', '.join(f'{k}=' for k in WORDS)} and keys", f"{near}={value}")
            raise unknown_key(name, keys)
        full = SHORT.get(name, name)
        wanted[full] = read_value(value, find(full, keys), full)
    for name, allowed in (("state", ("", *STATES)), ("sort", SORTS), ("format", FORMATS)):
        if options[name] not in allowed:
            near = nearest_name(options[name], allowed)
            listed = ", ".join(choice for choice in allowed if choice)
            raise ConfigError(name, f"{options[name]!r} is none of {listed}", f"{name}={near}" if near else "")
    if not options["limit"].isdigit():
        raise ConfigError("limit", f"must be a whole number, not {options['limit']!r}", "limit=20")
    return options, wanted


def read(folder: Path) -> tuple[Listed, dict[str, Any]]:
    """What is known of a run, and its configuration.

    Raises:
        CheckpointError: A file of it cannot be read.
    """
    result, events = _json(folder / "result.json"), list(_lines(folder / "events.jsonl"))
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
    """Newest, longest, largest or best first; by metric, runs of one task and metric stand together."""
    if by == "metric":
        sign = {"min": 1, "max": -1}
        worst = lambda listed: math.inf if listed.best is None else sign[listed.better] * listed.best  # noqa: E731
        return sorted(runs, key=lambda listed: (listed.task, listed.data, listed.metric, worst(listed)))
    name = {"time": "seconds"}.get(by, by)
    return sorted(runs, key=lambda listed: getattr(listed, name) or ("" if name == "date" else 0), reverse=True)


def _state(folder: Path, result: Mapping[str, Any], events: Sequence[Mapping[str, Any]]) -> str:
    if in_use(folder):
        return "running"
    if result:
        return "finished"
    last = events[-1]["event"] if events else ""
    return "failed" if last in ("failed", "left") or (folder / "crash.txt").exists() else "stopped"


def _matches(tree: Mapping[str, Any], wanted: Mapping[str, Any]) -> bool:
    leaves = flatten(tree) if wanted else {}
    return all(name in leaves and _same(leaves[name], value) for name, value in wanted.items())


def _same(value: Any, wanted: Any) -> bool:
    """Whether they mean the same; 1e-3, which YAML reads as text, is a number."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(wanted) == value
        except (TypeError, ValueError):
            return False
    return value == wanted or (isinstance(value, str) and value == str(wanted))


def _json(file: Path) -> dict[str, Any]:
    """A mapping; empty where there is no file."""
    return read_json(file) if file.is_file() else {}


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    """The whole lines of a JSON Lines file; one that a kill tore is left out."""
    try:
        text = file.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return
    for line in text.splitlines():
        try:
            content = json.loads(line)
        except ValueError:
            continue
        if isinstance(content, dict) and isinstance(content.get("event"), str) and isinstance(content.get("time"), str):
            yield content


def _seconds(file: Path) -> float:
    """The clock of the last whole row of metrics.csv."""
    try:
        head, *rows = file.read_text(encoding="utf-8", errors="replace").split("\n")
        return float(rows[-2].split(",")[head.split(",").index("seconds")])
    except (OSError, ValueError, IndexError):
        return 0.0


def _size(file: Path) -> int:
    try:
        return file.lstat().st_size
    except OSError:  # gone meanwhile
        return 0


def _modified(file: Path) -> str:
    return datetime.datetime.fromtimestamp(file.stat().st_mtime, datetime.UTC).isoformat()


def _show(runs: Sequence[Listed], folder: Path) -> None:
    from multihead.runs.screen import Fitted, report_console

    console = report_console()
    if not runs:
        console.print(f"no such runs below {folder}", markup=False)
        return
    head = ("task", "data", "model", "parameters", "state", "metric", "best", "steps", "time", "size", "began", "run")
    rows = []
    for listed in runs:
        count, best = f"{listed.parameters or 0:,}", "-" if listed.best is None else f"{listed.best:.4g}"
        clock, size = str(datetime.timedelta(seconds=round(listed.seconds))), f"{listed.size / 1e6:,.1f} MB"
        cells = [listed.task, listed.data, listed.model, count if listed.parameters else "-", listed.state]
        cells += [listed.metric, best, f"{listed.steps:,}", clock, size, listed.date[:16]]
        rows.append([*cells, os.path.relpath(listed.run, folder)])
    left = {"task", "data", "model", "state", "metric", "began", "run"}
    optional = ("size", "model", "parameters", "began", "time", "data", "task", "steps")
    console.print(Fitted(head, rows, left, {"run"}, optional, "format=jsonl has all"))
    console.print(f"{len(runs)} run{'s' * (len(runs) > 1)} below {folder}", markup=False)
