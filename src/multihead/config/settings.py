"""What a command takes, as a dataclass: reading, checks, ``--help`` and completion follow from its fields.

`multihead.config.verbs` has one such dataclass for each command but ``train``, whose dataclass is `Config`.
"""

from __future__ import annotations

import dataclasses
import re
import typing
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, TypeVar

from multihead.config.check import nearest_name, require, require_choice
from multihead.config.keys import GROUPS, TYPE_WORDS, Key, leaf_keys
from multihead.config.task import TASKS
from multihead.config.words import PATHS, entries_of, paths_of, split, without_quotes
from multihead.errors import ConfigError


def setting(
    default: Any = "", *, takes: str = "", choices: Sequence[str] = (), example: str = "", more: bool = False
) -> Any:
    """A field of a `Settings` class.

    Args:
        default: The default value; an empty list stands for a new list.
        takes: Placeholder for the value in the help, such as FILE.
        choices: The values that are allowed; empty allows all.
        more: Whether a plugin can add choices, so that the command checks the value itself.
        example: A word for the error if the value is missing; empty if the command does not need a value.
    """
    described = {"takes": takes, "choices": tuple(choices), "example": example, "more": more}
    if default == []:
        return dataclasses.field(default_factory=list, metadata=described)
    return dataclasses.field(default=default, metadata=described)


@dataclasses.dataclass(kw_only=True)
class Settings:
    """Base of the settings of a command; `multihead.config.verbs` has the subclasses."""

    OTHER_KEYS: ClassVar[str] = ""
    """Sentence about the other keys that the command takes; empty if it takes none."""
    KEYS: ClassVar[Sequence[str]] = ()
    """Keys of the configuration that the help shows beside the settings."""
    EXAMPLES: ClassVar[Sequence[str]] = ()
    """Command lines for the help."""

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            value, described = getattr(self, field.name), field.metadata
            if described["example"] and not value:
                raise ConfigError(field.name, "is missing", described["example"])
            for each in value if isinstance(value, list) else [value] if value else []:
                if described["choices"] and not described["more"]:
                    require_choice(field.name, each, described["choices"])

    @classmethod
    def verb(cls) -> str:
        """The command's name."""
        return cls.__name__.removesuffix("Settings").lower()

    @classmethod
    def keys(cls) -> Mapping[str, Key]:
        """The settings by name."""
        hints = typing.get_type_hints(cls)
        return {
            field.name: Key(field.name, hints[field.name], field.default, cls, field.name)
            for field in dataclasses.fields(cls)
        }


S = TypeVar("S", bound=Settings)


def read_words(cls: type[S], words: Sequence[str]) -> tuple[S, list[str]]:
    """The settings among the words of a command line, and the other words, which are keys of a configuration.

    A list takes ``key=A key=B`` as well as ``key=[A,B]``. A path is given once. If another setting is given twice, the
    last value counts.

    Raises:
        ConfigError: A value is not valid, a word is not ``key=value``, or the command has no such key.
    """
    keys = cls.keys()
    given: dict[str, Any] = {}
    others = []
    for word in words:
        name, equals, typed = word.partition("=")
        if not equals or name not in keys:
            _check_other(cls, word)
            others.append(word)
            continue
        values = _values(keys[name], typed)
        if keys[name].is_list:
            given[name] = given.get(name, []) + values
        elif name in PATHS and len(places := list(dict.fromkeys([*given.get(name, []), *values]))) > 1:
            what = f"{cls.verb()} takes only one {name}=, got {len(places)}: {', '.join(places)}"
            raise ConfigError(name, what, f"{name}={places[0]}")
        else:
            given[name] = values
    return cls(**{name: values if keys[name].is_list else values[-1] for name, values in given.items()}), others


def _values(key: Key, typed: str) -> list[Any]:
    """The values in one typed word; there are several only of lists and of paths."""
    name = key.name
    if key.is_list:
        return [entry for entry in entries_of(name, typed) if entry]
    if key.type in (bool, bool | None):
        require(typed.lower() in ("true", "false"), name, TYPE_WORDS[bool], typed)
        return [typed.lower() == "true"]
    if key.type is int:
        require(re.fullmatch(r"\d{1,9}", typed) is not None, name, TYPE_WORDS[int], typed)
        return [int(typed)]
    return (paths_of(name, typed) or [""]) if name in PATHS else [without_quotes(typed)]


def _check_other(cls: type[Settings], word: str) -> None:
    """Checks a word that is not a setting: it may be a key of a configuration, or a misspelt setting.

    Raises:
        ConfigError: It is neither, or a setting was probably meant.
    """
    name, own = split(word).key, list(cls.keys())
    near = nearest_name(name, own)
    fix = f"{near}={word.partition('=')[2]}" if near else ""
    if not cls.OTHER_KEYS:
        raise ConfigError(name, f"no such key; {cls.verb()} takes {', '.join(own)}", fix)
    known = {*GROUPS, *(key.partition(".")[0] for key in leaf_keys(TASKS.values()))}
    if near and re.split(r"[./@]", name)[0] not in known:
        raise ConfigError(name, f"no such key; did you mean {near}?", fix)
