"""From words on the command line to a checked configuration: `compose`, and `compose_from_run` for an existing run.

Hydra finds the files (`conf/`, then ``--config-dir``) and orders them by their defaults lists; OmegaConf merges them
into the dataclasses. Everything else here refuses: keys that do not exist, values of the wrong type or range, and
whatever would let a file name code to run. Only this module and `cli` know Hydra.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Mapping
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
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from hydra.plugins.config_source import ConfigResult
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from multihead.config.data import ROLES
from multihead.config.keys import (
    GROUPS,
    OPTIONAL_GROUPS,
    PRIMARY,
    Key,
    conf_dir,
    contains,
    find,
    flatten,
    leaf_keys,
    looks_secret,
    names_code,
    nearest_name,
    unknown_key,
)
from multihead.config.merge import Composition, Layer, empty, merge, to_yaml, tree_of
from multihead.config.task import TASKS, TaskConfig
from multihead.config.training import SEARCHES
from multihead.config.yaml_file import load_yaml, one_line
from multihead.errors import CheckpointError, ConfigError, MultiheadError
from multihead.plugin import Plugin, load_plugin

__all__ = ["Composition", "compose", "compose_from_run", "conf_dir", "hydra_words", "load_yaml", "to_yaml", "tree_of"]

HYDRA_WORDS = re.compile(r"hydra/(launcher|sweeper)|hydra\.(launcher|sweeper)\..+|hydra\.(sweep\.dir|searchpath|mode)")
MAX_CHECKED_TRIALS = 200
_registered: str | None = None
"""Checksum of the plugin whose dataclasses Hydra knows at present; empty for ours alone."""
SECRET = "looks like a secret, and would stand in the run's config.yaml"
SECRET_FIX = "give it by the environment (WANDB_API_KEY, HF_TOKEN) or ~/.netrc"
RUN_GROUPS = ("task", "model", "data", "optim")
"""Groups whose choice is a whole node, which it replaces over the configuration of a run."""


def compose(words: Iterable[str], *, config_dir: str | None = None, files: _Files | None = None) -> Composition:
    """The configuration that ``words`` describe.

    Args:
        words: ``key=value`` and ``group=choice`` as typed, without flags.
        config_dir: A folder of the user's own YAML files, searched after ours.

    Raises:
        ConfigError: A word, a file or a combination of values cannot be; nothing was run and nothing written.
    """
    words = list(words)
    overrides = parse(words)
    if run := resumed_run(overrides):
        return compose_from_run(load_yaml(Path(run) / "config.yaml"), words, config_dir=config_dir, run=run)
    plugin = _load_named_plugin(overrides)
    choices, values = _sort_words(overrides, plugin)
    files = files or _Files([o.input_line for o in overrides if o.is_hydra_override()], config_dir, plugin)
    task_class, layers = files.layers(choices)
    return merge(task_class, plugin, layers, _word_layers(values), words)


def composer(words: Iterable[str]) -> Callable[[Iterable[str]], Composition]:
    """A `compose` that looks for the files once, for many configurations with the plugin that ``words`` name."""
    return functools.partial(compose, files=_Files([], None, _load_named_plugin(parse(words))))


def compose_sweep(
    words: Iterable[str], *, config_dir: str | None = None, limit: int = MAX_CHECKED_TRIALS
) -> list[Composition]:
    """The configurations of a multirun's trials, in Hydra's order; of more than ``limit`` trials the first ones.

    A sampling sweeper's ranges (``interval(1e-4,1e-2)``) are not known in advance: they are left at their defaults.

    Raises:
        ConfigError: As for `compose`; the message of the first trial that cannot be.
    """
    overrides = [o for o in parse(words) if not (o.is_sweep_override() and not o.is_discrete_sweep())]
    if resumed_run(overrides):
        raise ConfigError("resume", "one run is resumed, not a multirun", "leave out -m")
    axes = [_axis(override) for override in overrides]
    trials = itertools.islice(itertools.product(*axes), limit)
    first = [axis[0] for axis in axes]
    plugin = _load_named_plugin(parse(first))
    files = _Files([o.input_line for o in overrides if o.is_hydra_override()], config_dir, plugin)
    return [compose(trial, config_dir=config_dir, files=files) for trial in trials]


def _axis(override: Override) -> list[str]:
    """The words that a sweep over one key stands for."""
    if not override.is_sweep_override():
        return [override.input_line]
    if override.key_or_group == "plugin":
        raise ConfigError("plugin", "cannot be swept over", "one plugin may hold several variants")
    return [f"{override.get_key_element()}={value}" for value in override.sweep_string_iterator()]


def compose_from_run(
    run_config: Mapping[str, Any], words: Iterable[str], *, config_dir: str | None = None, run: str = "RUN"
) -> Composition:
    """A run's configuration with ``words`` typed over it; a group choice replaces its whole node.

    Args:
        run_config: What `load_yaml` read from the run's config.yaml: data, checked and never interpolated.
        words: As for `compose`; ``experiment`` describes a whole run and is refused.
        config_dir: As for `compose`.
        run: The run's directory, for messages.

    Raises:
        CheckpointError: The run's configuration does not fit this program, or it needs a plugin that is not given.
        ConfigError: As for `compose`.
    """
    words = list(words)
    overrides = parse(words)
    if not isinstance(run_config, Mapping):
        raise CheckpointError(f"{run}/config.yaml", "must be a mapping of keys to values")
    plugin = _load_named_plugin(overrides)
    _check_same_plugin(run_config, plugin, overrides, run)
    choices, values = _sort_words(overrides, plugin)
    task = run_config.get("task")
    task_name = task.get("name") if isinstance(task, Mapping) else None
    tasks = _task_classes(plugin)
    if task_name not in tasks:
        raise CheckpointError(run, f"its task {task_name!r} is not one of {', '.join(tasks)}")
    base = _run_layer(run_config, f"{run}/config.yaml")
    merge(tasks[task_name], plugin, [base], [], words, error=CheckpointError)
    if any(choice.startswith("experiment=") for choice in choices):
        raise ConfigError("experiment", "describes a whole run, and this command starts from one", "leave it out")
    layers, task_class = [base], tasks[task_name]
    if choices:
        typed = [choice for choice in choices if choice.startswith("task=")] or [f"task={task_name}"]
        others = [choice for choice in choices if choice not in typed]
        task_class, chosen = _Files([], config_dir, plugin).layers(typed + others)
        layers = _replace_nodes(base, chosen, choices)
    return merge(task_class, plugin, layers, _word_layers(values), words)


def parse(words: Iterable[str]) -> list[Override]:
    """The words by Hydra's grammar.

    Raises:
        ConfigError: A word is not ``key=value``.
    """
    parser = OverridesParser.create()
    overrides = []
    for word in words:
        try:
            overrides.append(parser.parse_override(word))
        except HydraException as error:
            key, equals, value = word.partition("=")
            if not equals:
                owners = [group for group in GROUPS if (conf_dir() / group / f"{word}.yaml").is_file()]
                fix = f"{owners[0]}={word}" if owners else "every word is key=value; --help lists the keys"
                raise ConfigError(word, "not of the form key=value", fix) from error
            fix = f"""quote it twice: '{key}="{value}"'"""
            raise ConfigError(key, f"cannot read the value {value!r}", fix) from error
    return overrides


def resumed_run(overrides: list[Override]) -> str:
    """The directory that ``resume=`` names; empty where it names none or is to be searched for.

    Raises:
        ConfigError: It is not the directory of a run.
    """
    runs = [str(o.value()) for o in overrides if o.key_or_group == "resume" and not o.is_sweep_override() and o.value()]
    if runs and runs[-1] in SEARCHES:
        return ""
    if runs and not (Path(runs[-1]) / "config.yaml").is_file():
        what = "no config.yaml in it" if Path(runs[-1]).is_dir() else "no such directory"
        raise ConfigError("resume", f"{runs[-1]} is not a run: {what}", "give the directory of a run, outputs/...")
    return runs[-1] if runs else ""


def hydra_words(words: Iterable[str]) -> list[str]:
    """The words as Hydra wants them: new entries of a mapping (``data.roles.source=x``) need ``++`` there."""
    keys = leaf_keys(TASKS.values())
    adapted = []
    for word, override in zip(words, parse(words), strict=True):
        key = find(override.key_or_group, keys)
        entry = (key is not None and key.is_mapping) or override.key_or_group.startswith("options.")
        adapted.append(f"++{word.lstrip('+')}" if entry and not override.is_delete() else word)
    return adapted


# Words


def _load_named_plugin(overrides: list[Override]) -> Plugin | None:
    """Loads what ``plugin=`` names, and makes its tasks and options selectable; without it, none are."""
    paths = [str(o.value()) for o in overrides if o.key_or_group == "plugin" and not o.is_sweep_override()]
    plugin = load_plugin(paths[-1]) if paths and paths[-1] else None
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
    for name, cls in _task_classes(plugin).items():
        store.store(group="schema", name=name, node=cls)
        if name not in TASKS:  # a plugin's
            node = {"defaults": [{"/schema@task": name}, "_self_"]}
            store.store(group="task", name=name, node=node, package="_global_")
    for name in plugin.corpora if plugin else ():
        store.store(group="data", name=name, node={"name": name, "roles": {role: role for role in ROLES}})


def _task_classes(plugin: Plugin | None) -> dict[str, type[TaskConfig]]:
    return TASKS | {name: cls for name, (cls, _) in (plugin.tasks if plugin else {}).items()}


def _sort_words(overrides: list[Override], plugin: Plugin | None) -> tuple[list[str], list[Override]]:
    """Group choices as Hydra's words, and the other words; refuses what no schema knows."""
    keys = leaf_keys(_task_classes(plugin).values(), plugin.options if plugin else None)
    choices, values = [], []
    for override in overrides:
        name = override.key_or_group
        if override.is_hydra_override():
            _check_hydra_word(override)
            continue
        _check_safe(override)
        if name in GROUPS:
            choices.append(_choice(override))
        else:
            _check_key(override, keys)
            values.append(override)
    return choices, values


