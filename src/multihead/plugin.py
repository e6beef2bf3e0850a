"""Loads a plugin: the user's own code, in one Python file or in an installed package's entry point.

A plugin is loaded only if the command line says ``plugin=variant.py``. No configuration file, run directory or data set
can name code to run. The plugin's module has one variable::

    PLUGIN = Plugin(attention={"linear": LinearAttention}, options={"linear": LinearOptions})
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

from multihead.config.changes import joined_sum
from multihead.config.keys import nearest_name
from multihead.config.task import TASKS, TaskConfig
from multihead.errors import PLUGIN_FILES, ConfigError

ENTRY_POINTS = "multihead.plugins"


@dataclass(frozen=True, kw_only=True)
class AddedMetric:
    """A metric that a plugin adds to tasks. It can be any class of torchmetrics whose value is one number.

    Its ``update`` gets, for each batch of validation and test:

    - classification: probabilities [N, C] and labels [N], or with ``multi_label`` labels [N, C] of 0 and 1;
    - regression: numbers [N] and labels [N], in the units of the data;
    - translation and summarization: outputs and references, two lists of texts;
    - lm: logits [N, V] and labels [N].
    """

    new: Callable[[Any], Any]
    """A function from the task to a fresh metric: ``lambda task: MulticlassCohenKappa(len(task.labels))``."""
    tasks: tuple[str, ...]
    """Names of the tasks that report it."""
    better: str = "max"
    """max or min: the direction in which values get better."""


@dataclass(kw_only=True)
class Plugin:
    """What a plugin adds, by the names that the configuration uses for it."""

    attention: dict[str, Callable] = field(default_factory=dict)
    """Name for model.attention to a class with the constructor and forward of `MultiHeadAttention`.

    A subclass of it may change one step alone: ``keys_and_values``, ``mix``, or what is done with ``attended``.
    """
    causal_attention: dict[str, Callable] = field(default_factory=dict)
    """The same name to the class for a decoder's self-attention, if that is not the class in ``attention``."""
    cross_attention: dict[str, Callable] = field(default_factory=dict)
    """The same name to the class for a decoder's cross-attention, if that is not the class in ``attention``."""
    feed_forward: dict[str, Callable] = field(default_factory=dict)
    """Name for model.feed_forward to a class with the constructor and forward of `FeedForward`.

    A part that has a loss of its own, such as one that balances experts, gives it to `multihead.model.losses.add_loss`.
    """
    norms: dict[str, Callable] = field(default_factory=dict)
    """Name for model.norm to a class: (config, width) to a module that maps [..., width] to [..., width]."""
    positions: dict[str, Callable] = field(default_factory=dict)
    """Name for model.position to a subclass of `multihead.model.positions.Positions`."""
    embeddings: dict[str, Callable] = field(default_factory=dict)
    """Name for model.embedding to a class: (config, vocab_size) to a module that maps ids [B, T] to [B, T, E].

    E is ``config.width_of_embeddings``. If ``model.tie_embeddings`` is not none, the module has a ``weight`` [V, E].
    """
    layers: dict[str, Callable] = field(default_factory=dict)
    """Name for model.layer to a class with the constructor and forward of `multihead.model.transformer.Layer`."""
    stacks: dict[str, Callable] = field(default_factory=dict)
    """Name for model.stack to a subclass of `multihead.model.transformer.Stack`; most override ``run_layers``."""
    optimizers: dict[str, Callable] = field(default_factory=dict)
    """Name for optim.name to a function (groups, config) to an optimizer; config is the node ``optim``.

    A group has ``params``, ``lr``, ``weight_decay`` and ``hidden``: whether its parameters are hidden matrices. The
    optimizer's state must be tensors, so that a run resumes exactly.
    """
    schedules: dict[str, Callable] = field(default_factory=dict)
    """Name for optim.schedule to a function (config, max_steps, step) to the factor of the peak learning rate."""
    tokenizers: dict[str, Callable] = field(default_factory=dict)
    """Name for tokenizer.kind to a function (config, texts, normalize) to a trained `tokenizers.Tokenizer`.

    ``config`` is the node ``tokenizer``, ``texts`` yields the training texts, ``normalize`` is ``data.normalize``. The
    entries ``<pad> <bos> <eos> <unk> <sep> <mask>`` have these roles; ``<eos>`` or ``<sep>`` is needed. A run directory
    keeps the tokenizer as data, so that it loads without this code.
    """
    readers: dict[str, Callable] = field(default_factory=dict)
    """Name for data.format to a function (path, columns, config) to a mapping of each column to its texts.

    ``path`` is one of the files of ``data.train``, ``data.val`` or ``data.test``; ``config`` is the node ``data``.
    """
    losses: dict[str, Callable] = field(default_factory=dict)
    """Name for task.loss to a function (task, batch) to the sum of the loss over the targets of a batch.

    `Task.logits_and_labels` gives it the logits [N, C] and labels [N] of the batch; it may be called several times. The
    sum is divided by the number of targets of the whole step, so that it does not depend on how the step is cut.
    """
    heads: dict[str, Callable] = field(default_factory=dict)
    """Name for task.head to a function (config, settings, transformer, vocab) to a head.

    ``config`` is the whole configuration, ``settings`` that of the task. The head has the methods of the task's own
    (`VocabularyHead` or `PooledClassifier` of `multihead.model.heads`), and is best a subclass of it.
    """
    metrics: dict[str, AddedMetric] = field(default_factory=dict)
    """Name to a metric, which validation and test report as val/NAME and test/NAME; task.monitor can name it."""
    reports: dict[str, Callable] = field(default_factory=dict)
    """Name to a function that gets the run directory, as a `pathlib.Path`, after result.json is written."""
    tasks: dict[str, tuple[type[TaskConfig], str | Callable]] = field(default_factory=dict)
    """Name for task to a pair: the dataclass of its configuration, and its class.

    The class is given as "module:Class", or as a function that returns it.
    """
    corpora: dict[str, Callable] = field(default_factory=dict)
    """Name for data to a function that takes the data configuration, a split and column names.

    It returns the columns' texts; see `data/corpus.py`.
    """
    callbacks: dict[str, Callable] = field(default_factory=dict)
    """Name to a function that returns a Lightning callback, which the trainer gets."""
    options: dict[str, type] = field(default_factory=dict)
    """Name to a dataclass with defaults for the keys options.NAME.*, which are checked like all other keys."""
    name: str = ""
    """The plugin's file name or entry point, which `load_plugins` fills in, as the next three."""
    files: tuple[Path, ...] = ()
    """The plugin's file, or the files of several plugins that were joined."""
    sums: tuple[str, ...] = ()
    """The checksum of each plugin's file, in the order of the names."""
    sha256: str = ""
    """The checksum of the file, or `joined_sum` of several: it names the set of plugins."""

    @property
    def sums_by_name(self) -> dict[str, str]:
        """Each plugin's name, and the checksum of its file."""
        return dict(zip(self.name.split(os.pathsep), self.sums, strict=True))


