"""Finds what a plugin leaves without effect: the plugin itself if nothing uses it, and options of a replaced loss."""

from __future__ import annotations

import functools
import os
from typing import Any

from multihead.config.slots import SLOTS, added_choices
from multihead.config.training import Config
from multihead.plugin import Plugin, load_plugins

WITHOUT = {"label_smoothing": 0, "class_weights": "none", "focal_gamma": 0, "simcut_alpha": 0}
"""Options of a task's own loss, each with the value that turns it off."""


def notes_on(config: Config) -> list[str]:
    """Returns a sentence for each plugin that nothing uses, and for each option that a plugin's loss does not read."""
    plugins = [load_plugins(path) for path in config.plugin.split(os.pathsep) if path]
    unused = [_unused(plugin) for plugin in plugins if not _is_used(config, plugin)]
    return unused + [note for plugin in plugins for note in _not_read(config, plugin)]


def _is_used(config: Config, plugin: Plugin) -> bool:
    """Whether the run uses anything of a plugin."""
    fields = {key: slot.field for slot in SLOTS.values() for key in slot.keys(config)}
    parts = any(name in getattr(plugin, fields[key]) for key, name in added_choices(config).items())
    named = config.task.name in plugin.tasks or config.data.name in plugin.corpora
    measures = any(name in metric.tasks for metric in plugin.metrics.values() for name in config.task.members())
    return parts or named or measures or bool(plugin.callbacks or plugin.reports)


def _unused(plugin: Plugin) -> str:
    """Says that nothing uses a plugin, and what to type so that something does."""
    words = [f"{slot.key}={name}" for slot in SLOTS.values() for name in list(getattr(plugin, slot.field))[:1]]
    words += [f"task={name}" for name in list(plugin.tasks)[:1]] + [f"data={name}" for name in list(plugin.corpora)[:1]]
    fix = f"; add {' or '.join(words)}" if words else ""
    return f"plugin {plugin.name} is loaded, but nothing uses it{fix}"


def _not_read(config: Config, plugin: Plugin) -> list[str]:
    """A sentence for each option of a task's own loss that is set although the plugin's loss does not name it."""
    source = "".join(file.read_text(encoding="utf-8") for file in plugin.files)
    root: Any = config
    notes = []
    for key, name in added_choices(config).items():
        if key not in SLOTS["losses"].keys(config) or name not in plugin.losses:
            continue
        node = key.rpartition(".")[0]
        settings = functools.reduce(getattr, node.split("."), root)
        for option, off in WITHOUT.items():
            value = getattr(settings, option, off)
            if value != off and option not in source:
                notes.append(
                    f"{node}.{option}={value} has no effect: {key}={name} replaces the task's own loss, and "
                    f"{plugin.name} does not read {option}; set {node}.{option}={off} in every run that you compare"
                )
    return notes
