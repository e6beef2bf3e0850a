"""Every key of the configuration with type, default and documentation; and which key a misspelt one meant."""

from __future__ import annotations

import ast
import dataclasses
import difflib
import functools
import inspect
import itertools
import re
import textwrap
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from multihead.config.check import edit_distance, nearest_name
from multihead.config.data import TOKENIZERS
from multihead.config.synonyms import SYNONYMS
from multihead.config.task import TaskConfig
from multihead.config.training import Config
from multihead.errors import ConfigError

GROUPS = ("task", "model", "data", "optim", "hardware", "experiment", "debug")
OPTIONAL_GROUPS = ("hardware", "experiment", "debug")
SECRET_KEYS = re.compile(r"[0-9a-f]{40}|(hf|gh[opsu]|github_pat|glpat|sk|wandb_v1)[_-]\w{20,200}|AKIA[0-9A-Z]{16}")
"""W&B (40 hexadecimal digits), Hugging Face, GitHub, GitLab, OpenAI, AWS."""
PASSWORD = re.compile(r"://[^/\s:@]{0,200}:[^/\s@]{1,200}@")
TYPE_WORDS = {
    int: "a whole number",
    float: "a number",
    bool: "true or false",
    str: "text",
    list[str]: "a list of texts",
    list[int]: "a list of whole numbers",
    list[float]: "a list of numbers",
    dict[str, str]: "a mapping of texts",
    dict[str, float]: "a mapping to numbers",
    bool | None: "true, false or null",
    Any: "a text or a list of texts",
}


@dataclass(frozen=True)
class Key:
    """One leaf of the configuration, or one setting of a command."""

    name: str
    """Dotted name, as it is typed."""
    type: Any
    """The annotation of the field."""
    default: Any
    owner: type
    """The dataclass that has the field."""
    field: str
    """Name of the field."""

    @property
    def is_mapping(self) -> bool:
        """Whether it takes entries with names that the user chooses (``data.roles.source``)."""
        return typing.get_origin(self.type) is dict

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return typing.get_origin(self.type) is list

    @property
    def requirement(self) -> str:
        """The type in words."""
        return TYPE_WORDS.get(self.type, str(self.type))


def leaf_keys(tasks: Iterable[type[TaskConfig]], options: Mapping[str, type] | None = None) -> Mapping[str, Key]:
    """Returns all leaves of the configuration, by dotted name.

    Args:
        tasks: Dataclasses of the task that is chosen, or of all tasks.
        options: Dataclasses that a plugin adds under ``options.NAME``.
    """
    return _leaf_keys(tuple(tasks), tuple((options or {}).items()))


@functools.cache
def _leaf_keys(tasks: tuple[type[TaskConfig], ...], options: tuple[tuple[str, type], ...]) -> Mapping[str, Key]:
    keys: dict[str, Key] = {}
    for cls in tasks:
        _walk(cls, "task.", keys)
    _walk(Config, "", keys)
    for name, cls in options:
        _walk(cls, f"options.{name}.", keys)
    return MappingProxyType(keys)


def _walk(cls: type, prefix: str, keys: dict[str, Key]) -> None:
    hints = typing.get_type_hints(cls)
    for field in dataclasses.fields(cls):
        name = f"{prefix}{field.name}"
        if name in ("task", "options"):
            continue
        if dataclasses.is_dataclass(hints[field.name]):
            _walk(hints[field.name], f"{name}.", keys)
            continue
        factory = field.default_factory
        default = field.default if factory is dataclasses.MISSING else factory()
        keys[name] = Key(name, hints[field.name], default, cls, field.name)


def find(name: str, keys: Mapping[str, Key]) -> Key | None:
    """Returns the key called ``name``, or the mapping that ``name`` is an entry of."""
    if name in keys:
        return keys[name]
    parent, _, entry = name.rpartition(".")
    return keys[parent] if entry and parent in keys and keys[parent].is_mapping else None


