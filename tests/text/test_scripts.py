"""Which tokenizer of BLEU a script needs, and what its words are."""

import unicodedata

import pytest
from languages import SENTENCES

from multihead.text.scripts import bleu_tokenizer, words

UNSEGMENTED = ("chinese", "japanese", "thai", "burmese", "tibetan")


@pytest.mark.parametrize("language", SENTENCES)
def test_bleu_tokenizer_by_script(language):
    special = {"chinese": "zh", "japanese": "ja-mecab", "korean": "ko-mecab"}
    expected = special.get(language, "char" if language in UNSEGMENTED else "13a")
    assert bleu_tokenizer([SENTENCES[language]] * 3) == expected


def test_the_main_script_decides_and_not_a_name_or_the_first_rows():
    assert bleu_tokenizer(["Das Wort 狗 heißt Hund."] * 50) == "13a"
    assert bleu_tokenizer(["2019 3.5"] * 10 + [f"{SENTENCES['chinese']} GPU"] * 5000) == "zh"
    assert bleu_tokenizer(["漢字のみ、カタカナもある"]) == "ja-mecab"
    assert bleu_tokenizer([]) == bleu_tokenizer(["", "1 2 3"]) == "13a"


def test_words_by_hand():
    assert words("It's 3.5 e-mails, snake_case!") == ["it", "s", "3", "5", "e", "mails", "snake", "case"]
    assert words("Größe, Grüße; ÉCOLE") == ["größe", "grüße", "école"]
    assert words("कुत्ता एक किताब है।") == ["कुत्ता", "एक", "किताब", "है"]
    assert words("読む2冊book") == ["読", "む", "2", "冊", "book"]
    assert words("กำลัง") == ["ก", "ำ", "ลั", "ง"]  # a mark above stays with its letter
    assert words("Donau\u00addampf می\u200cخواند") == words("Donaudampf میخواند")


@pytest.mark.parametrize("language", SENTENCES)
def test_no_letter_is_lost_and_the_unicode_form_does_not_matter(language):
    text = SENTENCES[language]
    letters = [char for char in unicodedata.normalize("NFC", text.lower()) if char.isalnum()]
    assert [char for char in "".join(words(text)) if char.isalnum()] == letters
    assert words(unicodedata.normalize("NFD", text)) == words(unicodedata.normalize("NFC", text)) != []
    assert (max(sum(map(str.isalpha, word)) for word in words(text)) == 1) == (language in UNSEGMENTED)
