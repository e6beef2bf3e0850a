"""Unknown tokens: their share in each split is said, and bits per byte are left out where they make them too few."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import trial

from multihead.commands.evaluate import evaluate
from multihead.config.data import TokenizerConfig
from multihead.data.encode import encode_corpus
from multihead.data.prepare import unknown_notes, unknown_shares
from multihead.data.stream import Stream
from multihead.data.tokenizer import train_tokenizer


def test_shares_by_hand():
    words = train_tokenizer(TokenizerConfig(kind="word", min_frequency=2), ["a a b b c"])
    encoded = encode_corpus(
        {"source": ["a b", "c d"], "target": ["a", "b"]}, dict.fromkeys(("source", "target"), words)
    )
    shares = unknown_shares({"val": encoded}, {"source": words, "target": words})
    assert shares == {"val": {"source": 0.5, "target": 0.0}}
    all_shares = {"train": {"source": 0.25, "target": 0.0}, **shares}
    (note,) = unknown_notes(all_shares, {"source": words, "target": words})
    assert note == "unknown tokens in source: train 25.00%, val 50.00%; tokenizer.kind=bpe has none"
    (note,) = unknown_notes(all_shares, dict.fromkeys(("source", "target"), SimpleNamespace(kind="published")))
    assert note.endswith("val 50.00%; the published tokenizer does not know these texts")  # its kind is not chosen
    stream = Stream(np.array([6, 7, words.unk_id, words.eos_id]), words.eos_id, 20)
    assert unknown_shares({"val": stream}, {"text": words}) == {"val": {"text": 0.25}}
    subwords = train_tokenizer(TokenizerConfig(kind="bpe", vocab_size=300), ["a a b b c"])
    assert unknown_shares({"val": encoded}, {"source": subwords, "target": subwords}) == {}


@pytest.fixture(scope="module")
def small_vocabulary(tmp_path_factory):
    """A translation of words, of which the vocabulary has few."""
    folder = tmp_path_factory.mktemp("unknown") / "run"
    words = ["tokenizer.kind=word", "tokenizer.min_frequency=1", "tokenizer.vocab_size=40", "data.cache=false"]
    return folder, trial.train(folder, *words, "task.monitor=val/bits_per_byte", "task.monitor_mode=min")


def test_a_run_says_it_and_chooses_by_the_loss(small_vocabulary):
    folder, result = small_vocabulary
    log = (folder / "train.log").read_text()
    assert "data: unknown tokens in target: train " in log
    assert 0.05 < result["test/unknown_tokens"] < 1 and 0.05 < result["val/unknown_tokens"] < 1
    assert not [name for name in result if name.endswith("bits_per_byte")]
    assert any("of the tokens in target are unknown to the vocabulary" in note for note in result["notes"])
    rows = [(value, step) for step, value in trial.rows(folder, "val/loss")]
    assert result["best_step"] == min((float(value), step) for value, step in rows)[1]


def test_an_evaluation_says_the_same(small_vocabulary):
    folder, result = small_vocabulary
    again = evaluate(str(folder))
    assert again["test/unknown_tokens"] == result["test/unknown_tokens"] and "test/bits_per_byte" not in again
    assert [note for note in again["notes"] if "unknown" in note] == [n for n in result["notes"] if "unknown" in n]
    assert json.loads((folder / "evaluate_test.json").read_text())["notes"] == again["notes"]


def test_a_run_directory_from_before_lengths_were_measured_still_works(small_vocabulary, tmp_path):
    folder, result = small_vocabulary
    shutil.copytree(folder, tmp_path / "old")
    (tmp_path / "old/model/targets.json").unlink()
    assert evaluate(str(tmp_path / "old"))["test/loss"] == result["test/loss"]
