"""A file as bytes and as text: what it is compressed with and which encoding it has, both found from its content."""

from __future__ import annotations

import codecs
import itertools
import re
import shlex
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO

from multihead.errors import DataError, MachineError
from multihead.tables.compression import Damaged, compression_of, decompressed, kind_of, require_compressed

BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
CHUNK_BYTES = 1 << 20
LONGEST_LINE = 16 << 20
"""Largest number of characters of a line of a text that is read by `lines_in`."""
FOREIGN_SHARE = 0.4
"""Above this share of bytes beyond ASCII among the letters, a text is not written in the Latin alphabet."""
FOREIGN = ("cp1251", "koi8-r", "cp1253", "cp1255", "cp1256", "gb18030", "shift_jis", "euc-jp", "euc-kr", "big5")
"""Encodings of other alphabets, which a message proposes."""


class Unclear(Exception):
    """Two readings of a file are near each other; the user has to choose.

    Args:
        where: The file, and its line if there is one.
        what: What is not clear.
        choices: The words that choose each reading.
    """

    others: Sequence[str] = ()
    """What else is not clear or wrong, one line each."""

    def __init__(self, where: str, what: str, *choices: str):
        super().__init__(where, what, choices)
        self.where, self.what, self.choices = where, what, choices


def open_bytes(path: Path, name: str = "") -> IO[bytes]:
    """Opens a file for reading and decompresses it if its first bytes say so, whatever its name is.

    Args:
        path: The file.
        name: The name of the file in messages.

    Raises:
        DataError: It is an archive of several files, or its format needs a package that is not installed.
        MachineError: It cannot be read.
    """
    name = name or str(path)
    try:
        file = open(path, "rb")  # noqa: SIM115, the caller closes it
    except PermissionError as error:
        raise MachineError(str(path), "not readable", "change its permissions") from error
    head = file.read(6)
    file.seek(0)
    try:
        require_compressed(path, head, name)
        ending = compression_of(head)
        return decompressed(file, ending, name) if ending else file
    except BaseException:
        file.close()
        raise


def as_utf8(file: IO[bytes], encoding: str, size: int) -> Callable[[], bytes]:
    """Returns a function that yields the next bytes of a file in UTF-8, about ``size`` at a time, empty at the end.

    Raises:
        UnicodeDecodeError: By the function, if the bytes do not fit an encoding other than UTF-8.
    """
    decoder = codecs.getincrementaldecoder(encoding)()

    def following() -> bytes:
        while chunk := file.read(size):
            if text := decoder.decode(chunk):
                return text.encode("utf-8", "surrogatepass")
        return decoder.decode(b"", final=True).encode("utf-8")

    return following


def chunks_of(path: Path, name: str) -> Iterator[bytes]:
    """Yields the content of a file in pieces, decompressed.

    Raises:
        DataError: The file is damaged.
    """
    with open_bytes(path, name) as file:
        try:
            while chunk := file.read(CHUNK_BYTES):
                yield chunk
        except Damaged as error:
            what = f"damaged {kind_of(path)} data ({error})"
            raise DataError(name, what, "copy or download the file again") from error


def text_of(path: Path, name: str, encoding: str) -> Iterator[str]:
    """Yields the text of a file in pieces. A byte-order mark wins over ``encoding``.

    Raises:
        DataError: The file is damaged, or it does not have this encoding.
    """
    decoder, line = None, 1
    for chunk in itertools.chain(chunks_of(path, name), [b""]):
        if decoder is None:
            encoding = next((marked for mark, marked in BOMS if chunk.startswith(mark)), encoding)
            decoder = codecs.getincrementaldecoder("utf-8-sig" if encoding == "utf-8" else encoding)()
        try:
            text = decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            line += error.object.count(b"\n", 0, error.start)
            what = f"byte 0x{error.object[error.start]:02X} does not fit data.encoding={encoding}"
            raise DataError(f"{name}:{line}", what, "data.encoding=ENCODING, such as cp1252") from error
        line += text.count("\n")
        if text:
            yield text


def lines_in(chunks: Iterable[str], name: str) -> Iterator[str]:
    """Yields the lines of a text that comes in pieces, without their ends.

    Raises:
        DataError: A line is too long.
    """
    rest = ""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split("\n")
        yield from (line.removesuffix("\r") for line in lines)
        if len(rest) > LONGEST_LINE:
            raise DataError(name, f"has a line of more than {LONGEST_LINE:,} characters", "break the line up")
    if rest:
        yield rest.removesuffix("\r")


