"""``explain``: the value of a key, who set it, what that overrode, and what it means."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multihead.config.compose import Composition, compose, compose_from_run, load_yaml
from multihead.config.keys import Key, documentation, find, leaf_keys, unknown_key
from multihead.config.words import path_of, take
from multihead.errors import ConfigError


def run(words: Sequence[str]) -> int:
    """``multihead explain key=KEY [run=RUN] [key=value ...]``."""
    name, words = take(words, "key")
    folder, words = take(words, "run")
    folder = path_of("run", folder)
    if not name:
        raise ConfigError("key", "is missing: which one to explain?", "key=optim.lr")
    sys.stdout.write(explain(name, _composed(folder, words)))
    return 0


def _composed(folder: str, words: list[str]) -> Composition:
    if not folder:
        return compose(words)
    if not (Path(folder) / "config.yaml").is_file():
        raise ConfigError("run", f"{folder} is not the directory of a run", "run=outputs/...")
    return compose_from_run(load_yaml(Path(folder) / "config.yaml"), words, run=folder)


def explain(name: str, composition: Composition) -> str:
    """What ``multihead explain`` prints about a key, or about all keys of a node.

    Raises:
        ConfigError: If there is no such key.
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
    """One key: value, meaning, and the chain of those who set it."""
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
    return "\n".join(lines) + "\n"


def _value(name: str, composition: Composition) -> str:
    value: Any = composition.tree
    for part in name.split("."):
        value = value.get(part) if isinstance(value, dict) else None
    return _text(value)


def _text(value: Any) -> str:
    """A value as one writes it in YAML, more or less."""
    if isinstance(value, bool):
        return str(value).lower()
    return "null" if value is None else "''" if value == "" else str(value)
