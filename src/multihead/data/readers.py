"""Files and hubs to columns of text: one reader for each format.

A reader takes the columns that it is asked for and opens no other file. `lines` splits files into lines.
"""

from __future__ import annotations

import contextlib
import difflib
import itertools
import json
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from multihead.config.check import require
from multihead.config.data import DataConfig
from multihead.data.lines import SKIP, Lines, find, folder_of, is_hidden, open_lines
from multihead.data.regular import Columns, Shape, read_regular
from multihead.errors import ConfigError, DataError, Findings, together
from multihead.tables import opening, units
from multihead.tables.columnar import arrow_batches
from multihead.tables.layout import UNLABELLED
from multihead.tables.records import as_text, objects_in
from multihead.tables.rows import BadQuote, Row, plain_rows, quoted_rows, rest_joined
from multihead.text.inputs import is_blank

SHARD = 1 << 40
"""The line of a row in the n-th file of a split is its line in that file plus n times this number."""


@dataclass
class Table:
    """Columns of text of one split and where each row came from."""

    columns: Mapping[str, list[str]]
    """Column name to its text, one entry per row."""
    files: dict[str, str]
    """Column name to the file it was read from, as the configuration names it."""
    lines: np.ndarray
    """Line number (from 1) of each row, the same in each of parallel files. `SHARD` counts several files."""
    notes: list[str] = field(default_factory=list)
    """Sentences about what was skipped or changed in reading, each with its count."""
    skipped: int = 0
    """Number of rows that ``data.on_bad_line=skip`` left out."""
    shards: tuple[str, ...] = ()
    """The files of the split if there are several that are read one after the other."""
    blank: dict[str, list[int]] = field(default_factory=dict)
    """Column name to its rows that are blank, if the reader has looked for them."""

    def __len__(self) -> int:
        return len(self.lines)


def read_split(config: DataConfig, split: str, columns: Sequence[str]) -> Table:
    """Reads the named columns of one split.

    Raises:
        DataError: A file is missing or a row is not as the configuration describes it.
    """
    files = getattr(config, split)
    if config.format == "hub":
        return read_hub(config, files or split, columns)
    if config.format == "parallel":
        return read_parallel(config, files, columns)
    if config.format == "sgm":
        return read_segments(config, files, columns)
    if config.format == "folders":
        return read_folders(config, files, columns)
    reader = READERS[config.format]
    if isinstance(files, str):
        return reader(config, files, columns)
    tables = [reader(config, file, columns) for file in files]
    if split == "train" and config.train_shares:
        tables = _in_shares(tables, files, config.train_shares)
    return _joined(tables, files)


SHARES_SEED = 0x5A4E
"""Seed of the rows that `data.train_shares` draws."""


def _in_shares(tables: Sequence[Table], files: Sequence[str], shares: Sequence[float]) -> list[Table]:
    """The largest tables whose numbers of rows are in these proportions. The rows that stay keep their order."""
    total = min(len(table) / share for table, share in zip(tables, shares, strict=True))
    found = []
    for number, (table, file, share) in enumerate(zip(tables, files, shares, strict=True)):
        count = max(1, round(total * share))
        drawn = np.sort(np.random.default_rng([SHARES_SEED, number]).permutation(len(table))[:count])
        columns = {name: [texts[row] for row in drawn] for name, texts in table.columns.items()}
        note = f"{file}: {len(drawn):,} of {len(table):,} rows are used (data.train_shares)"
        found.append(Table(columns, table.files, table.lines[drawn], [*table.notes, note], table.skipped))
    return found


def _joined(tables: Sequence[Table], files: Sequence[str]) -> Table:
    """One table of the rows of several files."""
    return Table(
        {column: [text for table in tables for text in table.columns[column]] for column in tables[0].columns},
        tables[0].files,
        np.concatenate([table.lines + number * SHARD for number, table in enumerate(tables)]),
        [note for table in tables for note in table.notes],
        sum(table.skipped for table in tables),
        tuple(files),
    )


# ---------------------------------------------------------------------------------------------------------------------
# Formats


