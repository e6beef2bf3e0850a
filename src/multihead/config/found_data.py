"""``data=PATH``: a word that names files instead of a data set brings the keys that `tables` finds in them."""

from __future__ import annotations

import functools
import os
import re
import shlex
import sys
from collections.abc import Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from multihead.config.folder import conf_dir
from multihead.config.keys import Key
from multihead.config.merge import Layer
from multihead.config.task import SINGLE_TASKS, ClassificationConfig, MultitaskConfig, RegressionConfig, TaskConfig
from multihead.config.words import Word, leaves, paths_of, split
from multihead.errors import ConfigError, DataError
from multihead.tables.layout import HELD_OUT, Data, data_name, find_data
from multihead.tables.opening import Unclear
from multihead.tables.records import flatten
from multihead.tables.roles import Needs, roles_word
from multihead.tables.sniff import format_of_name

ROLES = "data.roles"
FILES = "files"
"""Data set whose keys the files of a path complete."""


def named_paths(word: Word, others: Iterable[str]) -> list[str]:
    """Returns the paths that a word ``data=...`` names; none if it names a data set.

    Args:
        word: The word.
        others: Names of data sets beside those in `conf/`.
    """
    typed = word.value or ""
    if word.key != "data" or word.sign or not typed or typed.startswith("{"):
        return []
    known = {file.stem for file in (conf_dir() / "data").glob("*.yaml")} | {*others}
    paths = paths_of("data", typed)
    if len(paths) == 1 and (paths[0] in known or not (re.search(r"[./*?~\\]", paths[0]) or os.path.exists(paths[0]))):
        return []
    return paths


def found_layer(
    paths: Sequence[str],
    task: type[TaskConfig],
    values: Iterable[Word],
    keys: Mapping[str, Key],
    typed: Sequence[str],
    parts: Sequence[str] = (),
) -> tuple[Layer, Data]:
    """Returns the keys of ``data`` that the files of a path bring, to lie below what the user has stated.

    Args:
        paths: Files, a folder or a pattern.
        task: Dataclass of the chosen task.
        values: Words that set keys.
        keys: All keys.
        typed: The whole command line, for messages.
        parts: The tasks of a multitask run, if a YAML file sets them.

    Raises:
        DataError: The files cannot be read, or not in one way only.
    """
    stated: dict[str, Any] = {}
    for word in values:
        if not word.deletes:
            stated |= leaves(word, keys)
    multi_label = bool(stated.get("task.multi_label"))
    needs = needs_of(task, multi_label, stated.get("task.parts") or parts)
    of_data = tuple(sorted((name, repr(value)) for name, value in stated.items() if name.startswith("data.")))
    marks = tuple(Path(path).stat().st_mtime_ns if os.path.exists(path) else 0 for path in paths)
    try:
        found = _found(tuple(paths), marks, needs, of_data, _Stated(_nested(stated)))
    except Unclear as unclear:
        commands = [f"{_program()} {with_choice(typed, choice, keys)}" for choice in unclear.choices]
        error = DataError(unclear.where, unclear.what, "  or  ".join(commands))
        error.others = unclear.others
        raise error from None
    except FileNotFoundError as error:
        raise DataError(str(error.filename), "no such file", "give the path of a file that exists") from error
    tree = {key: value for key, value in found.keys.items() if key not in ("roles", "splits")}
    flat: dict[str, Any] = {f"data.{name}": value for name, value in tree.items()}
    for node in ("roles", "splits"):
        if node in found.keys:
            flat |= {f"data.{node}": {}} | flatten({"data": {node: found.keys[node]}})
    return Layer(f"data={','.join(paths)}", flat), found


def with_choice(typed: Sequence[str], choice: str, keys: Mapping[str, Key]) -> str:
    """Returns the typed words and a choice, as they are pasted. The choice takes the place of words for the same keys.

    Args:
        typed: Words as typed.
        choice: One or more words that a message proposes, quoted for a shell.
        keys: All keys.
    """
    chosen = [split(word) for word in shlex.split(choice)]
    replaced = {word.key for word in chosen}
    new = _nested(_leaves_of(chosen, keys)).get("roles", {})
    words = [split(word) for word in typed]
    if new and any(word.key == ROLES for word in words):  # a whole mapping: the words become one mapping again
        old = _nested(_leaves_of([word for word in words if not word.deletes], keys)).get("roles", {})
        others = [shlex.quote(word.typed) for word in chosen if not word.key.startswith(ROLES)]
        kept = [word.typed for word in words if word.key not in replaced and not word.key.startswith(ROLES)]
        return " ".join([*map(shlex.quote, kept), roles_word(old | new), *others])
    replaced |= {f"{ROLES}.{role}" for role in new}
    return " ".join([*(shlex.quote(word.typed) for word in words if word.key not in replaced), *filter(None, [choice])])


def _leaves_of(words: Iterable[Word], keys: Mapping[str, Key]) -> dict[str, Any]:
    """The values of the words that set keys of ``data``, by dotted name."""
    return {name: value for word in words if word.key.startswith("data.") for name, value in leaves(word, keys).items()}


