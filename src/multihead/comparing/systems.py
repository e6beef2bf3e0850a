"""Finished runs as a comparison reads them: found on disk, checked, grouped into systems, systems named.

A system is a recipe: runs whose configurations agree in all but the seed and what does not change the result.
"""

from __future__ import annotations

import csv
import glob
import json
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from multihead.config.keys import flatten, leaf_keys
from multihead.config.task import TASKS
from multihead.config.words import typed_as
from multihead.config.yaml_file import load_yaml
from multihead.errors import CheckpointError, ConfigError, DataError

MAX_JSON_BYTES = 50_000_000
NOT_RUNS = ("checkpoints", "model", "wandb", "tensorboard", "pictures", "vocabulary")
"""Folders inside a run."""
NO_MATTER = frozenset({
    "seed", "run_dir", "resume", "logger", "plugin", "accelerator", "devices", "strategy", "num_nodes",
    "data.root", "data.cache", "data.num_workers", "data.eval_tokens",
    "trainer.keep_checkpoints", "trainer.checkpoint_every_n_steps", "trainer.log_every_n_steps", "trainer.max_time",
    "task.num_samples",
})  # fmt: skip
"""Keys in which the runs of one system may differ."""
ABSENT = "-"
NAME_LENGTH = 60
"""Most characters of a name made of everything that differs; beyond, of the fewest keys that tell systems apart."""


@dataclass
class Capsule:
    """A finished run."""

    path: str
    """As it was given, or found below what was given."""
    config: dict[str, Any]
    result: dict[str, Any]
    data: dict[str, str]
    """Fingerprints of data and tokenizers."""

    @classmethod
    def read(cls, path: str) -> Capsule:
        """Reads a run's directory.

        Raises:
            ConfigError: If it is not finished.
            CheckpointError: If a file of it cannot be read.
        """
        folder = Path(path)
        if not (folder / "result.json").is_file():
            fix = f"finish it by {typed_as('resume', str(path))}, or leave it out"
            raise ConfigError("runs", f"{path} has no result.json: the run did not get to its end", fix)
        environment = read_json(folder / "environment.json")
        data = environment.get("data")
        return cls(path, load_yaml(folder / "config.yaml"), read_json(folder / "result.json"), dict(data or {}))

    @property
    def task(self) -> str:
        """Name of its task."""
        return str(self.config.get("task", {}).get("name", ""))

    @property
    def seed(self) -> int:
        return int(self.config.get("seed", 0))

    @cached_property
    def settings(self) -> dict[str, Any]:
        """Dotted key to value; keys that the run is older than have their defaults."""
        tasks = [TASKS[self.task]] if self.task in TASKS else []
        defaults = {name: key.default for name, key in leaf_keys(tasks).items() if not key.is_mapping}
        return defaults | flatten(self.config)

    @property
    def test_data(self) -> str:
        """Fingerprint of what it was tested on: the validation split where there is no other."""
        return self.data.get("data_test") or self.data.get("data_val") or ""

    def samples(self, task: str = "") -> list[dict[str, Any]]:
        """The examples of its last test, by index; of one task, where the run learned several.

        Raises:
            DataError: If a line cannot be read.
        """
        found: dict[int, dict[str, Any]] = {}
        path = Path(self.path, "samples.jsonl")
        if not path.is_file():
            return []
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                try:
                    sample = json.loads(line)
                    chosen = sample["split"] == "test" and (not task or sample.get("task") == task)
                    index = sample["index"]
                except (ValueError, KeyError, TypeError) as error:
                    raise DataError(
                        f"{path}:{number}", f"not an example as JSON ({error})", "copy the run again"
                    ) from None
                if chosen:
                    found[index] = sample
        return [found[index] for index in sorted(found)]

    def column(self, name: str) -> list[tuple[float, float]]:
        """Steps and values of a column of metrics.csv, or nothing."""
        path = Path(self.path, "metrics.csv")
        if not path.is_file():
            return []
        with open(path, encoding="utf-8", newline="") as file:
            try:
                points = [(float(row["step"]), float(row[name])) for row in csv.DictReader(file) if row.get(name)]
            except (ValueError, KeyError, csv.Error) as error:
                raise DataError(str(path), f"cannot be read ({error})", "copy the run again") from None
        return [point for point in points if all(map(math.isfinite, point))]


def run_dirs(folder: Path) -> Iterator[Path]:
    """Every directory at or below ``folder`` that has a run's config.yaml and environment.json, in order of names."""
    for here, names, files in os.walk(folder):
        if "config.yaml" in files and "environment.json" in files:
            names[:] = ()
            yield Path(here)
        else:
            names[:] = sorted(name for name in names if name not in NOT_RUNS and not name.startswith("."))


def read_json(path: Path) -> dict[str, Any]:
    """A file that holds a mapping.

    Raises:
        CheckpointError: It is missing, too large, or holds something else.
    """
    try:
        if path.stat().st_size > MAX_JSON_BYTES:
            raise CheckpointError(str(path), f"larger than {MAX_JSON_BYTES} bytes")
        content = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(str(path), "no such file", "copy the run again") from None
    except (ValueError, RecursionError) as error:
        raise CheckpointError(str(path), f"not readable as JSON: {error}", "copy the run again") from None
    if not isinstance(content, dict):
        raise CheckpointError(str(path), "must be a mapping of keys to values", "copy the run again")
    return content


# ---- finding


def find_runs(entry: str, key: str = "runs") -> list[str]:
    """Run directories that an entry of the command line stands for: one, all below a folder, or a glob of those.

    Raises:
        ConfigError: If there are none.
    """
    magic = glob.has_magic(entry) and not Path(entry).exists()
    folders = sorted(glob.glob(entry, recursive=True)) if magic else [entry]
    runs = [run for folder in folders if os.path.isdir(folder) for run in _below(folder)]
    if not runs:
        what = "matches no run" if magic else "is no run and holds none" if Path(entry).is_dir() else "does not exist"
        raise ConfigError(key, f"{entry} {what}", f"{key}=outputs/...")
    return runs


