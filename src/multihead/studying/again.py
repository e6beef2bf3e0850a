"""What a run and its repetition have in common: the circumstances, and the metrics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multihead.comparing.finished import FinishedRun
from multihead.runs.files import read_json
from multihead.tables.records import flatten

SAME = ("git_commit", "versions", "plugin")
"""What must be the same in the environment of runs whose results are compared."""
ALIKE = ("hardware", "threads")
"""What changes results by rounding only, and is said."""
MOST_NAMED = 5
"""Number of things that a line lists."""
METRICS = ("val/", "test/")
"""How the names of metrics begin in result.json."""

Changes = dict[str, tuple[Any, Any]]
"""What differs: a key, with its value then and now."""


def environment_of(run_dir: str | Path) -> dict[str, Any]:
    """Returns the content of a run's environment.json.

    Raises:
        CheckpointError: If it cannot be read.
    """
    return read_json(Path(run_dir, "environment.json"), dict)


def changed_circumstances(then: Mapping[str, Any], now: Mapping[str, Any]) -> Changes:
    """Returns what differs between two environments and may change a result.

    Code with changes that are in no commit may be any code, so ``git_dirty`` counts if it is true in one of them.
    """
    before, after = ({key: each.get(key) for key in (*SAME, *ALIKE)} for each in (then, now))
    first, second = flatten(before), flatten(after)
    found = {key: (first.get(key), second.get(key)) for key in dict.fromkeys([*first, *second])}
    found = {key: pair for key, pair in found.items() if pair[0] != pair[1] and key != "hardware.cores"}
    if then.get("git_dirty") or now.get("git_dirty"):
        found["git_dirty"] = (then.get("git_dirty"), now.get("git_dirty"))
    return found


def changed_data(then: Mapping[str, str], now: Mapping[str, str], kind: str = "data_") -> Changes:
    """Returns the fingerprints that both have and that differ.

    Args:
        then: Fingerprints of the splits and the tokenizers, as in environment.json.
        now: The same, as they are now.
        kind: ``data_`` for the splits, ``tokenizer_`` for the tokenizers.
    """
    keys = [key for key in then if key in now and key.startswith(kind)]
    return {key: (then[key], now[key]) for key in keys if then[key] != now[key]}


def final_metrics(run: FinishedRun) -> dict[str, float]:
    """Returns the metrics of validation and test in result.json, without times."""
    return {
        key: value
        for key, value in run.result.items()
        if key.startswith(METRICS) and isinstance(value, int | float) and "seconds" not in key
    }


def listed(texts: Sequence[str]) -> str:
    """Returns the first texts, and how many more there are."""
    more = f" and {len(texts) - MOST_NAMED} more" if len(texts) > MOST_NAMED else ""
    return "; ".join(texts[:MOST_NAMED]) + more
