"""Merges layers of values into the typed dataclasses, checks every value, and records where it came from."""

from __future__ import annotations

import copy
import dataclasses
import functools
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import yaml
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from multihead.config.keys import Key, find, leaf_keys, unknown_key
from multihead.config.slots import check_choices, check_monitor, check_roles, check_rows
from multihead.config.task import TaskConfig
from multihead.config.training import Config
from multihead.errors import ConfigError, MultiheadError
from multihead.plugin import Plugin, names_of
from multihead.tables.records import flatten


@dataclass(kw_only=True)
class Composition:
    """A checked configuration, and where each of its values comes from."""

    config: Config
    words: list[str]
    """The words that the user typed."""
    tree: dict[str, Any]
    """The whole configuration as plain containers, as config.yaml holds it."""
    provenance: dict[str, list[tuple[str, Any]]]
    """For each leaf all that set it (default, file or word) with the values, in order; the last one counts."""
    plugin: Plugin | None = None
    notes: list[str] = field(default_factory=list)
    """Sentences about what was found in the files of ``data=PATH``."""

    def put(self, name: str, value: Any) -> None:
        """Replaces a value that the device decides, by its dotted name, in the configuration and in the tree."""
        *nodes, key = name.split(".")
        config, tree = self.config, self.tree
        for node in nodes:
            config, tree = getattr(config, node), tree[node]
        setattr(config, key, value)
        tree[key] = value


@dataclass
class Layer:
    """One source of values: a YAML file, a run's configuration, or a word."""

    source: str
    leaves: dict[str, Any]
    deleted: str = ""
    error: type[MultiheadError] = field(default=ConfigError)


def merge(
    task_class: type[TaskConfig],
    plugin: Plugin | None,
    layers: list[Layer],
    words: list[Layer],
    typed: list[str],
    error: type[MultiheadError] = ConfigError,
) -> Composition:
    """Merges the layers, lowest precedence first, and makes every check of a value.

    Raises:
        MultiheadError: A key does not exist or a value is not valid; each layer names the class of its errors.
    """
    keys = leaf_keys([task_class], plugin.options if plugin else None)
    root = empty(task_class, plugin)
    provenance: dict[str, list[tuple[str, Any]]] = {}
    for name, default in flatten(_plain(root)).items():
        key = find(name, keys)
        provenance[name] = [(f"default of {key.owner.__name__}" if key else "default", default)]
    for layer in [*layers, *words]:
        shown = "" if layer in words else layer.source
        if layer.deleted:
            _delete(root, layer.deleted, provenance)
        for name, value in layer.leaves.items():
            if find(name, keys) is None:
                raise _as(layer.error, unknown_key(name, keys, shown))
            _set(root, keys, name, value, shown, layer.error)
            provenance.setdefault(name, []).append((layer.source, value))
    if plugin:
        root.plugin_sha256 = os.pathsep.join(plugin.sums)
    try:
        check_choices(root, plugin)
        config = _as_config(root)
        check_monitor(config.task, plugin)
        check_roles(config)
        check_rows(config, plugin)
    except ConfigError as refused:
        raise _as(error, refused) from None
    tree = tree_of(config)
    current = flatten(tree)
    return Composition(
        config=config,
        words=typed,
        tree=tree,
        provenance={name: chain for name, chain in provenance.items() if name in current},
        plugin=plugin,
    )


def _plain(root: DictConfig) -> dict[str, Any]:
    tree: Any = OmegaConf.to_container(root)
    return tree


def _as_config(root: DictConfig) -> Config:
    config = OmegaConf.to_object(root)
    assert isinstance(config, Config)
    return config


def _as(error: type[MultiheadError], refused: ConfigError) -> MultiheadError:
    return refused if error is ConfigError else error(refused.where, refused.what, refused.fix)


def _set(
    root: DictConfig, keys: Mapping[str, Key], name: str, value: Any, source: str, error: type[MultiheadError]
) -> None:
    """Sets one leaf, whose type is checked.

    Raises:
        MultiheadError: The value has another type.
    """
    key = find(name, keys)
    assert key is not None
    where = f"{source}: {name}" if source else name
    if value == "???":
        raise error(where, "a value is missing")
    try:
        if key.is_mapping and name != key.name:  # the name of an entry may hold dots
            OmegaConf.select(root, key.name)[name.removeprefix(f"{key.name}.")] = value
        else:
            whole = isinstance(value, list) or value == {}  # replaces the old value
            OmegaConf.update(root, name, value, merge=not whole, force_add=True)
    except OmegaConfBaseException as refused:
        quoted = ",".join(map(str, value)) if isinstance(value, list) and key.type is str else ""
        fix = f"""write it as one text: '{name}="{quoted}"'""" if quoted else ""
        raise error(where, f"must be {key.requirement}, got {value!r}", fix) from refused


def _delete(root: DictConfig, name: str, provenance: dict[str, Any]) -> None:
    parent, _, entry = name.rpartition(".")
    node = OmegaConf.select(root, parent)
    if entry not in node:
        raise ConfigError(
            name, "there is nothing to remove", f"{parent} has {', '.join(map(str, node))}" if node else ""
        )
    del node[entry]
    provenance.pop(name, None)


def empty(task_class: type[TaskConfig], plugin: Plugin | None) -> DictConfig:
    """Returns the typed configuration with all defaults."""
    return copy.deepcopy(_template(task_class, tuple(plugin.options.items()) if plugin else ()))


@functools.lru_cache(maxsize=16)
def _template(task_class: type[TaskConfig], options: tuple[tuple[str, type], ...]) -> DictConfig:
    root = OmegaConf.structured(Config)
    root.task = OmegaConf.structured(task_class)
    for name, cls in options:
        root.options[name] = OmegaConf.structured(cls)
    return root


def tree_of(config: Config) -> dict[str, Any]:
    """Returns a configuration as plain containers, without the keys that are for one command only.

    A plugin is named without its path, which means nothing on another machine.
    """
    tree = dataclasses.asdict(config)
    tree["plugin"] = names_of(config.plugin)
    return tree | {"resume": "", "resume_force": [], "plan": False, "config_dir": ""}


def to_yaml(config: Config | dict[str, Any] | list[Any]) -> str:
    """Returns a configuration, or any plain tree or list, as the text of config.yaml."""
    tree = tree_of(config) if isinstance(config, Config) else config
    return yaml.safe_dump(tree, sort_keys=False, allow_unicode=True, width=120)
