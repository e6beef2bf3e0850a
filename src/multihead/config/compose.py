"""From words on the command line to a checked configuration: `compose`, and `compose_from_run` for an existing run.

`words` splits the words, `files` finds the YAML files that choices of groups bring, and `merge` puts all values into
the dataclasses. This module checks that every key exists and that no word can name code to run.
"""

from __future__ import annotations

import dataclasses
import functools
import os
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from multihead.config.changes import joined_sum
from multihead.config.files import (
    SECRET,
    SECRET_FIX,
    Files,
    file_layer,
    files_of,
    load_named_plugin,
    task_classes,
)
from multihead.config.folder import conf_dir
from multihead.config.found_data import FILES, named_paths, with_files
from multihead.config.keys import (
    GROUPS,
    OPTIONAL_GROUPS,
    Key,
    contains,
    find,
    leaf_keys,
    looks_secret,
    names_code,
    unknown_key,
)
from multihead.config.merge import Composition, Layer, merge, to_yaml, tree_of
from multihead.config.published import check_typed, describe, is_published, pooling_of
from multihead.config.task import TaskConfig
from multihead.config.training import SEARCHES
from multihead.config.words import FILES as FILES_OF_SPLITS
from multihead.config.words import (
    PATHS,
    Word,
    leaves,
    names_within,
    several_values,
    split,
    takes_list,
    takes_text,
    text,
    typed_as,
)
from multihead.config.yaml_file import load_yaml
from multihead.errors import CheckpointError, ConfigError
from multihead.plugin import Plugin

__all__ = ["Composition", "compose", "compose_from_run", "conf_dir", "load_yaml", "to_yaml", "tree_of"]

HYDRA_WORDS = re.compile(r"hydra/(launcher|sweeper)|hydra\.(launcher|sweeper)\..+|hydra\.(sweep\.dir|searchpath|mode)")
RUN_GROUPS = ("task", "model", "data", "optim")
"""Groups whose choice replaces a whole node of a run's configuration."""


def compose(words: Iterable[str], *, config_dir: str | None = None, files: Files | None = None) -> Composition:
    """Returns the configuration that ``words`` describe.

    Args:
        words: ``key=value`` and ``group=choice`` as typed, without flags.
        config_dir: A folder of the user's own YAML files, searched after ours; the word ``config_dir=`` wins.
        files: The YAML files, if they have been found already.

    Raises:
        ConfigError: A word, a file or a combination of values is not valid; nothing was run and nothing written.
    """
    words = list(words)
    overrides = parse(words)
    if run := resumed_run(overrides):
        return compose_from_run(read_config("resume", run), words, config_dir=config_dir, run=run)
    plugin = load_named_plugin(named(overrides, "plugin"))
    overrides, paths = _take_paths(overrides, plugin)
    choices, values = _sort_words(overrides, plugin)
    files = files or _files(overrides, config_dir, plugin)
    task_class, layers = files.layers(choices)
    keys = _keys(plugin)
    layers, notes = with_files(paths, task_class, values, keys, words, layers, plugin.readers if plugin else ())
    typed = _word_layers(values, keys)
    composition = merge(task_class, plugin, _with_published(task_class, layers, typed, choices), typed, words)
    _check_files_are_read(FILES_OF_SPLITS, composition)
    composition.notes += notes
    return composition


def composer(words: Iterable[str], *, config_dir: str | None = None) -> Callable[[Iterable[str]], Composition]:
    """Returns a `compose` that finds the files once, for many configurations with the same plugin and folders."""
    overrides = parse(words)
    plugin = load_named_plugin(named(overrides, "plugin"))
    return functools.partial(compose, files=_files(overrides, config_dir, plugin))


