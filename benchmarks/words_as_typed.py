"""Checks that every key of text or path uses what is typed, for texts that a program likes to read as something else.

    python benchmarks/words_as_typed.py        # writes benchmarks/results/words_as_typed.md

A cell says what became of `key=TEXT`. The text is used as typed, or expanded as a shell would (paths only). Or there is
an error: its command gives the text, or the key takes one of a few words. Nothing is trained.
"""

from __future__ import annotations

import os
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multihead.config.compose import Composition, composer
from multihead.config.keys import Key, leaf_keys
from multihead.config.task import TASKS
from multihead.config.words import (
    ESCAPED,
    FILES,
    LISTS_OF_TEXT,
    PATHS,
    entries_of,
    is_text,
    path_of,
    paths_of,
    typed_as,
)
from multihead.errors import ConfigError, MultiheadError

TEXTS = (
    "2024_11_26",
    "1e5",
    "1.10",
    "true",
    "null",
    "~/x",
    "$HOME/x",
    "a b",
    "a,b",
    "a=b",
    "it's",
    'say "x"',
    "ü",
    "\\t",
)
WORDS = {"run": paths_of, "runs": entries_of, "group": entries_of}
"""Words of the commands that name several runs. `VERB_PATHS` name one."""
VERB_PATHS = ("a", "b", "dir", "file", "out")
OF_A_LIST = "must be one of"
SHAPED = ("data.name", "devices", "trainer.max_time", "data.label_pattern")
"""Keys whose text must have a certain form. The name of a metric must have one too."""
SAME, EXPANDED, NONE, FOLLOWED, CHOICE, SOUGHT = "=", "expanded", "none", "refused; fix works", "a choice", "sought"
LEGEND = {
    SAME: "used as typed",
    EXPANDED: "used as a shell would expand it",
    NONE: "no file: the key may be empty (a file of that name is `./null`)",
    "two": "two entries: a list's comma parts them, quotes keep one together",
    "tab": "a tab: what is typed as an escape is an escape",
    FOLLOWED: "refused in one line; the command in it gives the text",
    CHOICE: "refused in one line: the key takes one of a few words, or a text of a certain form, which the line says",
    SOUGHT: "used as typed: there is no such file, which the line says",
}


def text_keys() -> dict[str, tuple[str, Key]]:
    """Keys that are tried, each with the task that has it."""
    found: dict[str, tuple[str, Key]] = {}
    for task, cls in TASKS.items():
        for name, key in leaf_keys([cls]).items():
            if name == "task.name" or (name.endswith(".name") and name.startswith("task.")):
                continue
            text = is_text(key) or key.name in FILES or key.type in LISTS_OF_TEXT
            if text or key.type == dict[str, str]:
                found.setdefault(name, (task, key))
    return found


def cell(name: str, key: Key, text: str, use: Callable[[str], Any]) -> str:
    """Returns what became of one text. It begins with WRONG if the text is neither used nor an error as it should be.

    Args:
        name: The key.
        key: What is known of the key.
        text: The text that is typed.
        use: The value that a word gives the key, or one of its entries.
    """
    listed = key.type in LISTS_OF_TEXT
    full = {"data.roles": "data.roles.source"}.get(name, f"{name}.x") if key.is_mapping else name
    word = f"{full}=[{text}]" if listed else f"{full}={text}"
    try:
        used = use(word)
    except MultiheadError as error:
        return _refused(str(error), full, text, use, name)
    return _used(used, name, text, listed)


def _used(used: Any, name: str, text: str, listed: bool) -> str:
    used = used[0] if listed and len(used) == 1 else used
    if used == text:
        return SAME
    if name in PATHS and used == os.path.expanduser(os.path.expandvars(text)):
        return EXPANDED
    if used is None and name in FILES and text == "null":
        return NONE
    if listed and used == text.split(","):
        return "two"
    if name in ESCAPED and text == "\\t" and used == "\t":
        return "tab"
    return f"WRONG: {used!r}"


def _refused(line: str, full: str, text: str, use: Callable[[str], Any], name: str) -> str:
    if "\n" in line or not line.startswith("error["):
        return f"WRONG: {line}"
    if OF_A_LIST in line or (_shaped(name) and "must be" in line):
        return CHOICE
    if name in ("resume", "plugin", "config_dir") and path_of(name, text) in line and "no such" in line:
        return SOUGHT
    if name == "plugin" and "no entry point" in line:
        return SOUGHT
    for place in range(len(line)):  # the command in the line, as a shell would read it
        if line[place:].startswith((f"'{full}=", f"{full}=")):
            try:
                used = use(shlex.split(line[place:])[0])
            except (MultiheadError, ValueError) as error:
                follow = str(error)
                if name in ("resume", "plugin", "config_dir") and text in follow:
                    return FOLLOWED
                if OF_A_LIST in follow or (_shaped(name) and "must be" in follow):
                    return CHOICE
                continue
            return FOLLOWED if used == text else f"WRONG: the fix of {line} gives {used!r}"
    return f"WRONG: {line}"


def composed(compose: Callable[[list[str]], Composition], task: str, name: str) -> Callable[[str], Any]:
    """Returns the value that a word gives a key in a whole configuration."""
    chosen = [f"task={task}", *(["data=tatoeba"] if name in FILES else [])]  # the grammar reads no files

    def use(word: str) -> Any:
        node: Any = compose([*chosen, word]).config
        for part in name.split("."):
            node = getattr(node, part)
        return node[word.partition("=")[0].removeprefix(f"{name}.")] if isinstance(node, dict) else node

    return use


def _shaped(name: str) -> bool:
    return name in SHAPED or name.endswith(".monitor")


def of_a_command(name: str, text: str) -> str:
    """Returns a path that a command takes, typed alone."""
    try:
        used = WORDS[name](name, text) if name in WORDS else [path_of(name, text)]
    except ConfigError as error:
        return f"WRONG: {error}"
    if used != [text] and name in WORDS and used == text.split(","):
        return "two"
    return _used(used, name, text, True)


def rows() -> dict[str, list[str]]:
    """Returns for each key what became of each of `TEXTS`."""
    found = {}
    composers = {task: composer([]) for task in TASKS}
    for name, (task, key) in sorted(text_keys().items()):
        use = composed(composers[task], task, name)
        found[name] = [cell(name, key, text, use) for text in TEXTS]
    for name in (*WORDS, *VERB_PATHS):
        found[f"{name}= (commands)"] = [of_a_command(name, text) for text in TEXTS]
    return found


def main() -> None:
    """Prints the table, and writes it beside the others."""
    with tempfile.TemporaryDirectory() as folder:
        before = Path.cwd()
        os.chdir(folder)
        try:
            found = rows()
        finally:
            os.chdir(before)
    head = ["key", *(f"`{text}`" for text in TEXTS)]
    lines = ["# What is typed is what is used", "", "Made by `python benchmarks/words_as_typed.py`.", ""]
    lines += [f"- `{mark}`: {meaning}" for mark, meaning in LEGEND.items()]
    lines += ["", f"| {' | '.join(head)} |", f"|{' --- |' * len(head)}"]
    lines += [f"| {name} | {' | '.join(cells)} |" for name, cells in found.items()]
    cells = [cell for row in found.values() for cell in row]
    wrong = sum(cell.startswith("WRONG") for cell in cells)
    lines += ["", f"{len(found)} keys, {len(cells)} cells, {wrong} wrong."]
    lines += [f"Typed for a shell: `{typed_as('run_dir', 'a, b')}`."]
    text = "\n".join(lines) + "\n"
    print(text)
    (Path(__file__).parent / "results" / "words_as_typed.md").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
