"""Describes files for ``multihead data``: columns, classes, repeated texts, and the tasks that the files serve."""

from __future__ import annotations

import contextlib
import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multihead.errors import DataError
from multihead.tables.found import Look
from multihead.tables.layout import UNLABELLED, Data, find_data
from multihead.tables.opening import Unclear
from multihead.tables.roles import Needs
from multihead.tables.sniff import look
from multihead.tables.words import MISSING, is_number

FEW = 5
"""Classes with fewer rows are called rare."""
SHORT = 2
"""Texts with fewer characters are called nearly empty."""
MOST_WORDS = 100
"""Blocks of more rows on average are no sentences with a word on each line."""


@dataclass
class Column:
    """One column of a table, by the rows of the sample."""

    name: str
    kind: str
    """empty, number, date, class or text."""
    missing: int
    """Number of blank cells."""
    different: int
    """Number of different cells."""
    words: tuple[int, int]
    """Words of a cell: the median and the 95th percentile."""
    example: str


@dataclass
class Served:
    """Says how the files serve one task."""

    task: str
    words: str
    """The words that train it, without the program's name; empty if the files do not serve the task."""
    what: str
    """The roles that were found, or the question that is open, or the reason why it does not work."""
    data: Data | None = None


@dataclass
class Report:
    """Describes files and the tasks that they serve."""

    look: Look
    columns: list[Column]
    served: list[Served]
    classes: list[tuple[str, int]] = field(default_factory=list)
    """The classes with their counts in the sample, the most frequent first."""
    findings: list[str] = field(default_factory=list)
    """Sentences about what may be wrong."""


def examine(
    paths: Sequence[str], tasks: Sequence[Needs], stated: Mapping[str, Any], command: Callable[[str, str], str]
) -> Report:
    """Describes files and the roles that each task finds in them.

    Args:
        paths: Files, a folder or a pattern, as for ``data=``.
        tasks: The needs of each task.
        stated: Keys of ``data`` that the user has set.
        command: Takes the name of a task and further words, and returns the words that train it.

    Raises:
        DataError: The files cannot be read for any task.
    """
    served, errors = [], []
    for needs in tasks:
        try:
            data = find_data(paths, needs, stated)
            roles = ", ".join(f"{role}={column}" for role, column in data.keys["roles"].items())
            served.append(Served(needs.task, command(needs.task, ""), "; ".join([roles, *data.notes]), data))
        except Unclear as unclear:
            served.append(Served(needs.task, command(needs.task, unclear.choices[0]), unclear.what))
        except DataError as error:
            errors.append(error)
            served.append(Served(needs.task, "", error.what))
    looks = next((each.data.looks for each in served if each.data and each.data.looks), {})
    if not looks and len(errors) == len(tasks):
        raise errors[0]
    train = looks.get("train")
    if train is None:  # no task is clear, but the file can be shown, unless even its form is not clear
        train = Look(paths[0], "text", columns=[])
        with contextlib.suppress(Unclear):
            train = look(Path(paths[0]), paths[0], stated) if Path(paths[0]).is_file() else train
    found = Report(train, [_column(train, name) for name in train.columns], served)
    classified = {needs.task for needs in tasks if "label" in needs.roles and not needs.numeric}
    of_classes = next((each.data for each in served if each.data and each.task in classified), None)
    if of_classes is not None:
        _add_classes(found, train, of_classes)
    if 2 * train.blocks <= len(train.rows) <= MOST_WORDS * train.blocks and train.blocks > 2:
        what = "if each is a sentence with a word and its tag on each line, begin with docs/examples/conll.py"
        found.findings.append(f"empty lines part the rows into {train.blocks:,} blocks; {what}")
    _add_repeated(found, looks, next((each.data for each in served if each.data and each.data.looks), None))
    return found


