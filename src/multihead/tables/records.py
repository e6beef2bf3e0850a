"""JSON: one object on each line, or one array of objects. Nested keys become paths such as ``translation.en``."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from multihead.errors import DataError, together
from multihead.tables.found import Look

MOST_ROWS = 50_000
"""Rows of a sample."""
LONGEST_OBJECT = 16 << 20
"""Largest number of characters of an object in an array."""
BROKEN = (ValueError, RecursionError)
"""Errors of the decoder if a text is not JSON."""


def is_array(text: str) -> bool:
    """Returns whether a text begins like an array of objects."""
    return re.match(r"\s*\[\s*\{", text) is not None


def are_objects(lines: Sequence[str]) -> bool:
    """Returns whether the first lines hold an object each."""
    some = [line for line in lines[:20] if line.strip()]
    return all(line.lstrip().startswith("{") and line.rstrip().removesuffix(",").endswith("}") for line in some)


def look_at_objects(lines: Sequence[str], name: str, skip: bool = False) -> Look:
    """Returns what a file of JSON lines is.

    Args:
        lines: The lines of the sample.
        name: The name of the file in messages.
        skip: Whether bad lines are left out.

    Raises:
        DataError: A line is not a JSON object.
    """
    records: list[tuple[int, Any]] = []
    errors: list[DataError] = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        if len(records) == MOST_ROWS:
            break
        try:
            records.append((number, json.loads(line)))
        except BROKEN as error:
            what = f"is not JSON ({getattr(error, 'msg', 'too deeply nested')})"
            place = f"{name}:{number}:{getattr(error, 'colno', 1)}"
            fix = "fix the line, or data.on_bad_line=skip"
            if re.fullmatch(r"\s*\{.*\}\s*,\s*", line):
                what, fix = (
                    "has a comma behind its object",
                    f"sed 's/,[[:space:]]*$//' {shlex.quote(name)} > FIXED.jsonl",
                )
            errors.append(DataError(place, what, fix))
    if errors and not skip:
        raise together(errors)
    found = look_of_records(records, name, "jsonl")
    found.count = sum(bool(line.strip()) for line in lines)
    return found


def look_at_array(text: str, name: str, whole: bool) -> Look:
    """Returns what a JSON array is.

    Args:
        text: The beginning of the file.
        name: The name of the file in messages.
        whole: Whether the text is the whole file. Otherwise its last object may be cut, and is left out.

    Raises:
        DataError: The text is not an array of objects.
    """
    records: list[tuple[int, Any]] = []
    try:
        for record in objects_in([text], name):
            records.append((len(records) + 1, record))
            if len(records) == MOST_ROWS and not whole:
                break
    except DataError:
        if whole or not records:
            raise
    found = look_of_records(records, name, "json")
    return found


def objects_in(chunks: Iterable[str], name: str) -> Iterator[Any]:
    """Yields the values of one JSON array, of which only the current one is in memory.

    Args:
        chunks: The text of the file, in pieces.
        name: The name of the file in messages.

    Raises:
        DataError: The text is not a JSON array, or one of its values is too long.
    """
    text = _Text(chunks, name)
    if text.after_blanks() != "[":
        if text.after_blanks() == "{":
            raise text.error("is one JSON object and not a list of objects")
        raise text.error("is not a list of JSON objects")
    text.place += 1
    if text.after_blanks() == "]":
        text.place += 1
    else:
        while True:
            yield text.value()
            mark = text.after_blanks()
            text.place += 1
            if mark == "]":
                break
            if mark != ",":
                text.place -= 1
                raise text.error("is not JSON (a comma or ] is missing)" if mark else "is not JSON (it ends early)")
            text.after_blanks()
    if text.after_blanks():
        raise text.error("is not JSON (more text follows the list)")


class _Text:
    """The part of a text that is being decoded, and its place in the file."""

    decoder = json.JSONDecoder()

    def __init__(self, chunks: Iterable[str], name: str):
        self.chunks, self.name = iter(chunks), name
        self.text, self.place = "", 0
        self.lines = 0
        """Ends of line in front of `text`."""
        self.offset = 0
        """Characters of the current line in front of `text`."""

    def _more(self) -> bool:
        """Appends the next piece and drops what was decoded. Returns whether there was one."""
        piece = next(self.chunks, "")
        gone, self.text, self.place = self.text[: self.place], self.text[self.place :] + piece, 0
        ends = gone.count("\n")
        self.lines += ends
        self.offset = len(gone) - gone.rindex("\n") - 1 if ends else self.offset + len(gone)
        return bool(piece)

    def after_blanks(self) -> str:
        """Returns the next character that is not blank; empty at the end of the file."""
        while True:
            while self.place < len(self.text):
                if self.text[self.place] not in " \t\r\n":
                    return self.text[self.place]
                self.place += 1
            if not self._more():
                return ""

    def value(self) -> Any:
        """Returns the next value.

        Raises:
            DataError: It is not JSON, or it is too long.
        """
        while True:
            try:
                value, end = self.decoder.raw_decode(self.text, self.place)
            except BROKEN as error:
                if len(self.text) - self.place > LONGEST_OBJECT:
                    raise self.error(f"has an object of more than {LONGEST_OBJECT:,} characters") from error
                behind = getattr(error, "pos", self.place) - self.place
                if self._more():
                    continue
                self.place += behind  # the text begins with this value now
                raise self.error(f"is not JSON ({getattr(error, 'msg', 'too deeply nested')})") from error
            if end < len(self.text) or not self._more():  # a number may go on in the next piece
                self.place = end
                return value

    def error(self, what: str) -> DataError:
        """Returns the error for the current place."""
        before = self.text[: self.place]
        line = 1 + self.lines + before.count("\n")
        column = self.place - before.rindex("\n") if "\n" in before else self.offset + self.place + 1
        fix = "write one object per line, or put the objects into one list"
        return DataError(f"{self.name}:{line}:{column}", what, fix)


def flatten(record: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Returns the leaves of a nested mapping by dotted name: ``{"a": {"b": 1}}`` becomes ``{"a.b": 1}``.

    Lists and empty mappings are leaves.
    """
    found: dict[str, Any] = {}
    for key, value in record.items():
        if isinstance(value, Mapping) and value:
            found |= flatten(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def as_text(value: Any) -> str:
    """Returns a value as the text of a cell: a missing one is empty, a list or a mapping is JSON."""
    if value is None or value != value:  # NaN is not equal to itself
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)


def look_of_records(records: Sequence[tuple[int, Any]], name: str, form: str) -> Look:
    """Returns what a file of objects is. The keys that half of the objects have are its columns.

    Args:
        records: The objects, each with its line or its number.
        name: The name of the file in messages.
        form: The format of the file.

    Raises:
        DataError: There is no object, or a value is not an object.
    """
    flat = []
    for number, record in records:
        if not isinstance(record, dict):
            what = f"must be a JSON object, got {type(record).__name__}"
            raise DataError(f"{name}:{number}", what, 'write {"text": ...} in each line')
        flat.append(flatten(record))
    if not flat:
        raise DataError(name, "holds no object", "name a file that holds rows")
    keys = Counter(key for record in flat for key in record)
    columns = [key for key in keys if keys[key] >= 0.5 * len(flat)]
    rows = [[as_text(record.get(key)) for key in columns] for record in flat]
    return Look(name, form, columns=columns, rows=rows, count=len(rows))
