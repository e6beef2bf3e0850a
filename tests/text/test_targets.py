"""The limit on the length of outputs, and BLEU's tokenizer, as the training split and what is installed have them."""

import importlib.util

import numpy as np
import pytest

from multihead.config.compose import compose
from multihead.data.prepare import prepare
from multihead.errors import CheckpointError, ConfigError
from multihead.runs.directory import TARGETS, read_targets, save_vocab
from multihead.text.targets import TargetText, require_tokenizer, usable_tokenizer
from multihead.text.vocabulary import Vocabulary


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


@pytest.mark.unhurried
def test_it_is_measured_on_the_training_split_and_stands_beside_the_tokenizers(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for split, rows in (("train", 300), ("val", 20), ("test", 20)):
        (tmp_path / f"{split}.tsv").write_text("".join(f"{i}\t那个人读了{i}本很有意思的新书。\n" for i in range(rows)))
    files = [f"data.{split}={tmp_path / split}.tsv" for split in ("train", "val", "test")]
    words = ["task=translation", "data=files", *files, "tokenizer.kind=char", "tokenizer.min_frequency=1"]
    prepared = prepare(compose(words), ("train", "val", "test"))
    found = prepared.vocab.targets["translation"]
    assert found.bleu_tokenize == "zh" and found.limit(3) >= 17
    assert "BLEU is computed with sacreBLEU's tokenizer zh, which fits the script of the targets" in prepared.notes
    files = save_vocab(tmp_path, prepared.vocab)
    assert read_targets(tmp_path / TARGETS) == {"translation": found}
    again = prepare(compose(words), ("test",), Vocabulary(prepared.vocab.tokenizers, [], {"translation": found}))
    assert again.vocab.targets["translation"] == found and set(files) == {"source", "target"}
    assert read_targets(tmp_path / "none.json") == {}
    (tmp_path / TARGETS).write_text('{"translation": {"slope": "steep"}}')
    with pytest.raises(CheckpointError, match=r"targets.json: is damaged"):
        read_targets(tmp_path / TARGETS)
    with pytest.raises(ConfigError, match=r"task.bleu_tokenize: ja-mecab needs a package"):
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        prepare(compose([*words, "task.bleu_tokenize=ja-mecab"]), ("test",), prepared.vocab)


@pytest.mark.parametrize("words", [["task.bleu_tokenize=zh"], ["task.ter=true"]])
def test_summaries_are_scored_by_rouge_alone(words):
    key, _, value = words[0].partition("=")
    with pytest.raises(
        ConfigError, match=rf"{key}: must be left as it is: summaries are scored by ROUGE.*; fix: {key}="
    ):
        compose(["task=summarization", *words])
    assert compose(["task=translation", *words]).tree["task"][key.partition(".")[2]] in (value, True)
