"""One word of a command line, ``key=value``, and its value as it was typed.

A key that holds text takes the typed text: ``run_dir=2024_11_26`` is no number, and
``decoding.forced_prefix=null`` is the text "null". Hydra's grammar reads only numbers, switches and words for Hydra.

A text is read by these rules:

- Quotes around the whole text are removed: ``'run_dir="a, b"'``. They are needed if the text holds a comma.
- A path (`PATHS`) is expanded as a shell does it: ``~/x``, ``$HOME/x``; but not within single quotes.
- Escapes (``\\n``, ``\\t``, ``\\u00fc``, ``\\\\``) count only in the texts that `ESCAPED` names.
"""

from __future__ import annotations

import contextlib
import os
import re
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException

from multihead.config.folder import conf_dir
from multihead.config.keys import GROUPS, Key, find
from multihead.errors import ConfigError

SWEEPS = ("choice", "range", "interval", "glob", "sort", "shuffle", "tag")
CALL = re.compile(r"(choice|range|interval|glob|sort|shuffle|tag|int|float|str|bool)\s*\((.*)\)", re.DOTALL)
"""A function of Hydra's grammar."""
PATHS = (
    *("run_dir", "resume", "init_from", "plugin", "config_dir"),
    *("data", "data.root", "data.train", "data.val", "data.test"),
    *("run", "ensemble", "runs", "group", "a", "b", "dir", "file", "out", "save", "record"),  # settings of the commands
    "hydra.sweep.dir",
)
"""Keys that take a path or a list of paths."""
FILES = ("data.train", "data.val", "data.test")
"""Keys that take a text, a list of texts, or null."""
ESCAPED = (
    *("data.separator", "data.label_separator", "decoding.forced_prefix", "decoding.stop_strings"),
    *("task.prompts", "task.lm.prompts"),
)
"""Keys in whose texts a backslash begins an escape."""
ESCAPES = {"n": "\n", "t": "\t", "r": "\r", "\\": "\\", '"': '"', "'": "'"}
QUOTED = re.compile(r"""'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*\"""", re.DOTALL)
CLOSING = {"(": ")", "[": "]", "{": "}"}
TEXT_TYPES = (str, str | None)
LISTS_OF_TEXT = (list[str], list[str] | None)


@dataclass(frozen=True)
class Word:
    """The parts of a word, as they were typed."""

    typed: str
    """The whole word."""
    sign: str
    """``+``, ``++``, ``~`` or empty."""
    key: str
    package: str
    """The text after an @ in the key."""
    value: str | None
    """The text after the first equals sign; None if there is no equals sign (``~key``)."""

    @property
    def deletes(self) -> bool:
        """Whether it removes a key."""
        return self.sign == "~"

    @property
    def is_hydra(self) -> bool:
        """Whether the word is for Hydra itself."""
        return re.split(r"[./]", self.key)[0] == "hydra"

    @property
    def is_sweep(self) -> bool:
        """Whether its value stands for several."""
        if self.value is None:
            return False
        call = CALL.fullmatch(self.value)
        if call is None:
            return len(_apart(self.value) or [""]) > 1
        if call[1] not in ("sort", "shuffle", "tag"):
            return call[1] in SWEEPS
        return _hydra(self).is_sweep_override()

    def elements(self) -> list[str] | None:
        """Returns the values that a sweep tries, as typed; None for a range, from which only a sampler can draw.

        Raises:
            ConfigError: The values cannot be read.
        """
        assert self.value is not None
        call = CALL.fullmatch(self.value)
        if call is None or call[1] == "choice":
            inner = self.value if call is None else call[2]
            if not (found := _apart(inner)) or "" in found:
                raise ConfigError(self.key, f"cannot read the values {self.value!r}", f"{self.key}=FIRST,SECOND")
            return found
        override = _hydra(self)
        return [str(value) for value in override.sweep_string_iterator()] if override.is_discrete_sweep() else None