def find_encoding(head: bytes, whole: bool, name: str, skip: bool = False) -> str:
    """Returns the encoding of a text by its first bytes.

    Args:
        head: The first bytes.
        whole: Whether these are all bytes of the file, so that no character may be cut at the end.
        name: The name of the file in messages.
        skip: Whether lines that are damaged UTF-8 are left out by whoever reads the file.

    Raises:
        DataError: The file is not text, or is damaged UTF-8.
        Unclear: Several encodings fit.
    """
    for mark, encoding in BOMS:
        if head.startswith(mark):
            return encoding
    if wide := wide_encoding(head):
        return wide
    if 0 < head.count(0) <= 0.01 * len(head) and _decodes(head.replace(b"\0", b""), "utf-8", False):
        if skip:
            return "utf-8"
        line = head.count(b"\n", 0, head.index(0)) + 1
        fix = f"tr -d '\\000' < {shlex.quote(name)} > FIXED, or fix the line"
        raise DataError(f"{name}:{line}", "holds a NUL byte", fix)
    if b"\0" in head:
        raise DataError(name, "is not text: it holds NUL bytes", "name a text file, or data.encoding=ENCODING")
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head, final=whole)
        return "utf-8"
    except UnicodeDecodeError as error:
        if damage := _damage(head, error, name):
            if skip:
                return "utf-8"
            raise damage from None
    some = head[: 1 << 20]
    high = sum(byte >= 0xC0 for byte in some)
    letters = sum(chr(byte).isalpha() for byte in some if byte < 0x80)
    if high > FOREIGN_SHARE * (high + letters):
        fitting = [each for each in FOREIGN if _decodes(head, each, whole)]
        raise Unclear(name, "is not UTF-8; which encoding has it?", *(f"data.encoding={each}" for each in fitting[:4]))
    if not _decodes(head, "cp1252", True):
        return "latin-1"
    text = some.decode("cp1252", "replace")
    beyond = 0.05 * sum(char >= "\x80" for char in text)
    western = "data.encoding=cp1252"
    if len(re.findall(r"[^\W\d_][²³¹¼½¾¿¡£¥¦¨±´¶¸º¬¯][^\W\d_]", text)) > beyond:
        raise Unclear(name, "is not UTF-8; is it Western or Eastern European?", "data.encoding=cp1250", western)
    if len(re.findall("[ðþýÐÞÝ]", text)) > beyond:
        raise Unclear(name, "is not UTF-8; is it Turkish or Western?", "data.encoding=cp1254", western)
    return "cp1252"


def wide_encoding(head: bytes) -> str:
    """Returns the kind of UTF-16 if ASCII characters have a NUL byte at their side; else nothing."""
    sample = head[: 1 << 16]
    pairs = len(sample) // 2
    if pairs < 2:
        return ""
    for start, encoding in ((1, "utf-16-le"), (0, "utf-16-be")):
        zeros, others = sample[start : 2 * pairs : 2].count(0), sample[1 - start : 2 * pairs : 2].count(0)
        if zeros > 0.3 * pairs and others < 0.05 * pairs:
            return encoding
    return ""


def _decodes(head: bytes, encoding: str, whole: bool) -> bool:
    try:
        text = codecs.getincrementaldecoder(encoding)().decode(head, final=whole)
    except UnicodeDecodeError:
        return False
    return not any(unicodedata.category(char) in ("Co", "Cn") for char in set(text))


def _damage(head: bytes, error: UnicodeDecodeError, name: str) -> DataError | None:
    """The error of a file that is UTF-8 but for a few bytes: another encoding would read all the rest wrongly."""
    text = head.decode("utf-8", "replace")
    wrong = text.count("\ufffd") - head.count("\ufffd".encode())
    right = sum(ord(char) > 0x7F for char in text) - text.count("\ufffd")
    if right <= 2 * wrong:
        return None
    line = head.count(b"\n", 0, error.start) + 1
    what = f"byte 0x{head[error.start]:02X} is not UTF-8, although the rest of the file is"
    return DataError(f"{name}:{line}", what, "fix the line, or data.on_bad_line=skip")
