"""Lines to rows of cells: plain columns between separators, and columns whose cells may stand in quotation marks."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable, Iterator
from typing import Any

Row = list[str] | None
LONGEST_CELL = 16 << 20
"""Largest number of characters between an opening quotation mark and its closing one."""
QUOTED = re.compile(r'((?:[^"]++|"")*+)("?)')


class BadQuote(Exception):
    """A quotation mark that does not fit: the line that opened it, and what is wrong."""

    def __init__(self, line: int, what: str):
        super().__init__(line, what)
        self.line, self.what = line, what


def plain_rows(lines: Iterable[str | None], separator: str, before: int = 0) -> Iterator[tuple[int, Row]]:
    """Yields the number of each line and its cells; None stands for a line that could not be read.

    The file has ``before`` lines in front of the first one.
    """
    for number, line in enumerate(lines, start=before + 1):
        yield number, None if line is None else line.split(separator)


def _row_of_a_line(line: str, waiting: list[str], reader: Any) -> Row | None:
    """A row of one line by the standard library; None if a mark does not fit, or a cell goes on in the next line.

    It is ten times as fast as our own code, but it does not say where a mark does not fit.

    Args:
        line: The line.
        waiting: The list that the reader takes its lines from.
        reader: A strict `csv.reader`; None if the separator has several characters.
    """
    if reader is None or "\r" in line:
        return None
    waiting.append(line)
    try:
        return next(reader)
    except (csv.Error, IndexError):
        waiting.clear()
        return None


def quoted_rows(lines: Iterable[str | None], separator: str, before: int = 0) -> Iterator[tuple[int, Row]]:
    r"""Yields rows whose cells may stand in quotation marks, each with the number of its first line.

    A cell in quotation marks may hold separators and ends of line, and ``""`` for a quotation mark (RFC 4180).
    The file has ``before`` lines in front of the first one.

    Raises:
        BadQuote: A quotation mark is not closed, or text follows a closing one.
    """
    start, opened, size = 0, 0, 0
    waiting: list[str] = []
    reader = csv.reader(iter(waiting.pop, None), delimiter=separator, strict=True) if len(separator) == 1 else None
    row: list[str] = []
    inside: list[str] = []
    for number, line in enumerate(lines, start=before + 1):
        if line is None and not opened:
            yield number, None
            continue
        line = line or ""
        if not opened and '"' not in line:
            yield number, line.split(separator)
            continue
        if not opened and (whole := _row_of_a_line(line, waiting, reader)) is not None:
            yield number, whole
            continue
        position = 0
        if not opened:
            start, row = number, []
        while True:
            if not opened and not line.startswith('"', position):
                end = line.find(separator, position)
                row.append(line[position:] if end < 0 else line[position:end])
                if end < 0:
                    break
                position = end + len(separator)
                continue
            if not opened:
                opened, inside, size, position = number, [], 0, position + 1
            match = QUOTED.match(line, position)
            assert match is not None  # the pattern matches the empty text too
            text, quote = match.groups()
            inside.append(text)
            if not quote:
                break
            position += len(text) + 1
            if position < len(line) and not line.startswith(separator, position):
                raise BadQuote(opened, f"text after its closing quote in line {number}")
            row.append("\n".join(inside).replace('""', '"'))
            opened = 0
            if position >= len(line):
                break
            position += len(separator)
        if not opened:
            yield start, row
        size += len(line)
        if size > LONGEST_CELL:
            raise BadQuote(opened, f"no closing quote in {LONGEST_CELL:,} characters")
    if opened:
        raise BadQuote(opened, "no closing quote up to the end of the file")


def rest_joined(rows: Iterable[tuple[int, Row]], count: int, separator: str) -> Iterator[tuple[int, Row]]:
    """Yields rows whose last of ``count`` columns takes the rest of the line, separators included."""
    for number, row in rows:
        if row is not None and len(row) > count:
            row = [*row[: count - 1], separator.join(row[count - 1 :])]
        yield number, row
