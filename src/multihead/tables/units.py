"""Files whose rows are units of several lines: translation units, segments and sentences. They are read as streams."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from multihead.errors import DataError
from multihead.tables import markup
from multihead.tables.conllu import sentences_in
from multihead.tables.found import Look
from multihead.tables.opening import chunks_of, lines_in, text_of
from multihead.tables.records import MOST_ROWS

FORMATS = (*markup.FORMATS, "conllu")


def units_in(form: str, path: Path, name: str, encoding: str = "utf-8") -> Iterator[markup.Unit]:
    """Yields the units of a file: the line of each, and its text by column. A unit may lack a column.

    Args:
        form: One of `FORMATS`.
        path: The file.
        name: The name of the file in messages.
        encoding: Encoding of CoNLL-U. The other formats say theirs.

    Raises:
        DataError: The file is damaged, or it is not what its format requires.
    """
    if form == "conllu":
        return sentences_in(lines_in(text_of(path, name, encoding), name), name)
    return markup.units_of(form, chunks_of(path, name), name)


def segments_in(path: Path, name: str, encoding: str = "utf-8") -> markup.Segments:
    """Returns the segments of a file of WMT's SGML.

    Raises:
        DataError: The file is damaged, or a segment is not closed.
    """
    return markup.segments_of(lines_in(text_of(path, name, encoding), name), name)


def look_at_units(form: str, path: Path, name: str, encoding: str = "utf-8") -> Look:
    """Returns what a file of units is. Its columns are those of the first units; a cell that is missing is empty.

    Raises:
        DataError: As for `units_in`.
    """
    units = [texts for _, texts in itertools.islice(units_in(form, path, name, encoding), MOST_ROWS)]
    counts = Counter(column for texts in units for column in texts)
    if not counts:
        raise DataError(name, "holds no text", "name a file that holds rows")
    columns = [column for column in counts if form != "conllu" or counts[column] >= 0.5 * len(units)]
    rows = [[texts.get(column, "") for column in columns] for texts in units]
    return Look(name, form, encoding, columns=columns, rows=rows, count=len(rows), whole=len(rows) < MOST_ROWS)
