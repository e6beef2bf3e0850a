"""Encoded rows: right ids in right places, and a cache that is never believed when it is damaged."""

import json
import random

import numpy as np
import pytest
import torch

from multihead.config.data import TokenizerConfig
from multihead.data import encode
from multihead.data.encode import Encoded, apply_overlong, cached_tokenizer, encode_corpus
from multihead.data.tokenizer import Tokenizer
from multihead.errors import ConfigError, DataError

COLUMNS = {"source": ["a b", "", "c c c", "b"], "target": ["d", "e f", "a", ""]}


def byte_tokenizer():
    return encode.train_tokenizer(TokenizerConfig(kind="byte"), [])


@pytest.fixture
def tokenizers():
    return dict.fromkeys(COLUMNS, byte_tokenizer())


@pytest.fixture
def ragged():
    rng = random.Random(0)
    rows = {role: [[rng.randrange(5, 99) for _ in range(rng.randint(0, 9))] for _ in range(40)] for role in ("s", "t")}
    flat = {role: np.array([i for ids in lists for i in ids], dtype=np.uint16) for role, lists in rows.items()}
    lengths = {role: np.array([len(ids) for ids in lists]) for role, lists in rows.items()}
    starts = {role: np.cumsum(length) - length for role, length in lengths.items()}
    return rows, Encoded(flat, starts, lengths)


def test_ids_and_lengths(tokenizers):
    encoded = encode_corpus(COLUMNS, tokenizers)
    assert len(encoded) == 4 and encoded.roles == ("source", "target")
    for role, texts in COLUMNS.items():
        ids = tokenizers[role].encode_batch(texts)
        assert [list(encoded.ids(role, i)) for i in range(4)] == ids
        assert encoded.lengths(role).tolist() == [len(x) for x in ids]
        assert encoded.lengths(role).dtype == np.int64
        assert encoded.ids(role, 0).dtype == np.uint16


def test_large_vocabularies_take_32_bits():
    class Large:
        vocab_size, fingerprint = 70_000, "x"

        def encode_batch(self, texts):
            return [[69_999] for _ in texts]

    assert encode_corpus({"text": ["a"]}, {"text": Large()}).ids("text", 0).tolist() == [69_999]


def test_padded_equals_a_loop(ragged):
    rows, encoded = ragged
    rng = np.random.default_rng(0)
    for size in (1, 2, 7, 40):
        indices = rng.permutation(40)[:size]
        batch = encoded.padded("t", indices, prepend=[1], append=[2, 3], pad_id=-100)
        lists = [[1, *rows["t"][i], 2, 3] for i in indices]
        expected = torch.nn.utils.rnn.pad_sequence([torch.tensor(x) for x in lists], True, -100)
        assert batch.dtype == torch.int64 and torch.equal(batch, expected)
        joined = encoded.joined([1, "s", 4, "t", 2], indices)
        lists = [[1, *rows["s"][i], 4, *rows["t"][i], 2] for i in indices]
        width = max(map(len, lists))
        assert joined.tolist() == [x + [0] * (width - len(x)) for x in lists]


def test_empty_batches_are_well_formed(ragged):
    _, encoded = ragged
    none = np.zeros(0, dtype=np.int64)
    assert encoded.padded("s", none, append=[2, 2]).shape == (0, 2)
    assert encoded.padded("s", none).shape == (0, 1)
    empty = np.flatnonzero(encoded.lengths("s") == 0)[:1]
    assert encoded.padded("s", empty).tolist() == [[0]]


def test_select_and_cut_copy_no_ids(ragged):
    rows, encoded = ragged
    part = encoded.select(np.array([5, 3, 9])).select(np.array([2, 0]))
    assert part.rows.tolist() == [9, 5]
    cut = part.cut({"s": 2})
    assert [list(cut.ids("s", i)) for i in range(2)] == [rows["s"][9][:2], rows["s"][5][:2]]
    assert list(cut.ids("t", 0)) == rows["t"][9]
    assert np.shares_memory(cut.ids("t", 0), encoded._flat["t"])


# Too long


def test_overlong_is_dropped_cut_or_refused_and_said(ragged):
    rows, encoded = ragged
    long = [i for i in range(40) if len(rows["s"][i]) > 6 or len(rows["t"][i]) > 8]
    limits = {"s": 6, "t": 8}
    origin = "x.tsv:{}".format
    kept, note = apply_overlong(encoded, limits, "drop", origin=origin)
    assert kept.rows.tolist() == [i for i in range(40) if i not in long]
    assert f"train: {len(long)} of 40 examples too long, dropped (the first x.tsv:{long[0]}:" in note
    cut, note = apply_overlong(encoded, limits, "cut", origin=origin)
    assert len(cut) == 40 and cut.lengths("s").max() == 6 and "cut (the first" in note
    with pytest.raises(
        DataError, match=rf"x.tsv:{long[0]}: \d tokens in [st], the limit is [68]; fix: .*overlong=drop"
    ):
        apply_overlong(encoded, limits, "error", origin=origin)
    for policy in ("drop", "error"):
        scored, note = apply_overlong(encoded, limits, policy, origin=origin, split="test")
        assert len(scored) == 40 and scored.lengths("s").max() == 6
        assert note.startswith(f"test: {len(long)} of 40 examples too long, cut")
    assert apply_overlong(encoded, {"s": 9}, "error") == (encoded, "")


