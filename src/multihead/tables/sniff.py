"""Finds from the content of a file its format, encoding, dialect, header and columns, and a sample of its rows."""

from __future__ import annotations

import codecs
import csv
import itertools
import re
import shlex
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO, Any

from multihead.errors import DataError, together
from multihead.tables.columnar import look_at_arrow, look_at_parquet
from multihead.tables.compression import COMPRESSED, Damaged, kind_of
from multihead.tables.conllu import is_conllu
from multihead.tables.dialect import SEPARATORS, Candidate, Dialect, candidates, find_dialect
from multihead.tables.found import Look
from multihead.tables.markup import format_of_markup
from multihead.tables.oddities import (
    are_comments,
    comment_lines,
    require_known_marks,
    require_no_blank_before_marks,
    require_one_table,
    separator_line,
    without,
)
from multihead.tables.opening import BOMS, Unclear, find_encoding, open_bytes, wide_encoding
from multihead.tables.records import MOST_ROWS, are_objects, is_array, look_at_array, look_at_objects
from multihead.tables.rows import BadQuote
from multihead.tables.units import FORMATS as UNITS
from multihead.tables.units import look_at_units
from multihead.tables.words import USUAL, is_number, normal

HEAD_BYTES = 1 << 20
"""Bytes at the beginning of a file by which its dialect is found."""
SAMPLE_BYTES = 32 << 20
"""Bytes by which columns and roles are found. Files up to this size are read whole."""
TEXTS = (".txt", ".md", ".py", ".rst", ".tex", ".text")
"""Endings of running text."""


def look(path: Path, name: str, stated: Mapping[str, Any]) -> Look:
    """Finds the format, the dialect and the columns of a file.

    Args:
        path: The file.
        name: The name of the file in messages.
        stated: Keys of ``data`` that the user has set: format, separator, quoting, header, encoding, columns. They win.

    Raises:
        DataError: The file is empty, damaged, or not a table.
        Unclear: Two readings are near each other.
    """
    form = str(stated.get("format") or "") or format_of_name(name).replace("csv", "")
    with open_bytes(path, name) as file:
        try:
            head = _read(file, HEAD_BYTES)
            if head[:4] == b"PAR1" or form == "parquet":
                return look_at_parquet(path, name)
            if head[:6] == b"ARROW1" or form == "arrow":
                return look_at_arrow(path, name)
            if not head.strip():
                raise DataError(name, "is empty", "name a file that holds rows")
            form = form or _format_of_units(head)
            if form == "sgm":
                what = "is SGML of WMT, which is read from files that end in .sgm"
                raise DataError(name, what, shlex.join(["mv", name, f"{name}.sgm"]))
            if form in UNITS:
                return look_at_units(form, path, name, str(stated.get("encoding") or "utf-8"))
            _require_text(head, name)
            more = _read(file, SAMPLE_BYTES - len(head)) if len(head) == HEAD_BYTES else b""
            whole = len(head) + len(more) < SAMPLE_BYTES
        except Damaged as error:
            what = f"damaged {kind_of(path)} data ({error})"
            raise DataError(name, what, "copy or download the file again") from error
    skip = stated.get("on_bad_line") == "skip"
    encoding = str(stated.get("encoding") or "") or find_encoding(head + more, whole, name, skip)
    text = _decoded(head + more, encoding, whole, name, skip)
    size = path.stat().st_size
    found = _look_at_text(text, name, form, stated, whole)
    found.encoding, found.whole = ("utf-8" if encoding == "utf-16" else encoding), whole
    if not whole:
        found.count = int(found.count * max(1.0, size / (len(head) + len(more))))
    return found


ENDINGS = {
    ".csv": "csv",
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".parquet": "parquet",
    ".arrow": "arrow",
    ".tmx": "tmx",
    ".xlf": "xliff",
    ".xliff": "xliff",
    ".sgm": "sgm",
    ".sgml": "sgm",
    ".conllu": "conllu",
}
"""Endings that say the format."""


def format_of_name(name: str) -> str:
    """Returns the format that the ending of a file says, or nothing."""
    return ENDINGS.get(_ending(name), "")


def _read(file: IO[bytes], most: int) -> bytes:
    """Reads up to ``most`` bytes; a decompressor may return fewer at a time."""
    chunks, size = [], 0
    while size < most and (chunk := file.read(min(most - size, 1 << 20))):
        chunks.append(chunk)
        size += len(chunk)
    return b"".join(chunks)


