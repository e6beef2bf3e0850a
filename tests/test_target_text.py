"""The limit on the length of outputs, and BLEU's tokenizer, as the training split and what is installed have them."""

import importlib.util

import numpy as np
import pytest

from multihead.errors import ConfigError
from multihead.target_text import TargetText, require_tokenizer, usable_tokenizer


def test_a_limit_covers_long_targets_and_is_never_below_twice_the_source():
    sources = np.random.default_rng(0).integers(1, 7, 2000)  # digits
    targets = 9 * sources + np.arange(2000) % 5  # their names, letter by letter
    found = TargetText.measured(sources, targets, ["one hundred"])
    assert all(found.limit(s) >= t + 1 for s, t in zip(sources.tolist(), targets.tolist(), strict=True))
    assert found.limit(6) <= 2 * 9 * 6 + 10
    short = TargetText.measured(np.full(50, 40), np.full(50, 5), ["gist"])
    assert short == TargetText() and short.limit(7) == 24
    assert TargetText.of(found.as_dict()) == found


def test_one_odd_row_in_thousands_does_not_set_the_limit():
    sources, targets = np.full(5000, 10), np.full(5000, 10)
    targets[7] = 4000
    assert TargetText.measured(sources, targets, ["x"]) == TargetText()
    sources, targets = np.full(300, 2), np.full(300, 2)
    targets[7] = 60  # among few rows every one counts
    assert TargetText.measured(sources, targets, ["x"]).limit(2) >= 61


def test_the_tokenizer_of_bleu_by_what_is_installed(monkeypatch):
    found = {"MeCab": None, "mecab_ko": object(), "sentencepiece": None}
    monkeypatch.setattr(importlib.util, "find_spec", found.__getitem__)
    name, note = usable_tokenizer("auto", TargetText(bleu_tokenize="ja-mecab"))
    assert name == "char" and 'pip install "multihead[ja]"' in note
    assert usable_tokenizer("auto", TargetText(bleu_tokenize="ko-mecab"))[0] == "ko-mecab"
    assert usable_tokenizer("auto", TargetText(bleu_tokenize="zh"))[0] == "zh"
    assert usable_tokenizer("auto", TargetText()) == ("13a", "")
    assert usable_tokenizer("intl", TargetText(bleu_tokenize="zh")) == ("intl", "")
    require_tokenizer("ko-mecab")
    for wanted, extra in (("ja-mecab", "ja"), ("flores200", "flores")):
        with pytest.raises(ConfigError, match=rf"task.bleu_tokenize: {wanted} needs .* \"multihead\[{extra}\]\""):
            require_tokenizer(wanted)
