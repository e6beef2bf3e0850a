"""Which scripts a text is written in, and what its words are: scores count words, and not every script shows them.

Scripts that are written without blanks between words are Han, kana, Thai, Lao, Khmer, Burmese and Tibetan. A text of
theirs has no words that a rule could find, so its characters stand for them.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Sequence

HAN = "\u2e80-\u2fdf\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
KANA = "\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff\uff66-\uff9f"
HANGUL = "\u1100-\u11ff\u3131-\u318e\ua960-\ua97f\uac00-\ud7ff"
SOUTH_EAST = "\u0e01-\u0e4e\u0e80-\u0ece\u1000-\u109f\uaa60-\uaa7f\u1780-\u17d3"
TIBETAN = "\u0f40-\u0fbc"
UNSEGMENTED = f"{HAN}{KANA}{SOUTH_EAST}{TIBETAN}"
_UNSEGMENTED = re.compile(f"[{UNSEGMENTED}]")

MOST_READ = 2000
"""Texts that the script of a data set is judged by, taken from all over it."""
MAIN_SCRIPT = 0.5
"""Share of the letters from which a script is that of the text."""
SOME_KANA = 0.05
"""Share of kana among Han and kana from which a text is Japanese: Chinese has none, Japanese about a half."""


def bleu_tokenizer(texts: Sequence[str]) -> str:
    """sacreBLEU's tokenizer for texts of this script: 13a, zh, ja-mecab, ko-mecab, or char.

    13a splits at blanks and punctuation. A sentence without blanks is one word to it, so that BLEU is 0 unless the
    whole sentence is right. zh, ja-mecab and ko-mecab are those that sacreBLEU takes for these languages itself; char
    is for scripts without blanks that it has no tokenizer for.
    """
    read = "".join(texts[:: max(1, len(texts) // MOST_READ)])
    letters = max(1, sum(map(str.isalpha, read)))
    han, kana, hangul, others = (
        len(re.findall(f"[{script}]", read)) for script in (HAN, KANA, HANGUL, SOUTH_EAST + TIBETAN)
    )
    if others / letters >= MAIN_SCRIPT:
        return "char"
    if (han + kana) / letters >= MAIN_SCRIPT:
        return "ja-mecab" if kana >= SOME_KANA * (han + kana) else "zh"
    return "ko-mecab" if hangul / letters >= MAIN_SCRIPT else "13a"


def words(text: str) -> list[str]:
    """The words of a text, lower-cased: runs of letters, digits and combining marks of any script.

    A character of a script without blanks is a word of its own, with its marks. Text is compared in its composed form
    (NFC), and invisible characters such as a soft hyphen or a zero-width joiner are left out. On ASCII text these are
    the words of the ``rouge-score`` package and of torchmetrics: what is neither a-z nor 0-9 separates.
    """
    if text.isascii():
        return re.findall(r"[a-z0-9]+", text.lower())
    text = unicodedata.normalize("NFC", unicodedata.normalize("NFC", text).lower())
    groups = ["".join(group) for inside, group in itertools.groupby(_visible(text), _in_word) if inside]
    return [word for group in groups for word in _units(group)]


def _visible(text: str) -> list[str]:
    return [char for char in text if unicodedata.category(char) != "Cf"]


def _in_word(char: str) -> bool:
    return char.isalnum() or unicodedata.category(char)[0] == "M"


def _units(group: str) -> list[str]:
    """A run without blanks, cut before and behind each character of a script that has none; marks stay with it."""
    units: list[str] = []
    alone = True  # whether the unit so far is closed
    for char in group:
        if units and unicodedata.category(char)[0] == "M":
            units[-1] += char
        elif _UNSEGMENTED.match(char):
            units.append(char)
            alone = True
        elif alone:
            units.append(char)
            alone = False
        else:
            units[-1] += char
    return units
