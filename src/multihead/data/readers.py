"""Files and hubs to columns of text: one reader per format, every bad line named with its file and line number.

Lines end at ``\\n`` and nowhere else (``str.splitlines`` would also split at U+2028, U+0085, ``\\x0b`` ..., which
shifts one side of a parallel corpus silently). A reader takes the columns it is asked for and opens no other file.
"""

from __future__ import annotations

import difflib
import gzip
import io
import json
import os
import re
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from multihead.config.check import require
from multihead.config.data import DataConfig
from multihead.data.download import download
from multihead.errors import ConfigError, DataError, MachineError
from multihead.text.inputs import UTF8_BOM, as_utf8, is_blank

CHUNK_BYTES = 1 << 20
LONGEST_LINE_BYTES = 16 << 20
SKIP = "mend the line, or data.on_bad_line=skip"
Row = list[str] | None


@dataclass
class Table:
    """Columns of text of one split and where each row came from."""

    columns: Mapping[str, list[str]]
    """Column name to its text, one entry per row."""
    files: dict[str, str]
    """Column name to the file it was read from, as the configuration names it."""
    lines: np.ndarray
    """Line number (from 1) of each row, the same in every file."""
    notes: list[str] = field(default_factory=list)
    """What was skipped or changed in reading, each with its count."""
    skipped: int = 0
    """Rows that ``data.on_bad_line=skip`` left out."""

    def __len__(self) -> int:
        return len(self.lines)


def data_root() -> Path:
    """Folder that holds the data sets: the environment's MULTIHEAD_DATA, else ``data``."""
    return Path(os.environ.get("MULTIHEAD_DATA") or "data")


def folder_of(config: DataConfig) -> Path:
    """Folder that the files of a data set are relative to; the working directory where ``root`` is empty."""
    return data_root() / config.root if config.root else Path()


def read_split(config: DataConfig, split: str, columns: Sequence[str]) -> Table:
    """Reads the named columns of one split.

    Raises:
        DataError: A file is missing or a row is not as the configuration describes it.
    """
    files = getattr(config, split)
    if config.format == "hub":
        return read_hub(config, files or split, columns)
    reader = {
        "parallel": read_parallel,
        "tsv": read_separated,
        "csv": read_separated,
        "jsonl": read_jsonl,
        "text": read_text,
        "parquet": read_parquet,
    }[config.format]
    return reader(config, files, columns)


# ---------------------------------------------------------------------------------------------------------------------
# Lines


def find(config: DataConfig, name: str) -> Path:
    """The path of a file of the data set, downloaded first where ``data.url`` has it and it is missing."""
    path = folder_of(config) / name
    if path.is_file():
        return path
    if name in config.url:
        download(config.url[name], path, config.sha256.get(name, ""), key=f"data.sha256.{name}")
        return path
    root = os.environ.get("MULTIHEAD_DATA")
    where = f"MULTIHEAD_DATA is {root!r}" if root else "MULTIHEAD_DATA is not set, so data/ was taken"
    near = difflib.get_close_matches(path.name, [p.name for p in path.parent.glob("*")], n=1, cutoff=0.75)
    what = "is a folder, not a file" if path.is_dir() else "no such file"
    raise DataError(
        str(path.absolute()),
        what + (f" ({where})" if config.root else "") + (f"; {near[0]} is there" if near else ""),
        f"put the data set's files there or set MULTIHEAD_DATA to the folder that holds {config.root}/, "
        "or name an address in data.url"
        if config.root
        else "give the path of a file that exists",
    )