UTF8 = ("utf-8", "utf-8-sig")
"""Encodings of which a reader can leave out the lines that are damaged."""

MARKUP = (
    (rb"\s*(<\?xml|<mteval|<doc\b)", "XML"),
    (rb"\s*(<!doctype html|<html)", "HTML"),
    (rb"%PDF-", "PDF"),
    (rb"\xd0\xcf\x11\xe0", "an old Excel or Word file"),
    (rb"\x80[\x02-\x05]", "a Python pickle, which may run code when it is read"),
    (rb"SQLite format 3", "an SQLite database"),
    (rb"version https://git-lfs", "a pointer of Git LFS and not the file itself"),
)


def _format_of_units(head: bytes) -> str:
    """The format of a file of units, such as a translation memory, if its first bytes are one."""
    encoding = next((name for mark, name in BOMS if head.startswith(mark)), "") or wide_encoding(head) or "latin-1"
    text = head[: 1 << 16].decode(encoding, "replace").removeprefix("\ufeff").removeprefix("ï»¿")
    return format_of_markup(text) or ("conllu" if is_conllu(text.split("\n")[:-1]) else "")


def _require_text(head: bytes, name: str) -> None:
    for pattern, kind in MARKUP:
        if re.match(pattern, head, re.IGNORECASE):
            raise DataError(name, f"is {kind}, which Multihead does not read", "convert it to CSV or JSON lines")


def _decoded(content: bytes, encoding: str, whole: bool, name: str, skip: bool) -> str:
    """The text of a file. If bad lines are left out, those that are not UTF-8 have marks of replacement here."""
    try:
        decoder = codecs.getincrementaldecoder(encoding)("replace" if skip and encoding in UTF8 else "strict")
    except LookupError as error:
        raise DataError("data.encoding", f"no such encoding: {encoding}", "data.encoding=cp1252") from error
    try:
        return decoder.decode(content, final=whole).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        what = f"byte 0x{content[error.start]:02X} does not fit data.encoding={encoding}"
        raise DataError(f"{name}:{line}", what, "leave data.encoding out, and Multihead detects it") from error


def _look_at_text(text: str, name: str, form: str, stated: Mapping[str, Any], whole: bool) -> Look:
    if "\n" not in text and text.count("\r") > 1:
        raise DataError(
            name, "ends its lines with CR only, as on old Macs", f"tr '\\r' '\\n' < {shlex.quote(name)} > FIXED"
        )
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if whole and lines and not lines[-1]:
        lines.pop()
    if not whole:
        lines.pop()  # it may be cut
    start = text.lstrip()[:1]
    if form == "json" or (not form and start == "[" and is_array(text)):
        return look_at_array(text, name, whole)
    if form == "jsonl" or (not form and start == "{" and are_objects(lines)):
        return look_at_objects(lines, name, stated.get("on_bad_line") == "skip")
    if form == "text" or (not form and _ending(name) in (".md", ".py", ".rst", ".tex")):
        return Look(name, "text", columns=["text"], rows=[[line] for line in lines[:MOST_ROWS]], count=len(lines))
    return _look_at_table(lines, name, form, stated, whole)


def _ending(name: str) -> str:
    return Path(re.sub(rf"({'|'.join(map(re.escape, COMPRESSED))})$", "", name.lower())).suffix


# ---------------------------------------------------------------------------------------------------------------------
# Tables


