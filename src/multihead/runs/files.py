"""Small files of a run directory: how they are read, and how they are written so that a crash cannot tear them."""

from __future__ import annotations

import csv
import json
import os
from pathlib import Path
from typing import TypeVar

from multihead.errors import CheckpointError

T = TypeVar("T", dict, list)
Row = dict[str, str]
"""A row of metrics.csv: texts by column."""


def read_json(path: Path, kind: type[T]) -> T:
    """Reads a JSON file that holds a mapping or a list.

    Raises:
        CheckpointError: If it is missing, damaged or of another kind.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(str(path), f"cannot be read ({error.strerror})", "copy the run again") from None
    except (ValueError, RecursionError) as error:
        what = f"is damaged (not readable as JSON: {error})"
        raise CheckpointError(str(path), what, "copy the run again") from None
    if not isinstance(content, kind):
        wanted = {dict: "a mapping of keys to values", list: "a list"}[kind]
        raise CheckpointError(str(path), f"is damaged (must be {wanted})", "copy the run again")
    return content


def whole_lines(path: Path) -> list[str]:
    r"""The lines of a file that may still be written, without a last line that has no end; [] if there is no file.

    Only \n ends a line. A text inside one may hold U+2028 and other characters at which `str.splitlines` cuts.
    """
    content = path.read_bytes() if path.is_file() else b""
    return content.decode("utf-8", errors="replace").split("\n")[:-1]


def read_metrics(path: Path) -> list[Row]:
    """Returns the complete rows of a metrics.csv, with "" for a missing value. Returns [] if there is no file."""
    return list(csv.DictReader((f"{line}\n" for line in whole_lines(path)), restval=""))


def write_synced(path: Path, content: bytes) -> None:
    """Writes ``content``, and returns when it is on the disk."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_synced(path: Path, content: bytes) -> None:
    """Replaces a small file at once: readers see the old content or the new one, never a mixture."""
    beside = path.with_name(path.name + ".tmp")
    write_synced(beside, content)
    os.replace(beside, path)
    sync(path.parent)


def sync(path: Path) -> None:
    """Returns when a file's content, or the renames inside a folder, are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