def test_all_too_long(ragged):
    _, encoded = ragged
    part = encoded.select(np.flatnonzero(encoded.lengths("s") > 3))
    message = rf"x.tsv: no example is left of {len(part)}: {len(part)} are too long .*overlong=cut"
    with pytest.raises(DataError, match=message):
        apply_overlong(part, {"s": 3}, "drop", origin="x.tsv:{}".format)


# Cache


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def test_the_second_time_comes_from_the_cache(tmp_path, tokenizers, monkeypatch):
    first = encode_corpus(COLUMNS, tokenizers, fingerprint="f", cache=tmp_path)
    monkeypatch.setattr(encode, "_encode", None)
    second = encode_corpus(COLUMNS, tokenizers, fingerprint="f", cache=tmp_path)
    assert [list(second.ids("source", i)) for i in range(4)] == [list(first.ids("source", i)) for i in range(4)]
    assert isinstance(second._flat["source"].base, np.memmap)
    with pytest.raises(TypeError):
        encode_corpus(COLUMNS, tokenizers, fingerprint="other data", cache=tmp_path)
    others = dict.fromkeys(COLUMNS, encode.train_tokenizer(TokenizerConfig(kind="byte", lowercase=True), []))
    with pytest.raises(TypeError):
        encode_corpus(COLUMNS, others, fingerprint="f", cache=tmp_path)
    assert not list(tmp_path.rglob("*.part*"))


def damage(path, how):
    content = path.read_bytes()
    if how == "gone":
        path.unlink()
    elif how == "bit":
        path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    else:
        path.write_bytes(content[: {"empty": 0, "half": len(content) // 2, "last": len(content) - 1}[how]])


@pytest.mark.parametrize("how", ["gone", "empty", "half", "last", "bit"])
@pytest.mark.parametrize("number", range(5))
def test_a_damaged_cache_is_rebuilt_with_one_note(tmp_path, tokenizers, how, number):
    fresh = encode_corpus(COLUMNS, tokenizers)
    encode_corpus(COLUMNS, tokenizers, fingerprint="f", cache=tmp_path)
    assert len(files(tmp_path)) == 5
    damage(files(tmp_path)[number], how)
    notes = []
    for _ in range(2):
        again = encode_corpus(COLUMNS, tokenizers, fingerprint="f", cache=tmp_path, note=notes.append)
        for role in COLUMNS:
            assert [list(again.ids(role, i)) for i in range(4)] == [list(fresh.ids(role, i)) for i in range(4)]
    assert len(notes) == 1 and "is damaged; the rows are encoded again" in notes[0]


def test_arrays_of_objects_are_never_unpickled(tmp_path, tokenizers):
    encode_corpus(COLUMNS, tokenizers, fingerprint="f", cache=tmp_path)
    folder = files(tmp_path)[0].parent
    np.save(folder / "source.ids.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    sums = json.loads((folder / "sums.json").read_text())
    sums["source.ids.npy"] = encode.sha256(folder / "source.ids.npy")
    (folder / "sums.json").write_text(json.dumps(sums))
    notes = []
    encode_corpus(COLUMNS, tokenizers, fingerprint="f", cache=tmp_path, note=notes.append)
    assert len(notes) == 1


def test_a_folder_that_cannot_be_written_is_no_hindrance(tmp_path, tokenizers):
    (tmp_path / "file").touch()
    notes = []
    cache = tmp_path / "file" / "cache"
    assert len(encode_corpus(COLUMNS, tokenizers, fingerprint="f", cache=cache, note=notes.append)) == 4
    config = TokenizerConfig(kind="byte")
    assert cached_tokenizer(config, [], "none", fingerprint="f", cache=cache, note=notes.append).vocab_size == 262
    assert len(notes) == 2 and all("nothing is cached" in note for note in notes)


def test_no_role_with_a_tokenizer():
    with pytest.raises(ConfigError, match="no tokenizer for any of source"):
        encode_corpus({"source": ["a"]}, {})


def test_tokenizers_are_cached_by_data_and_settings(tmp_path, monkeypatch):
    def get(notes=None, texts=("a b a b",), fingerprint="f", normalize="none", **options):
        config = TokenizerConfig(**({"kind": "word", "min_frequency": 1} | options))
        note = (notes if notes is not None else []).append
        return cached_tokenizer(config, texts, normalize, fingerprint=fingerprint, cache=tmp_path, note=note)

    first = get()
    assert get(texts=["not read"]).fingerprint == first.fingerprint
    for change in (
        {"fingerprint": "g"},
        {"normalize": "nfc"},
        {"lowercase": True},
        {"vocab_size": 9},
        {"kind": "char"},
    ):
        get(**change)
    assert len(files(tmp_path)) == 12  # each with its checksum
    for path in files(tmp_path):
        damage(path, "half")
    notes = []
    assert get(notes).fingerprint == first.fingerprint == get(notes).fingerprint
    assert len(notes) == 1 and "is damaged; the tokenizer is trained again" in notes[0]
    monkeypatch.setattr(Tokenizer, "save", None)
    assert cached_tokenizer(TokenizerConfig(kind="byte"), [], "none", fingerprint="f", cache=None).kind == "byte"
