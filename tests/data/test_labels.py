"""Labels: their part of a column, their names, the classes there are, subsets that keep proportions, refusals."""

from collections import Counter

import numpy as np
import pytest

from multihead.config.data import DataConfig
from multihead.data.corpus import Rows, load_corpus
from multihead.data.labels import class_names, encode_labels, read_labels, subset
from multihead.errors import ConfigError, DataError


def rows(labels, first_line=1):
    columns = {"text": [f"text {i}" for i in range(len(labels))], "label": list(labels)}
    return Rows(columns, {"text": "rows.tsv", "label": "rows.tsv"}, np.arange(first_line, first_line + len(labels)))


# What a label is


@pytest.mark.parametrize(
    ("options", "column", "expected"),
    [
        ({}, ["ham", "spam ", " two words"], [["ham"], ["spam"], ["two words"]]),
        ({"labels": {"0": "negative", "1": "positive"}}, ["1", "0"], [["positive"], ["negative"]]),
        ({"label_pattern": "^[^:]+"}, ["DESC:manner", "HUM:ind"], [["DESC"], ["HUM"]]),
        ({"label_pattern": "^[^:]+:(.*)"}, ["DESC:manner", "HUM:ind"], [["manner"], ["ind"]]),
        ({"label_pattern": "^[A-Z]+", "labels": {"HUM": "human"}}, ["HUM:ind", "HUM:gr"], [["human"], ["human"]]),
    ],
)
def test_a_label_is_the_matched_part_by_its_name(options, column, expected):
    assert read_labels(DataConfig(**options), rows(column)) == expected


def test_several_labels_of_a_row_stand_once_each_and_may_be_none():
    column = ["joy,anger", "anger, joy ,anger", "", " , "]
    read = read_labels(DataConfig(), rows(column), multi_label=True)
    assert read == [["joy", "anger"], ["anger", "joy"], [], []]
    assert read_labels(DataConfig(label_separator="|"), rows(["a|b,c"]), multi_label=True) == [["a", "b,c"]]


def test_a_label_without_a_name_is_refused_with_its_line():
    config = DataConfig(labels={"1": "World", "2": "Sports"})
    message = r"rows.tsv:12: the label '5' has no name in data.labels, which names 1, 2; fix: data.labels.5=NAME"
    with pytest.raises(DataError, match=message) as caught:
        read_labels(config, rows(["1", "2", "5"], first_line=10))
    assert caught.value.status == 2


def test_a_label_that_the_pattern_does_not_find_is_refused_with_its_line():
    with pytest.raises(DataError, match=r"rows.tsv:2: data.label_pattern=\^\[A-Z\]\+ finds no label in 'x:y'; fix"):
        read_labels(DataConfig(label_pattern="^[A-Z]+"), rows(["HUM:ind", "x:y"]))


# Which classes there are


def test_classes_are_in_the_order_of_the_configuration_or_sorted():
    labels = [["b"], ["a"], ["b"], ["a"]]
    assert class_names(labels, rows("baba")) == ["a", "b"]
    assert class_names(labels, rows("baba"), ["z", "b", "a"]) == ["b", "a"]
    assert encode_labels(labels, ["b", "a"], rows("baba")) == [[0], [1], [0], [1]]


def test_classes_that_are_numbers_are_in_the_order_of_their_values():
    labels = [[str(number)] for number in (10, 2, 1, 10, 2, 1, -1, -1)]
    assert class_names(labels, rows("a" * 8)) == ["-1", "1", "2", "10"]


@pytest.mark.parametrize("cell", ['["a", "b"]', "['a', 'b']", "a,b", " a , b"])
def test_several_labels_in_a_cell(cell):
    assert read_labels(DataConfig(), rows([cell, "[]"]), multi_label=True) == [["a", "b"], []]


def test_labels_that_mean_none_rare_classes_and_unseen_ones_are_left_out_and_counted(tmp_path):
    train = "".join(f"{label}\ttext {i}\n" for i, label in enumerate(["a", "b", "-", ""] * 3 + ["rare"]))
    (tmp_path / "train.tsv").write_text(train)
    (tmp_path / "test.tsv").write_text("a\tx\nb\ty\nrare\tz\nnew\tz\n")
    roles = {"text": "text", "label": "label"}
    files = {"train": str(tmp_path / "train.tsv"), "test": str(tmp_path / "test.tsv")}
    one = DataConfig(columns=["label", "text"], roles=roles, **files, splits={})
    one.ignore_labels, one.min_class_examples = ["-", "null"], 2
    corpus = load_corpus(one, ["text", "label"], splits=["train", "test"])
    assert corpus.splits["train"].columns["label"] == ["a", "b"] * 3
    assert corpus.splits["test"].columns["label"] == ["a", "b"]
    assert load_corpus(one, ["text", "label"], splits=["test"]).splits["test"].columns["label"] == ["a", "b"]
    notes = "\n".join(corpus.notes)
    assert "train: left out 6 rows whose label is one of data.ignore_labels" in notes
    assert "train: left out 1 rows with fewer than 2 examples of their class in train: 'rare' (1)" in notes
    assert "test: left out 2 rows with fewer than 2" in notes and "of up to 69 points" in notes
    one.min_class_examples, one.on_bad_line = 1, "skip"
    corpus = load_corpus(one, ["text", "label"], splits=["train", "test"])
    assert corpus.splits["test"].columns["label"] == ["a", "b", "rare"]


