"""What the site makes of files that are not Markdown: the code, its help, examples, tables, and chapters."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multihead.config.keys import Key, documentation, leaf_keys
from multihead.config.task import SINGLE_TASKS, TASKS
from multihead.config.verbs import SETTINGS
from multihead.help import verb_help

DOCS = Path(__file__).parent
RESULTS = DOCS.parent / "benchmarks" / "results"
TYPES = {int: "whole number", float: "number", bool: "true or false", bool | None: "true or false", str: "text"}
TITLES = {
    "": "The run",
    "task": "task: what is learned",
    "model": "model: the backbone",
    "data": "data: the data set",
    "data.grammar": "data.grammar: the built-in data",
    "tokenizer": "tokenizer",
    "tokenizer.source": "tokenizer.source",
    "tokenizer.target": "tokenizer.target",
    "optim": "optim: optimizer and schedule",
    "trainer": "trainer: length, checkpoints, averages",
    "lora": "lora: low-rank adapters",
    "decoding": "decoding: search and sampling",
}
"""Nodes of the configuration in the order of the page."""


@dataclass
class _Entry:
    """A key, and the tasks that have it with this default and this meaning."""

    key: Key
    tasks: list[str] = field(default_factory=list)


def configuration() -> str:
    """Returns one section of Markdown for each node, with type, default and meaning of every key."""
    nodes: dict[str, list[_Entry]] = {node: [] for node in TITLES}
    for entry in _entries():
        nodes[entry.key.name.rpartition(".")[0]].append(entry)
    seen: set[str] = set()
    sections = []
    for node, entries in nodes.items():
        lines = [f"## {TITLES[node]}", *(_definition(entry, seen) for entry in entries)]
        sections.append("\n\n".join(lines))
    return "\n\n".join(sections)


def commands() -> str:
    """Returns one section of Markdown for each command, with what its ``--help`` prints."""
    return "\n\n".join(f"## {verb}\n\n```text\n{verb_help(verb).rstrip()}\n```" for verb in ("train", *SETTINGS))


def _entries() -> list[_Entry]:
    """Returns all keys. A key of ``task`` comes once for each default and meaning that it has."""
    found: dict[tuple[str, ...], _Entry] = {}
    for task, cls in TASKS.items():
        for key in leaf_keys([cls]).values():
            if key.name.split(".")[1:-1] and key.name.split(".")[1] in SINGLE_TASKS:
                continue  # task.lm.stride of task=multitask is task.stride of task=lm
            what = (key.name, str(key.default), documentation(key))
            found.setdefault(what, _Entry(key)).tasks.append(task)
    return list(found.values())


def _definition(entry: _Entry, seen: set[str]) -> str:
    """Returns a term with its anchor, and the definition below it."""
    key, name = entry.key, entry.key.name
    anchor = "" if name in seen else f"{{#key-{re.sub('[._]', '-', name)}}}"
    seen.add(name)
    shown = str(key.default).lower() if isinstance(key.default, bool) else str(key.default)
    kind = TYPES.get(key.type) or key.requirement.removeprefix("a ")
    about = [f"default `{shown}`"] if shown not in ("", "None", "[]", "{}") else []
    if name.startswith("task.") and len(entry.tasks) < len(TASKS):
        about.append(f"for {', '.join(entry.tasks)}")
    return f"[`{name}`]{anchor} ({'; '.join([kind, *about])})\n: {escaped(documentation(key))}"


def escaped(text: str) -> str:
    """Returns a docstring as Markdown: its code stays code, and no other character is a mark."""
    parts = re.split(r"(`+[^`]+`+)", text)
    return "".join(part if part.startswith("`") else re.sub(r"([*_<$\[\]|])", r"\\\1", part) for part in parts)


def examples() -> str:
    """Returns one section of Markdown for each example of a plugin, with its code."""
    files = sorted(DOCS.glob("examples/*.py")) + sorted(DOCS.glob("examples/plugins/*.py"))
    return "\n\n".join(
        f"({_anchor('example', file)})=\n## {file.name}\n\n`{file.relative_to(DOCS.parent)}`\n\n"
        f"```python\n{file.read_text(encoding='utf-8').rstrip()}\n```"
        for file in files
    )


def tables() -> str:
    """Returns one section of Markdown for each table in `benchmarks/results`."""
    sections = []
    for file in sorted(RESULTS.glob("*.md")):
        text = re.sub(r"^# .*\n", "", file.read_text(encoding="utf-8")).strip()
        sections.append(f"({_anchor('table', file)})=\n## {_title(file)}\n\n{text}")
    return "\n\n".join(sections)


def chapter(text: str) -> Any:
    """Returns a chapter of the guide, a Python file with cells, as a notebook, whether or not its cells run."""
    import jupytext

    notebook = jupytext.reads(text, fmt="py:percent")
    notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
    notebook.metadata["language_info"] = {"name": "python", "pygments_lexer": "python"}
    return notebook


def _title(file: Path) -> str:
    return file.stem.replace("_", " ").capitalize()


def _anchor(kind: str, file: Path) -> str:
    return f"{kind}-{file.stem.replace('_', '-')}"


MARKS = {
    "<!-- keys of the configuration -->": configuration,
    "<!-- help of the commands -->": commands,
    "<!-- code of the examples -->": examples,
    "<!-- tables of the benchmarks -->": tables,
}
"""Lines of a page, each with the function whose text takes the place of the line and of all that is below it.

What is below it says where a reader of the repository finds the same.
"""


def fill(source: str) -> str:
    """Returns the source of a page with texts in place of its marks, and with links to pages instead of files.

    In the repository a link leads to a file, such as an example. On the site it leads to the page that shows the file.
    """
    source = re.sub(r"(\]\(|^\[\d+\]: )(?:examples/(?:plugins/)?)(\w+)\.py", _to_example, source, flags=re.MULTILINE)
    source = re.sub(r"\]\(\.\./benchmarks/results/(\w+)\.md", _to_table, source)
    source = source.replace("](../.github/CONTRIBUTING.md", "](contributing.md").replace(
        "](../CHANGELOG.md", "](changelog.md"
    )
    for mark, write in MARKS.items():
        above, found, _ = source.partition(mark)
        source = f"{above}{write()}\n" if found else source
    return source


def _to_example(match: re.Match[str]) -> str:
    return f"{match[1]}examples.md#{_anchor('example', Path(match[2]))}"


def _to_table(match: re.Match[str]) -> str:
    return f"](tables.md#{_anchor('table', Path(match[1]))}"