def read_parallel(config: DataConfig, files: Sequence[str], columns: Sequence[str]) -> Table:
    """Reads one file for each column. Line i of each file belongs to row i."""
    _require_a_name_each(config, files)
    names = {column: files[config.columns.index(column)] for column in columns}
    sides = {column: open_lines(config, name) for column, name in names.items()}
    with _together(*sides.values()):
        texts = {column: list(side) for column, side in sides.items()}
    first, *others = columns
    for other in others:
        if len(texts[other]) != len(texts[first]):
            raise _different_lengths(names[first], texts[first], names[other], texts[other])
    kept = [i for i, row in enumerate(zip(*texts.values(), strict=True)) if None not in row]
    return Table(
        {column: [text[i] or "" for i in kept] for column, text in texts.items()},
        names,
        np.array(kept, dtype=np.int64) + 1,
        [note for side in sides.values() for note in side.summary()],
        len(texts[first]) - len(kept),
    )


def _require_a_name_each(config: DataConfig, files: Sequence[str]) -> None:
    if len(files) != len(config.columns):
        raise ConfigError(
            "data.columns",
            f"must name one column for each file: it has {len(config.columns)} names for {len(files)} files",
            f"data.columns=[{','.join(f'column{i}' for i in range(len(files)))}]",
        )


def _different_lengths(
    name: str, lines: Sequence[str | None], other_name: str, others: Sequence[str | None]
) -> DataError:
    """Returns an error with both counts, and with the place where missing lines fit the length ratios best."""
    if len(lines) > len(others):
        name, lines, other_name, others = other_name, others, name, lines
    short, long = (np.log1p([len(line or "") for line in side]) for side in (lines, others))
    extra = len(long) - len(short)
    ratio = np.median(short) - np.median(long)
    before = np.abs(short - long[: len(short)] - ratio)
    after = np.abs(short - long[extra:] - ratio)
    misfit = np.concatenate([[0], np.cumsum(before)]) + np.concatenate([np.cumsum(after[::-1])[::-1], [0]])
    suspect = len(short) - int(np.argmin(misfit[::-1]))
    return DataError(
        f"{name}:{suspect + 1}",
        f"{name} has {len(lines):,} lines, {other_name} {len(others):,}; "
        f"the lengths suggest that the first mismatch is near line {suspect + 1:,}",
        "give both files the same number of lines",
    )


def read_text(config: DataConfig, file: str, columns: Sequence[str]) -> Table:
    """Reads a file whose lines are rows of one column."""
    lines = open_lines(config, file)
    return _collect(config, file, ["text"] if not config.columns else config.columns, columns, _single(lines), lines)


def _single(lines: Lines) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines, start=1):
        yield number, None if line is None else [line]


def read_separated(config: DataConfig, file: str, columns: Sequence[str]) -> Table:
    """Reads lines of columns, in which cells may stand in quotation marks."""
    lines = open_lines(config, file)
    separator = config.separator or {"tsv": "\t", "csv": ","}[config.format]
    quoted = config.format == "csv" if config.quoting is None else config.quoting
    below = _blanked(lines, config.skip_lines) if config.skip_lines else lines
    rows = _with_quotes(lines, separator, below) if quoted else plain_rows(below, separator)
    names, head_line = list(config.columns), 0
    if config.header:
        head_line, head = next(((number, row) for number, row in rows if row and not all(map(is_blank, row))), (0, []))
        head = [cell.strip() or f"column{place}" for place, cell in enumerate(head, start=1)]
        renamed = len(head) == len(names) and set(columns) <= set(names) and not set(columns) <= set(head)
        names = names if renamed else head
    if not names:
        raise ConfigError("data.columns", "must name the columns of a file without a header", "data.columns=[...]")
    if config.last_takes_rest:
        require(not quoted, "data.last_takes_rest", "false if fields are quoted", True, "data.quoting=false")
        return _collect(config, file, names, columns, rest_joined(rows, len(names), separator), lines)
    if head_line > 1 or config.skip_lines:
        return _collect(config, file, names, columns, rows, lines)
    _require_columns(file, names, columns)
    shape = Shape(separator, quoted, len(names), [names.index(column) for column in columns])
    begun = read_regular(lines.blocks(), shape, bool(head_line))
    if begun.lines:
        lines = open_lines(config, file)
        rows = iter(()) if begun.done else _rows_behind(lines, separator, quoted, begun.lines)
        lines.notes += [lines.bom_note] if begun.done and begun.marked else []
    return _collect(config, file, names, columns, rows, lines, begun)


