"""``diff`` prints what differs between two runs in configuration, environment and result."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead.config.compose import require_run
from multihead.config.settings import read_words
from multihead.config.verbs import DiffSettings
from multihead.config.yaml_file import load_yaml
from multihead.errors import CheckpointError
from multihead.runs.files import read_json, read_metrics
from multihead.tables.records import flatten

if TYPE_CHECKING:
    from rich.table import Table

FILES = {"configuration": "config.yaml", "environment": "environment.json", "result": "result.json"}
ABSENT = "-"
METRICS = "metrics.csv"


def run(words: Sequence[str]) -> int:
    """Runs ``multihead diff``; see `DiffSettings`."""
    from multihead.runs.screen import report_console

    settings, _ = read_words(DiffSettings, words)
    first, second = settings.a, settings.b
    for name, folder in (("a", first), ("b", second)):
        require_run(name, folder)
    console = report_console()
    differences = {part: diff(Path(first), Path(second), part) for part in FILES}
    if any(differences.values()):
        console.print(_table(first, second, differences))
    for part, rows in differences.items():
        missing = [folder for folder in (first, second) if not (Path(folder) / FILES[part]).is_file()]
        there = [folder for folder in missing if part == "result" and (Path(folder) / METRICS).is_file()]
        for folder in there:
            console.print(
                f"{part}: {folder} has no result yet; its last values in {METRICS} are compared", markup=False
            )
        if set(missing) - set(there):
            absent = " and ".join(folder for folder in missing if folder not in there)
            console.print(f"{part}: no {FILES[part]} in {absent}", markup=False)
        elif not rows:
            console.print(f"{part}: the same")
    return 0


def diff(first: Path, second: Path, part: str) -> list[tuple[str, Any, Any]]:
    """Returns the keys of one file whose values differ, with both values; nothing if a run has no such file.

    If a run has no result.json, the last values of its metrics.csv are compared.

    Args:
        first: One run's directory.
        second: The other run's directory.
        part: A key of `FILES`.

    Raises:
        CheckpointError: A file cannot be read.
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
    """Returns the last value of each column of metrics.csv, by the names that result.json uses."""
    last = {name: text for row in read_metrics(path) for name, text in row.items() if name and text}
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
    """Returns the difference of two numbers as text; empty for other values."""
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in (a, b))
    return f"{b - a:+.6g}" if numbers else ""
