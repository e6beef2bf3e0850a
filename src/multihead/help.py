"""Writes ``--help`` and completes words in a shell, from the files in `conf/` and the dataclasses of the settings."""

from __future__ import annotations

import dataclasses
import glob
import inspect
import os
import shutil
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from multihead.config.folder import conf_dir
from multihead.config.keys import GROUPS, Key, documentation, leaf_keys
from multihead.config.settings import Settings
from multihead.config.task import TASKS
from multihead.config.verbs import SETTINGS
from multihead.config.words import PATHS

WIDEST = 110
LEFT = 27
"""Column at which the meaning of a setting starts."""
GROUP_MEANING = {
    "task": "what the model learns",
    "model": "sizes of the backbone",
    "data": "the data set",
    "optim": "optimizer and learning-rate schedule",
    "hardware": "devices and precision",
    "experiment": "a recipe, with the score that it reached",
    "debug": "a short run: a test, or a profile of where the time goes",
}
MOST_USED = (
    "optim.lr",
    "trainer.max_steps",
    "trainer.max_time",
    "trainer.val_every_n_steps",
    "data.batch_tokens",
    "tokenizer.vocab_size",
    "model.dropout",
    "decoding.num_beams",
    "precision",
    "devices",
    "seed",
    "run_dir",
    "resume",
    "init_from",
    "logger",
    "plugin",
    "config_dir",
)
TYPING = {
    "key=TEXT": "The text is taken as you type it (run_dir=2024_11_26). If it has a comma: 'key=\"a, b\"'",
    "run_dir=~/x": "In paths, ~ and $NAME are expanded, also in 'key=\"...\"' but not in \"key='...'\".",
    "key=[a,b]": "This is a list; 'key={a: x, b: y}' or key.a=x sets a mapping.",
    "debug=null": "This chooses no file of a group.",
}
FLAGS = {
    "-m": "Starts a multirun: key=a,b,c trains once for each value.",
    "--cfg job": "Shows the composed configuration.",
    "-sc install=bash": 'Prints the shell completion; eval "$(multihead -sc install=bash)" turns it on.',
}
EXAMPLES = """\
Examples:
  python train.py task=translation                 # built-in data, no download
  python train.py task=translation data=multi30k model=small devices=4
  python train.py task=translation data=my.tsv.gz  # your own two columns
  python train.py task=lm data=book.txt            # your own text, or a folder
  python train.py -m task=lm model=tiny,small optim.lr=1e-3,3e-4
  python train.py task=translation plan=true       # forecasts time and memory
  python train.py resume=outputs/translation/grammar/...
"""

GREETING = """\
Multihead trains the Transformer and its variants. Four things to do:

  Train a first model on built-in data, in about three minutes:
    multihead train task=translation
  See what a file of yours holds, and how to train on it:
    multihead data file=FILE
  List your runs:
    multihead runs
  Write a variant of your own, with its test:
    multihead new block=attention

multihead --help lists all commands, and multihead COMMAND --help explains one.
"""
"""What the program says if no command is typed."""


def overview() -> str:
    """Returns the help of the whole program."""
    commands = {"train task=TASK": "Trains a model; python train.py task=TASK is the same."}
    for verb, cls in SETTINGS.items():
        commands[" ".join([verb, *_needed(cls)])] = _texts(cls)[0]
    head = "multihead COMMAND [key=value ...]     (multihead COMMAND --help explains it)\n"
    return "\n".join([head + _rows("", commands), _groups(), _keys(MOST_USED), EXAMPLES, _closing()])


def verb_help(verb: str) -> str:
    """Returns the help of one command."""
    if verb != "train":
        return _settings_help(SETTINGS[verb])
    head = "multihead train task=TASK [key=value ...]     (python train.py is the same)"
    typing, flags = _rows("How to type a setting:", TYPING), _rows("Hydra's flags:", FLAGS)
    return "\n".join([head, _groups(), _keys(MOST_USED), typing, flags, EXAMPLES, _closing()])


def _width() -> int:
    """Returns the columns of the terminal, at most `WIDEST`, which is also taken without a terminal."""
    return max(60, min(WIDEST, shutil.get_terminal_size((WIDEST, 0)).columns))


def _needed(cls: type[Settings]) -> list[str]:
    """Returns the settings that a command needs, each as NAME=PLACEHOLDER."""
    fields = dataclasses.fields(cls)
    return [f"{field.name}={field.metadata['takes']}" for field in fields if field.metadata["example"]]


def _texts(cls: type[Settings]) -> list[str]:
    """Returns what a command does, in one sentence, and then what else there is to say."""
    return [" ".join(text.split()) for text in inspect.cleandoc(cls.__doc__ or "").split("\n\n")]