def _blanked(lines: Lines, count: int) -> Iterator[str | None]:
    """Yields the lines with the first ones empty, so that the others keep their numbers."""
    for number, line in enumerate(lines, start=1):
        yield "" if number <= count else line


def _rows_behind(lines: Lines, separator: str, quoted: bool, count: int) -> Iterator[tuple[int, Row]]:
    """Yields the rows behind the first lines, which were read already."""
    behind = itertools.islice(lines, count, None)
    rows = _with_quotes(lines, separator, behind, count) if quoted else plain_rows(behind, separator, count)
    yield from rows


def _with_quotes(
    lines: Lines, separator: str, texts: Iterable[str | None], before: int = 0
) -> Iterator[tuple[int, Row]]:
    """Yields rows with quotation marks. Marks that do not fit are refused and never skipped.

    Args:
        lines: The file, for messages.
        separator: The text between two cells.
        texts: Its lines, without those that were read already.
        before: Number of lines that were read already.
    """
    try:
        yield from quoted_rows(texts, separator, before)
    except BadQuote as bad:
        what = f"the quotation mark that opens here has {bad.what}"
        fix = 'write " inside a field as "", or data.quoting=false'
        raise DataError(f"{lines.name}:{bad.line}", what, fix) from None


def _collect(
    config: DataConfig,
    file: str,
    names: Sequence[str],
    columns: Sequence[str],
    rows: Iterator,
    lines: Lines,
    begun: Columns | None = None,
) -> Table:
    """Takes the wanted columns out of rows of ``names``, behind those that were read already."""
    _require_columns(file, names, columns)
    wanted = [list(names).index(column) for column in columns]
    values = begun.values if begun else [[] for _ in columns]
    takers = [(column.append, index) for column, index in zip(values, wanted, strict=True)]
    numbers = begun.numbers if begun else array("q")
    width = len(names)
    with _together(lines):
        for number, row in rows:
            if row is None:
                continue
            if len(row) != width:
                if len(row) == 1 and is_blank(row[0]):
                    lines.blank.append(number)
                    continue
                what = f"has {len(row)} columns, expected {len(names)} ({', '.join(names)})"
                lines.bad(number, what, _columns_fix(config, number, row))
                continue
            for take, index in takers:
                take(row[index])
            numbers.append(number)
    table = dict(zip(columns, values, strict=True))
    places = np.array(numbers, dtype=np.int64)
    found = Table(table, dict.fromkeys(columns, file), places, lines.summary(), len(lines.skipped))
    if begun and begun.done:
        found.blank = dict(zip(columns, begun.blank, strict=True))
    return found


@contextlib.contextmanager
def _together(*files: Lines) -> Iterator[None]:
    """Raises the errors of all bad lines together, and with them the error that ends the reading, if one does."""
    findings = Findings()
    for lines in files:
        lines.findings = findings
    try:
        yield
    except DataError as error:
        raise together([*findings.first, error], findings.more) from error
    findings.end()


HEADER = "data.header=true 'data.columns=[]' if the first line names the columns"
"""What to do if a column is not found in a file that is read without a header."""


def _columns_fix(config: DataConfig, number: int, row: Sequence[str]) -> str:
    """Returns what to do about a row with too few or too many columns."""
    if config.quoting is False and any('"' in cell for cell in row):
        return f"data.quoting=true if fields stand in quotes; else {SKIP}"
    if number == 1 and not config.header:
        return f"{HEADER}; else let data.columns name the columns in file order"
    return SKIP


def _require_columns(file: str, names: Sequence[str], columns: Sequence[str]) -> None:
    for column in columns:
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1)
            fix = f"data.roles: name {near[0]!r}" if near else "let data.roles name one of them"
            raise DataError(file, f"no column {column!r}; there are {', '.join(names)}", fix)


def read_jsonl(config: DataConfig, file: str, columns: Sequence[str]) -> Table:
    """Reads one JSON object from each line. Its keys are the columns."""
    lines = open_lines(config, file)
    return _collect(config, file, columns, columns, _json_rows(lines, columns), lines)


def _json_rows(lines: Lines, columns: Sequence[str]) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines, start=1):
        if line is not None and is_blank(line):
            lines.blank.append(number)
            continue
        yield number, None if line is None else _json_row(lines, number, line, columns)