def _column(table: Look, name: str) -> Column:
    cells = table.column(name)
    filled = [cell for cell in cells if cell.strip()]
    different = len({*filled})
    words = sorted(len(cell.split()) for cell in filled) or [0]
    if not filled:
        kind = "empty"
    elif different > 1 and all(is_number(cell) for cell in filled) and different > 0.1 * len(filled):
        kind = "number"
    elif all(re.match(r"\d{4}-\d\d-\d\d|\d\d?[./]\d\d?[./]\d{2,4}\b", cell) for cell in filled):
        kind = "date"
    elif different <= max(2, 0.2 * len(filled)) and words[-1] <= 5:
        kind = "class"
    else:
        kind = "text"
    example = " ".join(next(iter(filled), "").split())
    middle, high = words[len(words) // 2], words[int(0.95 * (len(words) - 1))]
    return Column(name, kind, len(cells) - len(filled), different, (middle, high), example[:60])


def _add_classes(found: Report, train: Look, data: Data) -> None:
    """Counts the classes and says which of them are rare or look like each other."""
    label = data.keys["roles"]["label"]
    if data.keys["format"] == "folders":
        folders = [each for each in Path(data.keys["train"]).iterdir() if each.is_dir() and each.name not in UNLABELLED]
        counts = Counter({each.name: sum(1 for _ in each.iterdir()) for each in folders})
    elif label in train.columns:
        counts = Counter(cell.strip() for cell in train.column(label))
    else:
        return
    found.classes = counts.most_common()
    rare = [name for name, count in found.classes if count < FEW]
    if rare:
        shown = ", ".join(map(repr, rare[:5])) + (" ..." if len(rare) > 5 else "")
        found.findings.append(
            f"{len(rare)} classes have fewer than {FEW} rows ({shown}); data.min_class_examples={FEW} leaves them out"
        )
    alike = Counter(" ".join(name.lower().split()) for name in counts)
    twins = [name for name in counts if alike[" ".join(name.lower().split())] > 1]
    if twins:
        what = ", ".join(map(repr, sorted(twins)[:6]))
        found.findings.append(f"labels that differ only in capitals or blanks: {what}; data.labels gives both one name")
    odd = [name for name in counts if name.lower() in MISSING and name not in ("-1", "")]
    found.findings += [f'the label {name!r} ({counts[name]} rows) may mean "no label"' for name in odd]


def _add_repeated(found: Report, looks: Mapping[str, Look], data: Data | None) -> None:
    """Counts texts that occur twice, in one split or in two, and texts that are nearly empty."""
    roles = data.keys["roles"] if data else {}
    column = roles.get("text") or roles.get("source") or ""
    texts = {split: table.column(column) for split, table in looks.items() if column in table.columns}
    if "train" not in texts:
        return
    counts = Counter(texts["train"])
    twice = sum(count - 1 for text, count in counts.items() if text.strip() and count > 1)
    if twice:
        found.findings.append(f"{twice:,} rows of train repeat the {column} of another row")
    label = roles.get("label", "")
    if label in looks["train"].columns:
        pairs = Counter(text for text, _ in {*zip(texts["train"], looks["train"].column(label), strict=True)})
        if several := sum(count > 1 for count in pairs.values()):
            found.findings.append(f"{several:,} texts have more than one label")
    short = sum(0 < len(text.strip()) < SHORT for text in texts["train"])
    if short:
        found.findings.append(f"{short:,} texts have fewer than {SHORT} characters")
    for split, others in texts.items():
        shared = sum(text in counts for text in others if text.strip()) if split != "train" else 0
        if shared:
            found.findings.append(f"{shared:,} of {len(others):,} rows of {split} have a {column} that is in train too")


def kept_keys(report: Report, task: str) -> dict[str, Any]:
    """Returns the keys of ``data`` to keep in a YAML file, with the roles of all tasks that the files serve.

    Args:
        report: The report.
        task: The task whose keys are taken; empty takes the first that the files serve.

    Raises:
        DataError: The files do not serve it without a further word.
    """
    clear = [each for each in report.served if each.data and task in ("", each.task)]
    if not clear or clear[0].data is None:
        open_ones = [each for each in report.served if each.words and task in ("", each.task)]
        fix = f"multihead train {open_ones[0].words}" if open_ones else ""
        raise DataError(report.look.name, f"the columns for task={task or 'any'} are not clear", fix)
    keys = {name: value for name, value in clear[0].data.keys.items() if value is not None}
    roles = {role: column for each in clear if each.data for role, column in each.data.keys["roles"].items()}
    return {**keys, "roles": roles}


def as_json(report: Report) -> dict[str, Any]:
    """Returns a report as plain containers."""
    served = [{"task": each.task, "words": each.words, "what": each.what} for each in report.served]
    return {
        "file": report.look.name,
        "format": report.look.described(),
        "columns": [dataclasses.asdict(column) for column in report.columns],
        "classes": dict(report.classes),
        "findings": report.findings,
        "tasks": served,
    }