def _settings_help(cls: type[Settings]) -> str:
    """Returns the help of a command, written from the dataclass of its settings."""
    described = {field.name: field.metadata for field in dataclasses.fields(cls)}
    paragraphs = [textwrap.fill(text, _width()) for text in _texts(cls)]
    lines = [_row(f"{name}={_placeholder(key, described[name])}", _meaning(key, described[name]))
             for name, key in cls.keys().items()]  # fmt: skip
    if cls.OTHER_KEYS:
        config = leaf_keys(TASKS.values())
        lines += [_row(f"{name}=...", _first_sentence(config[name])) for name in cls.KEYS]
        lines.append(textwrap.indent(textwrap.fill(cls.OTHER_KEYS, _width() - 2), "  "))
    examples = "\n".join(["Examples:", *(f"  {line}" for line in cls.EXAMPLES)])
    usage = " ".join(["multihead", cls.verb(), *_needed(cls), "[key=value ...]"])
    return "\n\n".join([usage, *paragraphs, "\n".join(lines), examples]) + "\n"


def _rows(title: str, rows: Mapping[str, str], column: int = LEFT) -> str:
    """Returns a title and the rows below it."""
    return "\n".join([title, *(_row(left, meaning, column) for left, meaning in rows.items())]) + "\n"


def _row(left: str, meaning: str, column: int = LEFT) -> str:
    """Returns a key and its meaning in two columns, of which the second begins at ``column``."""
    room = [" " * column + line for line in textwrap.wrap(meaning, _width() - column)]
    first = f"  {left}"
    if len(first) > column - 1:
        return "\n".join([first, *room])
    return "\n".join([first + room[0][len(first) :], *room[1:]])


def _first_sentence(key: Key) -> str:
    return documentation(key).partition(". ")[0].rstrip(".") + "."


def _placeholder(key: Key, described: Mapping[str, Any]) -> str:
    if described["takes"]:
        return described["takes"]
    return "|".join(described["choices"]) or "true|false"


def _meaning(key: Key, described: Mapping[str, Any]) -> str:
    """Returns what a setting means, with its possible values and its default."""
    text = documentation(key)
    if len(described["choices"]) > 1 and described["takes"]:
        text += f" One of {', '.join(described['choices'])}."
    if key.default not in ("", None, False, 0, dataclasses.MISSING):
        text += f" (default {key.default})"
    return text


# ---- completion


def offers(verb: str, typed: str) -> list[str]:
    """Returns the completions of a typed word of a command other than ``train``."""
    cls = SETTINGS[verb]
    name, equals, value = typed.partition("=")
    own = cls.keys()
    if equals and name in own:
        return [f"{name}={choice}" for choice in _values(cls, own[name], value) if choice.startswith(value)]
    if equals:
        options = [file.stem for file in (conf_dir() / name).glob("*.yaml")] if name in GROUPS else []
        found = [f"{name}={option}" for option in options]
    else:
        found = [f"{name}=" for name in own]
        if cls.OTHER_KEYS:
            found += [f"{name}=" for name in GROUPS] + _next_parts(typed, leaf_keys(TASKS.values()))
    return sorted({word for word in found if word.startswith(typed)})


def _next_parts(typed: str, keys: Iterable[str]) -> list[str]:
    """Returns the keys up to the next dot after the typed text: ``decoding.``, then ``decoding.num_beams=``."""
    parts = []
    for name in keys:
        dot = name.find(".", len(typed))
        parts.append(f"{name}=" if dot < 0 else name[: dot + 1])
    return parts


def _values(cls: type[Settings], key: Key, value: str) -> list[str]:
    """Returns the values that complete a setting: its choices, true and false, or files with the typed beginning."""
    (field,) = (field for field in dataclasses.fields(cls) if field.name == key.name)
    if field.metadata["choices"]:
        return list(field.metadata["choices"])
    if key.type in (bool, bool | None):
        return ["true", "false"]
    if key.name in PATHS:
        return [f"{path}/" if os.path.isdir(path) else path for path in sorted(glob.glob(glob.escape(value) + "*"))]
    return []


# ---- parts of the help


def _groups() -> str:
    """Lists the groups and the choices of each."""
    folder = conf_dir()
    lines = ["Choices (group=choice; each is a YAML file in conf/):"]
    for group in GROUPS:
        options = ", ".join(sorted(file.stem for file in (folder / group).glob("*.yaml"))) or "none"
        text = f"  {group:<12}{options}  ({GROUP_MEANING[group]})"
        lines += textwrap.wrap(text, _width(), subsequent_indent=" " * 14, break_long_words=False)
    return "\n".join(lines) + "\n"


def _keys(names: tuple[str, ...]) -> str:
    """Lists the keys ``names`` with their defaults and the first sentence of their documentation."""
    keys = leaf_keys(TASKS.values())
    title = "Most used keys (key=default, and its meaning; a choice may set another value):"
    return _rows(title, {f"{name}={_shown(keys[name])}": _first_sentence(keys[name]) for name in names}, 34)


def _shown(key: Key) -> str:
    return str(key.default).lower() if isinstance(key.default, bool) else str(key.default)


def _closing() -> str:
    nodes = sorted({name.split(".")[0] for name in leaf_keys(TASKS.values()) if "." in name})
    text = (
        f"multihead explain task=translation key=NODE shows all keys of a node: {', '.join(nodes)}. "
        "An error is one line; with the environment variable MULTIHEAD_TRACEBACK=1 it comes with its traceback. "
        "Data sets are read from the folder in MULTIHEAD_DATA (default data/)."
    )
    return textwrap.fill(text, _width()) + "\n"