def compose_from_run(
    run_config: Mapping[str, Any], words: Iterable[str], *, config_dir: str | None = None, run: str = "RUN"
) -> Composition:
    """Returns a run's configuration, changed by ``words``; a group choice replaces its whole node.

    Args:
        run_config: The content of the run's config.yaml: plain data, which is checked and never interpolated.
        words: As for `compose`; but ``experiment=`` is not allowed, because it describes a whole run.
        config_dir: As for `compose`.
        run: The run's directory, for messages.

    Raises:
        CheckpointError: The run's configuration does not fit this program, or it needs a plugin that was not given.
        ConfigError: As for `compose`.
    """
    words = list(words)
    overrides = parse(words)
    if not isinstance(run_config, Mapping):
        raise CheckpointError(f"{run}/config.yaml", "must be a mapping of keys to values")
    plugin = load_named_plugin(named(overrides, "plugin"))
    _check_same_plugin(run_config, plugin, overrides, run)
    overrides, paths = _take_paths(overrides, plugin)
    choices, values = _sort_words(overrides, plugin)
    choices = [choice for choice in choices if not choice.endswith("=null")]  # null changes nothing
    task = run_config.get("task")
    task_name = task.get("name") if isinstance(task, Mapping) else None
    tasks = task_classes(plugin)
    if task_name not in tasks:
        raise CheckpointError(run, f"its task {task_name!r} is not one of {', '.join(tasks)}")
    base = _run_layer(run_config, f"{run}/config.yaml")
    merge(tasks[task_name], plugin, [base], [], words, error=CheckpointError)
    if any(choice.startswith("experiment=") for choice in choices):
        raise ConfigError(
            "experiment", "chooses the settings of a new run, but this command reads an existing run", "leave it out"
        )
    layers, task_class = [base], tasks[task_name]
    if choices:
        typed = [choice for choice in choices if choice.startswith("task=")] or [f"task={task_name}"]
        others = [choice for choice in choices if choice not in typed]
        task_class, chosen = _files(overrides, config_dir, plugin).layers(typed + others)
        layers = _replace_nodes(base, chosen, choices)
    keys = _keys(plugin)
    layers, notes = with_files(paths, task_class, values, keys, words, layers, plugin.readers if plugin else ())
    composition = merge(task_class, plugin, layers, _word_layers(values, keys), words)
    _check_files_are_read([word.key for word in values], composition)  # an old run may name files that it never read
    composition.notes += notes
    return composition


def check_words(words: Iterable[str]) -> None:
    """Checks that the keys and choices of ``words`` exist, for whatever task.

    Raises:
        ConfigError: One of them does not.
    """
    overrides = parse(words)
    plugin = load_named_plugin(named(overrides, "plugin"))
    overrides, _ = _take_paths(overrides, plugin)
    choices, _ = _sort_words(overrides, plugin)
    files = _files(overrides, None, plugin)
    for choice in choices:
        files.check_choice(*choice.split("=", 1))


def _files(overrides: list[Word], config_dir: str | None, plugin: Plugin | None) -> Files:
    """Returns the YAML files of the folders that the words name."""
    hydra = [word.typed for word in overrides if word.is_hydra and word.key != "hydra.mode"]
    return files_of(hydra, named(overrides, "config_dir") or config_dir, plugin)


def parse(words: Iterable[str]) -> list[Word]:
    """Splits each word into its parts.

    Raises:
        ConfigError: A word is not ``key=value``.
    """
    return [split(word) for word in words]


def named(overrides: list[Word], key: str) -> str:
    """Returns the value of the last word that sets a key, as text; empty if there is none. Sweeps are left out."""
    given = [word.value for word in overrides if word.key == key and word.value is not None and not word.is_sweep]
    return text(given[-1], key) if given else ""


def resumed_run(overrides: list[Word]) -> str:
    """Returns the directory that ``resume=`` names; empty if it names none, or says that one should be looked for.

    Raises:
        ConfigError: It is not the directory of a run.
    """
    run = named(overrides, "resume")
    if not run or run in SEARCHES:
        return ""
    require_run("resume", run)
    return run


def require_run(key: str, folder: str) -> None:
    """Raises `ConfigError` unless ``folder``, which was given for ``key``, is the directory of a run."""
    if not (Path(folder) / "config.yaml").is_file():
        what = "it has no config.yaml" if Path(folder).is_dir() else "there is no such directory"
        raise ConfigError(key, f"{folder} is not the directory of a run: {what}", f"{key}=outputs/TASK/DATA/...")


def read_config(key: str, run: str) -> Mapping[str, Any]:
    """Reads the configuration of the run that was given for ``key``; it is plain data.

    Raises:
        ConfigError: ``run`` is not the directory of a run.
        CheckpointError: Its config.yaml cannot be read.
    """
    require_run(key, run)
    return load_yaml(Path(run) / "config.yaml")


# Words


def _keys(plugin: Plugin | None) -> Mapping[str, Key]:
    """Returns all keys that a word can set, of all tasks."""
    return leaf_keys(task_classes(plugin).values(), plugin.options if plugin else None)


def _take_paths(overrides: list[Word], plugin: Plugin | None) -> tuple[list[Word], list[str]]:
    """The words with ``data=files`` for a word that names files, and these files."""
    others = plugin.corpora if plugin else ()
    given = [word for word in overrides if word.key == "data"]
    paths = named_paths(given[-1], [*others, *_own_data_sets(overrides)]) if given and not given[-1].is_sweep else []
    if not paths:
        return overrides, []
    chosen = dataclasses.replace(given[-1], value=FILES)
    return [*(word for word in overrides if word.key != "data"), chosen], paths


def _own_data_sets(overrides: list[Word]) -> list[str]:
    """Names of the user's data sets in ``config_dir=``."""
    folder = named(overrides, "config_dir")
    return [file.stem for file in (Path(folder) / "data").glob("*.yaml")] if folder else []


