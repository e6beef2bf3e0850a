"""Compressed files as streams of bytes that end with an error, and never early, if the file is cut or damaged.

The readers of the standard library take damage behind the first stream of a .bz2 or .xz file for padding, and the
reader of zstandard takes a cut file for a whole one. Both lose rows without an error. So the streams of these formats
are decompressed here one by one, and each has to reach its end.
"""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import shlex
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import IO, Any, cast

from multihead.errors import DataError

MAGIC = {".gz": b"\x1f\x8b", ".bz2": b"BZh", ".xz": b"\xfd7zXZ\0", ".zst": b"\x28\xb5\x2f\xfd", ".zip": b"PK\x03\x04"}
"""Ending of a file to the bytes with which its content begins."""
COMPRESSED = tuple(MAGIC)
SKIPPABLE = tuple(bytes((0x50 + i,)) + b"\x2a\x4d\x18" for i in range(16))
"""First bytes of a frame of zstd that holds no data (RFC 8878, section 3.1.2)."""
READ_BYTES = {".bz2": 1 << 16, ".xz": 1 << 16, ".zst": 1 << 10}
"""Compressed bytes that are read at a time. One KB of zstd becomes 32 MB at most, since a block holds 128 KB."""


class Damaged(Exception):
    """A compressed file that is cut or damaged."""


def compression_of(head: bytes) -> str:
    """Returns the ending that belongs to the first bytes of a file; empty if they are not compressed."""
    if head[:4] in SKIPPABLE:
        return ".zst"
    return next((ending for ending, magic in MAGIC.items() if head.startswith(magic)), "")


def require_compressed(path: Path, head: bytes, name: str) -> None:
    """Refuses a file whose name promises a compression that its content does not have, such as a page of errors.

    Raises:
        DataError: The file is not compressed as its name says.
    """
    ending = path.suffix.lower()
    if ending in MAGIC and head and not compression_of(head):
        what = f"damaged {kind_of(path)} data (it begins with {head[:4]!r})"
        raise DataError(f"{name}:1", what, "copy or download the file again, or rename it if it is not compressed")


def kind_of(path: Path) -> str:
    """Returns how the compression of a file is called."""
    ending = path.suffix.lower()
    return {".gz": "gzip", ".zst": "zstd"}.get(ending, ending.lstrip(".") or "compressed")


def decompressed(file: IO[bytes], ending: str, name: str) -> IO[bytes]:
    """Returns the content of a compressed file as a stream. Reading it raises `Damaged` if the file is damaged.

    Args:
        file: The compressed file, at its start.
        ending: The compression: one of `MAGIC`.
        name: The name of the file in messages.

    Raises:
        DataError: It is an archive of several files, or zstd is not installed.
    """
    if ending == ".gz":
        read = gzip.GzipFile(fileobj=file).read1
    elif ending == ".zip":
        read = _open_zip(file, name).read
    else:
        read = _streams(file, ending, name).read
    return io.BufferedReader(_Content(file, read), 1 << 17)


class _Content(io.RawIOBase):
    """The content of a compressed file. Every error of a decompressor becomes `Damaged`."""

    def __init__(self, file: IO[bytes], read: Callable[[int], bytes]):
        self.file, self._read = file, read

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        try:
            data = self._read(len(buffer))
        except (EOFError, lzma.LZMAError, zlib.error, zipfile.BadZipFile, struct.error) as error:
            raise Damaged(str(error)) from error
        except (OSError, ValueError, RuntimeError, NotImplementedError) as error:
            if isinstance(error, OSError) and error.errno is not None:  # the disk failed, not the decompressor
                raise
            raise Damaged(str(error)) from error
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


class _Streams:
    """Reads the compressed streams of a .bz2, .xz or .zst file, one after the other, up to the end of each."""

    def __init__(self, file: IO[bytes], ending: str, begin: Callable[[], Any]):
        self.file, self.ending, self._begin = file, ending, begin
        self._stream = begin()
        self._waiting = b""
        """Compressed bytes that were read and not yet given to the stream."""

    def read(self, size: int) -> bytes:
        """Returns at most ``size`` bytes of content; none at the end of the file."""
        while True:
            if self._stream.eof and not self._next_stream():
                return b""
            given = b""
            if self._stream.needs_input:
                given, self._waiting = self._waiting or self._more(), b""
                if not given:
                    raise EOFError("the file ends inside of its compressed data")
            if data := self._stream.decompress(given, size):
                return data

    def _more(self) -> bytes:
        return self.file.read(READ_BYTES[self.ending])

    def _next_stream(self) -> bool:
        """Begins the stream that follows in the file. Zeros may stand between two streams of a .xz file."""
        rest = self._stream.unused_data or self._more()
        while self.ending == ".xz" and rest[:1] == b"\0":
            rest = rest.lstrip(b"\0") or self._more()
        if rest:
            self._stream, self._waiting = self._begin(), rest
        return bool(rest)


class _ZstdFrame:
    """One frame of zstd, with the interface of `bz2.BZ2Decompressor`."""

    def __init__(self, zstandard: Any):
        self._frame, self._error = zstandard.ZstdDecompressor().decompressobj(), zstandard.ZstdError
        self._content = memoryview(b"")

    @property
    def eof(self) -> bool:
        return self._frame.eof and not self._content

    @property
    def needs_input(self) -> bool:
        return not self._content

    @property
    def unused_data(self) -> bytes:
        return self._frame.unused_data

    def decompress(self, data: bytes, size: int) -> bytes:
        if data:
            try:
                self._content = memoryview(self._frame.decompress(data))
            except self._error as error:
                raise Damaged(str(error).removeprefix("zstd decompressor error: ")) from error
        found, self._content = self._content[:size], self._content[size:]
        return bytes(found)


def _streams(file: IO[bytes], ending: str, name: str) -> _Streams:
    if ending == ".bz2":
        return _Streams(file, ending, bz2.BZ2Decompressor)
    if ending == ".xz":
        return _Streams(file, ending, lambda: lzma.LZMADecompressor(lzma.FORMAT_XZ))
    try:
        import zstandard  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        what = "is compressed by zstd, which needs the package zstandard, an extra"
        raise DataError(name, what, "pip install 'multihead[zstd]'") from error
    return _Streams(file, ending, lambda: _ZstdFrame(zstandard))


def _as_csv(name: str) -> str:
    """Says how to turn a workbook into CSV."""
    return f"save the sheet as CSV and name that file, as by: soffice --headless --convert-to csv {shlex.quote(name)}"


def _open_zip(file: IO[bytes], name: str) -> zipfile.ZipExtFile:
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, OSError, struct.error, NotImplementedError) as error:
        raise DataError(name, f"is a damaged zip file ({error})", "copy or download the file again") from error
    inside = [each for each in archive.namelist() if not each.endswith("/") and not each.startswith("__MACOSX/")]
    if "[Content_Types].xml" in inside or "mimetype" in inside:
        raise DataError(name, "is an office document, not a table of text", _as_csv(name))
    if len(inside) != 1:
        listed = ", ".join(inside[:3]) + (" ..." if len(inside) > 3 else "")
        raise DataError(name, f"holds {len(inside)} files ({listed})", "unpack it, and name a file or the folder")
    try:
        return cast(zipfile.ZipExtFile, archive.open(inside[0]))
    except (zipfile.BadZipFile, ValueError, OSError, struct.error, RuntimeError) as error:
        what = "is encrypted" if "password" in str(error) else f"is a damaged zip file ({error})"
        raise DataError(name, what, "unpack it, and name the file that it holds") from error