def split(word: str) -> Word:
    """Splits a word into its parts.

    Raises:
        ConfigError: It is not ``key=value`` or ``~key``.
    """
    sign = next((sign for sign in ("++", "+", "~") if word.startswith(sign)), "")
    name, equals, value = word.removeprefix(sign).partition("=")
    key, at, package = name.partition("@")
    if not key or (not equals and sign != "~"):
        owners = [group for group in GROUPS if (conf_dir() / group / f"{word}.yaml").is_file()]
        fix = f"{owners[0]}={word}" if owners else "every word is key=value; --help lists the keys"
        raise ConfigError(word, "not of the form key=value", fix)
    if sign == "~" and equals:
        raise ConfigError(key, f"{word!r}: to remove a key, type it without a value", f"~{key}")
    return Word(word, sign, key, package if at else "", value if equals else None)


def read(typed: str, key: Key | None, name: str) -> Any:
    """Converts a typed value to the type that ``key`` takes.

    Args:
        typed: The text behind the equals sign.
        key: The key, or the mapping that ``name`` is an entry of.
        name: The key as it was typed, for messages.

    Raises:
        ConfigError: The value cannot be read, or a text needs quotes.
    """
    if key is None:
        return _plain(typed, key, name)
    entry = key.is_mapping and name != key.name
    if key.name in FILES:
        return None if typed.lower() in ("null", "") else _texts_or_text(typed, name)
    if is_text(key, entry):
        return None if key.type is not str and not entry and typed.lower() == "null" else text(typed, name)
    if key.type in LISTS_OF_TEXT and (listed := _listed(typed)) is not None:
        return [text(item, name, alone=False) for item in listed]
    if key.is_mapping and not entry and (entries := _entries(typed)) is not None:
        return {inner: read(value, key, f"{name}.{inner}") for inner, value in entries}
    return _plain(typed, key, name)


def is_text(key: Key | None, entry: bool = False) -> bool:
    """Whether a key, or an entry of the mapping that it is, takes one text."""
    return key is not None and (key.type in TEXT_TYPES or (entry and key.type == dict[str, str]))


def takes_list(key: Key | None) -> bool:
    """Whether a key takes several values, as a list."""
    return key is not None and (key.is_list or key.type in LISTS_OF_TEXT)


def takes_text(key: Key | None, name: str) -> bool:
    """Whether the value of ``name`` is one text or a list of texts."""
    entry = key is not None and name != key.name
    return is_text(key, entry) or (key is not None and (key.type in LISTS_OF_TEXT or key.name in FILES))


def leaves(word: Word, keys: Mapping[str, Key]) -> dict[str, Any]:
    """Returns the values that a word sets, by dotted name; a mapping given to a node sets one value for each entry.

    Raises:
        ConfigError: As for `read`.
    """
    assert word.value is not None
    return dict(_leaves(word.key, word.value, keys))


def names_within(name: str, typed: str) -> list[str]:
    """Returns the dotted names of the entries of a mapping or of mappings in a list; nothing for other values."""
    if listed := _listed(typed):
        return [full for item in listed for full in names_within(name, item)]
    inner = [(f"{name}.{entry}", value) for entry, value in _entries(typed) or ()]
    return [full for entry, value in inner for full in (entry, *names_within(entry, value))]


def _leaves(name: str, typed: str, keys: Mapping[str, Key]) -> Iterator[tuple[str, Any]]:
    key = find(name, keys)
    node = key is None or (key.is_mapping and name == key.name)
    entries = _entries(typed) if node else None
    if not entries:
        yield name, read(typed, key, name)
        return
    for entry, value in entries:
        yield from _leaves(f"{name}.{entry}", value, keys)


def text(typed: str, name: str, alone: bool = True) -> str:
    """Returns the text that a typed text stands for.

    Args:
        typed: The text as it was typed.
        name: The key.
        alone: Whether it is the whole value; otherwise it is an entry of a list.

    Raises:
        ConfigError: It could be read in two ways, or it holds an unknown variable or escape.
    """
    content, quote = _unquoted(typed)
    if not quote and alone:
        _check_plain(typed, name)
    elif not quote and typed[:1] in ("[", "{") and typed[-1:] == CLOSING[typed[0]]:
        raise ConfigError(name, f"must be a list of texts, got {typed}", as_text(name, typed, "[{}]"))
    if name in ESCAPED:
        return _unescaped(typed[1:-1] if quote else typed, name)
    return expanded(content, name) if name in PATHS and quote != "'" else content


