"""CoNLL-U (universaldependencies.org/format.html): each sentence is one row.

The columns of the row are ``text``, the lines ``# key = value`` above the sentence, and the columns of its words joined
by blanks: form, lemma, upos, xpos, feats, head, deprel, deps and misc.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Sequence

from multihead.errors import DataError

FIELDS = ("form", "lemma", "upos", "xpos", "feats", "head", "deprel", "deps", "misc")
"""The columns of a word, after its number."""
COMMENT = re.compile(r"#\s*([^=\s][^=]*?)\s*=\s*(.*)")
NUMBER = re.compile(r"(\d+)(?:-(\d+)|(\.\d+))?\t")


def is_conllu(lines: Sequence[str]) -> bool:
    """Returns whether the first lines are sentences of CoNLL-U: ten columns, of which the first counts the words."""
    some = [line for line in lines[:200] if line.strip() and not line.startswith("#")]
    return len(some) > 1 and all(NUMBER.match(line) and line.count("\t") == len(FIELDS) for line in some)


def sentences_in(lines: Iterable[str | None], name: str) -> Iterator[tuple[int, dict[str, str]]]:
    """Yields each sentence with the line of its first word, and its text by column.

    Words that others are made of count as words, and the others as text (``1-2 du`` of ``de le``). Empty nodes
    (``8.1``) are left out.

    Raises:
        DataError: A line has another number of columns, or does not begin with the number of a word.
    """
    about: dict[str, str] = {}
    words: list[list[str]] = []
    first = 0
    for number, line in enumerate(lines, start=1):
        line = line or ""
        if line.startswith("#"):
            if found := COMMENT.match(line):
                about[found[1]] = found[2].strip()
        elif line.strip():
            cells = line.split("\t")
            if len(cells) != 1 + len(FIELDS) or not NUMBER.match(line):
                what = f"has {len(cells)} columns, expected {1 + len(FIELDS)}, of which the first counts the words"
                raise DataError(f"{name}:{number}", what, "fix the line")
            first = first or number
            words.append(cells)
        elif words:
            yield first, _row(about, words)
            about, words, first = {}, [], 0
    if words:
        yield first, _row(about, words)


def _row(about: dict[str, str], words: Sequence[Sequence[str]]) -> dict[str, str]:
    row = {"text": about.get("text") or _text(words)} | about
    plain = [word for word in words if word[0].isdigit()]
    return row | {name: " ".join(word[place] for word in plain) for place, name in enumerate(FIELDS, start=1)}


def _text(words: Sequence[Sequence[str]]) -> str:
    """The words with a blank behind each, unless ``SpaceAfter=No`` says that there is none."""
    pieces: list[str] = []
    last = 0
    for number, form, *_, misc in words:
        start, _, end = number.partition("-")
        if "." in number or int(start) <= last:  # an empty node, or a part of a word that has been written
            continue
        last = int(end) if end else last
        pieces += [form, "" if "SpaceAfter=No" in misc.split("|") else " "]
    return "".join(pieces).strip()
