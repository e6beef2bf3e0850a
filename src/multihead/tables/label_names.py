"""Names of numbered classes, from a file beside the table: ``labels.txt``, ``classes.txt``, ``id2label.json``."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multihead.errors import DataError
from multihead.tables.opening import Unclear

FILES = re.compile(
    r"(id2label|label2id|(label|class)(es|s)?([_-]?(names?|map|mapping))?)\.(txt|json|ya?ml)", re.IGNORECASE
)
"""Names of a file that names the classes."""
MOST_BYTES = 1 << 20
NUMBERED = re.compile(r"\s*(-?\d+)\s*[\s:,=]\s*(\S.*)")


def label_names(table: Path, name: str, labels: Sequence[str], stated: str = "") -> tuple[dict[str, str], str]:
    """Returns the name of each class of a table whose labels are whole numbers, and a sentence about it.

    Nothing is returned if there is no such file, or if the labels are no numbers.

    Args:
        table: The file of the table. The names are looked for in its folder.
        name: The name of the table in messages.
        labels: The labels of the rows.
        stated: The file of names if the user has named one. It has to fit.

    Raises:
        DataError: The file beside it cannot be read, or the stated one does not fit.
        Unclear: The names may be counted from 0 or from 1.
    """
    found = {label.strip() for label in labels if label.strip()}
    if stated:
        return _stated_names(Path(stated), found, name)
    beside = [each for each in sorted(table.parent.iterdir()) if FILES.fullmatch(each.name)] if found else []
    if not beside or not all(re.fullmatch(r"-?\d+", label) for label in found):
        return {}, ""
    file = beside[0]
    names = _read(file)
    if isinstance(names, list):
        names = _counted(names, found, name, file.name)
    lacking = sorted(found - names.keys())
    if lacking:
        return {}, f"{file.name} does not name the label {lacking[0]!r}, so that it is not used"
    return names, f"{file.name} names the classes: {_shown(names)}"


def _shown(names: dict[str, str]) -> str:
    return ", ".join(f"{number}={names[number]}" for number in list(names)[:5]) + (" ..." if len(names) > 5 else "")


def _stated_names(file: Path, found: set[str], table: str) -> tuple[dict[str, str], str]:
    """The names in a file that the user has named (``data.label_names``)."""
    if not file.is_file():
        raise DataError(str(file), "no such file (data.label_names)", "give the path of a file that exists")
    names = _read(file)
    if isinstance(names, list):
        names = _counted(names, found, table, file.name)
    if lacking := sorted(found - names.keys()):
        what = f"does not name the label {lacking[0]!r} of {table}; it names {', '.join(list(names)[:8])}"
        raise DataError(str(file), what, f"add the name of {lacking[0]}, or leave data.label_names out")
    return names, f"{file} names the classes: {_shown(names)}"


def _counted(names: list[str], found: set[str], table: str, file: str) -> dict[str, str]:
    """The names by number. The numbers begin at 0 or at 1."""
    choices = [{str(number): each for number, each in enumerate(names, start=start)} for start in (0, 1)]
    fitting = [choice for choice in choices if found <= choice.keys()]
    if len(fitting) == 2:
        words = [
            shlex.quote("data.labels={" + ", ".join(f'"{number}": "{each}"' for number, each in choice.items()) + "}")
            for choice in choices
        ]
        raise Unclear(table, f"does the first name in {file} belong to the label 0 or 1?", *words)
    return fitting[0] if fitting else choices[0]


def _read(file: Path) -> list[str] | dict[str, str]:
    """The names in their order, or the name of each number."""
    if file.stat().st_size > MOST_BYTES:
        raise DataError(str(file), f"has more than {MOST_BYTES:,} bytes of class names", "data.labels={0: NAME}")
    try:
        text = file.read_text(encoding="utf-8-sig")
        if file.suffix.lower() == ".txt":
            lines = [line.strip() for line in text.splitlines() if line.strip()]
            numbered = [NUMBERED.fullmatch(line) for line in lines]
            if lines and all(numbered):
                return {match[1]: match[2] for match in numbered if match}
            return lines
        return _names(json.loads(text) if file.suffix.lower() == ".json" else _yaml(text))
    except (ValueError, TypeError, RecursionError) as error:
        what = f"does not hold the names of classes ({' '.join(str(error).split())[:80]})"
        raise DataError(str(file), what, "write one name per line into labels.txt, or set data.labels") from error


def _yaml(text: str) -> Any:
    import yaml

    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from error


def _names(tree: Any) -> list[str] | dict[str, str]:
    """A list of names, ``{0: name}``, ``{name: 0}``, or one of these inside of a mapping."""
    if isinstance(tree, dict):
        tree = next((tree[key] for key in ("id2label", "label2id", "names", "labels", "classes") if key in tree), tree)
    if isinstance(tree, list) and all(isinstance(each, str) for each in tree):
        return tree
    if isinstance(tree, dict) and tree and all(isinstance(value, int) for value in tree.values()):
        return {str(number): str(name) for name, number in tree.items()}
    if isinstance(tree, dict) and tree and all(re.fullmatch(r"-?\d+", str(key)) for key in tree):
        return {str(number): str(name) for number, name in tree.items()}
    raise ValueError("expected a list of names, or a mapping of numbers to names")