def _check_hydra_word(override: Override) -> None:
    name = override.key_or_group
    if not HYDRA_WORDS.fullmatch(name) or names_code(name):
        raise ConfigError(
            name, "not yours to set: Hydra writes nothing here", "run_dir=DIR sets where a run is written"
        )


def _check_safe(override: Override) -> None:
    """Refuses sweeps outside -m, instantiation, interpolation and relocation."""
    name = override.key_or_group
    if override.is_sweep_override():
        value = (override.input_line or "").partition("=")[2]
        fix = f"""add -m, or write {name}=[{value}] for a list, '{name}="{value}"' for a text"""
        raise ConfigError(name, f"several values ({value}) make a sweep", fix)
    value = override.value() if not override.is_delete() else None
    if names_code(name) or contains(value, names_code):
        raise ConfigError(name, "not allowed: configuration is data and names no code", "plugin=FILE.py adds code")
    if contains(value, lambda text: "${" in text) or "${" in name:
        raise ConfigError(name, "interpolation is not allowed: configuration is data", "write the value itself")
    if contains(value, looks_secret):
        raise ConfigError(name, SECRET, SECRET_FIX)
    if override.package is not None:
        raise ConfigError(f"{name}@{override.package}", "a choice cannot be moved", f"{name}=CHOICE")


