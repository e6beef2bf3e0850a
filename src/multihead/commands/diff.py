"""``diff``: what differs between two runs, in configuration, environment and result, or what there is of one so far."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead.config.keys import flatten
from multihead.config.words import path_of, take
from multihead.config.yaml_file import load_yaml
from multihead.errors import CheckpointError, ConfigError
from multihead.runs.files import read_json

if TYPE_CHECKING:
    from rich.table import Table

FILES = {"configuration": "config.yaml", "environment": "environment.json", "result": "result.json"}
ABSENT = "-"
METRICS = "metrics.csv"


def run(words: Sequence[str]) -> int:
    """``multihead diff a=RUN b=RUN``."""
    from multihead.runs.screen import report_console

    first, words = take(words, "a")
    second, words = take(words, "b")
    first, second = path_of("a", first), path_of("b", second)
    if words:
        raise ConfigError(words[0], "diff takes a=RUN and b=RUN only")
    for name, folder in (("a", first), ("b", second)):
        if not (folder and (Path(folder) / FILES["configuration"]).is_file()):
            raise ConfigError(name, f"{folder or 'nothing'} is not the directory of a run", f"{name}=outputs/...")
    console = report_console()
    differences = {part: diff(Path(first), Path(second), part) for part in FILES}
    if any(differences.values()):
        console.print(_table(first, second, differences))
    for part, rows in differences.items():
        missing = [folder for folder in (first, second) if not (Path(folder) / FILES[part]).is_file()]
        there = [folder for folder in missing if part == "result" and (Path(folder) / METRICS).is_file()]
        for folder in there:
            console.print(f"{part}: {folder} has none yet; compared by its last values in {METRICS}", markup=False)
        if set(missing) - set(there):
            absent = " and ".join(folder for folder in missing if folder not in there)
            console.print(f"{part}: no {FILES[part]} in {absent}", markup=False)
        elif not rows:
            console.print(f"{part}: the same")
    return 0


def diff(first: Path, second: Path, part: str) -> list[tuple[str, Any, Any]]:
    """Keys of one file whose values differ, with both values; nothing where a run has no such file.

    A run without result.json is compared by the last values of its metrics.csv.

    Args:
        first: A run's directory.
        second: The other's.
        part: A key of `FILES`.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    contents = [_content(folder, part) for folder in (first, second)]
    if None in contents:
        return []
    a, b = (flatten(content) for content in contents if content is not None)
    names = [*a, *(name for name in b if name not in a)]
    return [
        (name, a.get(name, ABSENT), b.get(name, ABSENT)) for name in names if a.get(name, ABSENT) != b.get(name, ABSENT)
    ]


def _content(folder: Path, part: str) -> dict[str, Any] | None:
    path = folder / FILES[part]
    if path.is_file():
        return _read(path)
    return _so_far(folder / METRICS) if part == "result" and (folder / METRICS).is_file() else None


def _so_far(path: Path) -> dict[str, Any]:
    """The last value of each column of metrics.csv, under the names that result.json has for them."""
    with open(path, newline="", encoding="utf-8", errors="replace") as file:
        rows = list(csv.DictReader(file))
    last = {name: text for row in rows for name, text in row.items() if name and text}
    try:
        return {{"step": "steps"}.get(name, name): float(text) for name, text in last.items()}
    except (TypeError, ValueError) as error:
        raise CheckpointError(str(path), f"not readable: {error}") from error


def _read(path: Path) -> dict[str, Any]:
    if path.suffix != ".yaml":
        return read_json(path, dict)
    content = load_yaml(path)
    if not isinstance(content, dict):
        raise CheckpointError(str(path), "must be a mapping of keys to values")
    return content


def _table(first: str, second: str, differences: dict[str, list[tuple[str, Any, Any]]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, right in (("", False), (escape(first), True), (escape(second), True), ("b - a", True)):
        table.add_column(name, justify="right" if right else "left", overflow="fold", no_wrap=name == "b - a")
    for part, rows in differences.items():
        if rows:
            table.add_row(f"[bold]{part}[/bold]")
        for name, a, b in rows:
            table.add_row(f"  {escape(name)}", escape(_text(a)), escape(_text(b)), _change(a, b))
    return table


def _text(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float) else str(value)


def _change(a: Any, b: Any) -> str:
    """How much a number grew."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (a, b))
    return f"{b - a:+.6g}" if numbers else ""