def load_plugins(paths: str) -> Plugin:
    """Loads one plugin, or joins several: their paths stand between colons, as in ``PATH`` (on Windows, semicolons).

    Raises:
        ConfigError: One cannot be loaded, or two add something by the same name.
    """
    plugins = [load_plugin(path) for path in paths.split(os.pathsep) if path]
    return plugins[0] if len(plugins) == 1 else _joined(plugins)


def _joined(plugins: list[Plugin]) -> Plugin:
    """One plugin with all that several add.

    Raises:
        ConfigError: Two add something by the same name, or are the same file.
    """
    found = Plugin()
    for plugin in plugins:
        for slot in dataclasses.fields(Plugin):
            ours, theirs = getattr(found, slot.name), getattr(plugin, slot.name)
            if not isinstance(ours, dict):
                continue
            if both := sorted({*ours} & {*theirs}):
                what = f"{plugin.name} adds {slot.name}[{both[0]!r}], and so does a plugin before it"
                raise ConfigError("plugin", what, "name each plugin once, and let their names differ")
            ours.update(theirs)
    found.name = os.pathsep.join(plugin.name for plugin in plugins)
    found.files = tuple(file for plugin in plugins for file in plugin.files)
    found.sums = tuple(plugin.sha256 for plugin in plugins)
    found.sha256 = joined_sum(found.sums)
    if len({file.name for file in found.files}) < len(found.files):
        raise ConfigError("plugin", f"two files have the same name: {found.name}", "rename one of them")
    return found


def names_of(paths: str) -> str:
    """The file names of one or several plugins, without their folders."""
    return os.pathsep.join(Path(path).name for path in paths.split(os.pathsep))


