"""What people's tables have beside rows: lines above the table, a header that comes again, marks that are no CSV."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence

from multihead.errors import DataError
from multihead.tables.dialect import Dialect
from multihead.tables.opening import Unclear
from multihead.tables.words import USUAL, normal

SEPARATOR_LINE = re.compile(r'"?sep=(.)"?')
"""A first line that names the separator for Excel."""
MOST_COMMENTS = 100
"""More lines that begin with # at the top of a file are no comments."""


def separator_line(lines: Sequence[str]) -> str:
    """Returns the separator that a first line such as ``sep=;`` states, or nothing."""
    match = SEPARATOR_LINE.fullmatch(lines[0].strip()) if lines else None
    return match[1] if match else ""


def comment_lines(lines: Sequence[str]) -> int:
    """Returns the number of lines at the top that begin with ``#``."""
    count = 0
    while count < min(len(lines), MOST_COMMENTS + 1) and lines[count].startswith("#"):
        count += 1
    return count if count <= MOST_COMMENTS else 0


def without(lines: Sequence[str], count: int) -> list[str]:
    """Returns the lines with the first ones empty, so that the others keep their numbers."""
    return [*[""] * count, *lines[count:]]


def are_comments(lines: Sequence[str], count: int, dialect: Dialect, width: int) -> bool:
    """Whether lines above a table are no rows of it: the last one, which may be the header, has another length."""
    return len(dialect.parse(lines[count - 1 : count])[0][1]) != width if lines[count - 1].strip("# ") else True


def require_one_table(rows: Sequence[Sequence[str]], header: bool | None, name: str) -> None:
    """Refuses a table whose first row comes again, as in tables that were joined, and one with a title above it.

    Args:
        rows: The rows, with the header.
        header: Whether the first row names the columns, if that is stated.
        name: The name of the file in messages.

    Raises:
        DataError: The header comes again.
        Unclear: The second row may be the header.
    """
    first, *body = rows
    names = [normal(cell) for cell in first]
    usual = sum(each in USUAL for each in names)
    if header is not False and usual > 1 and len({*names}) == len(names) and list(first) in map(list, body):
        again = [list(row) for row in body].count(list(first))
        what = (
            f"its first row ({', '.join(first)[:60]}) comes {again} more time{'s' * (again > 1)}, as in joined tables"
        )
        fix = f"awk 'NR == 1 {{head = $0}} NR == 1 || $0 != head' {shlex.quote(name)} > FIXED.csv"
        raise DataError(name, what, fix)
    second = [normal(cell) for cell in body[0]] if body else []
    if header is None and len(second) > 1 and "" in names and all(each in USUAL for each in second):
        what = f"is its second row ({', '.join(body[0])[:60]}) the names of the columns?"
        raise Unclear(name, what, "data.skip_lines=1", "data.header=true", "data.header=false")


def require_no_blank_before_marks(rows: Sequence[Sequence[str]], separator: str, name: str) -> None:
    """Refuses cells such as `` "good"``: by RFC 4180 the marks are text, and whoever wrote them did not mean that."""
    cells = [cell for row in rows for cell in row]
    odd = sum(re.fullmatch(r'\s+".*"', cell) is not None for cell in cells)
    if odd > 0.2 * len(cells):
        what = "has blanks between the separator and the quotation marks, so that the marks would be part of the text"
        mark = {"\t": r"\t", "|": "[|]"}.get(separator, separator)
        raise DataError(name, what, _sed(f's/{mark} +"/{mark.strip("[]")}"/g', name))


def _sed(script: str, name: str) -> str:
    """A command that rewrites a file."""
    return f"sed -E {shlex.quote(script)} {shlex.quote(name)} > FIXED.csv"


def require_known_marks(lines: Sequence[str], name: str) -> None:
    """Refuses a file that is no table for marks that CSV does not have, and says how to write them.

    Raises:
        DataError: Cells stand in other marks, a mark is escaped by a backslash, or a line ends with CR alone.
    """
    some = [line for line in lines if line.strip()]
    lone = next((number for number, line in enumerate(lines, start=1) if "\r" in line), 0)
    if lone:
        fix = rf"tr '\r' '\n' < {shlex.quote(name)} > FIXED.csv"
        raise DataError(f"{name}:{lone}", "ends with CR only, unlike other lines", fix)
    if not re.search(r"\.(csv|tsv)(\.\w+)?$", name.lower()):
        return
    if any(r"\"" in line for line in some):
        what = r'has \" inside of quotation marks, which CSV writes as ""'
        raise DataError(name, what, _sed(r's/\\"/""/g', name))
    for opening, closing, kind in (("'", "'", "single"), ("\u201c", "\u201d", "typographic")):
        if sum(line.lstrip().startswith(opening) for line in some[1:]) > 0.5 * len(some):
            what = f"has cells in {kind} quotation marks, which CSV does not know"
            raise DataError(name, what, _sed(rf's/(^|,){opening}/\1"/g; s/{closing}(,|$)/"\1/g', name))