def _choice(override: Override) -> str:
    """``group=name`` for a word that chooses."""
    group, value = override.key_or_group, override.value()
    if override.is_delete() and group in OPTIONAL_GROUPS:
        return f"{group}=null"
    if override.is_add() or override.is_force_add() or override.is_delete():
        raise ConfigError(group, f"{override.input_line!r}: one of a group is always chosen", f"{group}=CHOICE")
    if value is None and group in OPTIONAL_GROUPS:
        return f"{group}=null"
    if not isinstance(value, str | int) or value == "":
        raise ConfigError(group, f"must name one of conf/{group}/, got {value!r}", f"{group}.KEY=VALUE sets a value")
    return f"{group}={value}"


def _check_key(override: Override, keys: Mapping[str, Key]) -> None:
    """Refuses a word whose key, or a key inside whose value, is not in the schema."""
    name = override.key_or_group
    if name == "task.name":
        raise ConfigError(name, "set by the choice of the task", "task=NAME")
    if override.is_delete():
        key = find(name, keys)
        if key is None or name == key.name:
            raise ConfigError(name, "only an entry of a mapping can be deleted", "write the value that you want")
        return
    for leaf in _leaves(override):
        if find(leaf, keys) is None:
            raise unknown_key(leaf, keys)


def _leaves(override: Override) -> dict[str, Any]:
    """The word's value as leaves: a dict given to a node is one leaf for each of its entries."""
    name, value = override.key_or_group, override.value()
    return flatten({name: value}) if isinstance(value, dict) and value else {name: value}


def _word_layers(values: list[Override]) -> list[Layer]:
    layers = []
    for override in values:
        if override.is_delete():
            layers.append(Layer(override.input_line, {}, deleted=override.key_or_group))
        else:
            layers.append(Layer(override.input_line, _leaves(override)))
    return layers