def load_plugin(path: str) -> Plugin:
    """Loads the plugin in the file ``path``, or the installed entry point of that name.

    Raises:
        ConfigError: There is no such file or entry point, its code fails, or it defines no valid `PLUGIN`.
    """
    if path.endswith(".py") or "/" in path:
        file = Path(path).resolve()
        if not file.is_file():
            raise ConfigError("plugin", f"no such file: {path}", "give the path of a Python file that defines PLUGIN")
        name, load = file.name, lambda: _load_file(file).PLUGIN
    else:
        entry = _entry_point(path)
        spec = importlib.util.find_spec(entry.module)
        file = Path(spec.origin) if spec and spec.origin else None
        name, load = entry.name, entry.load
    try:
        plugin = load()
    except AttributeError as error:
        raise ConfigError("plugin", f"{path}: {error}", "define PLUGIN = Plugin(...) in it") from error
    except SyntaxError as error:
        raise ConfigError("plugin", f"{path}:{error.lineno}: {error.msg}") from error
    except Exception as error:  # the user's code may raise anything; its author sees it as one line
        raise ConfigError("plugin", f"{path}: {type(error).__name__}: {_first_line(error)}") from error
    _check(plugin, path)
    content = file.read_bytes() if file else b""
    plugin.name, plugin.files = name, (file,) if file else ()
    plugin.sha256 = hashlib.sha256(content).hexdigest()
    plugin.sums = (plugin.sha256,)
    PLUGIN_FILES.update(map(str, plugin.files))
    return plugin


def _load_file(file: Path) -> ModuleType:
    """Runs the file as a module, only once for each content, so that its classes keep their identity."""
    name = f"multihead_plugin_{file.stem}_{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}"
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _entry_point(name: str) -> metadata.EntryPoint:
    """Returns the installed entry point called ``name``.

    Raises:
        ConfigError: No such entry point is installed.
    """
    installed = {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}
    if name in installed:
        return installed[name]
    near = nearest_name(name, installed)
    known = f"installed: {', '.join(sorted(installed))}" if installed else "none is installed"
    fix = f"plugin={near}" if near else "for a file write its path, for example plugin=./variant.py"
    raise ConfigError("plugin", f"no entry point called {name!r} ({known})", fix)


def _check(plugin: object, path: str) -> None:
    """Checks that ``plugin`` is a well-formed `Plugin`.

    Raises:
        ConfigError: It is not.
    """
    if not isinstance(plugin, Plugin):
        raise ConfigError("plugin", f"{path}: PLUGIN must be a multihead.plugin.Plugin, got {type(plugin).__name__}")
    for name, cls in plugin.options.items():
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            raise ConfigError("plugin", f"{path}: options[{name!r}] must be a dataclass, got {cls!r}")
    for role in ("causal_attention", "cross_attention"):
        for name in getattr(plugin, role):
            if name not in plugin.attention:
                raise ConfigError("plugin", f"{path}: {role}[{name!r}] needs attention[{name!r}] too")
    _check_metrics(plugin, path)
    for name, entry in plugin.tasks.items():
        pair = isinstance(entry, tuple) and len(entry) == 2
        if not (pair and isinstance(entry[0], type) and issubclass(entry[0], TaskConfig)):
            raise ConfigError("plugin", f"{path}: tasks[{name!r}] must be a pair of a TaskConfig subclass and a module")
        if name in TASKS:
            raise ConfigError(
                "plugin", f"{path}: tasks[{name!r}] has the name of a built-in task", "choose another name"
            )


def _check_metrics(plugin: Plugin, path: str) -> None:
    """Checks that the metrics are well-formed, and that no task has a metric of the same name.

    Raises:
        ConfigError: They are not.
    """
    for name, metric in plugin.metrics.items():
        where = f"{path}: metrics[{name!r}]"
        if not isinstance(metric, AddedMetric):
            raise ConfigError("plugin", f"{where} must be an AddedMetric, got {type(metric).__name__}")
        if metric.better not in ("max", "min"):
            raise ConfigError("plugin", f"{where}: better must be max or min, got {metric.better!r}")
        for task in metric.tasks:
            if task in TASKS and (name == "loss" or f"val/{name}" in TASKS[task].METRICS):
                raise ConfigError("plugin", f"{where}: task={task} has a metric of this name", "choose another name")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
