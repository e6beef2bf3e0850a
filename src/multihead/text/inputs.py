"""Reads texts that come from outside: decodes their bytes, and finds texts that are blank or that are answers."""

from __future__ import annotations

import codecs
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from multihead.errors import DataError

UTF8_BOM = b"\xef\xbb\xbf"
UTF16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
"""Byte-order mark to its encoding."""
INVISIBLE = ("Zs", "Zl", "Zp", "Cc", "Cf")
"""Unicode categories of invisible characters: spaces, ends of line, controls, zero-width characters."""
ANSWER_CHARS = 30
"""A text with fewer characters may be an answer that many rows share, such as ``yes`` or a number."""
ANSWER_ROWS, ANSWER_SHARE = 10, 0.01
"""A short text in more rows, and in a larger share of all rows, is an answer whatever else its column holds."""


def is_blank(text: str) -> bool:
    """Whether a text shows nothing: it is empty, or has only spaces, tabs and zero-width characters."""
    if text[:1].isalnum():
        return False
    return not text.strip() or all(unicodedata.category(char) in INVISIBLE for char in text)


def as_utf8(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yields a file's bytes in chunks, and converts them to UTF-8 if the file starts with a UTF-16 byte-order mark.

    All other bytes stay as they are, also a UTF-8 byte-order mark.

    Raises:
        UnicodeDecodeError: A UTF-16 file has half a surrogate pair, or ends inside a character.
    """
    decoder, head = None, b""
    for chunk in chunks:
        if head is not None:  # until it is known whether the file starts with a mark
            head += chunk
            if head in (b"\xff", b"\xfe"):
                continue
            chunk, head = head, None
            if encoding := UTF16.get(chunk[:2]):
                decoder, chunk = codecs.getincrementaldecoder(encoding)(), chunk[2:]
        if decoder is not None:
            chunk = decoder.decode(chunk).encode("utf-8")
        if chunk:
            yield chunk
    if head:
        yield head
    if decoder is not None:
        decoder.decode(b"", final=True)


def lines_of(stream: Iterable[bytes], strict: bool) -> Iterator[tuple[str, bool]]:
    r"""Yields each line of a byte stream as text, and whether the line is valid UTF-8.

    Lines are split at ``\n`` only. A byte-order mark at the start is removed; a UTF-16 mark makes the stream be read as
    UTF-16.

    Args:
        stream: The bytes in chunks, such as an open file.
        strict: Whether a line that is not UTF-8 is an error; otherwise U+FFFD replaces its wrong bytes.

    Raises:
        DataError: A line is not UTF-8 (the message names its place), or the UTF-16 data are damaged.
    """
    number = 0
    for number, raw in enumerate(_split(stream), start=1):
        raw = raw.removesuffix(b"\r").removeprefix(UTF8_BOM if number == 1 else b"")
        try:
            yield raw.decode("utf-8"), True
        except UnicodeDecodeError as error:
            if strict:
                place = f"input:{number}:{len(raw[: error.start].decode()) + 1}"
                fix = (
                    "convert it (iconv -f WINDOWS-1252 -t UTF-8), or replace the byte by U+FFFD: data.on_bad_line=skip"
                )
                raise DataError(place, f"byte 0x{raw[error.start]:02X} is not UTF-8", fix) from None
            yield raw.decode("utf-8", errors="replace"), False


def _split(stream: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the bytes of each line, in UTF-8."""
    rest, number = b"", 0
    try:
        for chunk in as_utf8(stream):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
            number += len(whole)
    except UnicodeDecodeError as error:
        what, fix = f"damaged UTF-16 data ({error.reason})", "copy or download the file again"
        raise DataError(f"input:{number + 1}", what, fix) from None
    if rest:
        yield rest


def without_answers(texts: Sequence[str]) -> list[str | None]:
    """Returns a column's texts, with None in place of answers.

    An answer may occur in two splits, because it says little by itself. A text is an answer if it has fewer than
    `ANSWER_CHARS` characters and one of these holds:

    - The short texts of its column occur in two rows or more on average.
    - It occurs in more than `ANSWER_ROWS` rows, and in more than `ANSWER_SHARE` of all rows.
    """
    counts = Counter(texts)
    short = {text: count for text, count in counts.items() if len(text) < ANSWER_CHARS}
    often = 0 if 2 * len(short) <= sum(short.values()) else max(ANSWER_ROWS, ANSWER_SHARE * len(texts))
    return [None if short.get(text, 0) > often else text for text in texts]
