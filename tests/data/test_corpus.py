"""Roles, held-out rows, fingerprints."""

import hashlib
import random
from collections import Counter

import numpy as np
import pytest

from multihead.config.data import DataConfig, GrammarConfig
from multihead.data.corpus import Rows, hold_out, load_corpus
from multihead.errors import ConfigError, DataError


def rows(columns):
    count = len(next(iter(columns.values())))
    return Rows(columns, dict.fromkeys(columns, "file"), np.arange(1, count + 1))


def tangled(count, seed=0):
    """Pairs that share sources and targets, so that rows hang together in groups of many sizes."""
    rng = random.Random(seed)
    source = [f"s{rng.randrange(count * 2)}" for _ in range(count)]
    return rows({"source": source, "target": [f"t{rng.randrange(count * 2)}" for _ in range(count)]})


@pytest.mark.parametrize("seed", range(5))
def test_no_text_crosses_splits_and_no_row_is_lost(seed):
    whole = tangled(3000, seed)
    parts = hold_out(whole, {"val": 0.05, "test": 100}, seed)
    assert sorted(line for part in parts.values() for line in part.lines) == list(range(1, 3001))
    assert abs(len(parts["val"]) - 150) <= 2 and abs(len(parts["test"]) - 100) <= 2
    for role in ("source", "target"):
        seen = [set(part.columns[role]) for part in parts.values()]
        assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    for part in parts.values():
        assert list(part.lines) == sorted(part.lines)


def test_the_draw_depends_on_the_seed_and_not_on_the_direction():
    whole = tangled(500)
    again = Rows({"source": whole.columns["target"], "target": whole.columns["source"]}, whole.files, whole.lines)
    draws = [hold_out(r, {"val": 0.1}, seed)["val"].lines.tolist() for r, seed in ((whole, 1), (again, 1), (whole, 2))]
    assert draws[0] == draws[1] != draws[2]


def test_labels_join_no_rows():
    whole = rows({"text": [f"x{i}" for i in range(100)], "label": ["a", "b"] * 50})
    assert len(hold_out(whole, {"test": 10}, 0)["test"]) == 10


def labelled(classes):
    return rows({"text": [f"text {i}" for i in range(len(classes))], "label": list(classes)})


def by_class(part):
    return dict(sorted(Counter(part.columns["label"]).items()))


