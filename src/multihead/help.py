"""``--help`` and shell completion: what there is to choose and to set, read from `conf/` and from the dataclasses."""

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
"""Column at which the meaning of a setting begins."""
GROUP_MEANING = {
    "task": "what is learned",
    "model": "sizes of the backbone",
    "data": "a table with roles",
    "optim": "optimizer and schedule",
    "hardware": "bundles the keys of devices and precision",
    "experiment": "a recipe with the score it reached",
    "debug": "a short run",
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
How words are read:
  key=TEXT            a text key takes the text as it is typed (run_dir=2024_11_26); 'key="a, b"' where it has a comma
  run_dir=~/x         paths expand ~ and $NAME; 'key="..."' too, "key='...'" takes them as they are
  key=[a,b]           a list;   'key={a: x, b: y}' a mapping, or key.a=x;   debug=null chooses none
"""
OVERVIEW = """\
multihead: one Transformer backbone, many heads. Every command takes key=value words.

  multihead train task=TASK                   trains; the same as python train.py task=TASK
  multihead evaluate run=RUN data.split=test  measures a finished run on any split or file; calibrates classifiers
  multihead predict run=RUN                   continues, translates, summarizes or classifies lines of standard input
  multihead export run=RUN to=FORMAT          the model for CTranslate2, ONNX, torch.export, or as tensors
  multihead explain key=model.d_model         a key's value, who set it, what it overrode, what it means
  multihead runs                              the runs there are, with state, best metric, time and size
  multihead diff a=RUN b=RUN                  what differs between two runs
  multihead compare runs=[A,B,...]            which is better, by how much, and whether that is more than chance
  multihead sweep file=FILE                   runs a W&B sweep file on this machine or on several, without an account
  multihead VERB --help                       more about one of them
"""
EXAMPLES = """\
Examples:
  python train.py task=translation                                      # built-in data, no download; so all tasks
  python train.py task=translation data=multi30k model=small precision=auto devices=4
  python train.py task=translation data=files data.train=my.tsv.gz      # your own two columns
  python train.py task=lm data=text data.train=book.txt                 # your own text, or a folder of it
  python train.py task=classification data=sst2 init_from=outputs/lm/sst2/...
  python train.py task=multitask 'task.parts=[lm,classification]'
  python train.py -m task=lm model=tiny,small optim.lr=1e-3,3e-4
  python train.py task=translation model=small debug=profile            # where a step's time goes; plan=true: how long
  python train.py resume=outputs/translation/grammar/...
"""
FLAGS = """\
Flags are Hydra's own:
  -m                  a multirun: key=a,b,c tries each value      --cfg job           shows the composed configuration
  --config-dir DIR    the same as the word config_dir=DIR          -sc install=bash    prints shell completion to eval
"""


def overview() -> str:
    """The help of the program as a whole."""
    return "\n".join([OVERVIEW, _groups(), _keys(MOST_USED), EXAMPLES, _closing()])


def verb_help(verb: str) -> str:
    """The help of one command."""
    if verb != "train":
        return _settings_help(SETTINGS[verb])
    head = "multihead train task=TASK [group=choice ...] [key=value ...]     (python train.py is the same)\n"
    return "\n".join([head, _groups(), _keys(MOST_USED), TYPING, FLAGS, EXAMPLES, _closing()])


def _settings_help(cls: type[Settings]) -> str:
    """The help of a command, written from its settings."""
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
    """A key and what it means, in two columns."""
    room = [" " * LEFT + line for line in textwrap.wrap(meaning, WIDTH - LEFT)]
    first = f"  {left}"
    return "\n".join([first, *room]) if len(first) > LEFT - 2 else "\n".join([first + room[0][len(first) :], *room[1:]])


def _placeholder(key: Key, described: Mapping[str, Any]) -> str:
    if described["takes"]:
        return described["takes"]
    return "|".join(described["choices"]) or "true|false"


def _meaning(key: Key, described: Mapping[str, Any]) -> str:
    """What a setting means, the values that it takes, and its default."""
    text = documentation(key)
    if len(described["choices"]) > 1 and described["takes"]:
        text += f" One of {', '.join(described['choices'])}."
    if key.default not in ("", None, False, 0, dataclasses.MISSING):
        text += f" (default {key.default})"
    return text


# ---- completion


def offers(verb: str, typed: str) -> list[str]:
    """What shell completion offers for the beginning of a word of a command other than ``train``."""
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
    """Keys up to the next dot behind what is typed: ``decoding.``, then ``decoding.num_beams=``."""
    parts = []
    for name in keys:
        dot = name.find(".", len(typed))
        parts.append(f"{name}=" if dot < 0 else name[: dot + 1])
    return parts


def _values(cls: type[Settings], key: Key, value: str) -> list[str]:
    """The values that a setting can have: its choices, true or false, or the files that begin with what is typed."""
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
    """The groups and what can be chosen in each."""
    folder = conf_dir()
    lines = ["Choices (group=choice; YAML files in conf/):"]
    for group in GROUPS:
        options = ", ".join(sorted(file.stem for file in (folder / group).glob("*.yaml"))) or "none yet"
        text = f"  {group:<12}{options}  ({GROUP_MEANING[group]})"
        lines += textwrap.wrap(text, WIDTH, subsequent_indent=" " * 14, break_long_words=False)
    return "\n".join(lines) + "\n"


def _keys(names: tuple[str, ...]) -> str:
    """The keys ``names`` with their defaults and the first sentence about each."""
    keys = leaf_keys(TASKS.values())
    lines = ["Most used keys (key=default: meaning; a choice may set another value):"]
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
        f"All keys of a node: multihead explain task=translation key=NODE, for {', '.join(nodes)}. "
        "Errors are one line; MULTIHEAD_TRACEBACK=1 prints the traceback. "
        "Data is looked for in MULTIHEAD_DATA (default data/)."
    )
    return textwrap.fill(text, WIDTH) + "\n"