def expanded(path: str, name: str) -> str:
    """Expands ``~`` and ``$NAME`` in a path as a shell does it.

    Raises:
        ConfigError: There is no such variable in the environment.
    """

    def variable(found: re.Match[str]) -> str:
        if found[1] not in os.environ:
            literal = shlex.quote(f"""{name}='{path}'""") if "'" not in path else ""
            raise ConfigError(name, f"{path!r} names the variable {found[1]}, which does not exist", literal)
        return os.environ[found[1]]

    return re.sub(r"\$([A-Za-z_]\w*)", variable, os.path.expanduser(path))


def write(name: str, content: str) -> str:
    """Returns the word that sets a key of text to exactly this content; quoted only if necessary."""
    shown = content
    if name in ESCAPED:
        codes = {code: f"\\{name}" for name, code in ESCAPES.items() if name not in "\"'"}
        shown = "".join(codes.get(character, character) for character in content)
    for typed in (shown, f'"{shown}"', f"'{shown}'"):
        with contextlib.suppress(ConfigError):
            if text(typed, name) == content and (name not in FILES or typed.lower() not in ("null", "")):
                return f"{name}={typed}"
    marks = re.sub(r"(\\*)('|$)", lambda found: 2 * found[1] + found[2].replace("'", "\\'"), content)
    return f"{name}='" + (shown.replace("'", "\\'") if name in ESCAPED else marks) + "'"


def typed_as(name: str, content: str) -> str:
    """Returns the word of `write`, quoted for a shell, for messages that say what to type."""
    return pasted(write(name, content))


def pasted(*words: str) -> str:
    """Returns words in a form that can be pasted into a shell."""
    return shlex.join(words)


# ---- the grammar


def _check_plain(typed: str, name: str) -> None:
    """Raises `ConfigError` for an unquoted text that Hydra's grammar reads as anything but a text."""
    call, several = CALL.fullmatch(typed), "," in typed and len(_apart(typed) or ["", ""]) > 1
    if several or (call and call[1] in SWEEPS):
        raise several_values(name, typed, "text")
    wrapped = typed[:1] in ("[", "{") and typed[-1:] == CLOSING[typed[0]]
    if wrapped or call:
        what = "a list" if typed[0] == "[" else "a mapping" if wrapped else "a function of Hydra's grammar"
        inner = ",".join(item.strip() for item in typed[1:-1].split(",")) if typed[0] == "[" else typed
        fix = f"write it as one text: {as_text(name, inner)}"
        raise ConfigError(name, f"must be text, got {what}: {typed}", fix)


def several_values(name: str, typed: str, one: str = "") -> ConfigError:
    """Returns the error for a sweep outside a multirun.

    Args:
        name: The key.
        typed: The values as they were typed.
        one: What they may be together: text, list, or nothing.
    """
    ways = {
        "text": f", or for one text {as_text(name, typed)}",
        "list": f", or {pasted(f'{name}=[{typed}]')} for a list",
    }
    fix = f"add -m, which train has{ways.get(one, '')}"
    return ConfigError(name, f"several values ({typed}) need -m, one run for each", fix)


def as_text(name: str, content: str, form: str = "{}") -> str:
    """Returns the word, quoted for the shell, that takes ``content`` as one text; ``form`` ``[{}]`` makes it a list."""
    quote = "'" if '"' in content else '"'
    return pasted(f"{name}={form.replace('{}', f'{quote}{content}{quote}')}")


def _apart(typed: str, mark: str = ",", most: int = -1) -> list[str] | None:
    """Splits a text at marks outside quotes and brackets; returns None if the brackets do not match."""
    parts: list[str] = []
    open_: list[str] = []
    start, place = 0, 0
    while place < len(typed):
        character = typed[place]
        begins = not typed[start:place].strip() or typed[:place].rstrip()[-1:] in tuple(",:([{=")
        if character in "\"'" and begins and (quoted := QUOTED.match(typed, place)):
            place = quoted.end()
            continue
        if character in CLOSING:
            open_.append(CLOSING[character])
        elif character in CLOSING.values():
            if not open_ or open_.pop() != character:
                return None
        elif character == mark and not open_ and most != 0:
            parts.append(typed[start:place].strip())
            start, most = place + 1, most - 1
        place += 1
    return None if open_ else [*parts, typed[start:].strip()]


