"""The user's own code: one Python file, or an installed package's entry point, that names what it adds.

A plugin is loaded only because the command line says ``plugin=variant.py``: no configuration file, capsule or data set
can name code to run. Its module has one variable::

    PLUGIN = Plugin(attention={"linear": LinearAttention}, options={"linear": LinearOptions})
"""

from __future__ import annotations

import dataclasses
import hashlib
import importlib.util
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from types import ModuleType

from multihead.config.keys import nearest_name
from multihead.config.task import TASKS, TaskConfig
from multihead.errors import ConfigError

ENTRY_POINTS = "multihead.plugins"


@dataclass(kw_only=True)
class Plugin:
    """What a plugin adds, by the names that the configuration uses."""

    attention: dict[str, Callable] = field(default_factory=dict)
    """model.attention=NAME: a class with the constructor and forward of `MultiHeadAttention`."""
    causal_attention: dict[str, Callable] = field(default_factory=dict)
    """The same name's class where a decoder attends to itself, if it is not that of ``attention``."""
    cross_attention: dict[str, Callable] = field(default_factory=dict)
    """The same name's class where a decoder attends to the encoder's output, likewise."""
    feed_forward: dict[str, Callable] = field(default_factory=dict)
    """model.feed_forward=NAME: a class with the constructor and forward of `FeedForward`."""
    tasks: dict[str, tuple[type[TaskConfig], str | Callable]] = field(default_factory=dict)
    """task=NAME: its configuration's dataclass, and "module:Class" or a function that returns its LightningModule."""
    corpora: dict[str, Callable] = field(default_factory=dict)
    """data=NAME: a function (data configuration, split, column names) -> columns' texts; see `data/corpus.py`."""
    callbacks: dict[str, Callable] = field(default_factory=dict)
    """Functions that return a Lightning callback; each is added to the trainer."""
    options: dict[str, type] = field(default_factory=dict)
    """options.NAME.*: a dataclass with defaults; typed and checked like the rest of the configuration."""
    name: str = ""
    """File name or entry point; filled in when loaded."""
    path: Path | None = None
    """The file; filled in when loaded."""
    sha256: str = ""
    """Checksum of the file; filled in when loaded."""


def load_plugin(path: str) -> Plugin:
    """Loads the plugin in the file ``path``, or the installed entry point of that name.

    Raises:
        ConfigError: There is no such file or entry point, it fails when run, or it names no valid `PLUGIN`.
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
    except Exception as error:  # the user's own code: whatever it raises is one line for its author
        raise ConfigError("plugin", f"{path}: {type(error).__name__}: {_first_line(error)}") from error
    _check(plugin, path)
    content = file.read_bytes() if file else b""
    plugin.name, plugin.path, plugin.sha256 = name, file, hashlib.sha256(content).hexdigest()
    return plugin


def _load_file(file: Path) -> ModuleType:
    """Runs the file as a module of its own, once for each content: its classes stay the same ones."""
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
    """The installed entry point called ``name``."""
    installed = {entry.name: entry for entry in metadata.entry_points(group=ENTRY_POINTS)}
    if name in installed:
        return installed[name]
    near = nearest_name(name, installed)
    known = f"installed: {', '.join(sorted(installed))}" if installed else "none is installed"
    fix = f"plugin={near}" if near else "for a file write its path, for example plugin=./variant.py"
    raise ConfigError("plugin", f"no entry point called {name!r} ({known})", fix)


def _check(plugin: object, path: str) -> None:
    """Refuses what is not a well-formed `Plugin`."""
    if not isinstance(plugin, Plugin):
        raise ConfigError("plugin", f"{path}: PLUGIN must be a multihead.plugin.Plugin, got {type(plugin).__name__}")
    for name, cls in plugin.options.items():
        if not (isinstance(cls, type) and dataclasses.is_dataclass(cls)):
            raise ConfigError("plugin", f"{path}: options[{name!r}] must be a dataclass, got {cls!r}")
    for role in ("causal_attention", "cross_attention"):
        for name in getattr(plugin, role):
            if name not in plugin.attention:
                raise ConfigError("plugin", f"{path}: {role}[{name!r}] has no attention[{name!r}] beside it")
    for name, entry in plugin.tasks.items():
        pair = isinstance(entry, tuple) and len(entry) == 2
        if not (pair and isinstance(entry[0], type) and issubclass(entry[0], TaskConfig)):
            raise ConfigError("plugin", f"{path}: tasks[{name!r}] must be a pair of a TaskConfig subclass and a module")
        if name in TASKS:
            raise ConfigError("plugin", f"{path}: tasks[{name!r}] would hide the built-in task of that name")


def _first_line(error: Exception) -> str:
    return str(error).partition("\n")[0]
