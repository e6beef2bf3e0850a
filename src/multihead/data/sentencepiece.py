"""Converts unigram models of sentencepiece (arXiv:1808.06226) into tokenizers of the `tokenizers` library.

Marian has two of them, one for each language, with one vocabulary in ``vocab.json``. T5 has one, ``spiece.model``. A
file is a protocol buffer (sentencepiece_model.proto), which this module reads by itself.

Ids are those of sentencepiece, with three exceptions, which ``benchmarks/sentencepiece_equal.py`` counts. If two ways
to cut a word have the same score, the libraries may choose different ones. Combining marks out of their canonical order
are put in order. And the library drops a mark behind a character that is normalised (a wide letter, or ``½``), if both
take less than six bytes.
"""

from __future__ import annotations

import base64
import math
import re
import struct
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = range(1, 7)
"""Kinds of pieces."""
UNIGRAM = 1
BLANK = "▁"
END = "</s>"
"""The entry that ends a text."""
ESCAPE = "\0"
"""Precedes the entries of a vocabulary that a model does not have, so that no text can spell them."""
LANGUAGE = re.compile(r">>\S+<<")
"""Entries that name the target's language at the start of a source."""


@dataclass
class Pieces:
    """What a file holds."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    """Text, score and kind of each piece."""
    model_type: int = UNIGRAM
    unknown: int = 0
    """Number of the piece for what no other piece spells."""
    byte_fallback: bool = False
    normalization: str = ""
    """Name of the normalisation of characters."""
    charsmap: bytes = b""
    """Compiled normalisation of characters."""
    dummy_prefix: bool = True
    """Whether a blank is put before a text."""
    remove_blanks: bool = True
    """Whether blanks at both ends are removed, and several blanks become one."""


def read_pieces(content: bytes) -> Pieces:
    """The pieces and settings in a file.

    Raises:
        ValueError: It is no model of sentencepiece, or not one of the kind unigram.
    """
    found = Pieces()
    try:
        for number, value in _fields(content):
            if number == 1:
                found.pieces.append(_piece(value))
            elif number == 2:
                given = dict(_fields(value))
                found.model_type, found.unknown = given.get(3, found.model_type), given.get(40, found.unknown)
                found.byte_fallback = bool(given.get(35, found.byte_fallback))
            elif number == 3:
                given = dict(_fields(value))
                found.normalization = given.get(1, b"").decode("utf-8")
                found.charsmap = given.get(2, found.charsmap)
                found.dummy_prefix = bool(given.get(3, found.dummy_prefix))
                found.remove_blanks = bool(given.get(4, found.remove_blanks))
    except (IndexError, TypeError, AttributeError, struct.error, UnicodeDecodeError) as error:
        raise ValueError(f"is no model of sentencepiece ({error})") from None
    if not found.pieces or not 0 <= found.unknown < len(found.pieces):
        raise ValueError("is no model of sentencepiece (it has no pieces)")
    if found.model_type != UNIGRAM:
        raise ValueError("must be a unigram model of sentencepiece; other kinds are not supported")
    return found


def _fields(content: bytes) -> Iterator[tuple[int, Any]]:
    """Number and value of each field of a message: a whole number, or bytes."""
    place = 0

    def varint() -> int:
        nonlocal place
        value = shift = 0
        while True:
            byte = content[place]
            place += 1
            value |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                return value
            if shift > 63:
                raise IndexError("a number is too long")

    while place < len(content):
        key = varint()
        kind = key & 7
        if kind == 0:
            yield key >> 3, varint()
            continue
        size = {1: 8, 5: 4}.get(kind) or (varint() if kind == 2 else -1)
        if size < 0 or place + size > len(content):
            raise IndexError("a field is cut off")
        yield key >> 3, content[place : place + size]
        place += size


def _piece(content: bytes) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for key, value in _fields(content):
        if key == 1:
            text = value.decode("utf-8")
        elif key == 2:
            (score,) = struct.unpack("<f", value)
        elif key == 3:
            kind = value
    if not math.isfinite(score):
        raise IndexError("a score is not finite")
    return text, score, kind


def t5_tokenizer(model: Pieces, extra: int) -> dict[str, Any]:
    """The content of a ``tokenizer.json`` for T5: its pieces, and behind them ``<extra_id_N>`` for spans, N falling."""
    spans = [f"<extra_id_{number}>" for number in reversed(range(extra))]
    vocab = [(text, score) for text, score, _ in model.pieces] + [(name, 0.0) for name in spans]
    special = [text for text, _, kind in model.pieces if kind in (UNKNOWN, CONTROL)]
    return _content(model, vocab, model.unknown, [*special, *spans])


def pegasus_tokenizer(model: Pieces, offset: int) -> dict[str, Any]:
    """The content of a ``tokenizer.json`` for Pegasus: its marks, unused entries, and the pieces behind them.

    Args:
        model: The pieces. The first two pad and end a text.
        offset: What is added to the numbers of pieces.

    Raises:
        ValueError: The first two pieces are others.
    """
    if [text for text, _, _ in model.pieces[:2]] != ["<pad>", END] or offset < 2:
        raise ValueError("must begin with the pieces <pad> and </s>, as those of Pegasus do")
    marks = ["<pad>", END, "<mask_1>", "<mask_2>"][: offset + 2]
    marks += [f"<unk_{number}>" for number in range(2, offset)][: offset + 2 - len(marks)]
    vocab = [(name, 0.0) for name in marks] + [(text, score) for text, score, _ in model.pieces[2:]]
    special = [text for text, _, kind in model.pieces[2:] if kind in (UNKNOWN, CONTROL)]
    return _content(model, vocab, model.unknown + offset, [*marks, *special])


def marian_tokenizer(model: Pieces, vocabulary: Mapping[str, int], special: Collection[str]) -> dict[str, Any]:
    """The content of a ``tokenizer.json`` for one of Marian's languages.

    Ids are those of the vocabulary. Entries that only the other language has can be decoded, but no text is encoded as
    one of them. (If a language's model does not know a text, ``transformers`` looks it up among them.) Pieces that the
    vocabulary lacks are left out, so that smaller ones spell them.

    Args:
        model: The pieces of the language.
        vocabulary: Entry to id, of both languages.
        special: Entries that are no pieces: those that end, pad and are unknown.

    Raises:
        ValueError: The ids do not count from 0, or the entry for unknown text is missing.
    """
    if not isinstance(vocabulary, dict) or not all(isinstance(number, int) for number in vocabulary.values()):
        raise ValueError("needs a vocab.json that maps entries to ids")
    entries = sorted(vocabulary, key=vocabulary.__getitem__)
    if [vocabulary[entry] for entry in entries] != list(range(len(entries))) or "<unk>" not in vocabulary:
        raise ValueError("needs a vocab.json with ids that count from 0, and <unk> among the entries")
    scores = {
        text: score for text, score, kind in model.pieces if kind in (NORMAL, USER_DEFINED) and text in vocabulary
    }
    lowest = min(scores.values(), default=0.0)
    special = [entry for entry in entries if entry in special or LANGUAGE.fullmatch(entry)]
    plain = {*scores, *special}
    vocab = [(entry if entry in plain else ESCAPE + entry, scores.get(entry, lowest)) for entry in entries]
    return _content(model, vocab, vocabulary["<unk>"], special)


def _content(model: Pieces, vocab: Sequence[tuple[str, float]], unknown: int, special: Sequence[str]) -> dict[str, Any]:
    """The content of a ``tokenizer.json``.

    Raises:
        ValueError: No entry ends a text.
    """
    ids = {entry: number for number, (entry, _) in enumerate(vocab)}
    if END not in ids:
        raise ValueError(f"has no entry {END}, which ends a text")
    steps: list[dict[str, Any]] = []
    if model.charsmap:
        charsmap = base64.b64encode(model.charsmap).decode("ascii")
        steps.append({"type": "Precompiled", "precompiled_charsmap": charsmap})
    if "nfkc" in model.normalization:  # the library applies the map to one character at a time, not to sequences
        folded = [{"type": "Lowercase"}] if model.normalization.endswith("_cf") else []  # the map does the rest of it
        steps = [{"type": "NFC"}, *folded, *steps, {"type": "NFC"}]  # ｶﾞ becomes two characters by the map, then one
    if model.remove_blanks:
        steps += [_replace(r"\A +| +\z", ""), _replace(" {2,}", " ")]
    steps.append({"type": "Replace", "pattern": {"String": " "}, "content": BLANK})
    before = None
    if model.dummy_prefix:
        steps.append(_replace(rf"\A{BLANK}", BLANK * 2))  # the library adds no blank to one, sentencepiece does
        before = {"type": "Metaspace", "replacement": BLANK, "prepend_scheme": "always", "split": False}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    first, mark = {"Sequence": {"id": "A", "type_id": 0}}, {"SpecialToken": {"id": END, "type_id": 0}}
    second = {"Sequence": {"id": "B", "type_id": 0}}
    ends = [{"type": "Replace", "pattern": {"String": BLANK}, "content": " "}, {"type": "Fuse"}]
    ends += [{"type": "Strip", "content": " ", "start": 1, "stop": 0}] if model.dummy_prefix else []
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": ids[entry], "content": entry, **flags} for entry in sorted(special, key=ids.__getitem__)
        ],
        "normalizer": {"type": "Sequence", "normalizers": steps},
        "pre_tokenizer": before,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [first, mark],
            "pair": [first, mark, second, mark],
            "special_tokens": {END: {"id": END, "ids": [ids[END]], "tokens": [END]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [{"type": "Replace", "pattern": {"String": ESCAPE}, "content": ""}, *ends],
        },
        "model": {
            "type": "Unigram",
            "unk_id": unknown,
            "vocab": [[entry, score] for entry, score in vocab],
            "byte_fallback": model.byte_fallback,
        },
    }


def _replace(pattern: str, content: str) -> dict[str, Any]:
    return {"type": "Replace", "pattern": {"Regex": pattern}, "content": content}
