"""Translation files in markup: TMX, XLIFF 1.2 and 2.0, and the XML and SGML of WMT.

Each unit of such a file becomes one row, with a column for each language. The file is read as a stream. XML goes
through expat, which loads nothing from outside of the file; a file that declares an entity is refused, so that none
can grow in memory (CWE-776). The SGML of WMT is not XML, since it may hold a bare ``&``. It is read by its tags.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any
from xml.parsers import expat

from multihead.errors import DataError

Unit = tuple[int, dict[str, str]]
"""The line of a unit, and its text by language. The source language is the first."""
FORMATS = ("tmx", "xliff", "wmt")
"""Formats in which one file holds all languages."""
LONGEST_UNIT = 16 << 20
"""Largest number of characters of a unit."""
ROOTS = {"tmx": "tmx", "xliff": "xliff", "dataset": "wmt"}
"""Outermost element to the format."""
SGML_ROOTS = ("srcset", "refset", "tstset")
CODES = {
    "tmx": ("bpt", "ept", "ph", "it", "ut"),
    "xliff": ("bpt", "ept", "ph", "it"),
}
"""Elements inside of a text that hold codes of a program, and no text."""


def format_of_markup(text: str) -> str:
    """Returns the format that the outermost element of a text names: tmx, xliff, wmt or sgm; otherwise nothing."""
    place = 0
    for opening, closing in _PROLOGUE * 20:  # a file has few of them
        place += len(text) - place - len(text[place:].lstrip("\ufeff \t\r\n"))
        if text.startswith(opening, place):
            end = text.find(closing, place)
            if end < 0:
                return ""
            place = end + len(closing)
    found = re.compile(r"<([A-Za-z]+)[\s>]").match(text, place)
    root = found[1].lower() if found else ""
    return "sgm" if root in SGML_ROOTS else ROOTS.get(root, "")


_PROLOGUE = (("<?", "?>"), ("<!--", "-->"), ("<!DOCTYPE", ">"), ("<!doctype", ">"))
"""What may stand in front of the outermost element."""


def units_of(form: str, chunks: Iterable[bytes], name: str) -> Iterator[Unit]:
    """Yields the units of a file that holds all languages. A unit may lack a language.

    Args:
        form: One of `FORMATS`.
        chunks: The bytes of the file, in pieces. XML itself says its encoding.
        name: The name of the file in messages.

    Raises:
        DataError: The file is not well-formed XML, or it declares an entity.
    """
    reader = {"tmx": _Tmx, "xliff": _Xliff, "wmt": _Wmt}[form](name)
    for chunk in chunks:
        reader.feed(chunk)
        yield from reader.taken()
    reader.feed(b"", last=True)
    yield from reader.taken()


def one_line(text: str) -> str:
    """Returns the text of an element without blanks at its ends, and with a blank for each end of line."""
    return re.sub(r"[ \t]*[\r\n]\s*", " ", text).strip() if "\n" in text or "\r" in text else text.strip()


# ---------------------------------------------------------------------------------------------------------------------
# XML


class _Xml:
    """Elements and text of an XML file, one event after the other."""

    def __init__(self, name: str):
        self.name = name
        self.parser = expat.ParserCreate()
        self.parser.buffer_text = True
        self.parser.StartElementHandler = self._starts
        self.parser.EndElementHandler = self._ends
        self.parser.CharacterDataHandler = self._text
        self.parser.EntityDeclHandler = self._entity
        self.parser.SkippedEntityHandler = self._unknown
        self.units: list[Unit] = []
        self.inside: list[str] = []
        """The open elements, the outermost first."""
        self.pieces: list[str] | None = None
        """The text that is being collected."""
        self.size = 0
        self.silent = 0
        """Number of open elements that hold codes and no text."""
        self.codes: tuple[str, ...] = ()

    def feed(self, chunk: bytes, last: bool = False) -> None:
        """Parses the next bytes.

        Raises:
            DataError: They are not well-formed.
        """
        try:
            self.parser.Parse(chunk, last)
        except (expat.ExpatError, ValueError, LookupError) as error:
            reason = str(error).partition(":")[0]
            what = f"is not well-formed XML ({reason})"
            raise self.error(what, "export the file again, or convert it to TSV") from None

    def taken(self) -> list[Unit]:
        """Returns the units that are complete, and forgets them."""
        found, self.units = self.units, []
        return found

    def error(self, what: str, fix: str) -> DataError:
        """Returns the error for the current place."""
        place = f"{self.parser.CurrentLineNumber}:{self.parser.CurrentColumnNumber + 1}"
        return DataError(f"{self.name}:{place}", what, fix)

    # What a format adds.

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        """An element begins."""

    def end(self, tag: str) -> None:
        """An element ends."""

    # Events of the parser.

    def _starts(self, tag: str, attributes: dict[str, str]) -> None:
        tag = tag.rpartition(":")[2]
        self.inside.append(tag)
        if self.pieces is not None and (self.silent or tag in self.codes):
            self.silent += 1
            return
        self.begin(tag, attributes)

    def _ends(self, tag: str) -> None:
        tag = self.inside.pop()
        if self.silent:
            self.silent -= 1
            return
        self.end(tag)

    def _text(self, text: str) -> None:
        if self.pieces is None or self.silent:
            return
        self.pieces.append(text)
        self.size += len(text)
        if self.size > LONGEST_UNIT:
            raise self.error(f"has a text of more than {LONGEST_UNIT:,} characters", "break the text up")

    def collect(self) -> None:
        """Begins to collect text."""
        self.pieces, self.size, self.silent = [], 0, 0

    def collected(self) -> str:
        """Returns the text since `collect`."""
        text, self.pieces = one_line("".join(self.pieces or [])), None
        return text

    def _entity(self, entity: str, *_: Any) -> None:
        raise self.error(f"declares the entity {entity!r}, which Multihead does not expand", "remove the declaration")

    def _unknown(self, entity: str, *_: Any) -> None:
        raise self.error(f"uses the entity &{entity};, which is not defined", "write the character itself")


class _Columns:
    """The languages of a file as they were first written: ``EN-us`` and ``en-US`` are one column."""

    def __init__(self) -> None:
        self.known: dict[str, str] = {}

    def name(self, language: str) -> str:
        """Returns the column of a language."""
        return self.known.setdefault(language.lower(), language)


class _Tmx(_Xml):
    """TMX 1.4b: ``<tu><tuv xml:lang="en"><seg>text</seg></tuv>...</tu>``."""

    def __init__(self, name: str):
        super().__init__(name)
        self.codes = CODES["tmx"]
        self.columns, self.source, self.language, self.line = _Columns(), "", "", 0
        self.texts: dict[str, str] = {}

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "header":
            self.source = attributes.get("srclang", "").lower()
        elif tag == "tu":
            self.texts, self.line = {}, self.parser.CurrentLineNumber
        elif tag == "tuv":
            language = attributes.get("xml:lang") or attributes.get("lang")
            if not language:
                raise self.error("the <tuv> has no xml:lang", "name the language of each <tuv>")
            self.language = self.columns.name(language)
        elif tag == "seg":
            self.collect()

    def end(self, tag: str) -> None:
        if tag == "seg" and self.pieces is not None:
            self.texts.setdefault(self.language, self.collected())
        elif tag == "tu":
            texts = sorted(self.texts.items(), key=lambda each: each[0].lower() != self.source)
            self.units.append((self.line, dict(texts)))


class _Xliff(_Xml):
    """XLIFF 1.2 (``trans-unit``) and 2.0 (``segment``): a source, and a target unless it is not translated yet."""

    def __init__(self, name: str):
        super().__init__(name)
        self.codes = CODES["xliff"]
        self.columns, self.line = _Columns(), 0
        self.languages = {"source": "source", "target": "target"}
        self.texts: dict[str, str] = {}

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "xliff":
            self._set_languages(attributes.get("srcLang"), attributes.get("trgLang"))
        elif tag == "file":
            self._set_languages(attributes.get("source-language"), attributes.get("target-language"))
        elif tag in ("trans-unit", "segment"):
            self.texts, self.line = {}, self.parser.CurrentLineNumber
        elif tag in self.languages and self.inside[-2:-1] in (["trans-unit"], ["segment"]):
            self.collect()

    def _set_languages(self, source: str | None, target: str | None) -> None:
        for side, language in (("source", source), ("target", target)):
            if language:
                self.languages[side] = self.columns.name(language)

    def end(self, tag: str) -> None:
        if tag in self.languages and self.pieces is not None:
            self.texts[self.languages[tag]] = self.collected()
        elif tag in ("trans-unit", "segment") and self.texts:
            self.units.append((self.line, {language: text for language, text in self.texts.items() if text}))


class _Wmt(_Xml):
    """XML of WMT since 2021: each ``doc`` has a ``src`` and ``ref``s, whose segments belong together by their id."""

    def __init__(self, name: str):
        super().__init__(name)
        self.columns, self.side, self.language, self.segment = _Columns(), "", "", ("", 0)
        self.rows: dict[str, Unit] = {}
        """Id of a segment of the current document to its unit."""

    def begin(self, tag: str, attributes: dict[str, str]) -> None:
        if tag == "doc":
            self.rows = {}
        elif tag in ("src", "ref", "hyp"):
            self.side, self.language = tag, self.columns.name(attributes.get("lang") or tag)
        elif tag == "seg" and self.side in ("src", "ref"):
            self.segment = (attributes.get("id") or "", self.parser.CurrentLineNumber)
            self.collect()

    def end(self, tag: str) -> None:
        if tag == "seg" and self.pieces is not None:
            number, line = self.segment
            text = self.collected()
            if self.side == "src":
                self.rows.setdefault(number, (line, {}))
            if number in self.rows:
                self.rows[number][1].setdefault(self.language, text)  # of several references the first
        elif tag in ("src", "ref", "hyp"):
            self.side = ""
        elif tag == "doc":
            self.units += self.rows.values()


# ---------------------------------------------------------------------------------------------------------------------
# SGML of WMT


@dataclass
class Segments:
    """The segments of one side: of a file such as ``newstest2014-deen-src.de.sgm``."""

    language: str = ""
    """What ``srclang`` or ``trglang`` says; empty if it says ``any``."""
    source: bool = True
    """Whether it is the side of the source."""
    texts: dict[tuple[str, str], tuple[int, str]] = field(default_factory=dict)
    """Document and id of each segment to its line and its text."""


TAG = re.compile(r"<(/?)(srcset|refset|tstset|doc|seg)\b([^<>]*)>", re.IGNORECASE)
ATTRIBUTE = re.compile(r"""([\w-]+)\s*=\s*(?:"([^"]*)"|'([^']*)'|([^\s"'>]+))""")
ENTITY = re.compile(r"&(?:(amp|lt|gt|quot|apos)|#(\d{1,7})|#x([0-9a-fA-F]{1,6}));")
CHARACTERS = {"amp": "&", "lt": "<", "gt": ">", "quot": '"', "apos": "'"}