# Files


class _Files:
    """The YAML files that choices of groups bring together, in the order of their precedence."""

    def __init__(self, hydra_overrides: list[str], config_dir: str | None, plugin: Plugin | None):
        version.setbase("1.3")
        self.hydra_overrides, self.classes = hydra_overrides, _task_classes(plugin)
        self.known: dict[tuple[str, ...], tuple[type[TaskConfig], list[Layer]]] = {}
        search_path = create_config_search_path(f"file://{conf_dir()}")
        if config_dir is not None:
            folder = Path(config_dir).expanduser().absolute()
            if not folder.is_dir():
                raise ConfigError("--config-dir", f"no such folder: {config_dir}")
            search_path.prepend("command-line", f"file://{folder}", anchor=SearchPathQuery(provider="schema"))
        self.loader = ConfigLoaderImpl(config_search_path=search_path)

    def layers(self, choices: list[str]) -> tuple[type[TaskConfig], list[Layer]]:
        """The chosen task's dataclass and the files' values, lowest precedence first."""
        if tuple(choices) not in self.known:
            self.known[tuple(choices)] = self._load(choices)
        return self.known[tuple(choices)]

    def _load(self, choices: list[str]) -> tuple[type[TaskConfig], list[Layer]]:
        try:
            overrides, repository = self.loader._parse_overrides_and_create_caching_repo(
                PRIMARY, [*choices, *self.hydra_overrides]
            )
            self.repository = repository
            for choice in choices:
                self._check_choice(*choice.split("=", 1))
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
        for part in reversed([part for part in (default.package or "").split(".") if part and part != "_global_"]):
            tree = {part: tree}
        return _file_layer(source, tree)


def _file_layer(source: str, tree: dict[str, Any], error: type[MultiheadError] = ConfigError) -> Layer:
    """A file's values, if they are nothing but data."""
    leaves = flatten(tree)
    for name, value in leaves.items():
        if names_code(name) or contains(value, names_code):
            raise error(f"{source}: {name}", "not allowed: configuration is data and names no code")
        if contains(value, lambda text: "${" in text) or "${" in name:
            raise error(f"{source}: {name}", "interpolation is not allowed: configuration is data")
        if contains(value, looks_secret):
            raise error(f"{source}: {name}", SECRET, SECRET_FIX)
        if name.split(".")[0] == "hydra":
            raise error(f"{source}: {name}", "a file cannot configure Hydra")
        if name == "plugin":
            raise error(f"{source}: {name}", "only the command line names code", "plugin=FILE.py on the command line")
    return Layer(source, {name: value for name, value in leaves.items() if value != {}}, error=error)


# Runs


def _run_layer(run_config: Mapping[str, Any], source: str) -> Layer:
    tree = {key: value for key, value in run_config.items() if key not in ("plugin", "plugin_sha256")}
    return _file_layer(source, tree, CheckpointError)


def _check_same_plugin(
    run_config: Mapping[str, Any], plugin: Plugin | None, overrides: list[Override], run: str
) -> None:
    """A run made with a plugin wants the same one again, by the command line; another content has to be accepted."""
    name, sha256 = run_config.get("plugin"), run_config.get("plugin_sha256")
    if not name or any(override.key_or_group == "plugin_sha256" for override in overrides):
        return
    if plugin is None:
        raise CheckpointError(
            run,
            f"was made with the plugin {name}, whose code runs only if you say so",
            f"add plugin={run}/plugin/{name} or your own copy",
        )
    if sha256 and plugin.sha256 != sha256:
        raise CheckpointError(
            run,
            f"was made with another version of the plugin {name} (sha256 {sha256[:12]})",
            f"add plugin={run}/plugin/{name}, or plugin_sha256= to accept yours ({plugin.sha256[:12]})",
        )


def _replace_nodes(base: Layer, chosen: list[Layer], choices: list[str]) -> list[Layer]:
    """The run's values without the nodes chosen anew, then the files that bring these nodes; other groups go on top."""
    groups = {choice.split("=", 1)[0] for choice in choices}
    nodes = tuple(f"{group}." for group in groups if group in RUN_GROUPS)
    kept = {name: value for name, value in base.leaves.items() if not name.startswith(nodes)} if nodes else base.leaves
    layers = [dataclasses.replace(base, leaves=kept)]
    for layer in chosen:
        if layer.source.rsplit("/", 2)[-2] in groups:
            layers.append(layer)
    return layers
