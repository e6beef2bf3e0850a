"""The columns of a regular table, cut out of whole blocks of a file by array operations.

A block is regular if each row has the expected number of cells and each quotation mark stands as RFC 4180 says. The
first block that is not regular ends the reading, and `rows` reads the file on from there, one line at a time. So both
give the same rows, and errors come from one place.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np

from multihead.text.inputs import UTF8_BOM, is_blank

LONGEST_ROW = 16 << 20
"""Largest number of bytes of a row that is read here."""
FEW_VALUES = 1000
"""A column with fewer different texts keeps one object for each of them, as labels do."""
NEWLINE, QUOTE = 10, 34
VISIBLE = np.zeros(256, dtype=bool)
"""Bytes with which a text in UTF-8 begins only if its first character is visible."""
for _first, _last in ((0x30, 0x39), (0x41, 0x5A), (0x61, 0x7A), (0xC3, 0xD7), (0xE4, 0xED)):
    VISIBLE[_first : _last + 1] = True


@dataclass
class Columns:
    """What was read of a file, from its beginning."""

    values: list[list[str]]
    """The texts of each wanted column."""
    numbers: array[int] = field(default_factory=lambda: array("q"))
    """The number of the first line of each row."""
    lines: int = 0
    """The number of lines that were read."""
    done: bool = False
    """Whether the whole file was read."""
    marked: bool = False
    """Whether the file begins with a byte-order mark."""
    blank: list[list[int]] = field(default_factory=list)
    """The rows whose text is blank, of each wanted column."""


@dataclass(frozen=True)
class Shape:
    """What a regular row looks like."""

    separator: str
    quoting: bool
    """Whether cells may stand in quotation marks."""
    width: int
    """Number of cells."""
    wanted: Sequence[int]
    """The cells to keep."""


def read_regular(blocks: Iterable[bytes], shape: Shape, header: bool) -> Columns:
    """Reads columns up to the first block that is not regular.

    Args:
        blocks: The content of the file in UTF-8, in pieces.
        shape: The rows.
        header: Whether the first row is left out.
    """
    found = Columns([[] for _ in shape.wanted], blank=[[] for _ in shape.wanted])
    if len(shape.separator) > 1 or not shape.separator.isascii():
        return found
    known: list[dict[str, str] | None] = [{} for _ in shape.wanted]
    rest = b""
    for block in itertools.chain(blocks, [b""]):
        rest += block
        end = rest.rfind(b"\n") + 1
        whole, cut = (rest[:end], rest[end:]) if block else (rest.removesuffix(b"\r"), b"")
        if not block and not whole.endswith(b"\n") and whole:
            whole += b"\n"
        if found.lines == 0 and whole.startswith(UTF8_BOM):
            whole, found.marked = whole[len(UTF8_BOM) :], True
        if b"\r" in whole:
            whole = whole.replace(b"\r\n", b"\n")
        rows = _rows_of(whole, shape) if whole else None
        if whole and (rows is None or (not block and rows.size < len(whole))):
            return found
        rest = whole[rows.size if rows else 0 :] + cut
        if len(rest) > LONGEST_ROW:
            return found
        if rows and len(rows.starts):
            _add(found, whole, rows, shape, known, header and found.lines == 0)
    found.done = found.lines > 0
    return found


@dataclass
class _Rows:
    """The places of the cells of the complete rows of a block."""

    starts: np.ndarray
    """First byte of each cell, (rows, width)."""
    ends: np.ndarray
    """The byte behind each cell, (rows, width)."""
    quotes: np.ndarray | None
    """Number of quotation marks in each cell, (rows, width); None if the block has none."""
    second: np.ndarray
    """Places of the second of two marks that stand for one."""
    lines: np.ndarray
    """Number of lines that end with or before each row."""
    size: int
    """Bytes of the complete rows."""


def _rows_of(block: bytes, shape: Shape) -> _Rows | None:
    """Cuts the complete rows of a block into cells; None if they are not regular."""
    if b"\r" in block or b"\0" in block or not _is_utf8(block):
        return None
    buffer = np.frombuffer(block, np.uint8)
    separator = ord(shape.separator)
    special = (buffer == separator) | (buffer == NEWLINE)
    marked = shape.quoting and b'"' in block
    if marked:
        special |= buffer == QUOTE
    places = np.flatnonzero(special)
    kinds = buffer[places]
    counts, second = None, places[:0]
    cuts = np.arange(len(places))
    if marked:
        quotes = kinds == QUOTE
        marks = places[quotes]
        if not _are_regular(buffer, marks, separator):
            return None
        second = marks[2::2][np.diff(marks)[1::2] == 1]
        counts = np.cumsum(quotes)
        cuts = np.flatnonzero(~quotes & (counts & 1 == 0))
    rows_end = np.flatnonzero(kinds[cuts] == NEWLINE)
    cuts = cuts[: rows_end[-1] + 1] if len(rows_end) else cuts[:0]
    if len(cuts) != len(rows_end) * shape.width or (rows_end % shape.width != shape.width - 1).any():
        return None
    ends = places[cuts].reshape(-1, shape.width)
    starts = np.concatenate([[0], ends.ravel()[:-1] + 1])[: ends.size].reshape(ends.shape)
    if len(ends) and (ends[:, -1] - starts[:, 0]).max() > LONGEST_ROW:
        return None
    if counts is not None:
        counts = np.diff(counts[cuts], prepend=0).reshape(ends.shape)
    lines = np.cumsum(kinds == NEWLINE)[cuts[shape.width - 1 :: shape.width]]
    return _Rows(starts, ends, counts, second, lines, int(ends[-1, -1]) + 1 if len(ends) else 0)


def _is_utf8(block: bytes) -> bool:
    if block.isascii():
        return True
    try:
        block.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _are_regular(buffer: np.ndarray, quotes: np.ndarray, separator: int) -> bool:
    """Whether each mark that opens stands at the beginning of a cell, and each that closes at its end.

    A doubled mark closes and opens again.
    """
    opening, closing = quotes[0::2], quotes[1::2]
    before = buffer[opening - 1]
    before[opening == 0] = NEWLINE
    behind = buffer[closing + 1]  # the block ends with an end of line
    return all(bool(((near == separator) | (near == NEWLINE) | (near == QUOTE)).all()) for near in (before, behind))


def _add(
    found: Columns, block: bytes, rows: _Rows, shape: Shape, known: list[dict[str, str] | None], header: bool
) -> None:
    """Appends the rows of a block."""
    starts, ends = rows.starts, rows.ends
    if rows.quotes is not None:
        block, starts, ends = _without_marks(block, rows)
    text = block.decode("ascii") if block.isascii() else None
    for number, column in enumerate(shape.wanted):
        places = zip(starts[header:, column].tolist(), ends[header:, column].tolist(), strict=True)
        if text is not None:
            cells = [text[start:end] for start, end in places]
        else:
            cells = [str(block[start:end], "utf-8") for start, end in places]
        first = np.frombuffer(block, np.uint8)[starts[header:, column]]
        unsure = np.flatnonzero(~VISIBLE[first] | (starts[header:, column] == ends[header:, column])).tolist()
        before = len(found.values[number])
        found.blank[number] += [before + row for row in unsure if is_blank(cells[row])]
        same = known[number]
        if same is not None:
            cells = list(map(same.setdefault, cells, cells))
            known[number] = same if len(same) < FEW_VALUES else None
        found.values[number] += cells
    before = np.concatenate([[0], rows.lines[:-1]])[header:]
    found.numbers.frombytes((before + found.lines + 1).astype(np.int64).tobytes())
    found.lines += int(rows.lines[-1])


def _without_marks(block: bytes, rows: _Rows) -> tuple[bytes, np.ndarray, np.ndarray]:
    """The block with single marks for doubled ones, and the places of the texts inside of the cells' marks."""
    assert rows.quotes is not None
    quoted = (rows.quotes > 0).astype(np.int64)
    doubled = rows.quotes // 2 - quoted
    shift = 0
    if len(rows.second):
        buffer = np.frombuffer(block, np.uint8).copy()
        buffer[rows.second] = 0  # a regular block holds no NUL
        block = buffer.tobytes().replace(b"\0", b"")
        shift = np.cumsum(doubled).reshape(doubled.shape) - doubled
    starts = rows.starts + quoted - shift
    return block, starts, starts + (rows.ends - rows.starts) - 2 * quoted - doubled