def nearest_key(name: str, keys: Mapping[str, Key]) -> str:
    """Returns the key or group that ``name`` probably meant, or an empty string."""
    last = name.rpartition(".")[2]
    same_field = [key for key in keys if key.rpartition(".")[2] == last]
    if "." not in name and len(same_field) == 1:
        return same_field[0]
    if last in SYNONYMS:
        return SYNONYMS[last]
    if "." not in name and same_field:
        return same_field[0]
    candidates = {*keys, *GROUPS, *(key.rpartition(".")[0] for key in keys if "." in key)}
    candidates |= {f"{key.name}.{last}" for key in keys.values() if key.is_mapping and name.count(".") > 1}
    distances = {key: edit_distance(name, key) for key in candidates}
    least = min(distances.values())
    equally_near = [key for key in candidates if distances[key] == least]
    near = min(equally_near, key=lambda key: (-difflib.SequenceMatcher(None, name, key).ratio(), key))
    if least <= max(1, len(name) // 4):
        return near
    return same_field[0] if same_field else nearest_name(name, candidates)


def unknown_key(name: str, keys: Mapping[str, Key], source: str = "", value: str | None = None) -> ConfigError:
    """Returns the error for a key that does not exist, with the one that was probably meant."""
    where = f"{source}: {name}" if source else name
    if name.startswith("options.") and not any(key.startswith(".".join(name.split(".")[:2]) + ".") for key in keys):
        known = sorted({key.split(".")[1] for key in keys if key.startswith("options.")})
        has = f"the plugin adds {', '.join(known)}" if known else "no plugin adds any"
        return ConfigError(where, f"no such options; {has}", "plugin=FILE.py adds options")
    if name == "tokenizer":
        what = f"a node, not a value; choose the kind that the run trains on its text: {', '.join(TOKENIZERS)}"
        return ConfigError(where, what, f"tokenizer.kind={value if value in TOKENIZERS else TOKENIZERS[0]}")
    prefixed = [key for key in keys if key.startswith(f"{name}.")]
    if prefixed:
        return ConfigError(where, "a node, not a value", f"set one of its keys, for example {prefixed[0]}")
    if name in GROUPS:
        return ConfigError(where, "a group: its choice sets keys, and is no value itself", "name a key that it sets")
    near = nearest_key(name, keys)
    return ConfigError(where, f"no such key{f'; did you mean {near}?' if near else ''}")


def names_code(name: str) -> bool:
    """Whether a dotted name has a part such as ``_target_``, which Hydra's instantiation would act on."""
    return any(re.fullmatch(r"_\w+_", part) for part in re.split(r"[./@]", name))


def looks_secret(text: str) -> bool:
    """Whether a value is a key of a well-known service, or an address with a password."""
    return SECRET_KEYS.fullmatch(text.strip()) is not None or PASSWORD.search(text) is not None


def contains(value: Any, test: Any, keys_only: bool = False) -> bool:
    """Whether a text or a key inside ``value`` passes ``test``."""
    if isinstance(value, Mapping):
        return any(test(str(key)) or contains(item, test, keys_only) for key, item in value.items())
    if isinstance(value, list | tuple):
        return any(contains(item, test, keys_only) for item in value)
    return not keys_only and isinstance(value, str) and test(str(value))


def documentation(key: Key) -> str:
    """Returns the docstring below the field, on one line; an inherited field inherits it."""
    for cls in key.owner.__mro__:
        if dataclasses.is_dataclass(cls) and (text := field_docstrings(cls).get(key.field)):
            return text
    return ""


@functools.cache
def field_docstrings(cls: type) -> dict[str, str]:
    """Returns for each field the string below it, read from the class's source."""
    (definition,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
    assert isinstance(definition, ast.ClassDef)
    docs = {}
    for statement, below in itertools.pairwise(definition.body):
        if not (isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name)):
            continue
        if isinstance(below, ast.Expr) and isinstance(below.value, ast.Constant):
            docs[statement.target.id] = " ".join(str(below.value.value).split())
    return docs
