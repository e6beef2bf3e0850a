"""Finds the script of a text, and its words. Scores count words, but not every script separates them.

Han, kana, Thai, Lao, Khmer, Burmese and Tibetan are written without spaces between words. No simple rule finds the
words of such a text, so each of its characters counts as a word.
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
"""Largest number of texts, evenly spread over a data set, from which its script is found."""
MAIN_SCRIPT = 0.5
"""If at least this share of the letters belongs to a script, it is the script of the text."""
SOME_KANA = 0.05
"""If kana are at least this share of Han and kana, the text is Japanese. Chinese has none, Japanese about half."""


def bleu_tokenizer(texts: Sequence[str]) -> str:
    """Returns sacreBLEU's tokenizer for texts of this script: 13a, zh, ja-mecab, ko-mecab, or char.

    13a splits at spaces and punctuation. It takes a sentence without spaces for one word, so BLEU would be 0 unless the
    whole sentence is right. zh, ja-mecab and ko-mecab are sacreBLEU's own choices for these languages. char is for
    other scripts without spaces.
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
    """Returns the words of a text in lower case. A word is a run of letters, digits and combining marks of any script.

    In a script without spaces, each character with its marks is a word. The text is first brought into its composed
    form (NFC), and invisible characters are removed, such as a soft hyphen or a zero-width joiner. On ASCII text the
    words are those of the ``rouge-score`` package and of torchmetrics: all characters except a-z and 0-9 separate.
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
    """Splits a run before and after each character of a script without spaces; marks stay with their character."""
    units: list[str] = []
    alone = True  # whether the next character starts a new unit
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