def _json_row(lines: Lines, number: int, line: str, columns: Sequence[str]) -> Row:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        return lines.bad(number, f"not JSON ({error})")
    return _record_row(lines, number, record, columns)


def _record_row(lines: Lines, number: int, record: Any, columns: Sequence[str]) -> Row:
    if not isinstance(record, dict):
        return lines.bad(number, f"must be a JSON object, got {type(record).__name__}")
    row = []
    for column in columns:
        try:
            value = as_text(record[column] if column in record else _inside(record, column))
        except (KeyError, IndexError, ValueError, TypeError):
            return lines.bad(number, f"no key {column!r}; there are {', '.join(record)}")
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            return lines.bad(number, f"{column!r} holds a NUL character or half a surrogate pair")
        row.append(value)
    return row


def _inside(value: Any, path: str) -> Any:
    """The value at a path such as ``translation.en`` or ``messages.0.content``."""
    for step in path.split("."):
        value = value[int(step)] if isinstance(value, list) else value[step]
    return value


def read_json(config: DataConfig, file: str, columns: Sequence[str]) -> Table:
    """Reads a file that is one list of JSON objects, one object at a time. Messages count the objects."""
    lines = open_lines(config, file)
    records = objects_in(opening.text_of(lines.path, file, config.encoding), file)
    rows = ((number, _record_row(lines, number, record, columns)) for number, record in enumerate(records, start=1))
    return _collect(config, file, columns, columns, rows, lines)


def read_units(config: DataConfig, file: str, columns: Sequence[str]) -> Table:
    """Reads a file whose rows are units of several lines. A unit without one of the columns is left out and counted."""
    lines = open_lines(config, file)
    known: dict[str, None] = {}
    lacking = dict.fromkeys(columns, 0)
    found: list[tuple[int, list[str]]] = []
    for number, unit in units.units_in(config.format, lines.path, file, config.encoding):
        known |= dict.fromkeys(unit)
        missing = [column for column in columns if column not in unit]
        for column in missing:
            lacking[column] += 1
        if not missing:
            found.append((number, [unit[column] for column in columns]))
    _require_columns(file, list(known), columns)
    lines.notes += [f"{file}: left out {count:,} units without {column}" for column, count in lacking.items() if count]
    return _collect(config, file, columns, columns, iter(found), lines)


def read_segments(config: DataConfig, files: Sequence[str], columns: Sequence[str]) -> Table:
    """Reads one file of WMT's SGML for each column. Segments with the same document and id belong to one row."""
    _require_a_name_each(config, files)
    names = {column: files[config.columns.index(column)] for column in columns}
    sides = {column: units.segments_in(find(config, name), name, config.encoding) for column, name in names.items()}
    lines = open_lines(config, names[columns[0]])
    first = sides[columns[0]].texts
    for key, (number, _) in first.items():
        for column, side in sides.items():
            if key not in side.texts:
                lines.bad(number, f"the segment {key[1]} of {key[0]!r} is not in {names[column]}")
    rows = {key: number for key, (number, _) in first.items() if all(key in side.texts for side in sides.values())}
    return Table(
        {column: [side.texts[key][1] for key in rows] for column, side in sides.items()},
        names,
        np.array(list(rows.values()), dtype=np.int64),
        lines.summary(),
        len(lines.skipped),
    )


def read_folders(config: DataConfig, folder: str, columns: Sequence[str]) -> Table:
    """Reads a folder for each class: every file is the text of one row, and its folder is the label."""
    path = folder_of(config) / folder
    if not path.is_dir():
        raise DataError(folder, "no such folder", "let data.train name a folder with a folder for each class")
    found: dict[str, list[str]] = {"text": [], "label": []}
    names, notes, empty = [], [], []
    for each in sorted(path.glob("*/*")):
        if each.parent.name in UNLABELLED or is_hidden(each.relative_to(path)) or not each.is_file():
            continue
        name = str(Path(folder) / each.relative_to(path))
        if each.stat().st_size == 0:
            empty.append(name)
            continue
        lines = Lines(each, name, config.on_bad_line == "skip", config.encoding)
        text = [line for line in lines if line is not None]
        found["text"].append("\n".join(text).strip())
        found["label"].append(each.parent.name)
        notes += lines.summary()
        names.append(name)
    _require_columns(folder, list(found), columns)
    if empty:
        notes.append(f"{folder}: left out {len(empty):,} empty files, the first is {empty[0]}")
    places = np.arange(len(names), dtype=np.int64) * SHARD + 1
    return Table(
        {name: found[name] for name in columns}, dict.fromkeys(columns, folder), places, notes, 0, tuple(names)
    )


