"""Systems: runs whose configurations agree in all but the seed and what does not change the result."""

from __future__ import annotations

import itertools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multihead.comparing.finished import FinishedRun, Reader, require_one
from multihead.comparing.of_study import names_in_study
from multihead.config.yaml_file import load_yaml
from multihead.errors import ConfigError
from multihead.tables.records import flatten

NO_MATTER = frozenset({
    "seed", "data.fold", "run_dir", "resume", "logger", "plugin", "accelerator", "devices", "strategy", "num_nodes",
    "data.root", "data.cache", "data.num_workers", "data.eval_tokens",
    "trainer.keep_checkpoints", "trainer.checkpoint_every_n_steps", "trainer.log_every_n_steps", "trainer.max_time",
    "task.num_samples",
})  # fmt: skip
"""Keys in which the runs of one system may differ."""
WARNED = {"data_train": "training data", "data_val": "validation data"}
"""Fingerprints that may differ between systems, with a warning."""
LOSS_OF = {"causal": "causal", "masked": "masked", "both": "causal"}
"""Objective of a language model to the tokens whose loss is its test/loss."""
ABSENT = "-"
NAME_LENGTH = 60
"""A name that lists all differences has at most so many characters; a longer one lists the fewest keys that suffice."""
MOST_STARTS = 5
"""Longest chain of runs that started from each other (``init_from``) that is followed."""


Systems = list[list[FinishedRun]]
"""The runs of each system."""


def find_systems(
    entries: Sequence[str], groups: Sequence[str], names: Sequence[str], reader: Reader
) -> dict[str, tuple[Systems, list[str]]]:
    """The runs of each system and the systems' names, for each task. A system has the same name on all tasks.

    Args:
        entries: Run directories, folders of them, or globs, in ``runs=``.
        groups: Folders in ``group=``.
        names: Names of the systems, or one for each entry.
        reader: Reads the runs.

    Raises:
        ConfigError: If names do not fit the systems, if a seed stands twice in one, or if no task has two systems but
            there are several tasks.
    """
    read = [reader.entry(entry) for entry in entries] + [reader.entry(entry, "group") for entry in groups]
    tasks = by_task(list(reader.runs.values()))
    if names and len(names) == len(read) and (len(read) > 1 or not groups):
        kept = [[[run for run in entry if run in members] for entry in read] for members in tasks.values()]
        found = [_named(entry, names) for entry in kept]
        return dict(zip(tasks, found, strict=True))
    systems = [group_by_recipe(members) for members in tasks.values()]
    if len(systems) > 1 and max(map(len, systems)) == 1:
        require_comparable([group[0][0] for group in systems])  # which says what differs
        require_one([group[0][0] for group in systems], "data sets", lambda run: run.data_name, "compare runs of one")
    labels = names_in_study(systems) or name_over_tasks(systems)
    distinct = list(dict.fromkeys(label for group in labels for label in group))
    if names and (len(names) != len(distinct) or len(set(names)) < len(names)):
        found = "; ".join(distinct)
        raise ConfigError("names", f"needs {len(distinct)} different names, one for each system: {found}")
    renamed = dict(zip(distinct, names or distinct, strict=True))
    return {
        task: (group, [renamed[label] for label in own])
        for task, group, own in zip(tasks, systems, labels, strict=True)
    }


