"""The YAML files that choices of groups bring together: ours in `conf/`, and the user's in ``config_dir=``.

Hydra finds the files and orders them by their defaults lists. The files hold only data: no file names code, takes a
value from the environment, or configures Hydra.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from multihead.config import hydra_private
from multihead.config.data import ROLES
from multihead.config.folder import PRIMARY, conf_dir
from multihead.config.hydra_private import Found, Repository
from multihead.config.keys import (
    OPTIONAL_GROUPS,
    Key,
    contains,
    find,
    leaf_keys,
    looks_secret,
    names_code,
    nearest_name,
)
from multihead.config.merge import Layer, empty
from multihead.config.task import TASKS, TaskConfig
from multihead.config.words import PATHS, pasted, takes_text
from multihead.config.yaml_file import one_line
from multihead.errors import ConfigError, MultiheadError
from multihead.plugin import Plugin, load_plugins
from multihead.tables.records import flatten

SECRET = "looks like a secret, and would be written to the run's config.yaml"
SECRET_FIX = "give it by the environment (WANDB_API_KEY, HF_TOKEN) or ~/.netrc"
_registered: str | None = None
"""Checksum of the plugin whose dataclasses Hydra knows at present; empty if it knows only ours."""


def load_named_plugin(path: str) -> Plugin | None:
    """Loads the plugins that ``plugin=`` names and registers its tasks and options; without one, removes them."""
    plugin = load_plugins(path) if path else None
    global _registered
    if _registered != (key := plugin.sha256 if plugin else ""):
        register_schema(plugin)
        _registered = key
    return plugin


def register_schema(plugin: Plugin | None = None) -> None:
    """Registers our dataclasses and the plugin's, and no others, so that the defaults lists of `conf/` find them."""
    store = ConfigStore.instance()
    hydra_private.forget_groups("schema", "task", "data")
    store.store(group="schema", name="config", node=empty(TaskConfig, plugin), package="_global_")
    for name, cls in task_classes(plugin).items():
        store.store(group="schema", name=name, node=cls)
        if name not in TASKS:  # a plugin's task has no YAML file
            node = {"defaults": [{"/schema@task": name}, "_self_"]}
            store.store(group="task", name=name, node=node, package="_global_")
    roles = dict.fromkeys(
        (*ROLES, *(role for cls, _ in plugin.tasks.values() for role in cls().roles)) if plugin else ()
    )
    for name in plugin.corpora if plugin else ():
        store.store(group="data", name=name, node={"name": name, "roles": {role: role for role in roles}})


def task_classes(plugin: Plugin | None) -> dict[str, type[TaskConfig]]:
    """The configuration classes of all tasks, a plugin's included, by name."""
    return TASKS | {name: cls for name, (cls, _) in (plugin.tasks if plugin else {}).items()}


def files_of(hydra_overrides: list[str], config_dir: str | None, plugin: Plugin | None) -> Files:
    """Returns `Files`. Compositions that read only our own files share one, until such a file changes."""
    if hydra_overrides or config_dir or plugin:
        return Files(hydra_overrides, config_dir, plugin)
    folder = conf_dir()
    found = [entry for place in (folder, *filter(Path.is_dir, folder.iterdir())) for entry in os.scandir(place)]
    return _own_files(tuple((entry.path, entry.stat().st_mtime_ns, entry.stat().st_size) for entry in found))


@functools.lru_cache(maxsize=1)
def _own_files(_state: tuple[tuple[str, int, int], ...]) -> Files:
    return Files([], None, None)


