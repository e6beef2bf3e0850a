"""What a text is when it comes from outside: which bytes are text, which texts are blank, which are answers."""

from __future__ import annotations

import codecs
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from multihead.errors import DataError

UTF8_BOM = b"\xef\xbb\xbf"
UTF16 = {b"\xff\xfe": "utf-16-le", b"\xfe\xff": "utf-16-be"}
"""Byte-order mark to the encoding that it announces."""
INVISIBLE = ("Zs", "Zl", "Zp", "Cc", "Cf")
"""Unicode categories of characters that leave no mark: spaces, ends of line, controls, zero-width characters."""
ANSWER_CHARS = 30
"""A text with fewer characters may be an answer, such as ``yes`` or a sum, that many rows share."""
ANSWER_ROWS, ANSWER_SHARE = 10, 0.01
"""Rows, and share of all rows, above which a short text is an answer whatever its column holds."""


def is_blank(text: str) -> bool:
    """Whether a text holds nothing that can be seen: it is empty, or all spaces, tabs and zero-width characters."""
    return not text.strip() or all(unicodedata.category(char) in INVISIBLE for char in text)


def as_utf8(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """A file's bytes in UTF-8, chunk by chunk, if a UTF-16 byte-order mark stands at its start; else unchanged.

    A UTF-8 byte-order mark stays.

    Raises:
        UnicodeDecodeError: A UTF-16 file holds half a surrogate pair, or ends inside a character.
    """
    decoder, head = None, b""
    for chunk in chunks:
        if head is not None:  # until it is known whether a mark stands there
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


def lines_of(stream: Iterable[bytes], strict: bool, name: str = "input") -> Iterator[tuple[str, bool]]:
    r"""The lines of a byte stream as text, split at ``\n`` only, and whether each was UTF-8 as it stood.

    A byte-order mark at the start is removed; UTF-16 is understood by its mark.

    Args:
        stream: The bytes in chunks, such as an open file.
        strict: Whether a line that is not UTF-8 ends the reading; else U+FFFD stands for what is not.
        name: What messages call the stream.

    Raises:
        DataError: A line that is not UTF-8, with its place, or damaged UTF-16.
    """
    number = 0
    for number, raw in enumerate(_split(stream, name), start=1):
        raw = raw.removesuffix(b"\r").removeprefix(UTF8_BOM if number == 1 else b"")
        try:
            yield raw.decode("utf-8"), True
        except UnicodeDecodeError as error:
            if strict:
                place = f"{name}:{number}:{len(raw[: error.start].decode()) + 1}"
                fix = "re-encode it (iconv -f WINDOWS-1252 -t UTF-8), or data.on_bad_line=skip reads U+FFFD there"
                raise DataError(place, f"byte 0x{raw[error.start]:02X} is not UTF-8", fix) from None
            yield raw.decode("utf-8", errors="replace"), False


def _split(stream: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The bytes of each line, in UTF-8."""
    rest, number = b"", 0
    try:
        for chunk in as_utf8(stream):
            *whole, rest = (rest + chunk).split(b"\n")
            yield from whole
            number += len(whole)
    except UnicodeDecodeError as error:
        raise DataError(f"{name}:{number + 1}", f"damaged UTF-16 data ({error.reason})", "fetch it again") from None
    if rest:
        yield rest


def without_answers(texts: Sequence[str]) -> list[str | None]:
    """A column's texts with None for answers: texts that may stand in two splits, since they say little by themselves.

    A text is an answer if it has fewer than `ANSWER_CHARS` characters and either the short texts of its column stand in
    two rows or more on average, or it stands in more than `ANSWER_ROWS` rows and more than `ANSWER_SHARE` of all rows.
    """
    counts = Counter(texts)
    short = {text: count for text, count in counts.items() if len(text) < ANSWER_CHARS}
    often = 0 if 2 * len(short) <= sum(short.values()) else max(ANSWER_ROWS, ANSWER_SHARE * len(texts))
    return [None if short.get(text, 0) > often else text for text in texts]