def by_task(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Runs that were tested on the same task, by a name of that task: the task's, and its data if two have the same.

    Runs of one task belong together if they have one test split, or the same name of the data.
    """
    data: dict[tuple[str, str], str] = {}
    groups: dict[tuple[str, str], list[FinishedRun]] = {}
    for run in runs:
        name = data.setdefault((run.task, run.test_data), run.data_name)
        groups.setdefault((run.task, name), []).append(run)
    several = [task for task, _ in groups]
    return {
        f"{task} on {name}" if several.count(task) > 1 else task: members for (task, name), members in groups.items()
    }


def _named(entries: Sequence[Sequence[FinishedRun]], names: Sequence[str]) -> tuple[list[list[FinishedRun]], list[str]]:
    """Systems as the user named them, entry by entry; entries with the same name are one system."""
    found: dict[str, dict[str, FinishedRun]] = {}
    for name, entry in zip(names, entries, strict=True):
        if entry:  # an entry may have no run of this task
            found.setdefault(name, {}).update({run.path: run for run in entry})
    for name, members in found.items():
        first, *others = members.values()
        for other in others:
            if recipe(other.config, other.settings) != recipe(first.config, first.settings):
                keys = ", ".join(list(differing([[first], [other]]))[:3])
                what = f"{name} would name both {first.path} and {other.path}, which differ in {keys}"
                raise ConfigError("names", what, "give each configuration a name of its own")
        _require_different_seeds([first, *others])
    return [list(members.values()) for members in found.values()], list(found)


def recipe(config: Mapping[str, Any], settings: Mapping[str, Any], depth: int = 0) -> str:
    """A text that the runs of one system share.

    If a run started from another one (``init_from``) that still exists, the other's recipe counts instead of its path.
    So runs that started from different seeds of one pre-training are one system.
    """
    kept = {key: value for key, value in settings.items() if key not in NO_MATTER}
    origin = kept.get("init_from")
    file = Path(str(origin), "config.yaml")
    if origin and depth < MOST_STARTS and file.is_file():
        tree = load_yaml(file)
        kept["init_from"] = recipe(tree, flatten(tree), depth + 1)
    return json.dumps(kept, sort_keys=True, default=str)


def group_by_recipe(runs: Sequence[FinishedRun]) -> list[list[FinishedRun]]:
    """Systems, in the order of their first runs.

    Raises:
        ConfigError: If a seed stands twice in one.
    """
    groups: dict[str, list[FinishedRun]] = {}
    for run in runs:
        groups.setdefault(recipe(run.config, run.settings), []).append(run)
    for members in groups.values():
        _require_different_seeds(members)
    return list(groups.values())


def _require_different_seeds(members: Sequence[FinishedRun]) -> None:
    seen: dict[tuple[int, int | None], str] = {}
    for run in members:
        if (run.seed, run.fold) in seen:
            what = f"{seen[run.seed, run.fold]} and {run.path} have the same configuration and seed"
            raise ConfigError("runs", what, "leave one out, or names=[x,y] to compare them")
        seen[run.seed, run.fold] = run.path


def differing(systems: Sequence[Sequence[FinishedRun]]) -> dict[str, list[Any]]:
    """Keys whose values differ between systems, with the value in the first run of each system."""
    firsts = [members[0].settings for members in systems]
    names = dict.fromkeys(key for settings in firsts for key in settings if key not in NO_MATTER)
    found = {key: [settings.get(key, ABSENT) for settings in firsts] for key in names}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


# ---- names


def name_systems(systems: Sequence[Sequence[FinishedRun]]) -> list[str]:
    """A name for each system that says how it differs from the others: ``model.d_model=64``, ``no init_from``."""
    if len(systems) == 1:
        return [systems[0][0].task]
    table = differing(systems)
    keys = list(table)
    names = _joined(table, keys, len(systems))
    if max(map(len, names)) > NAME_LENGTH or len(keys) > 3:
        keys = _fewest_keys(table, len(systems))
        names = _joined(table, keys, len(systems))
    if len(set(names)) < len(names):  # for example an init_from with the same path and another content
        names = [members[0].path for members in systems]
    return names


def name_over_tasks(tasks: Sequence[Systems]) -> list[list[str]]:
    """The names of the systems of each task. They are made of the keys that differ on every task, if these suffice."""
    several = [differing(systems) for systems in tasks if len(systems) > 1]
    if len(tasks) == 1 or not several:
        return [name_systems(systems) for systems in tasks]
    keys = [key for key in several[0] if all(key in table for table in several)]
    found = [
        _joined({key: [s[0].settings.get(key, ABSENT) for s in systems] for key in keys}, keys, len(systems))
        for systems in tasks
    ]
    if not keys or any(len(set(names)) < len(names) or max(map(len, names)) > NAME_LENGTH for names in found):
        return [name_systems(systems) for systems in tasks]
    return found


def _joined(table: Mapping[str, list[Any]], keys: Sequence[str], count: int) -> list[str]:
    return [", ".join(_setting(key, table[key][i]) for key in keys) for i in range(count)]


def _fewest_keys(table: Mapping[str, list[Any]], count: int) -> list[str]:
    """Few keys in which all systems differ: one after the other, the key that separates most systems."""
    chosen: list[str] = []
    classes = 1

    def separated(key: str) -> int:
        return len({tuple(str(table[name][i]) for name in (*chosen, key)) for i in range(count)})

    while classes < count:
        key = max(table, key=separated, default=None)
        if key is None or separated(key) == classes:
            break
        classes = separated(key)
        chosen.append(key)
    return chosen


def _setting(key: str, value: Any) -> str:
    if value in ("", None, [], {}):
        return f"no {key}"
    return f"{key}={value_text(value)}"


def value_text(value: Any) -> str:
    """A value as one types it."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(map(value_text, value))}]"
    if value is None:
        return "null"
    return f"{value:g}" if isinstance(value, float) else str(value) or "''"


# ---- what may be compared


def require_comparable(runs: Sequence[FinishedRun]) -> None:
    """Checks that runs have one task, a loss of the same meaning and the same test data.

    Raises:
        ConfigError: With the names of two that differ, or of one whose test data is not known.
    """
    require_one(runs, "tasks", lambda run: run.task, "compare runs of one task")
    if runs[0].task == "lm":
        fix = "compare runs of one task.objective"
        require_one(runs, "objectives", lambda run: LOSS_OF.get(str(run.settings.get("task.objective"))), fix)
    for run in runs:
        if not run.test_data:
            fix = "train it again with this version"
            raise ConfigError("runs", f"{run.path}/environment.json has no fingerprint of its test data", fix)
    require_one(runs, "numbers of folds", lambda run: run.folds, "compare runs that have the same data.folds")
    for fold in dict.fromkeys(run.fold for run in runs):
        own = [run for run in runs if run.fold == fold]
        require_one(own, "test data", lambda run: run.test_data, "compare runs that have the same test split")


def data_warnings(systems: Sequence[Sequence[FinishedRun]], names: Sequence[str]) -> list[str]:
    """Warnings that name the systems whose training or validation data differ."""
    warnings = []
    folds = dict.fromkeys(run.fold for members in systems for run in members)
    for (key, what), fold in itertools.product(WARNED.items(), folds):
        found: dict[str, list[str]] = {}
        for name, members in zip(names, systems, strict=True):
            for mark in dict.fromkeys(run.data.get(key, "") for run in members if run.fold == fold):
                found.setdefault(mark, []).append(name)
        if len(found) > 1:
            what = what if fold is None else f"{what} of fold {fold}"
            warnings.append(f"{what} differ: {' | '.join(', '.join(group) for group in found.values())}")
    return warnings
