"""BPE-dropout: without dropout the tokenizer's own cuts, by hand with it, and only in the train split."""

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

import multihead
from multihead.config.compose import compose
from multihead.config.data import TokenizerConfig
from multihead.data.bpe_dropout import MOST_CUTS, Cutter, recut
from multihead.data.encode import encode_corpus
from multihead.data.prepare import prepare, recut_train
from multihead.data.tokenizer import SPECIALS, Tokenizer, train_tokenizer
from multihead.errors import ConfigError

GRAMMAR = ["task=translation", "data.grammar.train_size=200", "data.grammar.val_size=20", "data.grammar.test_size=20"]
MERGES = [("a", "b"), ("ab", "c"), ("a", "a")]
HAND = Tokenizer("bpe", "none", False, [*SPECIALS, "a", "b", "c", "ab", "abc", "aa"], MERGES)


@pytest.fixture(scope="module")
def prepared():
    return prepare(compose([*GRAMMAR, "tokenizer.vocab_size=400", "data.cache=false"]), ("train", "val"))


def test_without_dropout_texts_are_cut_as_the_tokenizer_cuts_them(prepared):
    texts = [*prepared.texts["translation"].corpus.splits["train"].columns["target"], "Äaaaa  bbbb 12,5!", "", " x\tÿ"]
    tokenizer = prepared.vocab.tokenizers["target"]
    cutter = Cutter(tokenizer, 0.0, seed=1)
    cut = [[i for piece in tokenizer.pieces(text) for i in cutter.ids(piece)] for text in texts]
    assert cut == tokenizer.encode_batch(texts)
    lower = train_tokenizer(TokenizerConfig(vocab_size=300, lowercase=True), texts, "nfkc")
    cutter = Cutter(lower, 0.0, seed=1)
    assert [[i for p in lower.pieces(t) for i in cutter.ids(p)] for t in texts] == lower.encode_batch(texts)


@pytest.mark.parametrize("dropout", [0.1, 0.6])
def test_the_cuts_of_a_word_have_the_probabilities_of_the_algorithm(dropout):
    """Two merges in turn for abc; for aaa, the two places of one merge are left out independently."""
    cutter, count, p = Cutter(HAND, dropout, seed=1), 20_000, dropout
    for word, expected in (
        ("abc", {"a b c": p, "ab c": (1 - p) * p, "abc": (1 - p) ** 2}),
        ("aaa", {"a a a": p**2, "aa a": 1 - p, "a aa": p * (1 - p)}),
        ("cb", {"c b": 1.0}),
        ("a", {"a": 1.0}),
    ):
        found = Counter(" ".join(cutter.subwords(word)) for _ in range(count))
        assert set(found) == set(expected)
        for cut, share in expected.items():
            assert found[cut] / count == pytest.approx(share, abs=4 * (share * (1 - share) / count) ** 0.5)


def test_further_occurrences_of_a_word_draw_from_its_first_cuts():
    cutter = Cutter(HAND, 0.5, seed=1)
    first = [cutter.ids("abcabc") for _ in range(MOST_CUTS)]
    further = [cutter.ids("abcabc") for _ in range(1000)]
    assert {tuple(ids) for ids in further} == {tuple(ids) for ids in first} and len({*map(tuple, first)}) > 5


def test_every_row_is_there_in_several_cuts_that_spell_it(prepared):
    text, tokenizers = prepared.texts["translation"], prepared.vocab.tokenizers
    columns, plain = text.corpus.splits["train"].columns, prepared.encoded["translation"]["train"]
    options = {"dropout": 0.3, "copies": 3, "seed": 7}
    found = recut(plain.with_role("label", [[i] for i in range(200)]), columns, tokenizers, **options)
    assert len(found) == 600 and found.rows.tolist() == [*range(200)] * 3
    differ = set()
    for i in range(600):
        for role in ("source", "target"):
            ids = found.ids(role, i)
            assert tokenizers[role].decode_batch([ids])[0] == tokenizers[role].normalize(columns[role][i % 200])
            differ.add((role, i % 200, tuple(ids)))
        assert found.ids("label", i).tolist() == [i % 200]
    assert len(differ) > 1100  # nearly all of 2 * 3 * 200
    again = recut(plain, columns, tokenizers, **options)
    assert all(np.array_equal(found.ids("target", i), again.ids("target", i)) for i in range(600))
    other = recut(plain, columns, tokenizers, **options | {"seed": 8})
    assert any(not np.array_equal(found.ids("target", i), other.ids("target", i)) for i in range(600))


def test_only_the_train_split_is_cut_anew(prepared):
    words = [*GRAMMAR, "tokenizer.vocab_size=400", "data.cache=false", "tokenizer.dropout=0.2"]
    found = prepare(composition := compose([*words, "tokenizer.dropout_copies=2"]), ("train", "val"))
    assert found.vocab.tokenizers["target"].vocab == prepared.vocab.tokenizers["target"].vocab
    recut_train(composition.config, found)
    assert found.notes[-1] == "train: BPE-dropout cuts each of 200 rows in 2 ways"
    train, val = (found.encoded["translation"][split] for split in ("train", "val"))
    own = prepared.encoded["translation"]
    assert len(train) == 400 and train.lengths("target").mean() > 1.1 * own["train"].lengths("target").mean()
    assert all(np.array_equal(val.ids("target", i), own["val"].ids("target", i)) for i in range(20))
    unchanged = prepare(plain := compose([*GRAMMAR, "tokenizer.vocab_size=400", "data.cache=false"]), ("train",))
    recut_train(plain.config, unchanged)
    assert len(unchanged.encoded["translation"]["train"]) == 200


def test_dropout_needs_merges(prepared):
    words = replace(TokenizerConfig(), kind="word", min_frequency=1)
    tokenizer = train_tokenizer(words, ["a b"], "none")
    encoded = encode_corpus({"text": ["a b"]}, {"text": tokenizer})
    with pytest.raises(ConfigError, match=r"tokenizer\.dropout: must be 0 unless the tokenizer is of the kind bpe"):
        recut(encoded, {"text": ["a b"]}, {"text": tokenizer}, dropout=0.1, copies=2, seed=1)
    with pytest.raises(ConfigError, match=r"tokenizer\.dropout: must be 0 with task=lm, whose running text"):
        compose(["task=lm", "tokenizer.dropout=0.1"])


def test_a_run_with_dropout_resumes(tmp_path):
    words = ["task=classification", "debug=smoke", "tokenizer.dropout=0.1", "tokenizer.dropout_copies=2"]
    sizes = ["data.grammar.train_size=60", "data.grammar.val_size=20", "data.grammar.test_size=20"]
    result = multihead.train([*words, *sizes, f"run_dir={tmp_path / 'run'}"])
    log = (tmp_path / "run" / "train.log").read_text()
    assert "train 120, val 20, test 20 examples" in log and result["steps"] > 0
    longer = multihead.train([f"resume={tmp_path / 'run'}", f"trainer.max_steps={result['steps'] + 2}"])
    assert longer["steps"] == result["steps"] + 2
