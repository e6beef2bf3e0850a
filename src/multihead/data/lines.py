"""The lines of a data set's files as text: found, decompressed, decoded, and every bad line named with its place.

Lines end at ``\\n`` and nowhere else. ``str.splitlines`` would also split at U+2028, U+0085 or ``\\x0b``, which shifts
one side of a parallel corpus silently.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO

from multihead.config.data import DataConfig
from multihead.data.download import download
from multihead.errors import DataError, Findings
from multihead.tables import opening
from multihead.tables.compression import Damaged, kind_of
from multihead.text.inputs import UTF8_BOM, as_utf8

CHUNK_BYTES = 1 << 18
LONGEST_LINE_BYTES = 16 << 20
SKIP = "fix the line, or data.on_bad_line=skip"


def data_root() -> Path:
    """Returns the folder that holds the data sets: MULTIHEAD_DATA, or ``data``."""
    return Path(os.environ.get("MULTIHEAD_DATA") or "data")


def folder_of(config: DataConfig) -> Path:
    """Returns the folder of a data set: the working directory if ``root`` is empty."""
    return data_root() / config.root if config.root else Path()


def find(config: DataConfig, name: str) -> Path:
    """Returns the path of a file of the data set. If it is missing and ``data.url`` has it, it is downloaded first."""
    path = folder_of(config) / name
    if path.is_file():
        return path
    if name in config.url:
        download(config.url[name], path, config.sha256.get(name, ""), key=f"data.sha256.{name}")
        return path
    root = os.environ.get("MULTIHEAD_DATA")
    where = f"MULTIHEAD_DATA is {root!r}" if root else "MULTIHEAD_DATA is not set, so data/ was used"
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
    """The lines of one file as text. A bad line is an error, or None and counted.

    Memory is bounded by `LONGEST_LINE_BYTES`, however long a line is.

    Args:
        path: The file. It is decompressed if it is compressed.
        name: The name of the file in messages.
        skip: Whether a bad line is counted instead of refused.
        encoding: Encoding of the text (``data.encoding``).
    """

    def __init__(self, path: Path, name: str, skip: bool, encoding: str = "utf-8"):
        self.path, self.name, self.skip, self.encoding = path, name, skip, encoding
        self.notes: list[str] = []
        self.skipped: list[tuple[int, str]] = []
        self.blank: list[int] = []
        self.findings: Findings | None = None
        """Where bad lines are collected; None if the first one ends the reading."""

    def __iter__(self) -> Iterator[str | None]:
        number = offset = 0
        for number, raw in enumerate(self._raw_lines(), start=1):
            yield self._text(raw, number, offset) if isinstance(raw, bytes) else self._too_long(number, raw)
            offset += (len(raw) if isinstance(raw, bytes) else raw) + 1
        if number == 0:
            raise DataError(self.name, "is empty", f"{self.path.absolute()} must hold at least one line")

    @property
    def bom_note(self) -> str:
        """The sentence about a byte-order mark."""
        return f"{self.name}: byte-order mark removed"

    def blocks(self) -> Iterator[bytes]:
        """Yields the content in UTF-8, in pieces. It ends early where the file is damaged; the lines say where."""
        with opening.open_bytes(self.path, self.name) as stream:
            following = self._chunks(stream)
            try:
                while chunk := following():
                    yield chunk
            except (Damaged, UnicodeDecodeError):
                yield b"\0"  # is in no text

    def bad(self, number: int, what: str, fix: str = SKIP, column: int = 0) -> None:
        """Refuses a line, or counts it if bad lines are skipped."""
        if not self.skip:
            error = DataError(f"{self.name}:{number}" + (f":{column}" if column else ""), what, fix)
            if self.findings is None:
                raise error
            return self.findings.add(error)
        self.skipped.append((number, what))

    def summary(self) -> list[str]:
        """Returns sentences about what was skipped or changed."""
        found = list(self.notes)
        if self.blank:
            first = self._at(self.blank[0])
            found.append(f"{self.name}: dropped {_counted(self.blank, 'empty line')}, the first {first}")
        if self.skipped:
            number, what = self.skipped[0]
            first = self._at(number)
            found.append(f"{self.name}: skipped {_counted(self.skipped, 'line')}, the first {first} ({what})")
        return found

    def _at(self, number: int) -> str:
        return f"{self.name}:{number}"

    def _chunks(self, stream: IO[bytes]) -> Callable[[], bytes]:
        """Returns a function that yields the file's next bytes in UTF-8."""
        if self.encoding.lower().replace("_", "-") not in ("utf-8", "utf8"):
            return opening.as_utf8(stream, self.encoding, CHUNK_BYTES)
        chunks = as_utf8(iter(lambda: stream.read(CHUNK_BYTES), b""))
        return lambda: next(chunks, b"")

    def _raw_lines(self) -> Iterator[bytes | int]:
        """Yields the bytes of each line without its ``\\n``, or only the length of a line beyond the limit."""
        rest, lost, number = b"", 0, 0
        with opening.open_bytes(self.path, self.name) as stream:
            following = self._chunks(stream)
            while True:
                try:
                    chunk = following()
                except Damaged as error:
                    what = f"damaged {kind_of(self.path)} data ({error})"
                    raise DataError(f"{self.name}:{number + 1}", what, "copy or download the file again") from error
                except UnicodeDecodeError as error:
                    kind = "UTF-16" if self.encoding == "utf-8" else self.encoding
                    what = f"damaged {kind} data ({error.reason})"
                    raise DataError(f"{self.name}:{number + 1}", what, "copy or download the file again") from error
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
            self.notes.append(self.bom_note)
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
        fix = "data.encoding=cp1252 if the file comes from Windows, or data.on_bad_line=skip"
        return self.bad(number, what, fix, column)

    def _too_long(self, number: int, length: int) -> None:
        what = f"{length:,} bytes long, above the limit of {LONGEST_LINE_BYTES:,}"
        return self.bad(number, what, "break the line up, or data.on_bad_line=skip")


def is_hidden(path: Path) -> bool:
    """Returns whether a path below a folder is not to be read: a name in it begins with a dot."""
    return any(part.startswith(".") for part in path.parts)


def open_lines(config: DataConfig, name: str) -> Lines:
    """Returns the lines of a file of the data set."""
    return Lines(find(config, name), name, config.on_bad_line == "skip", config.encoding)


def _counted(items: Sequence, what: str) -> str:
    return f"{len(items):,} {what}{'s' * (len(items) > 1)}"