def _sort_words(overrides: list[Word], plugin: Plugin | None) -> tuple[list[str], list[Word]]:
    """Returns the group choices as ``group=name``, and the other words.

    Raises:
        ConfigError: A word is not allowed, or its key does not exist.
    """
    keys = _keys(plugin)
    choices, values = [], []
    for word in overrides:
        if word.is_hydra:
            _check_hydra_word(word)
            continue
        _check_safe(word, keys)
        if word.key in GROUPS:
            choices = [choice for choice in choices if not choice.startswith(f"{word.key}=")]  # the last one counts
            choices.append(_choice(word))
        else:
            _check_key(word, keys)
            values.append(word)
    return choices, values


def _check_hydra_word(word: Word) -> None:
    name = word.key
    if not HYDRA_WORDS.fullmatch(name) or names_code(name):
        raise ConfigError(name, "cannot be set: Multihead writes the run directory, not Hydra", "run_dir=DIR")


def _together(name: str, key: Key | None) -> str:
    """What several values of a key may have been meant as: one text, a list, or nothing."""
    if name == "data" or takes_list(key):
        return "list"
    return "text" if takes_text(key, name) else ""


def _check_safe(word: Word, keys: Mapping[str, Key]) -> None:
    """Raises `ConfigError` for a sweep outside -m, for instantiation, interpolation and relocation."""
    name, value = word.key, word.value or ""
    if word.is_sweep:
        raise several_values(name, value, _together(name, find(name, keys)))
    if any(names_code(key) for key in (name, *names_within(name, value))):
        raise ConfigError(name, "not allowed: configuration is data and names no code", "plugin=FILE.py adds code")
    if "${" in value or "${" in name:
        plain = re.sub(r"[$][{](\w+)[}]", r"$\1", value)
        fix = f"{name}={plain}" if name in PATHS and "${" not in plain else "write the value itself"
        raise ConfigError(name, "interpolation is not allowed: configuration is data", fix)
    if word.package:
        raise ConfigError(f"{name}@{word.package}", "a choice cannot be moved to another node", f"{name}={value}")


def _choice(word: Word) -> str:
    """Returns ``group=name`` for a word that chooses; ``group=null`` if an optional group is left out."""
    group = word.key
    if word.deletes and group in OPTIONAL_GROUPS:
        return f"{group}=null"
    if word.sign:
        fix = f"{group}={word.value}" if word.value else f"{group}={_options(group)[0]}"
        raise ConfigError(group, f"{word.typed!r}: this group always needs a choice", fix)
    value = word.value or ""
    if value.lower() == "null" and group in OPTIONAL_GROUPS:
        return f"{group}=null"
    if value.lower() in ("", "null") or value[0] in "[{":
        raise ConfigError(
            group, f"must name one of conf/{group}/, got {value or 'nothing'}", f"{group}={_options(group)[0]}"
        )
    return f"{group}={text(value, group)}"


def _options(group: str) -> list[str]:
    return sorted(file.stem for file in (conf_dir() / group).glob("*.yaml"))


def _check_key(word: Word, keys: Mapping[str, Key]) -> None:
    """Raises `ConfigError` unless the word's key, and every key inside its value, exists."""
    name = word.key
    if name == "task.name":
        raise ConfigError(name, "cannot be set: the choice of the task sets it", "task=NAME")
    if word.deletes:
        key = find(name, keys)
        if key is None:
            raise unknown_key(name, keys)
        if name == key.name:
            raise ConfigError(name, "cannot be removed: only an entry of a mapping can", f"{name}=VALUE sets it")
        return
    for leaf, value in leaves(word, keys).items():
        if find(leaf, keys) is None:
            raise unknown_key(leaf, keys, value=word.value)
        if contains(value, looks_secret):
            raise ConfigError(name, SECRET, SECRET_FIX)


def _check_files_are_read(names: Iterable[str], composition: Composition) -> None:
    """Raises `ConfigError` if one of these keys names a file, but the text is that of the built-in grammar."""
    data = composition.config.data
    for name in names:
        if data.format == "grammar" and name in FILES_OF_SPLITS and (file := getattr(data, name.removeprefix("data."))):
            fix = typed_as("data", file) if name == "data.train" else f"data=TRAINING_FILE {typed_as(name, file)}"
            raise ConfigError(name, f"would not be read: data={data.name} makes its own text", fix)


def _word_layers(values: list[Word], keys: Mapping[str, Key]) -> list[Layer]:
    return [
        Layer(word.typed, {}, deleted=word.key) if word.deletes else Layer(word.typed, leaves(word, keys))
        for word in values
    ]