def _look_at_table(lines: list[str], name: str, form: str, stated: Mapping[str, Any], whole: bool) -> Look:
    head, size = 0, 0
    while head < len(lines) and size < HEAD_BYTES:
        size += len(lines[head]) + 1
        head += 1
    all_seen = whole and head == len(lines)
    skip = int(stated.get("skip_lines") or 0)
    if not skip and (separator := separator_line(lines)):
        skip, stated = 1, {"separator": separator, **stated}
    comments = comment_lines(lines) if not skip and "skip_lines" not in stated else 0
    lines, original = (without(lines, skip or comments), lines) if skip or comments else (lines, lines)
    found = _stated_dialect(lines[:head], name, form, stated, all_seen)
    if comments:
        if found is None or not are_comments(original, comments, found.dialect, found.width):
            return _look_at_table(original, name, form, {**stated, "skip_lines": 0}, whole)
        skip = comments
    if found is None:
        _require_closed_quotes(lines[:head], name)
        require_known_marks(lines[:head], name)
        return _look_at_lines(lines, name)
    if not found.dialect.quoting and stated.get("quoting") is None and any('"' in line for line in lines[head:]):
        found = find_dialect(lines, whole, name, [found.dialect.separator]) or found  # marks stand only further down
    if not stated.get("columns") and stated.get("header") is not False and not stated.get("last_takes_rest"):
        _require_no_title(found, name)
    if found.others and stated.get("on_bad_line") != "skip" and not stated.get("last_takes_rest"):
        raise _ragged(name, found.others, found.width)
    rows, share = [row for _, row in found.rows], 1.0
    if not all_seen:
        rows, share = _rows_of(lines, found.dialect, len(lines) if whole else MOST_ROWS + 1)
        if whole and stated.get("on_bad_line") != "skip" and not stated.get("last_takes_rest"):
            _require_regular(lines, rows, found, name)
    rows = [row for row in rows if len(row) == found.width]
    header = stated.get("header")
    require_one_table(rows, False if stated.get("columns") and header is None else header, name)
    require_no_blank_before_marks(rows[:1000], found.dialect.separator, name)
    if header is None:
        header = not stated.get("columns") and _has_header(rows, name)
    columns = list(stated.get("columns") or []) or _names(rows[0] if header else [], found.width, name, skip + 1)
    form = "tsv" if found.dialect.separator == "\t" and not found.dialect.quoting else "csv"
    body = rows[1:] if header else rows
    if not body:
        raise DataError(name, "has no row below its header", "name a file that holds rows")
    return Look(
        name, form, dialect=found.dialect, header=header, columns=columns, rows=body[:MOST_ROWS],
        count=round(len(body) / share), skip_lines=skip, blocks=1 if found.dialect.quoting else _blocks(lines),
    )  # fmt: skip


def _blocks(lines: Sequence[str]) -> int:
    """The number of blocks of lines that empty lines part."""
    return sum(bool(line) and not before for before, line in itertools.pairwise(["", *lines]))


def _stated_dialect(lines: list[str], name: str, form: str, stated: Mapping[str, Any], whole: bool):
    """The dialect, as far as the user has stated it, and otherwise as it is found."""
    separator = str(stated.get("separator") or "") or ("\t" if form == "tsv" else "")
    quoting = stated.get("quoting")
    if not separator and quoting is None:
        return find_dialect(lines, whole, name)
    tried = candidates(lines, whole, [separator] if separator else SEPARATORS)
    fitting = [each for each in tried if quoting is None or each.dialect.quoting == bool(quoting)]
    if not fitting:  # the file has no quotation mark, so that both readings are the same
        fitting = tried
    best = max(fitting, key=lambda each: (each.share * (each.width > 1), not each.dialect.quoting), default=None)
    if best is None or (best.width == 1 and form != "csv"):
        return None
    if quoting is not None:
        best.dialect = Dialect(best.dialect.separator, bool(quoting))
    return best


def _require_closed_quotes(lines: Sequence[str], name: str) -> None:
    """Refuses a file that is a table up to a quotation mark that does not fit."""
    for separator in SEPARATORS:
        try:
            Dialect(separator, True).parse(lines)
        except BadQuote as bad:
            widths = {len(row) for _, row in Dialect(separator, True).parse(lines[: bad.line - 1])}
            if len(widths) == 1 and widths != {1} and bad.line > 2:
                what = f"the quotation mark that opens here has {bad.what}"
                fix = 'write " inside a field as "", or data.quoting=false'
                raise DataError(f"{name}:{bad.line}", what, fix) from None


def _rows_of(lines: Sequence[str], dialect: Dialect, most: int) -> tuple[list[list[str]], float]:
    """The first rows of a sample, by the standard library, which is the fastest; and the share of the lines in them."""
    if not dialect.quoting:
        some = lines[:most]
        return [line.split(dialect.separator) for line in some if line.strip()], len(some) / len(lines)
    if len(dialect.separator) > 1:  # the standard library takes one character
        return [row for _, row in dialect.parse(lines)][:most], 1.0
    csv.field_size_limit(1 << 27)
    reader = csv.reader((line + "\n" for line in lines), delimiter=dialect.separator, strict=False)
    try:
        rows = list(itertools.islice((row for row in reader if row), most))
    except csv.Error:  # a carriage return within a line, which is a character like others here
        return [row for _, row in dialect.parse(lines)][:most], 1.0
    return rows, reader.line_num / len(lines)