class Lines:
    """The lines of one file as text; a bad line is an error, or None and counted.

    Memory is bounded by `LONGEST_LINE_BYTES`, however long a line is.

    Args:
        path: The file; read through gzip where its name ends in ``.gz``.
        name: The file as messages call it.
        skip: Whether a bad line is counted instead of refused.
    """

    def __init__(self, path: Path, name: str, skip: bool):
        self.path, self.name, self.skip = path, name, skip
        self.notes: list[str] = []
        self.skipped: list[tuple[int, str]] = []
        self.blank: list[int] = []

    def __iter__(self) -> Iterator[str | None]:
        number = offset = 0
        for number, raw in enumerate(self._raw_lines(), start=1):
            yield self._text(raw, number, offset) if isinstance(raw, bytes) else self._too_long(number, raw)
            offset += (len(raw) if isinstance(raw, bytes) else raw) + 1
        if number == 0:
            raise DataError(self.name, "is empty", f"{self.path.absolute()} must hold at least one line")

    def bad(self, number: int, what: str, fix: str = SKIP, column: int = 0) -> None:
        """Refuses a line, or counts it where bad lines are skipped."""
        if not self.skip:
            raise DataError(f"{self.name}:{number}" + (f":{column}" if column else ""), what, fix)
        self.skipped.append((number, what))

    def said(self) -> list[str]:
        """Notes on what was skipped or changed."""
        said = list(self.notes)
        if self.blank:
            said.append(
                f"{self.name}: dropped {_counted(self.blank, 'empty line')}, the first {self._at(self.blank[0])}"
            )
        if self.skipped:
            number, what = self.skipped[0]
            said.append(f"{self.name}: skipped {_counted(self.skipped, 'line')}, the first {self._at(number)} ({what})")
        return said

    def _at(self, number: int) -> str:
        return f"{self.name}:{number}"

    def _open(self) -> io.BufferedIOBase:
        try:
            return gzip.open(self.path, "rb") if self.path.suffix == ".gz" else open(self.path, "rb")
        except PermissionError as error:
            raise MachineError(str(self.path), "not readable", "change its permissions") from error

    def _raw_lines(self) -> Iterator[bytes | int]:
        """Bytes of each line without its ``\\n``; of a line over the limit only its length."""
        rest, lost, number = b"", 0, 0
        with self._open() as stream:
            chunks = as_utf8(iter(lambda: stream.read(CHUNK_BYTES), b""))
            while True:
                try:
                    chunk = next(chunks, b"")
                except (EOFError, gzip.BadGzipFile, zlib.error) as error:
                    raise DataError(
                        f"{self.name}:{number + 1}", f"damaged gzip data ({error})", "fetch the file again"
                    ) from error
                except UnicodeDecodeError as error:
                    what = f"damaged UTF-16 data ({error.reason})"
                    raise DataError(f"{self.name}:{number + 1}", what, "fetch the file again") from error
                if not chunk:
                    break
                head, *others = chunk.split(b"\n")
                if not others:
                    rest, lost = (rest + head, 0) if not lost else (b"", lost + len(head))
                    if len(rest) > LONGEST_LINE_BYTES:
                        rest, lost = b"", len(rest)
                    continue
                yield lost + len(head) if lost else rest + head
                yield from others[:-1]
                number += len(others)
                rest, lost = others[-1], 0
        if rest or lost:
            yield lost or rest

    def _text(self, raw: bytes, number: int, offset: int) -> str | None:
        if number == 1 and raw.startswith(UTF8_BOM):
            raw = raw[len(UTF8_BOM) :]
            self.notes.append(f"{self.name}: byte-order mark removed")
        if raw.endswith(b"\r"):
            raw = raw[:-1]
        try:
            text = raw.decode("utf-8")
        except UnicodeDecodeError as error:
            return self._not_utf8(error, raw, number, offset)
        if "\0" in text:
            return self.bad(number, "holds a NUL character", column=text.index("\0") + 1)
        return text

    def _not_utf8(self, error: UnicodeDecodeError, raw: bytes, number: int, offset: int) -> None:
        column = len(raw[: error.start].decode("utf-8")) + 1
        if error.reason == "unexpected end of data":
            what = f"ends inside a character (byte {offset + error.start + 1} of the file)"
        else:
            what = f"byte 0x{raw[error.start]:02X} is not UTF-8"
        fix = "re-encode the file as UTF-8 (iconv -f WINDOWS-1252 -t UTF-8), or data.on_bad_line=skip"
        return self.bad(number, what, fix, column)

    def _too_long(self, number: int, length: int) -> None:
        what = f"{length:,} bytes long, above the limit of {LONGEST_LINE_BYTES:,}"
        return self.bad(number, what, "break the line up, or data.on_bad_line=skip")


def _counted(items: Sequence, what: str) -> str:
    return f"{len(items):,} {what}{'s' * (len(items) > 1)}"


def _open_lines(config: DataConfig, name: str) -> Lines:
    return Lines(find(config, name), name, config.on_bad_line == "skip")


# ---------------------------------------------------------------------------------------------------------------------
# Formats


def read_parallel(config: DataConfig, files: Sequence[str], columns: Sequence[str]) -> Table:
    """One file per column; line i of each belongs together."""
    if len(files) != len(config.columns):
        raise ConfigError(
            "data.columns",
            f"must name one column per file: {len(config.columns)} names for {len(files)} files",
            f"data.columns=[{','.join(f'column{i}' for i in range(len(files)))}]",
        )
    names = {column: files[config.columns.index(column)] for column in columns}
    sides = {column: _open_lines(config, name) for column, name in names.items()}
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
        [note for side in sides.values() for note in side.said()],
        len(texts[first]) - len(kept),
    )