def _below(folder: str) -> list[str]:
    """Capsules at or below a folder, in order; nothing inside a capsule is one (W&B keeps a config.yaml there)."""
    runs = []
    for path, folders, files in os.walk(folder):
        if "config.yaml" in files:
            runs.append(os.path.normpath(path))
            folders.clear()
        folders.sort()
    return runs


# ---- systems


def recipe(config: Mapping[str, Any], settings: Mapping[str, Any], depth: int = 0) -> str:
    """A text that the runs of one system share.

    Where a run started from another (``init_from``) that is still there, that one's recipe counts and not its path, so
    that seeds which started from seeds of one pre-training are one system.
    """
    kept = {key: value for key, value in settings.items() if key not in NO_MATTER}
    origin = kept.get("init_from")
    file = Path(str(origin), "config.yaml")
    if origin and depth < 5 and file.is_file():
        tree = load_yaml(file)
        kept["init_from"] = recipe(tree, flatten(tree), depth + 1)
    return json.dumps(kept, sort_keys=True, default=str)


def group_by_recipe(capsules: Sequence[Capsule]) -> list[list[Capsule]]:
    """Systems, in the order of their first runs.

    Raises:
        ConfigError: If a seed stands twice in one.
    """
    groups: dict[str, list[Capsule]] = {}
    for capsule in capsules:
        groups.setdefault(recipe(capsule.config, capsule.settings), []).append(capsule)
    for members in groups.values():
        require_different_seeds(members)
    return list(groups.values())


def require_different_seeds(members: Sequence[Capsule]) -> None:
    """Refuses to count a repetition as a seed.

    Raises:
        ConfigError: If a seed stands twice.
    """
    seen: dict[int, str] = {}
    for capsule in members:
        if capsule.seed in seen:
            what = f"{seen[capsule.seed]} and {capsule.path} have the same configuration and seed"
            raise ConfigError("runs", what, "leave one out, or names=[x,y] to compare them")
        seen[capsule.seed] = capsule.path


def differing(systems: Sequence[Sequence[Capsule]]) -> dict[str, list[Any]]:
    """Keys whose values differ between systems, with each system's value (of its first run)."""
    firsts = [members[0].settings for members in systems]
    names = dict.fromkeys(key for settings in firsts for key in settings if key not in NO_MATTER)
    found = {key: [settings.get(key, ABSENT) for settings in firsts] for key in names}
    return {key: values for key, values in found.items() if any(value != values[0] for value in values)}


def name_systems(systems: Sequence[Sequence[Capsule]]) -> list[str]:
    """A name for each system, made of what differs: ``model.d_model=64``, ``no init_from``."""
    if len(systems) == 1:
        return [systems[0][0].task]
    table = differing(systems)
    keys = list(table)
    names = _joined(table, keys, len(systems))
    if max(map(len, names)) > NAME_LENGTH or len(keys) > 3:
        keys = _telling(table, len(systems))
        names = _joined(table, keys, len(systems))
    if len(set(names)) < len(names):  # such as an init_from whose path is the same and whose content is not
        names = [members[0].path for members in systems]
    return names


def _joined(table: Mapping[str, list[Any]], keys: Sequence[str], count: int) -> list[str]:
    return [", ".join(_setting(key, table[key][i]) for key in keys) for i in range(count)]


def _telling(table: Mapping[str, list[Any]], count: int) -> list[str]:
    """Few keys that tell all systems apart: one after the other, that which splits most, the first among equals."""
    chosen: list[str] = []
    classes = 1

    def parts(key: str) -> int:
        return len({tuple(str(table[name][i]) for name in (*chosen, key)) for i in range(count)})

    while classes < count:
        key = max(table, key=parts, default=None)
        if key is None or parts(key) == classes:
            break
        classes = parts(key)
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
    return (
        "''" if value == "" else "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
    )


# ---- what may be compared


def require_one(capsules: Sequence[Capsule], what: str, of: Callable[[Capsule], Any], fix: str) -> None:
    """Refuses runs that differ where they must not.

    Raises:
        ConfigError: With the names of two that do.
    """
    first = capsules[0]
    for other in capsules[1:]:
        if of(other) != of(first):
            values = ", ".join(str(of(capsule))[:14] or "none" for capsule in (first, other))
            raise ConfigError("runs", f"{first.path} and {other.path} have different {what} ({values})", fix)


def require_same_data(capsules: Sequence[Capsule]) -> None:
    """Refuses to mix fingerprints of test data.

    Raises:
        ConfigError: If runs were tested on different data, or it is not known on which.
    """
    for capsule in capsules:
        if not capsule.test_data:
            fix = "train it again with this version"
            raise ConfigError("runs", f"{capsule.path}/environment.json has no fingerprint of its test data", fix)
    require_one(capsules, "test data", lambda capsule: capsule.test_data, "compare runs that have the same test split")


def data_warnings(systems: Sequence[Sequence[Capsule]], names: Sequence[str]) -> list[str]:
    """Training and validation data that differ, between which systems."""
    warnings = []
    for key, what in (("data_train", "training data"), ("data_val", "validation data")):
        found: dict[str, list[str]] = {}
        for name, members in zip(names, systems, strict=True):
            for mark in dict.fromkeys(capsule.data.get(key, "") for capsule in members):
                found.setdefault(mark, []).append(name)
        if len(found) > 1:
            warnings.append(f"{what} differ: {' | '.join(', '.join(group) for group in found.values())}")
    return warnings