def _require_regular(lines: Sequence[str], rows: Sequence[list[str]], found: Candidate, name: str) -> None:
    """Refuses a file with rows of another length behind those by which its dialect was found.

    The lines of such rows are looked for only if there are some, since that takes longer than reading them.
    """
    if all(len(row) == found.width or not any(map(str.strip, row)) for row in rows) and not _ends_in_quotes(
        rows, lines
    ):
        return
    try:
        others = [(at, row) for at, row in found.dialect.parse(lines) if len(row) != found.width]
    except BadQuote as bad:
        what = f"the quotation mark that opens here has {bad.what}"
        raise DataError(f"{name}:{bad.line}", what, 'write " inside a field as "", or data.quoting=false') from None
    if others:
        raise _ragged(name, others, found.width)


def _ends_in_quotes(rows: Sequence[list[str]], lines: Sequence[str]) -> bool:
    """Whether the last cell takes many lines, as it does if its quotation mark is not closed."""
    return bool(rows) and rows[-1][-1].count("\n") > 1 and len(lines) > 1


def _require_no_title(found: Candidate, name: str) -> None:
    """Refuses a file that begins with lines of one cell, such as a title: the first of them would be the header."""
    first = min((number for number, row in found.rows if len(row) == found.width), default=0)
    titles = [number for number, row in found.rows if number < first and len(row) == 1 and row[0].strip()]
    if titles and all(number < first for number, _ in found.others):
        what = f"stands above a table of {found.width} columns, and would be read as its header"
        raise DataError(f"{name}:{titles[0]}", what, f"data.skip_lines={first - 1}")


def _ragged(name: str, others: Sequence[tuple[int, list[str]]], width: int) -> DataError:
    fix = "fix the line, or data.on_bad_line=skip"
    return together(
        [DataError(f"{name}:{number}", f"has {len(row)} columns, expected {width}", fix) for number, row in others]
    )


def _look_at_lines(lines: list[str], name: str) -> Look:
    """A file that is no table: running text, or lines that begin with a label."""
    found = Look(name, "text", columns=["text"], rows=[[line] for line in lines[:MOST_ROWS]], count=len(lines))
    some = [line for line in lines if line.strip()]
    firsts = Counter(line.split(" ", 1)[0] for line in some)
    if all(line.startswith("__label__") for line in some):
        found.first_token_is_label = "__label__(.*)"
    elif (
        len(some) >= 4
        and 2 <= len(firsts) <= max(2, 0.2 * len(some))
        and all(re.fullmatch(r"[A-Z]+(:\w+)?", first) for first in firsts)
    ):
        found.first_token_is_label = ".*"
    return found


def _names(header: Sequence[str], width: int, name: str, line: int) -> list[str]:
    """The names of the columns; a nameless column, such as the index that pandas writes, is named by its place."""
    names = [cell.strip() or f"column{place}" for place, cell in enumerate(header, start=1)]
    names = names or [f"column{place}" for place in range(1, width + 1)]
    twice = [each for each, count in Counter(names).items() if count > 1]
    if twice:
        fix = f"'data.columns=[{','.join(f'column{place}' for place in range(1, width + 1))}]' data.header=true"
        raise DataError(f"{name}:{line}", f"the header names the column {twice[0]!r} twice", fix)
    return names


NAME = re.compile(r"[^\W\d][^\n]{0,59}(?<![.?!:,;])")
"""A cell that may be the name of a column."""


def _has_header(rows: Sequence[Sequence[str]], name: str) -> bool:
    """Whether the first row names the columns: it has usual names, or is of another kind than the rows below.

    Raises:
        Unclear: It may be a header or a row.
    """
    first, body = [cell.strip() for cell in rows[0]], rows[1:]
    names = [cell for cell in first if cell]
    if not names or not all(NAME.fullmatch(cell) for cell in names):
        return False
    columns = [[row[place] for row in body] for place in range(len(first))]
    if any(len(cell.split()) > 5 for cell in names):
        return False
    again = {cell for cell, column in zip(first, columns, strict=True) if cell and cell in column}
    usual = any(normal(cell) in USUAL for cell in names if cell not in again)
    if usual and not again:
        return True
    if again and not usual:
        return False
    if not body or len(set(names)) < len(names):
        return False
    if not again and any(cell and _are_numbers(column) for cell, column in zip(first, columns, strict=True)):
        return True
    what = f"is its first row ({', '.join(map(repr, first))[:80]}) the names of the columns?"
    raise Unclear(name, what, "data.header=true", "data.header=false")


def _are_numbers(column: Sequence[str]) -> bool:
    filled = [cell for cell in column if cell.strip()]
    return len(filled) > 1 and all(is_number(cell) for cell in filled)