def _different_lengths(
    name: str, lines: Sequence[str | None], other_name: str, others: Sequence[str | None]
) -> DataError:
    """Names both counts, and the place where lines missing on one side fit the length ratios best."""
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
        f"by the lengths, the first suspect is near line {suspect + 1:,}",
        "give both files the same number of lines",
    )


def read_text(config: DataConfig, file: str, columns: Sequence[str]) -> Table:
    """Every line is a row of one column."""
    lines = _open_lines(config, file)
    return _collect(config, file, ["text"] if not config.columns else config.columns, columns, _single(lines), lines)


def _single(lines: Lines) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines, start=1):
        yield number, None if line is None else [line]


def read_separated(config: DataConfig, file: str, columns: Sequence[str]) -> Table:
    """Lines of columns: tsv without quotes, csv with quotes (``""`` inside them) where ``data.quoting`` says so."""
    lines = _open_lines(config, file)
    separator = config.separator or {"tsv": "\t", "csv": ","}[config.format]
    quoted = config.format == "csv" and config.quoting
    rows = _quoted_rows(lines, separator) if quoted else _plain_rows(lines, separator)
    names = list(config.columns)
    if config.header:
        head = next((row for _, row in rows if row is not None and not all(map(is_blank, row))), [])
        names = names or head
    if not names:
        raise ConfigError("data.columns", "must name the columns of a file without a header", "data.columns=[...]")
    if config.last_takes_rest:
        require(not quoted, "data.last_takes_rest", "false where fields are quoted", True, "data.quoting=false")
        rows = _rest_joined(rows, len(names), separator)
    return _collect(config, file, names, columns, rows, lines)


def _rest_joined(rows: Iterator[tuple[int, Row]], count: int, separator: str) -> Iterator[tuple[int, Row]]:
    """Rows whose last of ``count`` columns is all that is left of the line."""
    for number, row in rows:
        if row is not None and len(row) > count:
            row = [*row[: count - 1], separator.join(row[count - 1 :])]
        yield number, row


def _plain_rows(lines: Lines, separator: str) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines, start=1):
        yield number, None if line is None else line.split(separator)


QUOTED = re.compile(r'((?:[^"]++|"")*+)("?)')


def _quoted_rows(lines: Lines, separator: str) -> Iterator[tuple[int, Row]]:
    """Rows of csv, each with the number of its first line. Quotes that do not fit are refused, never skipped."""
    start, opened, size = 0, 0, 0
    row: list[str] = []
    inside: list[str] = []
    for number, line in enumerate(lines, start=1):
        if line is None and not opened:
            yield number, None
            continue
        line = line or ""
        if not opened and '"' not in line:
            yield number, line.split(separator)
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
                raise _bad_quote(lines.name, opened, f"text after its closing quote in line {number}")
            row.append("\n".join(inside).replace('""', '"'))
            opened = 0
            if position >= len(line):
                break
            position += len(separator)
        if not opened:
            yield start, row
        size += len(line)
        if size > LONGEST_LINE_BYTES:
            raise _bad_quote(lines.name, opened, f"no closing quote in {LONGEST_LINE_BYTES:,} characters")
    if opened:
        raise _bad_quote(lines.name, opened, "no closing quote up to the end of the file")


def _bad_quote(name: str, opened: int, what: str) -> DataError:
    return DataError(
        f"{name}:{opened}", f"the quote opened here has {what}", 'write " inside a field as "", or data.quoting=false'
    )


def _collect(
    config: DataConfig, file: str, names: Sequence[str], columns: Sequence[str], rows: Iterator, lines: Lines
) -> Table:
    """Takes the wanted columns out of rows of ``names``."""
    preset = config.header and config.columns
    _require_columns(file, names, columns, "'data.columns=[]' takes the names from the file's header" if preset else "")
    wanted = [list(names).index(column) for column in columns]
    values: list[list[str]] = [[] for _ in columns]
    numbers: list[int] = []
    for number, row in rows:
        if len(names) > 1 and _is_empty(number, row, lines):
            continue
        if row is None:
            continue
        if len(row) != len(names):
            what = f"has {len(row)} columns, expected {len(names)} ({', '.join(names)})"
            lines.bad(number, what, _columns_fix(config, number, row))
            continue
        for column, index in zip(values, wanted, strict=True):
            column.append(row[index])
        numbers.append(number)
    table = dict(zip(columns, values, strict=True))
    places = np.array(numbers, dtype=np.int64)
    return Table(table, dict.fromkeys(columns, file), places, lines.said(), len(lines.skipped))


def _is_empty(number: int, row: Row, lines: Lines) -> bool:
    """Whether a line is bad, or holds one blank cell and is counted as empty."""
    if row is not None and len(row) == 1 and is_blank(row[0]):
        lines.blank.append(number)
        return True
    return row is None


