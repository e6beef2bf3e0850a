"""The label column: the label in a cell, its name, the classes of a data set, and labels that are refused."""

from __future__ import annotations

import ast
import difflib
import json
import math
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np

from multihead.config.data import DataConfig
from multihead.data.corpus import Rows
from multihead.data.lines import SKIP
from multihead.data.splitting import shares
from multihead.errors import ConfigError, DataError, Findings, together
from multihead.tables.roles import NUMBER_WORD
from multihead.tables.words import AMBIGUOUS


def read_labels(config: DataConfig, rows: Rows, multi_label: bool = False) -> list[list[str]]:
    """Returns the names of the classes of each row: one, or with ``multi_label`` any number.

    A label is the text that ``data.label_pattern`` matches in the column (its first group, if it has one), without the
    blanks around it. ``data.labels`` gives it the name that people see.

    Args:
        config: The pattern, the names and the separator.
        rows: One split, with the role ``label``.
        multi_label: Whether a cell holds several labels, as a JSON list or separated by ``data.label_separator``.

    Raises:
        DataError: The pattern does not match a label, or a label has no name.
    """
    pattern = re.compile(config.label_pattern) if config.label_pattern else None
    names: dict[str, list[str]] = {}  # a column repeats a few texts
    result = []
    findings = Findings()
    for index, text in enumerate(rows.columns["label"]):
        if text not in names:
            parts = _several(text, config.label_separator) if multi_label else [text]
            labels = [part.strip() for part in parts if part.strip() or not multi_label]
            try:
                names[text] = list(dict.fromkeys(_name(config, rows, index, label, pattern) for label in labels))
            except DataError as error:
                findings.add(error)
                names[text] = []
        result.append(names[text])
    findings.end()
    return result


def read_numbers(config: DataConfig, rows: Rows) -> tuple[list[float], Rows, list[int]]:
    """Returns the numbers in the label column, and the rows that have one, with these numbers as their labels.

    A number may have a decimal comma, as tables of many countries do. ``1,234`` is refused, since it may mean two
    numbers. ``data.label_pattern`` and ``data.labels`` are applied first, as by `read_labels`.

    Args:
        config: The pattern and the names, and what happens with a bad line.
        rows: One split, with the role ``label``.

    Returns:
        The numbers, the rows, and the indices of the rows that were left out since they have no number.

    Raises:
        DataError: A label is not a number, and ``data.on_bad_line`` is error.
    """
    numbers: list[float] = []
    findings = Findings()
    kept, skipped = [], []
    for index, names in enumerate(read_labels(config, rows)):
        number = _number(names[0])
        if number is None and config.on_bad_line == "error":
            why = "may be read in two ways; write it without the comma" if AMBIGUOUS.fullmatch(names[0]) else ""
            what = f"the label {names[0][:40]!r} {why or 'is not a number, but task=regression predicts numbers'}"
            fix = SKIP
            if why:
                fix = f"write {names[0].replace(',', '')} or {names[0].replace(',', '.')}, or {SKIP}"
            elif re.fullmatch(WITH_SIGN, names[0]):
                fix = f"{NUMBER_WORD}, or {SKIP}"
            findings.add(DataError(rows.origin(index, "label"), what, fix))
        (skipped if number is None else kept).append(index)
        numbers += [] if number is None else [number]
    findings.end()
    rows = rows.select(np.array(kept, dtype=np.int64)) if skipped else rows
    rows.columns["label"] = list(map(repr, numbers))
    return numbers, rows, skipped


WITH_SIGN = r"[^\w\s+.-]?\s?-?\d+([.,]\d+)?\s?[^\w\s]?"
"""A number with a sign of percent or of money, from which data.label_pattern can take the number."""


def _number(text: str) -> float | None:
    """The finite number that a text is, with a decimal point or a decimal comma; None if it is none."""
    if re.fullmatch(r"[+-]?\d+,\d+", text) and not AMBIGUOUS.fullmatch(text):
        text = text.replace(",", ".")
    try:
        number = float(text) if "_" not in text else math.nan
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _several(text: str, separator: str) -> list[str]:
    """The labels of a cell: a list as JSON or Python writes it, or texts between separators."""
    if text.startswith("[") and text.endswith("]"):
        for read in (json.loads, ast.literal_eval):
            try:
                return [str(label) for label in read(text)]
            except (ValueError, SyntaxError, MemoryError, RecursionError):
                continue
    return text.split(separator)


def _name(config: DataConfig, rows: Rows, index: int, label: str, pattern: re.Pattern[str] | None) -> str:
    if pattern is not None:
        match = pattern.search(label)
        if match is None:
            what = f"data.label_pattern={config.label_pattern} finds no label in {label!r}"
            raise DataError(rows.origin(index, "label"), what, "change the pattern, or fix the line")
        label = (match.group(1) if pattern.groups else match.group()) or ""
    if not config.labels:
        return label
    if label not in config.labels:
        what = f"the label {label!r} has no name in data.labels, which names {_listed(config.labels)}"
        name = label if re.fullmatch(r"[\w-]+", label) else f'"{label}"'
        fix = (
            shlex.quote(f"data.labels.{name}=NAME")
            + f", or leave its rows out: {shlex.quote(f'data.ignore_labels=[{name}]')}"
        )
        raise DataError(rows.origin(index, "label"), what, fix)
    return config.labels[label]