def segments_of(lines: Iterable[str], name: str) -> Segments:
    """Returns the segments of one file of WMT's SGML. Of several systems or references the first is taken.

    Args:
        lines: The lines of the file.
        name: The name of the file in messages.

    Raises:
        DataError: A segment is not closed, or two segments of a document have the same id.
    """
    found = Segments()
    document, segment, opened, size, taken = "", "", 0, 0, True
    pieces: list[str] | None = None
    systems: dict[str, str] = {}
    """Document to its system or reference."""
    for number, line in enumerate(lines, start=1):
        place = 0
        for tag in TAG.finditer(line):
            if pieces is not None:
                pieces.append(line[place : tag.start()])
            place = tag.end()
            closing, kind, attributes = tag[1], tag[2].lower(), _attributes(tag[3])
            if kind == "seg" and closing and pieces is not None:
                if taken:
                    _add_segment(found, (document, segment), opened, one_line(_plain("\n".join(pieces))), name)
                pieces = None
            elif pieces is not None:
                raise _not_closed(name, opened)
            elif kind == "seg" and not closing:
                segment, pieces, opened, size = attributes.get("id", ""), [], number, 0
            elif kind == "doc" and not closing:
                document = attributes.get("docid", "")
                system = attributes.get("sysid", "")
                taken = systems.setdefault(document, system) == system
            elif not closing:
                found.source = kind == "srcset"
                language = attributes.get("srclang" if found.source else "trglang", "")
                found.language = "" if language.lower() == "any" else language
        if pieces is not None:
            pieces.append(line[place:])
            size += len(line)
            if size > LONGEST_UNIT:
                raise _not_closed(name, opened)
    if pieces is not None:
        raise _not_closed(name, opened)
    if not found.texts:
        raise DataError(name, "holds no segment (<seg id=...>)", "name a file of WMT that holds segments")
    return found


def _not_closed(name: str, line: int) -> DataError:
    return DataError(f"{name}:{line}", "the segment that begins here has no </seg>", "copy or download the file again")


def _add_segment(found: Segments, key: tuple[str, str], line: int, text: str, name: str) -> None:
    if key in found.texts:
        what = f"the document {key[0]!r} has two segments with the id {key[1]!r}"
        raise DataError(f"{name}:{line}", what, "give each segment an id of its own")
    found.texts[key] = (line, text)


def _attributes(text: str) -> dict[str, str]:
    return {name.lower(): _plain(a or b or c) for name, a, b, c in ATTRIBUTE.findall(text)}


def _plain(text: str) -> str:
    """The text with characters in place of the five entities of XML and of numbers; a bare ``&`` stays."""

    def character(found: re.Match[str]) -> str:
        if found[1]:
            return CHARACTERS[found[1]]
        number = int(found[2]) if found[2] else int(found[3], 16)
        return chr(number) if 0 < number < 0x110000 and not 0xD800 <= number < 0xE000 else found[0]

    return ENTITY.sub(character, text)
