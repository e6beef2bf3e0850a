"""Folds of a cross-validation: each row is tested once, no text crosses, and the classes are in proportion."""

from collections import Counter

import numpy as np
import pytest

from multihead.config.data import DataConfig
from multihead.data.corpus import Rows, load_corpus
from multihead.data.splitting import fold_out
from multihead.errors import ConfigError, DataError


def rows(texts, labels=None):
    columns = {"text": list(texts)} | ({"label": list(labels)} if labels else {})
    return Rows(columns, dict.fromkeys(columns, "file"), np.arange(1, len(columns["text"]) + 1))


def all_folds(whole, folds, start=0, classes=None):
    return [fold_out(whole, folds, start + i, 0, classes) for i in range(folds)]


def test_each_row_is_in_one_fold_and_repeated_texts_stay_together():
    rng = np.random.default_rng(0)
    texts = [f"text {number}" for number in rng.integers(0, 150, 300)]  # most texts stand there twice or more often
    found = all_folds(rows(texts), 5)
    assert sorted(line for _, test in found for line in test.lines) == list(range(1, 301))
    assert {len(test) for _, test in found} == {60}
    for rest, test in found:
        assert not set(rest.columns["text"]) & set(test.columns["text"]) and len(rest) + len(test) == 300
        assert test.held_out and list(test.lines) == sorted(test.lines)


def test_classes_are_in_proportion_also_rare_ones():
    labels = ["a"] * 90 + ["b"] * 25 + ["c"] * 5
    for _, test in all_folds(rows(map(str, range(120)), labels), 5, classes=labels):
        assert Counter(test.columns["label"]) == {"a": 18, "b": 5, "c": 1}


def test_further_folds_are_another_partition():
    whole = rows(map(str, range(100)))
    first, second = all_folds(whole, 4), all_folds(whole, 4, start=4)
    assert sorted(line for _, test in second for line in test.lines) == list(range(1, 101))
    assert [list(test.lines) for _, test in first] != [list(test.lines) for _, test in second]
    assert [list(test.lines) for _, test in all_folds(whole, 4)] == [list(test.lines) for _, test in first]
    with pytest.raises(DataError, match=r"too few different rows for 3 folds: 2; fix: data\.folds=2"):
        fold_out(rows(["a", "b", "a"]), 3, 0, 0)


def test_the_validation_split_is_held_out_of_the_rest(tmp_path):
    file = tmp_path / "t.tsv"
    file.write_text("".join(f"text {i // 2}\t{'ab'[i % 4 // 2]}\n" for i in range(200)))
    tested = []
    for fold in range(5):
        config = DataConfig(train=str(file), columns=["text", "label"], splits={"val": 0.1, "test": 0.3},
                            folds=5, fold=fold)  # fmt: skip
        corpus = load_corpus(config, ["text", "label"])
        parts = [set(corpus.splits[split].columns["text"]) for split in ("train", "val", "test")]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
        assert [len(corpus.splits[split]) for split in ("train", "val", "test")] == [144, 16, 40]
        assert f"test: 40 rows held out of train (data.fold={fold} of data.folds=5)" in corpus.notes
        assert (
            load_corpus(config, ["text", "label"], splits=["test"]).fingerprints["test"] == corpus.fingerprints["test"]
        )
        tested += corpus.splits["test"].columns["text"]
    assert Counter(tested) == {f"text {i}": 2 for i in range(100)}


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"folds": 1}, "data.folds: must be 0, or at least 2, got 1"),
        ({"fold": 2}, "data.fold: must be 0 without data.folds, got 2; fix: data.folds=5"),
        ({"folds": 5, "test": "t.tsv"}, "data.test: must be null with data.folds"),
        ({"folds": 5, "format": "text"}, "data.folds: must be 0 for the built-in grammar and for running text"),
    ],
)
def test_what_folds_cannot_be(keys, message):
    with pytest.raises(ConfigError, match=message):
        DataConfig(**keys)