def class_names(
    labels: Sequence[Sequence[str]], rows: Rows, order: Iterable[str] = (), multi_label: bool = False
) -> list[str]:
    """Returns the classes of the train split, in a given order or sorted; numbers are sorted by their value.

    Args:
        labels: What `read_labels` returned for the train split.
        rows: The train split, for messages.
        order: All possible names (those of ``data.labels``), in the order that people expect.
        multi_label: Whether one class is enough.

    Raises:
        DataError: There is only one class, or a class with one example.
    """
    counts = Counter(label for row in labels for label in row)
    names = [name for name in dict.fromkeys(order) if counts[name]] or sorted(counts, key=_by_number)
    if len(names) < (1 if multi_label else 2):
        raise _one_class(rows, names, "train")
    for name in names:
        if counts[name] == 1:
            row = next(i for i, row in enumerate(labels) if name in row)
            once = sum(count == 1 for count in counts.values()) - 1
            more = f"; {once} other classes also have one" if once else ""
            what = f"the class {name!r} has only one example in train, which is too few to learn from{more}"
            raise DataError(rows.origin(row, "label"), what, "data.min_class_examples=2 leaves such classes out")
    return names


def _by_number(name: str) -> tuple[float, str]:
    """Sorts numbers by their value and before other names: 2 before 10."""
    try:
        return (float(name), "")
    except ValueError:
        return (float("inf"), name)


def encode_labels(
    labels: Sequence[Sequence[str]], classes: Sequence[str], rows: Rows, split: str = "", multi_label: bool = False
) -> list[list[int]]:
    """Returns the numbers of the classes of each row.

    Args:
        labels: What `read_labels` returned for these rows.
        classes: What `class_names` returned for the train split.
        rows: The rows, for messages.
        split: Name of the split, for messages.
        multi_label: Whether rows may have several classes, or none.

    Raises:
        DataError: A label is not one of the classes, or a file has only one class. For rows held out of train, the
            corpus has already said which classes they lack.
    """
    numbers = {name: number for number, name in enumerate(classes)}
    findings: dict[str, DataError] = {}
    for index, row in enumerate(labels):
        for label in row:
            if label not in numbers and label not in findings:
                near = difflib.get_close_matches(label, classes, n=1, cutoff=0.0)[0]
                what = f"the label {label!r} is not among the classes of train ({_listed(classes)}); nearest: {near}"
                fix = "data.on_bad_line=skip leaves such rows out, or name the label in data.labels"
                findings[label] = DataError(rows.origin(index, "label"), what, fix)
    if findings:
        raise together([*findings.values()])
    found = {label for row in labels for label in row}
    if not multi_label and len(found) == 1 and not rows.held_out:
        raise _one_class(rows, sorted(found), split)
    return [[numbers[label] for label in row] for row in labels]


def _one_class(rows: Rows, names: Sequence[str], split: str) -> DataError:
    has = f"one class only, {names[0]!r}," if names else "no label"
    what = f"{split} has {has} in {len(rows):,} rows; classification needs two".strip()
    fix = "let data.roles.label name the column of classes"
    if split in ("val", "test"):
        fix = f"hold rows of train out instead: data.{split}=null data.splits.{split}=0.1"
    return DataError(rows.files["label"], what, fix)


def _listed(names: Sequence[str] | dict[str, str], most: int = 8) -> str:
    """Returns the first names and how many more there are."""
    names = list(names)
    rest = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + rest


def subset(rows: Rows, count: int, labels: Sequence[Sequence[str]] | None = None, seed: int = 0) -> np.ndarray:
    """Draws ``count`` rows at random and returns their indices in order. Classes keep their proportions.

    The share of each class is rounded by largest remainders. It is at least two rows if the class has them and
    ``count`` has room. A larger subset contains a smaller one, up to that rounding.

    Args:
        rows: All rows.
        count: Number of rows to draw (``data.train_examples``).
        labels: Classes of each row. Rows with the same classes are one stratum. None draws from all rows alike.
        seed: Seed of the draw.

    Raises:
        ConfigError: There are fewer rows.
    """
    if count > len(rows):
        raise ConfigError("data.train_examples", f"must be at most the {len(rows):,} rows of train, got {count:,}")
    strata: dict[tuple[str, ...], list[int]] = {}
    for index in range(len(rows)):
        strata.setdefault(tuple(labels[index]) if labels else (), []).append(index)
    rng = np.random.default_rng([seed, 0x5B5E7])
    drawn = [rng.permutation(np.array(members)) for _, members in sorted(strata.items())]
    members_of = [len(members) for members in drawn]
    sizes = shares(members_of, count, [min(2, size) for size in members_of], members_of)
    return np.sort(np.concatenate([members[:size] for members, size in zip(drawn, sizes, strict=True)]))
