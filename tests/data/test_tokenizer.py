"""Text comes back as it was, special names in text stay text, and training is the same bytes every time."""

import json
import os
import random
import subprocess
import sys
import unicodedata

import pytest

from multihead.config.data import TOKENIZERS, TokenizerConfig
from multihead.data.tokenizer import SPECIALS, Tokenizer, train_tokenizer
from multihead.errors import CheckpointError, ConfigError, DataError

WORDS = [
    "the",
    "a",
    "man",
    "woman",
    "dog",
    "sees",
    "likes",
    "der",
    "die",
    "das",
    "Mann",
    "Frau",
    "Hund",
    "läuft",
    "straße",
]
ODD = [
    "",
    " ",
    "a",
    " leading and  double   blanks ",
    "Hello, world! It's 3.14 (or \"so\") – isn't it?",
    "<eos> <pad><unk> <bos> <sep>",
    "tab\there \u2028 \x85 \x0b nbsp\u00a0end",
    "日本語のテキスト مرحبا हिन्दी \N{FAMILY}\u200d\N{BOY} ﬁne",
    "▁Ġ metaspace",
    "e\u0301 combining",
    "x" * 500 + "!" * 100 + " " * 70,
]


def texts(count=400, seed=0):
    rng = random.Random(seed)
    return [" ".join(rng.choices(WORDS, k=rng.randint(3, 12))) + rng.choice([".", "!", ", 12."]) for _ in range(count)]


def train(kind, normalize="none", **options):
    options = {"vocab_size": 400} | options
    return train_tokenizer(TokenizerConfig(kind=kind, **options), texts(), normalize)


@pytest.fixture(scope="module")
def tokenizers():
    return {kind: train(kind) for kind in TOKENIZERS}


@pytest.mark.parametrize("kind", ["bpe", "unigram", "byte"])
def test_any_text_comes_back(tokenizers, kind):
    tokenizer = tokenizers[kind]
    rng = random.Random(1)
    anything = ["".join(chr(rng.choice([32, 60, 97, rng.randrange(1, 0xD800)])) for _ in range(30)) for _ in range(200)]
    for batch in (ODD, texts(50, seed=9), anything):
        ids = tokenizer.encode_batch(batch)
        assert tokenizer.decode_batch(ids) == list(batch)
        assert tokenizer.unk_rate(ids) == 0
        assert all(len(SPECIALS) <= i < tokenizer.vocab_size for sequence in ids for i in sequence)


@pytest.mark.parametrize("normalize", ["nfc", "nfkc"])
@pytest.mark.parametrize("lowercase", [False, True])
def test_text_comes_back_normalised(normalize, lowercase):
    for kind in ("bpe", "byte"):
        tokenizer = train(kind, normalize, lowercase=lowercase)
        expected = [unicodedata.normalize(normalize.upper(), text) for text in ODD]
        expected = [text.lower() for text in expected] if lowercase else expected
        assert tokenizer.decode_batch(tokenizer.encode_batch(ODD)) == expected
        assert [tokenizer.normalize(text) for text in ODD] == expected


def test_char_and_word_keep_what_they_know(tokenizers):
    known = texts(50, seed=0)
    for kind in ("char", "word"):
        tokenizer = tokenizers[kind]
        ids = tokenizer.encode_batch(known)
        assert tokenizer.decode_batch(ids) == known
        assert tokenizer.unk_rate(ids) == 0
    assert tokenizers["char"].decode_batch(tokenizers["char"].encode_batch(["dog日dog"])) == ["dog<unk>dog"]
    ids = tokenizers["word"].encode_batch(["the  zebra\tsees"])
    assert tokenizers["word"].decode_batch(ids) == ["the <unk> sees"]
    assert tokenizers["word"].unk_rate(ids) == pytest.approx(1 / 3)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_text_that_spells_a_special_entry_stays_text(tokenizers, kind):
    spelt = [*SPECIALS, "the<eos>dog", "\0<eos>", " ".join(SPECIALS)]
    for tokenizer in (tokenizers[kind], train_tokenizer(TokenizerConfig(kind=kind, vocab_size=400), spelt * 9, "none")):
        for ids in tokenizer.encode_batch(spelt):
            assert not {tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.sep_id} & set(ids)


def test_word_corpora_with_special_names_keep_them():
    lines = ["the <unk> dog <eos>"] * 3
    tokenizer = train_tokenizer(TokenizerConfig(kind="word", vocab_size=100), lines, "none")
    ids = tokenizer.encode_batch(lines[:1])
    assert min(ids[0]) >= len(SPECIALS)
    assert tokenizer.unk_rate(ids) == 0
    assert tokenizer.decode_batch(ids) == lines[:1]