def _with_published(
    task_class: type[TaskConfig], layers: list[Layer], typed: list[Layer], choices: list[str]
) -> list[Layer]:
    """The files' layers with those of the published model that ``init_from=hf:...`` names, if it names one.

    What its weights dictate stands over all files, and what a run may have otherwise over the choice of ``model``.
    """
    init_from = next(
        (layer.leaves["init_from"] for layer in reversed([*layers, *typed]) if "init_from" in layer.leaves), ""
    )
    if not is_published(init_from):
        return layers
    described = describe(init_from)
    values = {name: value for layer in typed for name, value in layer.leaves.items()}
    check_typed(described, init_from, values)
    if chosen := [choice for choice in choices if choice.startswith("model=")]:
        raise ConfigError(chosen[0], f"{init_from} brings the sizes of the model", f"leave out {chosen[0]}")
    free = {f"model.{name}": value for name, value in described.free.items()} | {"init_tokenizer": "same"}
    stacks, options = described.family.stacks, {field.name for field in dataclasses.fields(task_class)}
    stack = stacks[0]
    if "stack" in options:
        pooling = pooling_of(described.folder) or ("last" if stack == "decoder" else "")
        free |= {"task.stack": stack} | ({"task.pooling": pooling} if pooling else {})
    if "objective" in options:
        free["task.objective"] = "masked" if stacks == ("encoder",) else "causal"
    source = f"{init_from}/config.json"
    after = [number for number, layer in enumerate(layers, start=1) if f"/{layer.source}".rsplit("/", 2)[-2] == "model"]
    place = max(after, default=0)
    fixed = {f"model.{name}": value for name, value in described.fixed.items()}
    return [*layers[:place], Layer(source, free), *layers[place:], Layer(source, fixed)]


# Runs


def _run_layer(run_config: Mapping[str, Any], source: str) -> Layer:
    tree = {key: value for key, value in run_config.items() if key not in ("plugin", "plugin_sha256")}
    return file_layer(source, tree, CheckpointError)


def _check_same_plugin(run_config: Mapping[str, Any], plugin: Plugin | None, overrides: list[Word], run: str) -> None:
    """Checks that a run written with plugins is given the same ones again, or that the user accepts other versions.

    Others may be given too, since runs with different plugins can be served together.

    Raises:
        CheckpointError: A plugin is missing, or it has changed.
    """
    name, sha256 = run_config.get("plugin"), run_config.get("plugin_sha256")
    if not name or any(override.key == "plugin_sha256" for override in overrides):
        return
    copy = typed_as("plugin", os.pathsep.join(f"{run}/plugin/{each}" for each in name.split(os.pathsep)))
    if plugin is None:
        raise CheckpointError(
            run,
            f"was trained with the plugin {name}, but its code runs only if the command names it",
            f"add {copy}, or plugin=FILE.py for your own copy",
        )
    others = _other_plugins(plugin, name.split(os.pathsep), sha256) if sha256 else {}
    if absent := [each for each in others if each not in plugin.sums_by_name]:
        both = [named(overrides, "plugin"), *(f"{run}/plugin/{each}" for each in absent)]
        raise CheckpointError(
            run,
            f"was trained with the plugin {', '.join(absent)}, but the command names {plugin.name}",
            f"add {typed_as('plugin', os.pathsep.join(both))}; or, to accept yours in its place, add plugin_sha256=",
        )
    if others:
        shown = ", ".join(each + (f" (sha256 {known[:12]})" if known else "") for each, known in others.items())
        raise CheckpointError(
            run,
            f"was trained with another version of the plugin {shown}",
            f"add {copy}; or, to accept yours, add plugin_sha256=",
        )


def _other_plugins(plugin: Plugin, names: list[str], sha256: str) -> dict[str, str]:
    """The plugins of a run whose content is not among that of the given ones, by name, with the run's checksum.

    Runs from before 2026-11-27 with several plugins have one checksum for all of them, so none is known alone.
    """
    given, known = plugin.sums_by_name, sha256.split(os.pathsep)
    if len(known) == len(names):
        return {name: known_sum for name, known_sum in zip(names, known, strict=True) if known_sum not in plugin.sums}
    same = sha256 == joined_sum(given.get(name, "") for name in names)
    return {} if same else dict.fromkeys([name for name in names if name not in given] or names, "")


def _replace_nodes(base: Layer, chosen: list[Layer], choices: list[str]) -> list[Layer]:
    """Returns the run's values without the nodes that are chosen again, then the files of all choices."""
    groups = {choice.split("=", 1)[0] for choice in choices}
    nodes = tuple(f"{group}." for group in groups if group in RUN_GROUPS)
    kept = {name: value for name, value in base.leaves.items() if not name.startswith(nodes)} if nodes else base.leaves
    files = [layer for layer in chosen if layer.source.rsplit("/", 2)[-2] in groups]
    return [dataclasses.replace(base, leaves=kept), *files]