@pytest.mark.parametrize("count", [8, 20, 40, 100])
@pytest.mark.parametrize("seed", range(10))
def test_a_small_balanced_file_has_every_class_in_every_split(count, seed):
    whole = labelled(["a", "b"] * (count // 2))
    parts = hold_out(whole, {"val": 0.02, "test": 0.02}, seed, whole.columns["label"])
    assert by_class(parts["val"]) == by_class(parts["test"]) == {"a": 1, "b": 1}
    assert by_class(parts["train"]) == {"a": count // 2 - 2, "b": count // 2 - 2}
    assert parts["val"].held_out and parts["test"].held_out and not parts["train"].held_out


def test_held_out_rows_have_the_classes_in_proportion():
    whole = labelled((["pos"] + ["neg"] * 9) * 20)
    for seed in range(10):
        parts = hold_out(whole, {"val": 0.02, "test": 0.1}, seed, whole.columns["label"])
        assert by_class(parts["val"]) == {"neg": 3, "pos": 1} and by_class(parts["test"]) == {"neg": 18, "pos": 2}


def test_a_rare_class_keeps_two_rows_in_train_and_goes_to_validation_first():
    whole = labelled(["a"] * 50 + ["b"] * 4 + ["c"] * 3 + ["d"] * 2)
    parts = hold_out(whole, {"val": 0.1, "test": 0.1}, 0, whole.columns["label"])
    assert {split: by_class(part) for split, part in parts.items()} == {
        "train": {"a": 41, "b": 2, "c": 2, "d": 2},
        "val": {"a": 4, "b": 1, "c": 1},
        "test": {"a": 5, "b": 1},
    }


def test_a_split_given_as_a_share_grows_to_a_row_of_each_class_but_not_beyond_a_tenth():
    many = labelled([f"class{i % 77}" for i in range(770)])
    sizes = [len(hold_out(many, {"val": size}, 0, many.columns["label"])["val"]) for size in (0.02, 30)]
    assert sizes == [77, 30]
    few = labelled([f"class{i % 77}" for i in range(385)])
    assert len(hold_out(few, {"val": 0.02}, 0, few.columns["label"])["val"]) == 38


def test_large_splits_are_drawn_as_ever():
    whole = labelled(["a", "b"] * 500)
    assert (
        hold_out(whole, {"val": 0.1}, 3, whole.columns["label"])["val"].lines.tolist()
        == hold_out(whole, {"val": 0.1}, 3)["val"].lines.tolist()
    )


def test_a_small_file_of_two_classes_is_read_without_refusal(tmp_path):
    file = tmp_path / "train.tsv"
    options = {"train": str(file), "columns": ["label", "text"], "labels": {"0": "no", "1": "yes"}}
    file.write_text("".join(f"{i % 2}: x\ttext {i}\n" for i in range(40)))
    corpus = load_corpus(DataConfig(**options, label_pattern=r"^\d"), ["text", "label"])
    for part in corpus.splits.values():
        assert {label[0] for label in part.columns["label"]} == {"0", "1"}
    file.write_text("".join(f"{int(i < 2)}\ttext {i}\n" for i in range(40)))
    corpus = load_corpus(DataConfig(**options), ["text", "label"])
    notes = [note for note in corpus.notes if "have no row" in note]
    assert notes[0] == (
        "val: 1 of the 2 classes have no row in it ('yes'); a larger share may help: data.splits.val=0.2"
    )


@pytest.mark.parametrize(
    "target",
    [
        lambda i: ("yes", "no")[i % 2],  # answers
        lambda i: str(i % 60 + i // 60),  # sums
        lambda i: "yes" if i % 4 == 0 else f"a name {i}",  # an answer among texts
    ],
)
def test_answers_join_no_rows(target):
    whole = rows({"source": [f"question {i}" for i in range(3000)], "target": [target(i) for i in range(3000)]})
    parts = hold_out(whole, {"val": 0.02, "test": 0.02}, 0)
    assert len(parts["val"]) == len(parts["test"]) == 60
    held = [answer for answer in parts["test"].columns["target"] if not answer.startswith("a name")]
    assert len(held) > 5 and set(held) <= set(parts["train"].columns["target"])


def test_sentences_join_rows_even_if_each_stands_in_many():
    sentence = [f"this is a whole sentence with number {i % 50}" for i in range(500)]
    whole = rows({"source": [f"noisy {i}" for i in range(500)], "target": sentence})
    parts = hold_out(whole, {"val": 0.1, "test": 0.1}, 0)
    seen = [set(part.columns["target"]) for part in parts.values()]
    assert not (seen[0] & seen[1] or seen[0] & seen[2] or seen[1] & seen[2])
    short = rows({"source": [f"s {i // 2}" for i in range(500)], "target": [f"t {i // 2}" for i in range(500)]})
    parts = hold_out(short, {"val": 0.1}, 0)  # an answer is a target that repeats; a source is never one
    assert not set(parts["val"].columns["source"]) & set(parts["train"].columns["source"])


def test_too_few_rows_to_hold_out():
    with pytest.raises(DataError, match="there are too few different rows to hold out a val split"):
        hold_out(rows({"source": ["a"] * 9}), {"val": 2}, 0)
    with pytest.raises(DataError, match=r"holds out all of the 3 rows .*; fix: data.splits.val=0.1"):
        hold_out(rows({"source": ["a", "b", "c"]}), {"val": 2, "test": 1}, 0)


@pytest.fixture
def files(tmp_path):
    (tmp_path / "train.tsv").write_text("".join(f"a{i}\tb{i}\n" for i in range(200)))
    (tmp_path / "val.tsv").write_text("v\tw\n")
    return DataConfig(train=str(tmp_path / "train.tsv"), columns=["source", "target"])


def test_splits_without_a_file_are_held_out(files, tmp_path):
    corpus = load_corpus(files, ["source", "target"])
    assert {split: len(part) for split, part in corpus.splits.items()} == {"train": 192, "val": 4, "test": 4}
    assert any("val: 4 rows held out of train" in note for note in corpus.notes)
    only = load_corpus(files, ["source", "target"], splits=["test"])
    assert only.fingerprints == {"test": corpus.fingerprints["test"]}
    train = load_corpus(files, ["source", "target"], splits=["train"])
    assert train.fingerprints["train"] == corpus.fingerprints["train"]
    files.val = str(tmp_path / "val.tsv")
    corpus = load_corpus(files, ["source", "target"])
    assert {split: len(part) for split, part in corpus.splits.items()} == {"train": 196, "val": 1, "test": 4}
    files.splits = {}
    with pytest.raises(
        ConfigError, match=r"data.test: names no file, and .* holds out no rows for it; fix: data.test=FILE"
    ):
        load_corpus(files, ["source", "target"])
    assert len(load_corpus(files, ["source", "target"], splits=["train", "val"]).splits["train"]) == 200


def test_fingerprint_is_of_the_content(files, tmp_path):
    before = load_corpus(files, ["source", "target"]).fingerprints
    path = tmp_path / "train.tsv"
    moved = tmp_path / "moved.tsv"
    moved.write_bytes(path.read_bytes())
    files.train = str(moved)
    assert load_corpus(files, ["source", "target"]).fingerprints == before
    assert load_corpus(files, ["target", "source"]).fingerprints == before
    moved.write_text(moved.read_text().replace("b7\n", "b7 \n", 1))
    changed = load_corpus(files, ["source", "target"]).fingerprints
    assert changed != before
    texts = [rows({"source": ["ab", "c"]}), rows({"source": ["a", "bc"]}), rows({"text": ["ab", "c"]})]
    assert len({part.fingerprint() for part in texts}) == 3


def test_a_role_that_the_data_set_lacks(files):
    with pytest.raises(
        ConfigError, match=r"data=files: has no label; it has source, target; fix: set data.roles.label"
    ):
        load_corpus(files, ["source", "label"])
    files.roles = {"text": "source"}
    with pytest.raises(ConfigError, match=r"data=files: has no target; it has text"):
        load_corpus(files, ["target"])


def test_a_plugin_reader_by_name():
    def read(config, split, columns):
        return {column: [f"{split} {column} {i}" for i in range(3)] for column in columns}

    config = DataConfig(name="mine")
    corpus = load_corpus(config, ["source", "target"], readers={"mine": read})
    assert corpus.splits["val"].columns["target"][2] == "val target 2"
    assert corpus.splits["val"].origin(2) == "mine val:3"


def test_the_grammar_is_a_corpus():
    config = DataConfig(
        name="grammar",
        format="grammar",
        roles={"source": "english", "target": "german"},
        grammar=GrammarConfig(train_size=50, val_size=5, test_size=7),
    )
    corpus = load_corpus(config, ["source", "target"])
    assert {split: len(part) for split, part in corpus.splits.items()} == {"train": 50, "val": 5, "test": 7}
    config.roles = {"source": "german", "target": "english"}
    swapped = load_corpus(config, ["source", "target"])
    assert swapped.splits["test"].columns["source"] == corpus.splits["test"].columns["target"]


def test_a_plugin_may_leave_a_split_out():
    """The docstring of `Reader` says so: a split for which a plugin's corpus returns None is held out of train."""

    def reader(config, split, columns):
        return (
            {name: [f"{name} {i} of some length" for i in range(50)] for name in columns} if split == "train" else None
        )

    config = DataConfig(name="mine", roles={"source": "a", "target": "b"}, splits={"val": 5, "test": 5})
    corpus = load_corpus(config, ["source", "target"], readers={"mine": reader})
    assert {split: len(rows) for split, rows in corpus.splits.items()} == {"train": 40, "val": 5, "test": 5}


@pytest.mark.parametrize("count", [0, 1, 3, 4, 9])
def test_a_fingerprint_is_that_of_the_joined_texts(count, monkeypatch):
    monkeypatch.setattr("multihead.data.corpus.ROWS_AT_ONCE", 3)
    texts = {"text": [f"é{i}" for i in range(count)], "label": ["x"] * count}
    rows = Rows(texts, {}, np.arange(count))
    joined = "".join(f"{role}\0{count}\0" + "\0".join(texts[role]) for role in sorted(texts))
    assert rows.fingerprint() == hashlib.sha256(joined.encode()).hexdigest()
