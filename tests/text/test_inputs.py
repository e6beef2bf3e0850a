"""Blank texts, UTF-16, answers."""

import pytest

from multihead.text.inputs import as_utf8, is_blank, without_answers


@pytest.mark.parametrize("text", ["", " ", "\t", "\xa0", "\u3000", "\u200b", "\ufeff", " \u200b\t\u2028", "\x00"])
def test_blank(text):
    assert is_blank(text)


@pytest.mark.parametrize("text", ["a", " . ", "\u200ba", "。", "\N{PILE OF POO}", "-"])
def test_not_blank(text):
    assert not is_blank(text)


def test_utf_8_passes_unchanged_and_utf_16_is_decoded():
    assert list(as_utf8([b"\xef\xbb\xbfa", b"b\xff"])) == [b"\xef\xbb\xbfa", b"b\xff"]
    data = "\ufeffaß\N{PILE OF POO}".encode("utf-16-le")
    assert b"".join(as_utf8([data[i : i + 2] for i in range(0, len(data), 2)])).decode() == "aß\N{PILE OF POO}"
    with pytest.raises(UnicodeDecodeError):
        list(as_utf8([data[:-1]]))


def test_an_answer_is_short_and_repeats():
    assert without_answers(["yes", "no"] * 2) == [None] * 4
    assert without_answers(["yes", "no", "maybe"]) == ["yes", "no", "maybe"]
    assert without_answers(["x" * 30] * 5) == ["x" * 30] * 5
    mixed = ["yes"] * 11 + [f"name {i}" for i in range(20)]
    assert without_answers(mixed) == [None] * 11 + mixed[11:]
    assert without_answers(mixed[1:]) == mixed[1:]
