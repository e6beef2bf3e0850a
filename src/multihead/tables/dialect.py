"""The dialect of a table: which character stands between the cells, and whether cells stand in quotation marks.

Every candidate pair of separator and quoting reads the whole sample. A candidate is possible if its rows have the same
number of cells. Prose in a cell holds commas and sometimes semicolons, so that a wrong separator gives rows of many
lengths; a tab hardly ever stands in prose. If several candidates are possible, the quotation marks decide:
whoever writes a table puts either all cells of a column into them or only those that need it.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from multihead.tables.opening import Unclear
from multihead.tables.rows import BadQuote, plain_rows, quoted_rows
from multihead.tables.words import is_number

SEPARATORS = ("\t", "|", ";", ",")
SHOWN = {"\t": r"\t"}
NAMES = {"\t": "tab", "|": "bar", ";": "semicolon", ",": "comma", " ": "blank"}
ENOUGH_ROWS = 3
"""In so many rows of one length, a tab is the separator even if another one fits as well."""
CONSISTENT = 0.9
"""Share of the rows that must have the same number of cells."""


@dataclass(frozen=True)
class Dialect:
    """How a line is cut into cells."""

    separator: str
    """Text between two cells."""
    quoting: bool
    """Whether cells may stand in quotation marks."""

    def parse(self, lines: Sequence[str]) -> list[tuple[int, list[str]]]:
        """Returns the rows that are not blank, each with its line.

        Raises:
            BadQuote: A quotation mark does not fit.
        """
        rows = (quoted_rows if self.quoting else plain_rows)(lines, self.separator)
        return [(number, row) for number, row in rows if row is not None and (len(row) > 1 or row[0].strip())]

    @property
    def name(self) -> str:
        """The dialect as people call it."""
        kind = {"\t": "TSV", ",": "CSV"}.get(self.separator, f"{NAMES.get(self.separator, self.separator)}-separated")
        return f"{kind}, quoted" if self.quoting else kind


@dataclass
class Candidate:
    """A dialect and what it makes of the sample."""

    dialect: Dialect
    rows: list[tuple[int, list[str]]]
    width: int
    """Number of cells that most rows have."""
    share: float
    """Share of the rows that have this number of cells."""

    @property
    def cuts_quotes(self) -> bool:
        """Whether the plain reading cuts inside of quotation marks: a cell begins or ends with one of a pair."""
        if self.dialect.quoting:
            return False
        cells = [cell for _, row in self.rows for cell in row]
        return any(cell.count('"') % 2 and '"' in (cell[0], cell[-1]) for cell in cells if cell)

    @property
    def others(self) -> list[tuple[int, list[str]]]:
        """The rows that have another number of cells."""
        return [(number, row) for number, row in self.rows if len(row) != self.width]


def candidates(lines: Sequence[str], whole: bool, separators: Sequence[str] = SEPARATORS) -> list[Candidate]:
    """Returns what each dialect makes of the lines, the plain reading of a separator before the quoted one.

    Args:
        lines: Lines of the file, from its first one.
        whole: Whether these are all lines; otherwise the last row may be cut and is left out.
        separators: The separators to try.
    """
    found = []
    marked = any('"' in line for line in lines)
    for separator in separators:
        for quoting in (False, True) if marked else (False,):
            dialect = Dialect(separator, quoting)
            rows = _parsed(dialect, lines, whole)
            if not rows:
                continue
            width, count = Counter(len(row) for _, row in rows).most_common(1)[0]
            found.append(Candidate(dialect, rows, width, count / len(rows)))
    return found


def _parsed(dialect: Dialect, lines: Sequence[str], whole: bool) -> list[tuple[int, list[str]]]:
    """The rows of a sample; none if a quotation mark does not fit, unless it is one that the end of the sample cuts."""
    try:
        return dialect.parse(lines)
    except BadQuote as bad:
        if whole or "end of the file" not in bad.what or bad.line < 2:
            return []
        return _parsed(dialect, lines[: bad.line - 1], True)


def find_dialect(
    lines: Sequence[str], whole: bool, name: str, separators: Sequence[str] = SEPARATORS
) -> Candidate | None:
    """Returns the dialect in which the lines are a table of at least two columns, or None if they are no table.

    Args:
        lines: Lines of the file, from its first one.
        whole: Whether these are all lines of the file.
        name: The name of the file. Its ending decides nothing, but a ``.csv`` may have one quoted column.
        separators: The separators to try.

    Raises:
        Unclear: Two dialects fit.
    """
    tried = candidates(lines, whole, separators)
    possible = [each for each in tried if each.width > 1 and each.share >= CONSISTENT]
    best = max((each.share for each in possible), default=0.0)
    whole_ones = [each for each in possible if each.share == best]
    separators = list(dict.fromkeys(each.dialect.separator for each in whole_ones))
    if not separators:
        return _one_quoted_column(tried, name)
    if len(separators) > 1:
        whole_ones = [each for each in whole_ones if not each.cuts_quotes] or whole_ones
        separators = list(dict.fromkeys(each.dialect.separator for each in whole_ones))
    if len(separators) > 1:
        separators = _one_separator(whole_ones, separators, name)
    of_separator = [each for each in whole_ones if each.dialect.separator == separators[0]]
    if len(of_separator) == 1:
        return of_separator[0]
    plain, quoted = of_separator
    return _quoted_or_not(plain, quoted, name)


def _one_quoted_column(tried: Sequence[Candidate], name: str) -> Candidate | None:
    """A table of one column whose cells stand in quotation marks, which only its ending shows to be one."""
    for each in tried:
        one = each.dialect.separator == "," and each.dialect.quoting and each.width == 1 and each.share == 1
        if one and re.search(r"\.csv(\.\w+)?$", name):
            return each
    return None


def _one_separator(possible: Sequence[Candidate], separators: list[str], name: str) -> list[str]:
    """Chooses the separator, if several give rows of one length."""
    if separators[0] == "\t" and len(possible[0].rows) >= ENOUGH_ROWS:
        return separators[:1]
    readings = [next(each for each in possible if each.dialect.separator == mark) for mark in separators]
    left = [each.dialect.separator for each in readings if not _is_prose(each)] or separators
    if len(left) == 1:
        return left
    words = [f"'data.separator=\"{SHOWN.get(mark, mark)}\"'" for mark in left]
    raise Unclear(name, f"do {' or '.join(f'{NAMES[mark]}s' for mark in left)} stand between its columns?", *words)


def _is_prose(candidate: Candidate) -> bool:
    """Whether the separator is punctuation of sentences or the point of decimal numbers."""
    pairs = [pair for _, row in candidate.rows for pair in itertools.pairwise(row)]
    punctuation = sum(right.startswith(" ") for _, right in pairs)
    decimal = sum(bool(re.search(r"[^\d,]\d+$", left) and re.match(r"\d+([^\d,]|$)", right)) for left, right in pairs)
    return max(punctuation, decimal) > 0.5 * len(pairs)


def _quoted_or_not(plain: Candidate, quoted: Candidate, name: str) -> Candidate:
    """Decides whether quotation marks stand around cells or are text, if both readings give rows of one length.

    A cell in quotation marks over several lines has a plain reading only by chance: the user is asked. Programs put
    every cell that holds a mark into marks and double it, so a mark elsewhere is text. They put all texts of a column
    into marks, or only those that need it. Marks around a few cells that need none are text in a file with tabs; in
    one with commas or semicolons a person may have written them, so that the user is asked.
    """
    if plain.width != quoted.width:
        return quoted if plain.cuts_quotes else plain
    if len(plain.rows) != len(quoted.rows):
        if plain.share == 1 and plain.dialect.separator in "\t|":
            what = "do its quotation marks enclose cells with line breaks, or are they part of the text?"
            raise Unclear(name, what, "data.quoting=true", "data.quoting=false")
        return quoted
    cells = [cell for _, row in plain.rows for cell in row]
    marked = [cell for cell in cells if len(cell) > 1 and cell[0] == cell[-1] == '"']
    inner = [cell[1:-1] for cell in marked if '"' in cell[1:-1]]
    if len(marked) < sum('"' in cell for cell in cells) or any('"' in each.replace('""', "") for each in inner):
        return plain  # who writes CSV puts every cell with a quotation mark into quotation marks
    if inner or len(marked) == len(cells):
        return quoted
    body = [row for _, row in plain.rows[1:]]
    texts = [
        [row[place] for row in body if len(row) > place and _is_written(row[place])] for place in range(plain.width)
    ]
    if len(body) > 1 and any(column and all(each in marked for each in column) for column in texts):
        return quoted
    if plain.dialect.separator in "\t|":
        return plain
    what = "do its quotation marks enclose cells, or are they part of the text?"
    raise Unclear(name, what, "data.quoting=true", "data.quoting=false")


def _is_written(cell: str) -> bool:
    """Whether a program that puts texts into quotation marks would do so with this cell."""
    return bool(cell) and cell not in ("NA", "null", "NULL") and not is_number(cell)
