"""The YAML files that choices of groups bring together: ours in `conf/`, and the user's in ``config_dir=``.

Hydra finds the files and orders them by their defaults lists. What they hold is data: no file names code, takes a value
from the environment, or configures Hydra.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from hydra import version
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra._internal.defaults_list import create_defaults_list
from hydra._internal.utils import create_config_search_path
from hydra.core.config_search_path import SearchPathQuery
from hydra.core.config_store import ConfigStore
from hydra.core.default_element import ResultDefault
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from multihead.config.data import ROLES
from multihead.config.folder import PRIMARY, conf_dir
from multihead.config.keys import (
    OPTIONAL_GROUPS,
    Key,
    contains,
    find,
    flatten,
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
from multihead.plugin import Plugin, load_plugin

SECRET = "looks like a secret, and would stand in the run's config.yaml"
SECRET_FIX = "give it by the environment (WANDB_API_KEY, HF_TOKEN) or ~/.netrc"
_registered: str | None = None
"""Checksum of the plugin whose dataclasses Hydra knows at present; empty for ours alone."""


def load_named_plugin(path: str) -> Plugin | None:
    """Loads what ``plugin=`` names, and makes its tasks and options selectable; without it, none are."""
    plugin = load_plugin(path) if path else None
    global _registered
    if _registered != (key := plugin.sha256 if plugin else ""):
        register_schema(plugin)
        _registered = key
    return plugin


def register_schema(plugin: Plugin | None = None) -> None:
    """Puts the dataclasses where the defaults lists of `conf/` find them (group ``schema``), and no others."""
    store = ConfigStore.instance()
    for group in ("schema", "task", "data"):
        store.repo.pop(group, None)
    store.store(group="schema", name="config", node=empty(TaskConfig, plugin), package="_global_")
    for name, cls in task_classes(plugin).items():
        store.store(group="schema", name=name, node=cls)
        if name not in TASKS:  # a plugin's
            node = {"defaults": [{"/schema@task": name}, "_self_"]}
            store.store(group="task", name=name, node=node, package="_global_")
    for name in plugin.corpora if plugin else ():
        store.store(group="data", name=name, node={"name": name, "roles": {role: role for role in ROLES}})


def task_classes(plugin: Plugin | None) -> dict[str, type[TaskConfig]]:
    return TASKS | {name: cls for name, (cls, _) in (plugin.tasks if plugin else {}).items()}


class Files:
    """The YAML files that choices of groups bring together, in the order of their precedence."""

    def __init__(self, hydra_overrides: list[str], config_dir: str | None, plugin: Plugin | None):
        version.setbase("1.3")
        self.hydra_overrides, self.classes = hydra_overrides, task_classes(plugin)
        self.known: dict[tuple[str, ...], tuple[type[TaskConfig], list[Layer]]] = {}
        search_path = create_config_search_path(f"file://{conf_dir()}")
        if config_dir:
            folder = Path(config_dir).absolute()
            if not folder.is_dir():
                raise ConfigError("config_dir", f"no such folder: {config_dir}")
            search_path.prepend("command-line", f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
        self.loader = ConfigLoaderImpl(config_search_path=search_path)

    def layers(self, choices: list[str]) -> tuple[type[TaskConfig], list[Layer]]:
        """The chosen task's dataclass and the files' values, lowest precedence first."""
        if tuple(choices) not in self.known:
            self.known[tuple(choices)] = self._load(choices)
        return self.known[tuple(choices)]

    def options(self, group: str) -> list[str]:
        """The names that can be chosen of a group, the user's among them."""
        _, repository = self.loader._parse_overrides_and_create_caching_repo(PRIMARY, self.hydra_overrides)
        return repository.get_group_options(group)

    def _load(self, choices: list[str]) -> tuple[type[TaskConfig], list[Layer]]:
        pairs = [choice.split("=", 1) for choice in choices]  # quoted, Hydra takes any name for a name
        words = [f"~{group}" if name == "null" else f'{group}="{name}"' for group, name in pairs]
        try:
            overrides, repository = self.loader._parse_overrides_and_create_caching_repo(
                PRIMARY, [*words, *self.hydra_overrides]
            )
            self.repository = repository
            for group, name in pairs:
                self._check_choice(group, name)
            defaults = create_defaults_list(repository, PRIMARY, overrides, prepend_hydra=True, skip_missing=False)
            results = [(default, repository.load_config(default.config_path)) for default in defaults.defaults]
        except HydraException as error:
            raise self._defaults_error(error) from error
        except (yaml.YAMLError, OmegaConfBaseException, OSError, UnicodeDecodeError) as error:
            raise ConfigError("conf", one_line(error)) from error
        task_class, layers = TaskConfig, []
        for default, result in results:
            if default.config_path.startswith("schema/"):
                task_class = self._schema(default) or task_class
            elif not self._is_hydra(default, result):
                self._check_not_hidden(default, result)
                layers.append(self._layer(default, result))
        return task_class, layers

    def _schema(self, default: ResultDefault) -> type[TaskConfig] | None:
        """The dataclass of the task, if this entry of a defaults list names one."""
        name = default.config_path.removeprefix("schema/")
        if name in self.classes and default.package == "task":
            return self.classes[name]
        if name == "config" and default.package in ("", "_global_"):
            return None
        raise ConfigError(default.parent or default.config_path, f"{default.config_path} can only type the node task")

    def _check_choice(self, group: str, option: str) -> None:
        options = self.repository.get_group_options(group)
        if (option == "null" and group in OPTIONAL_GROUPS) or option in options:
            return
        if self.repository.config_exists(f"{group}/{option}"):
            return
        near = nearest_name(option, options)
        have = f"have {', '.join(options)}" if options else "there are none"
        raise ConfigError(f"{group}={option}", f"no such {group}; {have}", f"{group}={near}" if near else "")

    def _check_not_hidden(self, default: ResultDefault, result: ConfigResult) -> None:
        """Refuses a file of the user's that has the name of one of ours: which of the two is meant is not clear.

        Neither may win: ours would be used unseen, and a result of ``data=multi30k`` has to mean one data set.
        """
        name = f"{default.config_path}.yaml"
        for source in self.repository.get_sources():
            theirs = Path(source.path, name)
            if result.provider != "main" or source.provider in ("main", "hydra", "schema") or not theirs.is_file():
                continue
            if theirs.read_bytes() == (conf_dir() / name).read_bytes():
                continue
            if default.primary:
                raise ConfigError(str(theirs), f"is never read: {name} is ours alone", pasted("rm", str(theirs)))
            group, _, choice = default.config_path.rpartition("/")
            renamed = theirs.with_name(f"my_{choice}.yaml")
            what = f"is the name of one of ours and of {theirs}: which one is meant?"
            fix = f"{pasted('mv', str(theirs), str(renamed))}, then {group}=my_{choice}"
            raise ConfigError(f"{group}={choice}", what, fix)

    def _defaults_error(self, error: HydraException) -> ConfigError:
        """Hydra's complaint about the defaults lists, in one line."""
        if "You must specify 'task'" in str(error):
            options = self.repository.get_group_options("task")
            return ConfigError("task", f"must be chosen: {', '.join(options)}", f"task={options[0]}")
        return ConfigError("conf", one_line(error))

    def _is_hydra(self, default: ResultDefault, result: ConfigResult) -> bool:
        """Whether a result is Hydra's own and not ours to merge; refuses a file that poses as one."""
        posing = default.package is not None and default.package.split(".")[0] == "hydra"
        if not (posing or default.config_path.startswith("hydra/")):
            return False
        installed = result.path.startswith(("pkg://", "structured://"))  # a package's, such as a launcher's
        trusted = result.provider in ("hydra", "schema") or installed
        if not trusted:
            raise ConfigError(self._shown(default, result), "a file cannot configure Hydra")
        return True

    def _shown(self, default: ResultDefault, result: ConfigResult) -> str:
        """A file's name for messages: conf/... for ours, the path for the user's."""
        if result.provider == "schema":
            return f"plugin {default.config_path}"
        folder = "conf" if result.provider == "main" else result.path.removeprefix("file://")
        return f"{folder}/{default.config_path}.yaml"

    def _layer(self, default: ResultDefault, result: ConfigResult) -> Layer:
        source = self._shown(default, result)
        tree = OmegaConf.to_container(result.config, resolve=False)
        if not isinstance(tree, dict):
            raise ConfigError(source, "must be a mapping of keys to values")
        tree.pop("defaults", None)
        if default.primary and result.provider == "main":
            tree.pop("hydra", None)
        package = [part for part in (default.package or "").split(".") if part and part != "_global_"]
        if result.path.startswith("file://"):
            file = Path(result.path.removeprefix("file://"), f"{default.config_path}.yaml")
            root = yaml.compose(file.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
            tree = _as_written(tree, root, ".".join(package), leaf_keys(self.classes.values()))
        for part in reversed(package):
            tree = {part: tree}
        return file_layer(source, tree)


def _as_written(value: Any, node: yaml.Node, name: str, keys: Mapping[str, Key]) -> Any:
    """A file's value with the texts as they stand there, which YAML may have read as numbers: ``root: 2024_11``.

    A path is expanded like the typed one, but for variables: a file takes nothing from the environment.
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


def file_layer(source: str, tree: dict[str, Any], error: type[MultiheadError] = ConfigError) -> Layer:
    """A file's values, if they are nothing but data."""
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
            raise error(f"{source}: {name}", "only the command line names folders of files", "config_dir=DIR there")
    return Layer(source, {name: value for name, value in leaves.items() if value != {}}, error=error)
