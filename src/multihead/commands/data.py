"""``data`` looks at files and prints what they are, what may be wrong, and the commands that train on them."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Collection, Sequence
from pathlib import Path

from multihead.config.check import require_choice
from multihead.config.compose import named, parse
from multihead.config.data import FORMATS, NAME, NAME_WORDS
from multihead.config.files import load_named_plugin, task_classes
from multihead.config.found_data import needs_of, stated_keys, with_choice
from multihead.config.keys import find, leaf_keys
from multihead.config.settings import read_words
from multihead.config.task import TASKS
from multihead.config.verbs import DataSettings
from multihead.config.words import pasted, split, typed_as, write
from multihead.errors import ConfigError
from multihead.runs.files import replace_synced
from multihead.tables.report import Report, as_json, examine, kept_keys

SINGLE = ("classification", "regression", "translation", "summarization", "lm")
"""Tasks that a file may serve."""
MOST_CLASSES = 10


def run(words: Sequence[str]) -> int:
    """Runs ``multihead data``; see `DataSettings`."""
    settings, others = read_words(DataSettings, words)
    if settings.save:
        _check_save(Path(settings.save))
    plugin = load_named_plugin(named(parse(others), "plugin"))
    classes = task_classes(plugin)
    known = [*SINGLE, *(name for name in classes if name not in TASKS)]
    if settings.task:
        require_choice("task", settings.task, known)
    names = [settings.task] if settings.task else known
    keys = leaf_keys(classes.values(), plugin.options if plugin else None)
    multi_label = "task.multi_label=true" in others
    stated = stated_keys(others, keys)
    if form := stated.get("format"):
        _require_known(form, plugin.readers if plugin else ())

    def command(task: str, choice: str) -> str:
        paths = [write("data", file).removeprefix("data=") for file in settings.file]
        path = paths[0] if len(paths) == 1 else f"[{','.join(paths)}]"
        own = leaf_keys([classes[task]])
        kept = [word for word in others if not word.startswith("task.") or find(split(word).key, own)]
        return with_choice([f"task={task}", f"data={path}", *kept], choice, keys)

    needs = [needs_of(classes[name], multi_label) for name in names]
    report = examine(settings.file, needs, stated, command)
    if settings.format == "json":
        sys.stdout.write(json.dumps(as_json(report), ensure_ascii=False, indent=1) + "\n")
    else:
        _show(report)
    if settings.save:
        _save(report, settings)
    return 0


def _require_known(form: str, readers: Collection[str]) -> None:
    """Refuses a format that this command cannot look at.

    Raises:
        ConfigError: A plugin reads the format, or there is no such format.
    """
    require_choice("data.format", form, [*FORMATS, *readers])
    if form in readers:
        what = "is read by your plugin, and this command looks only at formats of our own"
        raise ConfigError(f"data.format={form}", what, "train with it: data=FILE, and data.roles names its columns")


def _show(report: Report) -> None:
    from multihead.runs.screen import Fitted, report_console

    console = report_console()
    look = report.look
    console.print(f"{look.name}: {look.described()}", markup=False, soft_wrap=True)
    if report.columns:
        head = ("column", "kind", "missing", "different", "words", "example")
        rows = [
            (each.name, each.kind, f"{each.missing:,}", f"{each.different:,}", _words(each.words), each.example)
            for each in report.columns
        ]
        console.print(Fitted(head, rows, left=("kind", "example"), fold=("example",), optional=("words", "different")))
        if any(low != high for low, high in (each.words for each in report.columns)):
            console.print("words: the median of the cells, to the number that 95 % of them do not exceed")
    if report.classes:
        shown = [f"{name} {count:,}" for name, count in report.classes[:MOST_CLASSES]]
        rest = len(report.classes) - MOST_CLASSES
        console.print(f"\nclasses: {', '.join(shown)}" + (f" and {rest} more" if rest > 0 else ""), markup=False)
    if report.findings:
        console.print("\nlook at:")
        for finding in report.findings:
            console.print(f"  {finding}", markup=False, soft_wrap=True)
    console.print("\ntasks:")
    for each in report.served:
        console.print(f"  {each.task}: {each.what}", markup=False, soft_wrap=True)
        if each.words:
            console.print(f"    multihead train {each.words}", markup=False, soft_wrap=True)


def _words(words: tuple[int, int]) -> str:
    return f"{words[0]}" if words[0] == words[1] else f"{words[0]} to {words[1]}"


def _check_save(path: Path) -> None:
    """Checks, before the files are read, that a file can be written whose name can be chosen.

    Raises:
        ConfigError: It cannot.
    """
    if path.suffix != ".yaml":
        raise ConfigError(
            "save", f"must name a .yaml file, got {path}", typed_as("save", str(path.with_suffix(".yaml")))
        )
    if not re.fullmatch(NAME, path.stem):
        plain = path.with_name(re.sub(r"[^\w.-]|^[.]", "_", path.stem)[:100] + path.suffix)
        raise ConfigError(
            "save", f"the name of a data set has {NAME_WORDS}, got {path.stem}", typed_as("save", str(plain))
        )


def _save(report: Report, settings: DataSettings) -> None:
    """Writes the keys as a file of the group ``data``, and says how it is chosen."""
    from multihead.config.compose import to_yaml

    path = Path(settings.save)
    keys = {**kept_keys(report, settings.task), "name": path.stem}
    path.parent.mkdir(parents=True, exist_ok=True)
    replace_synced(path, f"# {report.look.name}, as `multihead data` has read it.\n{to_yaml(keys)}".encode())
    folder = path.parent.parent if path.parent.name == "data" else None
    choice = "put it into a folder named data"
    if folder is not None:
        choice = pasted(write("config_dir", str(folder)), write("data", path.stem))
    sys.stdout.write(f"\nsaved: {path}; to choose it: {choice}\n")
