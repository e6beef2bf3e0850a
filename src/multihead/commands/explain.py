"""``explain`` prints the value of a key, who set it, what that replaced, and what the key means."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from multihead.config.compose import Composition, check_words, compose, compose_from_run, named, parse, read_config
from multihead.config.files import load_named_plugin, task_classes
from multihead.config.keys import Key, documentation, find, leaf_keys, unknown_key
from multihead.config.plugin_notes import notes_on
from multihead.config.settings import read_words
from multihead.config.task import TASKS
from multihead.config.verbs import ExplainSettings
from multihead.config.words import split
from multihead.errors import ConfigError


def run(words: Sequence[str]) -> int:
    """Runs ``multihead explain``; see `ExplainSettings`."""
    settings, words = read_words(ExplainSettings, words)
    run = settings.run
    if not run and not any(split(word).key in ("task", "experiment", "resume") for word in words):
        sys.stdout.write(_without_task(settings.key, words))
        return 0
    composition = compose_from_run(read_config("run", run), words, run=run) if run else compose(words)
    sys.stdout.write(explain(settings.key, composition))
    return 0


def _without_task(name: str, words: Sequence[str]) -> str:
    """The meaning of a key and its default, which need no task; and how to see what sets its value.

    Raises:
        ConfigError: There is no such key.
    """
    check_words(words)
    plugin = load_named_plugin(named(parse(words), "plugin"))
    tasks = task_classes(plugin)
    keys = leaf_keys(tasks.values(), plugin.options if plugin else None)
    added = [task for task in tasks if task not in TASKS]
    fix = f"add task={added[0] if added else 'translation'}"
    key = find(name, keys)
    if key is None:
        if any(known.startswith(f"{name}.") for known in keys):
            raise ConfigError("task", f"must be chosen to see the values of {name}", fix)
        raise unknown_key(name, keys)
    if name.startswith("task."):
        added = [task for task in tasks if name in leaf_keys([tasks[task]])]
        fix = f"add task={added[0]}" if added else fix
    lines = [name, f"  {documentation(key)}", f"  Takes {key.requirement}.", ""]
    lines.append(f"  default of {key.owner.__name__}  {_text(key.default)}")
    return "\n".join([*lines, f"  No task is chosen; to see the value and who sets it, {fix}."]) + "\n"


def explain(name: str, composition: Composition) -> str:
    """Returns what ``multihead explain`` prints about a key, or about all keys of a node.

    Raises:
        ConfigError: There is no such key.
    """
    plugin = composition.plugin
    keys = leaf_keys([type(composition.config.task)], plugin.options if plugin else None)
    key = find(name, keys)
    if key is not None:
        return _leaf(name, key, composition)
    below = [known for known in keys if known.startswith(f"{name}.")]
    if not below:
        raise unknown_key(name, keys)
    width = max(len(f"{known} = {_value(known, composition)}") for known in below)
    return "".join(
        f"{f'{known} = {_value(known, composition)}':<{min(width, 60)}}  {documentation(keys[known])}\n"
        for known in below
    )


def _leaf(name: str, key: Key, composition: Composition) -> str:
    """Returns the lines for one key: its value, its meaning, and everybody who set it, in order."""
    lines = [f"{name} = {_value(name, composition)}", f"  {documentation(key)}", f"  Takes {key.requirement}.", ""]
    chains = composition.provenance
    shown = [name] if name in chains else [known for known in chains if known.startswith(f"{name}.")]
    width = max((len(source) for known in shown for source, _ in chains[known]), default=0)
    for known in shown:
        if known != name:
            lines.append(f"  {known}")
        for i, (source, value) in enumerate(chains[known]):
            counts = "  <- counts" if i == len(chains[known]) - 1 else "  overridden"
            lines.append(f"  {source:<{width}}  {_text(value)}{counts if len(chains[known]) > 1 else ''}")
    lines += [f"  {note}" for note in notes_on(composition.config) if note.startswith(f"{name}=")]
    return "\n".join(lines) + "\n"


def _value(name: str, composition: Composition) -> str:
    value: Any = composition.tree
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return _text(value)


def _text(value: Any) -> str:
    """Returns a value much as one writes it in YAML."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else "''" if value == "" else str(value)