class Files:
    """The YAML files that choices of groups bring together, in the order of their precedence.

    Args:
        hydra_overrides: Words for Hydra itself, such as ``hydra.searchpath=[...]``.
        config_dir: The user's folder of YAML files, if there is one.
        plugin: The plugin, if there is one.

    Raises:
        ConfigError: ``config_dir`` is not a folder.
    """

    def __init__(self, hydra_overrides: list[str], config_dir: str | None, plugin: Plugin | None):
        version.setbase("1.3")
        self.hydra_overrides, self.classes = hydra_overrides, task_classes(plugin)
        self.known: dict[tuple[str, ...], tuple[type[TaskConfig], list[Layer]]] = {}
        own = Path(config_dir).absolute() if config_dir else None
        if own is not None and not own.is_dir():
            raise ConfigError("config_dir", f"no such folder: {config_dir}")
        self.loader = hydra_private.config_loader(conf_dir(), own)

    def layers(self, choices: list[str]) -> tuple[type[TaskConfig], list[Layer]]:
        """The chosen task's dataclass and the files' values, lowest precedence first."""
        if tuple(choices) not in self.known:
            self.known[tuple(choices)] = self._load(choices)
        return self.known[tuple(choices)]

    @functools.cached_property
    def repository(self) -> Repository:
        """The files that can be found. It keeps what it has read."""
        return hydra_private.repository(self.loader, PRIMARY, self.hydra_overrides)

    def options(self, group: str) -> list[str]:
        """The choices of a group, including the user's."""
        return self.repository.get_group_options(group)

    def check_choice(self, group: str, option: str) -> None:
        """Checks that a group has a choice.

        Raises:
            ConfigError: It does not.
        """
        options = self.options(group)
        if (option == "null" and group in OPTIONAL_GROUPS) or option in options:
            return
        plain = option.removesuffix(".yaml")
        below = plain == option and ".." not in option and not option.startswith("/")
        if below and self.repository.config_exists(f"{group}/{option}"):  # in a folder within the group
            return
        near = plain if plain in options else nearest_name(option, options)
        have = f"there are {', '.join(options)}" if options else "there are none"
        raise ConfigError(f"{group}={option}", f"no such {group}; {have}", f"{group}={near}" if near else "")

    def _load(self, choices: list[str]) -> tuple[type[TaskConfig], list[Layer]]:
        pairs = [choice.split("=", 1) for choice in choices]
        words = [f"~{group}" if name == "null" else f'{group}="{name}"' for group, name in pairs]  # takes any name
        try:
            overrides = OverridesParser.create().parse_overrides([*words, *self.hydra_overrides])
            for group, name in pairs:
                self.check_choice(group, name)
            found = hydra_private.found(self.repository, PRIMARY, overrides)
        except HydraException as error:
            raise _defaults_error(error, self.options("task")) from error
        except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
            raise ConfigError("conf", one_line(error)) from error
        task_class, layers = TaskConfig, []
        for file in found:
            if file.name.startswith("schema/"):
                task_class = self._schema(file) or task_class
            elif not _is_hydra(file):
                _check_not_hidden(self.repository, file)
                layers.append(self._layer(file))
        return task_class, layers

    def _schema(self, file: Found) -> type[TaskConfig] | None:
        """The dataclass of the task, if this entry of a defaults list names one."""
        name = file.name.removeprefix("schema/")
        if name in self.classes and file.package == "task":
            return self.classes[name]
        if name == "config" and file.package in ("", "_global_"):
            return None
        raise ConfigError(file.parent or file.name, f"{file.name} may stand at the node task only")

    def _layer(self, file: Found) -> Layer:
        source = _shown(file)
        tree: Any = OmegaConf.to_container(file.result.config, resolve=False)
        if not isinstance(tree, dict):
            raise ConfigError(source, "must be a mapping of keys to values")
        tree.pop("defaults", None)
        if file.primary and file.result.provider == "main":
            tree.pop("hydra", None)
        package = [part for part in file.package.split(".") if part and part != "_global_"]
        if file.result.path.startswith("file://"):
            path = Path(file.result.path.removeprefix("file://"), f"{file.name}.yaml")
            root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
            tree = _as_written(tree, root, ".".join(package), leaf_keys(self.classes.values()))
        for part in reversed(package):
            tree = {part: tree}
        return file_layer(source, tree)


