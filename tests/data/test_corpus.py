"""Roles, held-out rows, fingerprints."""

import random

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


def test_too_few_rows_to_hold_out():
    with pytest.raises(DataError, match="too few different rows to hold val out"):
        hold_out(rows({"source": ["a"] * 9}), {"val": 2}, 0)
    with pytest.raises(DataError, match="leaves nothing of 3 rows to train on"):
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
    with pytest.raises(ConfigError, match=r"data.test: no file, and data.splits holds nothing out"):
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
