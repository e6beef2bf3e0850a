"""``runs``: the runs below a folder, with state and best metric; filtered by any key, sorted."""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multihead.config.keys import Key, find, leaf_keys, nearest_name, unknown_key
from multihead.config.task import TASKS
from multihead.config.words import path_of
from multihead.config.words import read as read_value
from multihead.errors import ConfigError
from multihead.runs.listing import SORTS, STATES, Listed, list_runs, ordered

WORDS = {"dir": "outputs", "state": "", "sort": "date", "limit": "0", "format": "table"}
FORMATS = ("table", "jsonl")
SHORT = {"task": "task.name", "data": "data.name", "optim": "optim.name"}
"""Words for groups, whose choice a run's configuration holds as a name."""


def run(words: Sequence[str]) -> int:
    """``multihead runs [dir=FOLDER] [KEY=VALUE ...] [state=] [sort=] [limit=] [format=]``."""
    options, wanted = parse(words)
    folder = Path(options["dir"])
    if not folder.is_dir():
        raise ConfigError("dir", f"{folder} is not a directory", "dir=FOLDER with runs somewhere below")
    found, damaged = list_runs(folder, wanted, options["state"])
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