HEADER = "data.header=true 'data.columns=[]' if the first line names the columns"


def _columns_fix(config: DataConfig, number: int, row: Sequence[str]) -> str:
    """What to do about a row with too few or too many columns."""
    if config.format == "csv" and not config.quoting and any('"' in cell for cell in row):
        return f"data.quoting=true if fields stand in quotes; else {SKIP}"
    if number == 1 and not config.header:
        return f"{HEADER}; else let data.columns name the columns in file order"
    return SKIP


def _require_columns(file: str, names: Sequence[str], columns: Sequence[str], fix: str = "") -> None:
    for column in columns:
        if column not in names:
            near = difflib.get_close_matches(column, names, n=1)
            fix = fix or (f"data.roles: name {near[0]!r}" if near else "let data.roles name one of them")
            raise DataError(file, f"no column {column!r}; there are {', '.join(names)}", fix)


def read_jsonl(config: DataConfig, file: str, columns: Sequence[str]) -> Table:
    """One JSON object per line; the keys are the columns."""
    lines = _open_lines(config, file)
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
    if not isinstance(record, dict):
        return lines.bad(number, f"must be a JSON object, got {type(record).__name__}")
    row = []
    for column in columns:
        if column not in record:
            return lines.bad(number, f"no key {column!r}; there are {', '.join(record)}")
        value = record[column]
        if isinstance(value, int) and not isinstance(value, bool):
            value = str(value)
        if not isinstance(value, str):
            return lines.bad(number, f"{column!r} must be a string, got {type(value).__name__}")
        if "\0" in value or any("\ud800" <= c <= "\udfff" for c in value):
            return lines.bad(number, f"{column!r} holds a NUL character or half a surrogate pair")
        row.append(value)
    return row


def cell_text(value: object) -> str:
    """Returns a cell of a typed file as text: a missing value is empty, a list or a mapping is JSON."""
    if value is None or value != value:  # NaN is not equal to itself
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    return json.dumps(value, ensure_ascii=False, default=str) if isinstance(value, list | dict) else str(value)


def read_parquet(config: DataConfig, file: str, columns: Sequence[str]) -> Table:
    """A Parquet file through pyarrow, an extra."""
    try:
        from pyarrow import parquet  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise _needs("data.format", "parquet", "pyarrow") from error
    path = find(config, file)
    try:
        handle = parquet.ParquetFile(path)
    except (ValueError, OSError) as error:
        raise DataError(file, f"not a Parquet file ({str(error).splitlines()[0]})", "fetch the file again") from error
    _require_columns(file, handle.schema_arrow.names, columns)
    table = handle.read(columns=list(columns))
    values = {column: table.column(column).to_pylist() for column in columns}
    return _from_values(config, file, values)


def read_hub(config: DataConfig, split: str, columns: Sequence[str]) -> Table:
    """A split of a data set on the Hugging Face hub through `datasets`, an extra; code of the data set is never run."""
    try:
        import datasets  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise _needs("data.format", "hub", "datasets") from error
    name, _, subset = config.hub.partition(":")
    if not name:
        raise ConfigError("data.hub", "must name a data set where data.format=hub", "data.hub=NAME")
    where = f"{config.hub}[{split}]"
    try:
        rows = datasets.load_dataset(name, subset or None, split=split)
    except (ValueError, OSError) as error:
        raise DataError(where, " ".join(str(error).split()) or type(error).__name__, "see data.hub") from error
    _require_columns(where, rows.column_names, columns)
    values = {column: list(rows[column]) for column in columns}
    for column in columns:
        names = getattr(rows.features[column], "names", None)
        if names:
            values[column] = [names[value] for value in values[column]]
    return _from_values(config, where, values)


def _needs(key: str, value: str, package: str) -> ConfigError:
    return ConfigError(f"{key}={value}", f"needs the package {package}, an extra", f"pip install 'multihead[{value}]'")


def _from_values(config: DataConfig, file: str, values: dict[str, list]) -> Table:
    """Rows that a library has read already, checked like lines."""
    lines = Lines(Path(file), file, config.on_bad_line == "skip")

    def rows() -> Iterator[tuple[int, Row]]:
        for number, row in enumerate(zip(*values.values(), strict=True), start=1):
            texts = [cell_text(value) for value in row]
            wrong = next((column for column, text in zip(values, texts, strict=True) if "\0" in text), None)
            if wrong is not None:
                lines.bad(number, f"{wrong!r} holds a NUL character")
            yield number, None if wrong is not None else texts

    return _collect(config, file, list(values), list(values), rows(), lines)