def test_special_entries_are_left_out_of_decoded_text(tokenizers):
    for tokenizer in tokenizers.values():
        ids = tokenizer.encode_batch(["the dog"])[0]
        assert tokenizer.decode_batch([[1, *ids, 4, 2, 0, 0], []]) == ["the dog", ""]
        assert (tokenizer.pad_id, tokenizer.bos_id, tokenizer.eos_id, tokenizer.unk_id, tokenizer.sep_id) == tuple(
            range(5)
        )
        assert tokenizer.vocab[: len(SPECIALS)] == list(SPECIALS)


def test_pieces_are_good_for_translation(tokenizers):
    tokenizer = tokenizers["bpe"]
    (ids,) = tokenizer.encode_batch(["the man, 123 man."])
    pieces = [tokenizer.vocab[i] for i in ids]
    assert pieces[:3] == ["Ġthe", "Ġman", ","] and pieces[-2:] == ["Ġman", "."]  # words whole, punctuation apart
    assert "".join(pieces[3:-2]) == "Ġ123" and len(pieces[3:-2]) >= 3  # digits one by one


def test_sizes():
    assert train("bpe", vocab_size=300).vocab_size == 300
    assert train("unigram", vocab_size=280).vocab_size == 280
    assert train("byte").vocab_size == 262
    assert train("word", vocab_size=10).vocab_size == 10
    assert train("word", vocab_size=1000, min_frequency=50).vocab_size < train("word", vocab_size=1000).vocab_size
    assert train("char", vocab_size=8).vocab_size == len(set("".join(texts()))) + len(SPECIALS)


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_a_vocabulary_smaller_than_the_alphabet(kind):
    message = (
        rf"tokenizer.vocab_size: must be at least 262 for {kind} \(6 special entries and an alphabet of 256 bytes\)"
    )
    with pytest.raises(ConfigError, match=message + ", got 261; fix: tokenizer.vocab_size=262"):
        train(kind, vocab_size=261)
    assert train(kind, vocab_size=262).vocab_size == 262


def test_no_text():
    with pytest.raises(DataError, match="tokenizer: no text to train on"):
        train_tokenizer(TokenizerConfig(kind="word"), [], "none")


TRAIN = """
import sys
sys.path.insert(0, {folder!r})
from test_tokenizer import texts
from multihead.config.data import TokenizerConfig
from multihead.data.tokenizer import train_tokenizer
for kind in ("bpe", "unigram", "word", "char"):
    print(train_tokenizer(TokenizerConfig(kind=kind, vocab_size=400), texts(2000), "nfc").fingerprint)
"""


def test_training_gives_the_same_bytes_in_every_process_and_with_any_thread_count():
    code = TRAIN.format(folder=os.path.dirname(__file__))
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            env=os.environ | {"RAYON_NUM_THREADS": str(threads), "PYTHONHASHSEED": str(threads)},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in (1, 2, 4)
    }
    assert len(outputs) == 1


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_save_and_load(tokenizers, tmp_path, kind):
    tokenizer = tokenizers[kind]
    tokenizer.save(tmp_path / "tokenizer.json")
    loaded = Tokenizer.load(tmp_path / "tokenizer.json")
    assert loaded.fingerprint == tokenizer.fingerprint
    assert loaded.encode_batch(ODD) == tokenizer.encode_batch(ODD)
    loaded.save(tmp_path / "again.json")
    assert (tmp_path / "again.json").read_bytes() == (tmp_path / "tokenizer.json").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.json", "tokenizer.json"]


def test_fingerprints_differ_with_the_content(tokenizers):
    swapped = json.loads(tokenizers["bpe"]._content)
    swapped["vocab"][300], swapped["vocab"][301] = swapped["vocab"][301], swapped["vocab"][300]
    names = ("kind", "normalize", "lowercase", "vocab", "merges", "scores")
    others = [Tokenizer(*(swapped[name] for name in names)), train("bpe", "nfc"), train("bpe", lowercase=True)]
    assert len({tokenizer.fingerprint for tokenizer in [tokenizers["bpe"], *others]}) == 4


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_flat_ids_are_those_of_the_library(tokenizers, kind):
    samples = [*texts()[:50], "", "naïve café – 北京 🙂", "".join(map(chr, range(1, 0x250))), "tab\tand\nline"]
    for batch in (samples, [*samples, "a NUL \0 here"], [""], []):
        ids, lengths = tokenizers[kind].encode_flat(batch)
        expected = tokenizers[kind].encode_batch(batch)
        assert ids.tolist() == [i for row in expected for i in row] and lengths.tolist() == [len(r) for r in expected]