def _listed(typed: str) -> list[str] | None:
    """Returns the entries of ``[a, b]`` as typed; None if it is not a list."""
    if not (typed[:1] == "[" and typed[-1:] == "]"):
        return None
    found = _apart(typed[1:-1])
    if found == [""]:
        return []
    return found if found is not None and "" not in found else None


def _entries(typed: str) -> list[tuple[str, str]] | None:
    """Returns the names and values of ``{a: 1, b: 2}`` as typed; None if it is not a mapping."""
    if not (typed[:1] == "{" and typed[-1:] == "}"):
        return None
    if not typed[1:-1].strip():
        return []
    pairs = [_apart(part, ":", 1) or [""] for part in _apart(typed[1:-1]) or [""]]
    if not all(len(pair) == 2 and pair[0] for pair in pairs):
        return None
    return [(_unquoted(name)[0], value) for name, value in pairs]


def _unquoted(typed: str) -> tuple[str, str]:
    """Returns a text without the quotes around it, and the quote; as in Hydra, a backslash escapes a quote."""
    if not QUOTED.fullmatch(typed):
        return typed, ""
    quote = typed[0]
    halved = re.sub(rf"(\\+)({quote}|$)", lambda found: "\\" * (len(found[1]) // 2) + found[2], typed[1:-1])
    return halved, quote


def _texts_or_text(typed: str, name: str) -> str | list[str]:
    listed = _listed(typed)
    return text(typed, name) if listed is None else [text(item, name, alone=False) for item in listed]


def _plain(typed: str, key: Key | None, name: str) -> Any:
    """Reads a value that is not a text, by Hydra's grammar."""
    try:
        override = OverridesParser.create().parse_override(f"value={typed}")
        if override.is_sweep_override():
            raise several_values(name, typed, "list" if key is None or takes_list(key) else "")
        return override.value()
    except HydraException as error:
        if key is None:
            raise ConfigError(name, f"cannot read the value {typed!r}") from error
        raise ConfigError(name, f"must be {key.requirement}, got {typed!r}") from error


def _hydra(word: Word) -> Override:
    try:
        return OverridesParser.create().parse_override(f"value={word.value}")
    except HydraException as error:
        what = f"cannot read the values {word.value!r}"
        raise ConfigError(word.key, what, f"{word.key}=FIRST,SECOND") from error


def _unescaped(content: str, name: str) -> str:
    def one(found: re.Match[str]) -> str:
        if found[1] in ESCAPES:
            return ESCAPES[found[1]]
        if len(found[1]) > 1:
            return chr(int(found[1][1:], 16))
        what = f"{found[0]!r} is not an escape; the escapes are \\n, \\t, \\r, \\u00fc and, for a backslash, \\\\"
        doubled = content.replace("\\", "\\\\")
        raise ConfigError(name, what, as_text(name, doubled))

    return re.sub(r"\\(u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2}|.|$)", one, content, flags=re.DOTALL)


def path_of(name: str, typed: str) -> str:
    """Returns a path that a command takes (``run=``, ``out=``), expanded and without quotes."""
    content, quote = _unquoted(typed)
    return content if quote == "'" else expanded(content, name)


def paths_of(name: str, typed: str) -> list[str]:
    """Returns one path, or the paths of ``[A,B]``; a path that exists as it was typed is one."""
    one = path_of(name, typed)
    listed = None if os.path.exists(one) else _listed(typed)
    return [one] if listed is None else [path_of(name, item) for item in listed]


def entries_of(name: str, typed: str) -> list[str]:
    """Returns the texts or paths of ``[A,B]`` or ``A,B``; a path that exists as it was typed is one."""
    if name in PATHS and (os.path.exists(one := path_of(name, typed)) or QUOTED.fullmatch(typed)):
        return [one]
    listed = _listed(typed)
    found = [item for item in _apart(typed) or [typed] if item] if listed is None else listed
    return [path_of(name, item) if name in PATHS else text(item, name, alone=False) for item in found]


def without_quotes(typed: str) -> str:
    """Returns a typed text without the quotes around it."""
    return _unquoted(typed)[0]
