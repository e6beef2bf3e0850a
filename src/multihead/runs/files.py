"""Small files of a run directory: how they are read, and how they are written so that a crash cannot tear them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TypeVar

from multihead.errors import CheckpointError

T = TypeVar("T", dict, list)


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
    """The lines of a file that may still be written, without a last line that has no end; [] if there is no file."""
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    return text[: text.rfind("\n") + 1].splitlines()


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
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Returns when the renames inside a folder are on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