def _check_not_hidden(repository: Repository, file: Found) -> None:
    """Raises `ConfigError` if a file of the user has the name of one of ours, because it is not clear which is meant.

    Neither may win silently: ``data=multi30k`` in a result has to mean one data set.
    """
    name = f"{file.name}.yaml"
    for source in repository.get_sources():
        theirs = Path(source.path, name)
        if file.result.provider != "main" or source.provider in ("main", "hydra", "schema") or not theirs.is_file():
            continue
        if theirs.read_bytes() == (conf_dir() / name).read_bytes():
            continue
        if file.primary:
            raise ConfigError(
                str(theirs), f"is not read: Multihead reads only its own {name}", pasted("rm", str(theirs))
            )
        group, _, choice = file.name.rpartition("/")
        renamed = theirs.with_name(f"my_{choice}.yaml")
        what = f"is ambiguous: a file of Multihead and {theirs} have the same name"
        fix = f"{pasted('mv', str(theirs), str(renamed))}, then {group}=my_{choice}"
        raise ConfigError(f"{group}={choice}", what, fix)


def _defaults_error(error: HydraException, tasks: list[str]) -> ConfigError:
    """Hydra's complaint about the defaults lists, in one line."""
    if "You must specify 'task'" in str(error):
        return ConfigError("task", f"must be chosen: {', '.join(tasks)}", f"task={tasks[0]}")
    return ConfigError("conf", one_line(error))


def _is_hydra(file: Found) -> bool:
    """Whether a file is Hydra's own, which is not ours to merge.

    Raises:
        ConfigError: A file that is not Hydra's would configure Hydra.
    """
    if not (file.package.split(".")[0] == "hydra" or file.name.startswith("hydra/")):
        return False
    installed = file.result.path.startswith(("pkg://", "structured://"))  # of a package, such as a launcher's
    if not (installed or file.result.provider in ("hydra", "schema")):
        raise ConfigError(_shown(file), "a file cannot configure Hydra")
    return True


def _shown(file: Found) -> str:
    """A file's name for messages: conf/... for ours, the path for the user's."""
    if file.result.provider == "schema":
        return f"plugin {file.name}"
    folder = "conf" if file.result.provider == "main" else file.result.path.removeprefix("file://")
    return f"{folder}/{file.name}.yaml"


def _as_written(value: Any, node: yaml.Node | None, name: str, keys: Mapping[str, Key]) -> Any:
    """A file's value, with each text exactly as it is written even if YAML reads it as a number: ``root: 2024_11``.

    ``~`` in a path is expanded, variables are not: a file takes nothing from the environment.
    """
    if isinstance(value, dict) and isinstance(node, yaml.MappingNode):
        inner = {str(key.value): item for key, item in node.value}
        below = {key: f"{name}.{key}".lstrip(".") for key in value}
        return {
            key: _as_written(item, inner[str(key)], below[key], keys) if str(key) in inner else item
            for key, item in value.items()
        }
    if isinstance(value, list) and isinstance(node, yaml.SequenceNode):
        return [_as_written(item, inner, name, keys) for item, inner in zip(value, node.value, strict=True)]
    key = find(name, keys)
    if not isinstance(node, yaml.ScalarNode) or value is None or not takes_text(key, name):
        return value
    return os.path.expanduser(node.value) if name in PATHS else node.value


def file_layer(source: str, tree: Mapping[str, Any], error: type[MultiheadError] = ConfigError) -> Layer:
    """Returns a file's values as a layer after checking that they are only data.

    Raises:
        MultiheadError: A value names code, needs interpolation, or looks like a secret; ``error`` is its class.
    """
    leaves = flatten(tree)
    for name, value in leaves.items():
        if names_code(name) or contains(value, names_code, keys_only=True):
            raise error(f"{source}: {name}", "not allowed: configuration is data and names no code")
        if contains(value, lambda text: "${" in text) or "${" in name:
            raise error(f"{source}: {name}", "interpolation is not allowed: configuration is data")
        if contains(value, looks_secret):
            raise error(f"{source}: {name}", SECRET, SECRET_FIX)
        if name.split(".")[0] == "hydra":
            raise error(f"{source}: {name}", "a file cannot configure Hydra")
        if name == "plugin":
            raise error(f"{source}: {name}", "only the command line names code", "plugin=FILE.py on the command line")
        if name == "config_dir" and value:
            raise error(
                f"{source}: {name}",
                "only the command line names folders of files",
                "config_dir=DIR on the command line",
            )
    return Layer(source, {name: value for name, value in leaves.items() if value != {}}, error=error)
