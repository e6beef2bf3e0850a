"""Writes ``--help`` and completes words in a shell, from the files in `conf/` and the dataclasses of the settings."""

from __future__ import annotations

import dataclasses
import glob
import inspect
import os
import textwrap
from collections.abc import Iterable, Mapping
from typing import Any

from multihead.config.folder import conf_dir
from multihead.config.keys import GROUPS, Key, documentation, leaf_keys
from multihead.config.settings import Settings
from multihead.config.task import TASKS
from multihead.config.verbs import SETTINGS
from multihead.config.words import PATHS

WIDTH = 110
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
    "init_tokenizer",
    "logger",
    "plugin",
    "config_dir",
)
TYPING = """\
How to type a setting:
  key=TEXT            the text is taken as you type it (run_dir=2024_11_26); if it has a comma: 'key="a, b"'
  run_dir=~/x         in paths, ~ and $NAME are expanded, also in 'key="..."' but not in "key='...'"
  key=[a,b]           a list;   'key={a: x, b: y}' or key.a=x sets a mapping;   debug=null chooses no file of a group
"""
OVERVIEW = """\
multihead: one Transformer backbone, many heads. Every command takes settings of the form key=value.

  multihead train task=TASK                   trains a model; python train.py task=TASK does the same
  multihead evaluate run=RUN data.split=test  measures a finished run on a split or a file; calibrates classifiers
  multihead predict run=RUN                   continues, translates, summarizes or classifies lines of standard input
  multihead export run=RUN to=FORMAT          writes the model for CTranslate2, ONNX, torch.export or transformers
  multihead explain key=model.d_model         shows a key's value, what set it, what it replaced, and what it means
  multihead runs                              lists your runs with their state, best metric, time and size
  multihead diff a=RUN b=RUN                  shows what differs between two runs
  multihead compare runs=[A,B,...]            shows which run is better, by how much, and whether that may be chance
  multihead sweep file=FILE                   runs a W&B sweep file on one or several machines, without an account
  multihead COMMAND --help                    explains one command
"""
EXAMPLES = """\
Examples:
  python train.py task=translation                                      # built-in data, no download; as for all tasks
  python train.py task=translation data=multi30k model=small precision=auto devices=4
  python train.py task=translation data=files data.train=my.tsv.gz      # your own two columns
  python train.py task=lm data=text data.train=book.txt                 # your own text, or a folder of it
  python train.py task=classification data=sst2 init_from=outputs/lm/sst2/...
  python train.py task=multitask 'task.parts=[lm,classification]'
  python train.py -m task=lm model=tiny,small optim.lr=1e-3,3e-4
  python train.py task=translation plan=true                            # forecasts time and memory
  python train.py resume=outputs/translation/grammar/...
"""
FLAGS = """\
Hydra's flags:
  -m                  starts a multirun: key=a,b,c trains once for each value
  --cfg job           shows the composed configuration
  --config-dir DIR    adds a folder of configuration files, as config_dir=DIR does
  -sc install=bash    prints the shell completion; eval "$(multihead -sc install=bash)" turns it on
"""


def overview() -> str:
    """Returns the help of the whole program."""
    return "\n".join([OVERVIEW, _groups(), _keys(MOST_USED), EXAMPLES, _closing()])


def verb_help(verb: str) -> str:
    """Returns the help of one command."""
    if verb != "train":
        return _settings_help(SETTINGS[verb])
    head = "multihead train task=TASK [group=choice ...] [key=value ...]     (python train.py is the same)\n"
    return "\n".join([head, _groups(), _keys(MOST_USED), TYPING, FLAGS, EXAMPLES, _closing()])


def _settings_help(cls: type[Settings]) -> str:
    """Returns the help of a command, written from the dataclass of its settings."""
    described = {field.name: field.metadata for field in dataclasses.fields(cls)}
    needed = [f"{name}={about['takes']}" for name, about in described.items() if about["required"]]
    summary, _, rest = inspect.cleandoc(cls.__doc__ or "").partition("\n\n")
    paragraphs = [textwrap.fill(" ".join(text.split()), WIDTH) for text in (summary, rest) if text]
    lines = [_row(f"{name}={_placeholder(key, described[name])}", _meaning(key, described[name]))
             for name, key in cls.keys().items()]  # fmt: skip
    if cls.OTHER_KEYS:
        config = leaf_keys(TASKS.values())
        lines += [_row(f"{name}=...", documentation(config[name]).partition(". ")[0].rstrip(".") + ".")
                  for name in cls.KEYS]  # fmt: skip
        lines.append(textwrap.indent(textwrap.fill(cls.OTHER_KEYS, WIDTH - 2), "  "))
    examples = "\n".join(["Examples:", *(f"  {line}" for line in cls.EXAMPLES)])
    usage = " ".join(["multihead", cls.verb(), *needed, "[key=value ...]"])
    return "\n\n".join([usage, *paragraphs, "\n".join(lines), examples]) + "\n"


def _row(left: str, meaning: str) -> str:
    """Returns a key and its meaning in two columns."""
    room = [" " * LEFT + line for line in textwrap.wrap(meaning, WIDTH - LEFT)]
    first = f"  {left}"
    return "\n".join([first, *room]) if len(first) > LEFT - 2 else "\n".join([first + room[0][len(first) :], *room[1:]])


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
        lines += textwrap.wrap(text, WIDTH, subsequent_indent=" " * 14, break_long_words=False)
    return "\n".join(lines) + "\n"


def _keys(names: tuple[str, ...]) -> str:
    """Lists the keys ``names`` with their defaults and the beginning of their documentation."""
    keys = leaf_keys(TASKS.values())
    lines = ["Most used keys (key=default, and its meaning; a choice may set another value):"]
    for name in names:
        left = f"  {name}={_shown(keys[name])}"
        room = WIDTH - 34
        lines.append(f"{left:<33} {textwrap.shorten(documentation(keys[name]), room, placeholder=' ...')}")
    return "\n".join(lines) + "\n"


def _shown(key: Key) -> str:
    return str(key.default).lower() if isinstance(key.default, bool) else str(key.default)


def _closing() -> str:
    nodes = sorted({name.split(".")[0] for name in leaf_keys(TASKS.values()) if "." in name})
    text = (
        f"multihead explain task=translation key=NODE shows all keys of a node: {', '.join(nodes)}. "
        "An error is one line; with the environment variable MULTIHEAD_TRACEBACK=1 it comes with its traceback. "
        "Data sets are read from the folder in MULTIHEAD_DATA (default data/)."
    )
    return textwrap.fill(text, WIDTH) + "\n"