def test_a_class_with_one_example_is_refused_with_its_line():
    column = ["ham", "spam", "ham", "spam", "scam"]
    message = r"rows.tsv:5: the class 'scam' has only one example in train, .* fix: data.min_class_examples=2 leaves"
    with pytest.raises(DataError, match=message):
        class_names(read_labels(DataConfig(), rows(column)), rows(column))


@pytest.mark.parametrize("split", ["val", "test"])
def test_a_split_with_one_class_is_refused(split):
    column = ["ham", "ham", "ham"]
    with pytest.raises(DataError, match=r"train has one class only, 'ham', in 3 rows; classification needs two"):
        class_names([["ham"]] * 3, rows(column))
    message = rf"rows.tsv: {split} has one class only, 'ham', in 3 rows; .* data.{split}=null data.splits.{split}=0.1"
    with pytest.raises(DataError, match=message):
        encode_labels([["ham"]] * 3, ["ham", "spam"], rows(column), split)
    held_out = rows(column)
    held_out.held_out = True
    assert encode_labels([["ham"]] * 3, ["ham", "spam"], held_out, split) == [[0]] * 3


def test_one_class_is_enough_where_a_row_may_have_none_and_none_at_all_is_not():
    assert class_names([["toxic"], [], ["toxic"]], rows("abc"), multi_label=True) == ["toxic"]
    assert encode_labels([["toxic"], []], ["toxic"], rows("ab"), "val", multi_label=True) == [[0], []]
    with pytest.raises(DataError, match=r"rows.tsv: train has no label in 2 rows"):
        class_names([[], []], rows("ab"), multi_label=True)


def test_a_label_that_train_does_not_have_is_refused_with_file_line_and_nearest_class():
    message = (
        r"rows.tsv:3: the label 'positve' is not among the classes of train \(negative, positive\); "
        r"nearest: positive; fix: data.on_bad_line=skip leaves such rows out"
    )
    with pytest.raises(DataError, match=message):
        encode_labels([["negative"], ["positive"], ["positve"]], ["negative", "positive"], rows("abc"), "val")


def test_of_many_classes_a_message_lists_the_first():
    classes = [f"class{i:02}" for i in range(50)]
    with pytest.raises(DataError, match=r"class06, class07 and 42 more\); nearest: class49"):
        encode_labels([["class4 9"]], classes, rows("a"), "test")


def test_an_empty_document_is_refused_with_its_line_or_skipped(tmp_path):
    file = tmp_path / "rows.tsv"
    file.write_text("ham\tgood day\nspam\t \nham\tsee you\n")
    options = {"columns": ["label", "text"], "train": str(file), "splits": {}}
    with pytest.raises(DataError, match=r"rows.tsv:2: the text is empty, the label .* is not; fix: .*on_bad_line=skip"):
        load_corpus(DataConfig(**options), ["text", "label"], splits=["train"])
    corpus = load_corpus(DataConfig(**options, on_bad_line="skip"), ["text", "label"], splits=["train"])
    assert corpus.splits["train"].columns["label"] == ["ham", "ham"]
    assert any("skipped 1 rows" in note for note in corpus.notes)


def test_an_empty_label_is_refused_unless_there_may_be_none(tmp_path):
    file = tmp_path / "rows.tsv"
    file.write_text("joy\tgood day\n\tsee you\n\t\njoy\tyes\n")
    config = DataConfig(columns=["label", "text"], train=str(file), splits={})
    with pytest.raises(DataError, match=r"rows.tsv:2: the label is empty, the text .* is not"):
        load_corpus(config, ["text", "label"], splits=["train"])
    corpus = load_corpus(config, ["text", "label"], splits=["train"], may_be_empty=["label"])
    assert read_labels(config, corpus.splits["train"], multi_label=True) == [["joy"], [], ["joy"]]
    file.write_text("joy\tgood day\njoy\t\n")
    with pytest.raises(DataError, match=r"rows.tsv:2: the text is empty, the label .* is not"):
        load_corpus(config, ["text", "label"], splits=["train"], may_be_empty=["label"])


# Subsets


def test_a_subset_keeps_the_proportions_of_the_classes_and_the_order_of_the_rows():
    labels = [["a"]] * 700 + [["b"]] * 250 + [["c"]] * 50
    data = rows([name for (name,) in labels])
    chosen = subset(data, 100, labels)
    assert Counter(labels[i][0] for i in chosen) == {"a": 70, "b": 25, "c": 5}
    assert (np.diff(chosen) > 0).all()
    assert (chosen == subset(data, 100, labels)).all()
    assert not np.array_equal(chosen, subset(data, 100, labels, seed=1))
    assert set(chosen) < set(subset(data, 400, labels))
    assert len(subset(data, 1000, labels)) == 1000


@pytest.mark.parametrize("count", [4, 7, 99, 103])
def test_a_subset_has_the_size_asked_for_and_two_of_a_rare_class(count):
    labels = [["rare"]] * 3 + [["common"]] * 100
    chosen = subset(rows(["x"] * 103), count, labels)
    found = Counter(labels[i][0] for i in chosen)
    assert len(set(chosen)) == count
    assert found["rare"] == (3 if count == 103 else max(2, round(count * 3 / 103)))


def test_a_subset_without_labels_draws_from_all_rows_alike():
    chosen = [subset(rows(["x"] * 50), 10, seed=seed) for seed in range(200)]
    counts = np.bincount(np.concatenate(chosen), minlength=50)
    assert counts.sum() == 2000 and counts.min() > 15 and counts.max() < 70  # binomial, mean 40, deviation 5.7


def test_a_subset_larger_than_train_is_refused():
    with pytest.raises(ConfigError, match=r"data.train_examples: must be at most the 3 rows of train, got 4"):
        subset(rows("abc"), 4)
