"""``diff``: what differs between two runs, in configuration, environment and result."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead.commands.explain import take
from multihead.config.compose import load_yaml
from multihead.config.keys import flatten
from multihead.errors import CheckpointError, ConfigError

if TYPE_CHECKING:
    from rich.table import Table

FILES = {"configuration": "config.yaml", "environment": "environment.json", "result": "result.json"}
MAX_JSON_BYTES = 50_000_000
ABSENT = "-"


def run(words: Sequence[str]) -> int:
    """``multihead diff a=RUN b=RUN``."""
    import sys

    from rich.console import Console

    first, words = take(words, "a")
    second, words = take(words, "b")
    if words:
        raise ConfigError(words[0], "diff takes a=RUN and b=RUN only")
    for name, folder in (("a", first), ("b", second)):
        if not (folder and (Path(folder) / FILES["configuration"]).is_file()):
            raise ConfigError(name, f"{folder or 'nothing'} is not the directory of a run", f"{name}=outputs/...")
    console = Console(file=sys.stdout, width=None if sys.stdout.isatty() else 140, highlight=False)
    differences = {part: diff(Path(first), Path(second), part) for part in FILES}
    if any(differences.values()):
        console.print(_table(first, second, differences))
    for part, rows in differences.items():
        missing = [folder for folder in (first, second) if not (Path(folder) / FILES[part]).is_file()]
        if missing:
            console.print(f"{part}: no {FILES[part]} in {' and '.join(missing)}")
        elif not rows:
            console.print(f"{part}: the same")
    return 0


def diff(first: Path, second: Path, part: str) -> list[tuple[str, Any, Any]]:
    """Keys of one file whose values differ, with both values; nothing where a run has no such file.

    Args:
        first: A run's directory.
        second: The other's.
        part: A key of `FILES`.

    Raises:
        CheckpointError: If a file cannot be read.
    """
    paths = [folder / FILES[part] for folder in (first, second)]
    if not all(path.is_file() for path in paths):
        return []
    a, b = (flatten(_read(path)) for path in paths)
    names = [*a, *(name for name in b if name not in a)]
    return [
        (name, a.get(name, ABSENT), b.get(name, ABSENT)) for name in names if a.get(name, ABSENT) != b.get(name, ABSENT)
    ]


def _read(path: Path) -> dict[str, Any]:
    if path.suffix == ".yaml":
        content = load_yaml(path)
    else:
        try:
            if path.stat().st_size > MAX_JSON_BYTES:
                raise CheckpointError(str(path), f"larger than {MAX_JSON_BYTES} bytes")
            content = json.loads(path.read_text(encoding="utf-8"))
        except (ValueError, RecursionError) as error:
            raise CheckpointError(str(path), f"not readable as JSON: {error}") from error
    if not isinstance(content, dict):
        raise CheckpointError(str(path), "must be a mapping of keys to values")
    return content


def _table(first: str, second: str, differences: dict[str, list[tuple[str, Any, Any]]]) -> Table:
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for name, right in (("", False), (escape(first), True), (escape(second), True), ("b - a", True)):
        table.add_column(name, justify="right" if right else "left", overflow="fold")
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