def read_parquet(config: DataConfig, file: str, columns: Sequence[str]) -> Table:
    """Reads a Parquet file through pyarrow, an extra."""
    try:
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise _needs("data.format", "parquet", "pyarrow") from error
    path = find(config, file)
    try:
        handle = parquet.ParquetFile(path)
    except (ValueError, OSError) as error:
        raise DataError(
            file, f"not a Parquet file ({str(error).splitlines()[0]})", "copy or download the file again"
        ) from error
    tops = [column if column in handle.schema_arrow.names else column.split(".")[0] for column in columns]
    _require_columns(file, handle.schema_arrow.names, tops)
    table = handle.read(columns=list(dict.fromkeys(tops)))
    return _from_values(config, file, _columns_of(table, columns))


def read_arrow(config: DataConfig, file: str, columns: Sequence[str]) -> Table:
    """Reads an Arrow file, in the file or in the stream format, through pyarrow, an extra."""
    values: dict[str, list[Any]] = {column: [] for column in columns}
    for batch in arrow_batches(find(config, file), file):
        _require_columns(file, batch.schema.names, [column.split(".")[0] for column in columns])
        for column, found in _columns_of(batch, columns).items():
            values[column] += found
    return _from_values(config, file, values)


def _columns_of(table: Any, columns: Sequence[str]) -> dict[str, list[Any]]:
    """The values of the columns of an Arrow table, and of the keys inside them."""
    values = {}
    for column in columns:
        top, _, path = (column, "", "") if column in table.schema.names else column.partition(".")
        found = table.column(top).to_pylist()
        values[column] = [None if value is None else _inside(value, path) for value in found] if path else found
    return values


def read_hub(config: DataConfig, split: str, columns: Sequence[str]) -> Table:
    """Reads a split of a data set on the Hugging Face hub through `datasets`, an extra. Code of it is never run."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise _needs("data.format", "hub", "datasets") from error
    name, _, subset = config.hub.partition(":")
    if not name:
        raise ConfigError("data.hub", "must name a data set if data.format=hub", "data.hub=NAME")
    where = f"{config.hub}[{split}]"
    try:
        rows = datasets.load_dataset(name, subset or None, split=split)
    except (ValueError, OSError) as error:
        raise DataError(where, " ".join(str(error).split()) or type(error).__name__, "check data.hub") from error
    _require_columns(where, rows.column_names, columns)
    values = {column: list(rows[column]) for column in columns}
    for column in columns:
        names = getattr(rows.features[column], "names", None)
        if names:
            values[column] = [names[value] for value in values[column]]
    return _from_values(config, where, values)


def _needs(key: str, value: str, package: str) -> ConfigError:
    return ConfigError(
        f"{key}={value}", f"needs the package {package}, which is not installed", f"pip install 'multihead[{value}]'"
    )


def _from_values(config: DataConfig, file: str, values: dict[str, list]) -> Table:
    """Checks rows that a library has read as lines are checked."""
    lines = Lines(Path(file), file, config.on_bad_line == "skip")

    def rows() -> Iterator[tuple[int, Row]]:
        for number, row in enumerate(zip(*values.values(), strict=True), start=1):
            texts = [as_text(value) for value in row]
            wrong = next((column for column, text in zip(values, texts, strict=True) if "\0" in text), None)
            if wrong is not None:
                lines.bad(number, f"{wrong!r} holds a NUL character")
            yield number, None if wrong is not None else texts

    return _collect(config, file, list(values), list(values), rows(), lines)


READERS: dict[str, Callable[[DataConfig, str, Sequence[str]], Table]] = {
    "tsv": read_separated,
    "csv": read_separated,
    "jsonl": read_jsonl,
    "json": read_json,
    "text": read_text,
    "parquet": read_parquet,
    "arrow": read_arrow,
    **dict.fromkeys(units.FORMATS, read_units),
}
"""Format to the reader of one file."""
