"""``runs`` lists the runs below a folder with their state and best metric, filtered by any key and sorted."""

from __future__ import annotations

import datetime
import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multihead.config.keys import find, leaf_keys, unknown_key
from multihead.config.settings import read_words
from multihead.config.task import TASKS
from multihead.config.verbs import RunsSettings
from multihead.config.words import read as read_value
from multihead.errors import ConfigError
from multihead.runs.listing import Listed, list_runs, ordered

GROUP_KEYS = {"task": "task.name", "data": "data.name", "optim": "optim.name"}
"""Groups whose choice a run's configuration holds as a name."""


def run(words: Sequence[str]) -> int:
    """Runs ``multihead runs``; see `RunsSettings`."""
    settings, others = read_words(RunsSettings, words)
    folder, wanted = Path(settings.dir), filters(others)
    if not folder.is_dir():
        raise ConfigError("dir", f"{folder} is not a directory", "dir=FOLDER with runs somewhere below")
    found, damaged = list_runs(folder, wanted, settings.state)
    found = ordered(found, settings.sort)[: settings.limit or None]
    if settings.format == "jsonl":
        sys.stdout.writelines(json.dumps(asdict(listed)) + "\n" for listed in found)
    else:
        _show(found, folder)
    for line in damaged:
        sys.stderr.write(f"not readable: {' '.join(line.split())[:300]}\n")
    return 0


def filters(words: Sequence[str]) -> dict[str, Any]:
    """Returns the values that keys of the configuration must have.

    Raises:
        ConfigError: There is no such key, or it does not take the value.
    """
    wanted, keys = {}, leaf_keys(TASKS.values())
    for word in words:
        name, _, value = word.partition("=")
        if name not in GROUP_KEYS and not name.startswith("options.") and find(name, keys) is None:
            raise unknown_key(name, keys)
        full = GROUP_KEYS.get(name, name)
        wanted[full] = read_value(value, find(full, keys), full)
    return wanted


def _show(runs: Sequence[Listed], folder: Path) -> None:
    from multihead.runs.screen import Fitted, report_console

    console = report_console()
    if not runs:
        console.print(f"no such runs below {folder}", markup=False)
        return
    head = ("run", "state", "metric", "best", "steps", "time", "task", "data", "model", "parameters", "size", "began")
    rows = []
    for listed in runs:
        count, best = f"{listed.parameters or 0:,}", "-" if listed.best is None else f"{listed.best:.4g}"
        clock, size = str(datetime.timedelta(seconds=round(listed.seconds))), f"{listed.size / 1e6:,.1f} MB"
        cells = [os.path.relpath(listed.run, folder), listed.state, listed.metric, best, f"{listed.steps:,}", clock]
        cells += [listed.task, listed.data, listed.model, count if listed.parameters else "-", size, listed.date[:16]]
        rows.append(cells)
    left = {"task", "data", "model", "state", "metric", "began"}
    optional = ("size", "model", "parameters", "began", "data", "task", "time", "steps", "metric")
    console.print(Fitted(head, rows, left, (), optional, "format=jsonl has all"))
    console.print(f"{len(runs)} run{'s' * (len(runs) > 1)} below {folder}; type run={folder}/RUN", markup=False)