def test_damaged_files_are_refused(tokenizers, tmp_path):
    path = tmp_path / "tokenizer.json"
    for kind in TOKENIZERS:
        content = json.loads(tokenizers[kind]._content)
        changes = [
            {"version": 1},
            {"kind": "os.system"},
            {"normalize": "x"},
            {"lowercase": 1},
            {"vocab": ["x"]},
            {"vocab": content["vocab"] + ["\0<eos>"]},
            {"vocab": content["vocab"] + [content["vocab"][-1]]},
            {"merges": [["no", "such"]]},
            {"scores": [1.0]},
        ]
        for change in changes:
            path.write_text(json.dumps(content | change))
            with pytest.raises(CheckpointError, match=r"tokenizer.json: is not a tokenizer of Multihead \(.*fix: "):
                Tokenizer.load(path)
    whole = tokenizers["bpe"]._content
    for text in ("", "[]", whole[: len(whole) // 2], "\xff"):
        path.write_text(text)
        with pytest.raises(CheckpointError):
            Tokenizer.load(path)
    with pytest.raises(CheckpointError):
        Tokenizer.load(tmp_path / "gone.json")


def test_half_a_surrogate_pair_is_answered(tokenizers):
    for tokenizer in tokenizers.values():
        assert len(tokenizer.encode_batch(["a", "x\ud800y"])) == 2


@pytest.mark.parametrize("unit", ["x", "ab ", " ", "!", "1", "é", "e\u0301", "<eos>", "日"])
@pytest.mark.unhurried
def test_long_lines_take_linear_time(tokenizers, unit):
    import time

    def seconds(tokenizer, size):
        text = [(unit * size)[:size]]
        start = time.process_time()
        tokenizer.encode_batch(text)
        return time.process_time() - start

    for tokenizer in tokenizers.values():
        small, large = (min(seconds(tokenizer, size) for _ in range(2)) for size in (20_000, 160_000))
        assert large < 8 * 5 * max(small, 0.002)


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_entries_can_be_read(kind, tokenizers):
    """Those of bytes had the library's letters for bytes, such as ``stra\u00c3\u0141e``."""
    tokenizer, text = tokenizers[kind], "die straße läuft"
    (ids,) = tokenizer.encode_batch([text])
    read = [tokenizer.readable(i) for i in ids]
    if kind == "byte":
        assert "".join(read) == "die▁stra\\xc3\\x9fe▁l\\xc3\\xa4uft"
    else:
        assert "".join(read).removeprefix("▁").replace("▁", "" if kind == "word" else " ") == (
            text.replace(" ", "") if kind == "word" else text
        )
    together = tokenizer.readable_all([tokenizer.bos_id, *ids, 0])
    assert (together[0], together[-1]) == (tokenizer.readable(tokenizer.bos_id), "<pad>")
    assert len(together) == len(ids) + 2 and "\\x" not in "".join(together)
    if kind == "byte":
        assert "".join(together[1:-1]) == "die▁stra…ße▁l…äuft"
    else:
        assert together[1:-1] == read
    assert tokenizer.readable(0) == "<pad>" and tokenizer.readable(-100) == "-100"
    assert tokenizer.readable(len(tokenizer.vocab)) == str(len(tokenizer.vocab))


def test_bytes_that_make_no_character_are_shown_as_bytes(tokenizers):
    tokenizer = tokenizers["byte"]
    (first, second), (letter,) = tokenizer.encode_batch(["ö", "a"])
    assert tokenizer.readable_all([letter, first]) == ["a", "\\xc3"]
    assert tokenizer.readable_all([first, 0, first, second]) == ["\\xc3", "<pad>", "…", "ö"]
    assert tokenizer.readable_all([second, letter]) == ["\\xb6", "a"]
    assert tokenizer.readable_all([]) == []


def test_a_line_break_is_read_as_it_is_typed():
    tokenizer = train_tokenizer(TokenizerConfig(kind="char", vocab_size=40), ["a\tb\n c"] * 9, "none")
    assert [tokenizer.readable(i) for i in tokenizer.encode_batch(["a\tb\n c"])[0]] == [
        "a",
        "\\t",
        "b",
        "\\n",
        "▁",
        "c",
    ]