def stated_keys(words: Iterable[str], keys: Mapping[str, Key]) -> dict[str, Any]:
    """Returns the keys of ``data`` that words set, with roles and splits as mappings.

    Raises:
        ConfigError: A word is not ``key=value``, or a value cannot be read.
    """
    stated: dict[str, Any] = {}
    for word in map(split, words):
        stated |= leaves(word, keys)
    return _nested(stated)


class _Stated(dict[str, Any]):
    """A mapping that the cache does not look at, since its content stands beside it as text."""

    def __hash__(self) -> int:  # pyright: ignore[reportIncompatibleVariableOverride]
        return 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Stated)


@functools.lru_cache(maxsize=32)
def _found(paths: tuple[str, ...], marks: tuple[int, ...], needs: Needs, content: object, stated: _Stated) -> Data:
    """`find_data`, once for the same files and words: a multirun composes many configurations of them."""
    return find_data(paths, needs, stated)


def _nested(stated: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of ``data`` that the user has stated, with roles and splits as mappings."""
    found: dict[str, Any] = {}
    for name, value in stated.items():
        node, _, rest = name.removeprefix("data.").partition(".")
        if not name.startswith("data."):
            continue
        if rest:
            found.setdefault(node, {})[rest] = value
        else:
            found[node] = value
    return found


def needs_of(task: type[TaskConfig], multi_label: bool, parts: Sequence[str] = ()) -> Needs:
    """Returns what the tasks of a run need together.

    Args:
        task: Dataclass of the task.
        multi_label: Whether rows have several labels.
        parts: The tasks of a multitask run; empty takes its default, and so do names that are not its tasks.
    """
    settings = task()
    if isinstance(settings, MultitaskConfig) and parts and {*parts} <= {*SINGLE_TASKS}:
        settings.parts = list(parts)
    members = settings.members()
    roles = list(dict.fromkeys(role for member in members.values() for role in member.roles))
    optional = list(dict.fromkeys(role for member in members.values() for role in member.optional_roles))
    multi_label = multi_label and issubclass(task, ClassificationConfig)
    numeric = any(isinstance(member, RegressionConfig) for member in members.values())
    classes = any(isinstance(member, ClassificationConfig) for member in members.values())
    return Needs(settings.name, tuple(roles), tuple(optional), multi_label, numeric and not classes)


def _program() -> str:
    """How this program was called, for commands to paste."""
    name = Path(sys.argv[0]).name if sys.argv else ""
    if name == "train.py":
        return f"python {sys.argv[0]}"
    verb = sys.argv[1] if len(sys.argv) > 1 and re.fullmatch("[a-z]+", sys.argv[1]) else "train"
    return f"multihead {verb}"


def with_files(
    paths: Sequence[str],
    task: type[TaskConfig],
    values: Sequence[Word],
    keys: Mapping[str, Key],
    typed: Sequence[str],
    layers: Sequence[Layer],
    readers: Container[str] = (),
) -> tuple[list[Layer], list[str]]:
    """Returns the layers with what was found in the files, and sentences about it.

    With ``data=files data.train=FILE`` only the ending of the file is looked at: it gives the format. Files that a
    plugin reads are not looked at. The reader names their columns.

    Args:
        paths: The files of ``data=PATH``; empty if a data set was chosen.
        task: Dataclass of the chosen task.
        values: Words that set keys.
        keys: All keys.
        typed: The whole command line, for messages.
        layers: The layers of the YAML files.
        readers: Names of the formats that a plugin reads.

    Raises:
        DataError: The files cannot be read, or not in one way only.
    """
    named = {word.key: word.value or "" for word in values}
    of_files = any(layer.source == f"conf/data/{FILES}.yaml" for layer in layers)
    if of_files and named.get("data.format", "") in readers:
        return _laid_over(layers, Layer(f"data.format={named['data.format']}", _read_by_plugin(paths))), []
    if paths:
        set_parts = [layer.leaves["task.parts"] for layer in layers if layer.leaves.get("task.parts")]
        found, data = found_layer(paths, task, values, keys, typed, set_parts[-1] if set_parts else ())
        return _laid_over(layers, found), [data.line, *data.notes]
    form = format_of_name(named.get("data.train", ""))
    if form and "data.format" not in named and of_files:
        leaves = {"data.format": form} | ({} if form == "csv" else {"data.columns": []})
        return _laid_over(layers, Layer("the ending of data.train", leaves)), []
    return list(layers), []


def _read_by_plugin(paths: Sequence[str]) -> dict[str, Any]:
    """The keys of files that a plugin reads. As for all files of a path, a tenth is held out for each split."""
    columns: dict[str, Any] = {"data.columns": []}
    if not paths:
        return columns
    train = paths[0] if len(paths) == 1 else list(paths)
    shares = {f"data.splits.{split}": HELD_OUT for split in ("val", "test")}
    return columns | {"data.name": data_name(paths[0]), "data.train": train} | shares


def _laid_over(layers: Sequence[Layer], found: Layer) -> list[Layer]:
    """The layers with the found one above ``conf/data/files.yaml`` and below the experiment's.

    Raises:
        ConfigError: There is no such file.
    """
    place = next((i for i, layer in enumerate(layers) if layer.source.endswith(f"data/{FILES}.yaml")), None)
    if place is None:
        raise ConfigError("data", f"conf/data/{FILES}.yaml is missing", "reinstall")
    return [*layers[: place + 1], found, *layers[place + 1 :]]
