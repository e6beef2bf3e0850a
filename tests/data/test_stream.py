"""Running text on disk: every token once, whatever the block; splits as nanoGPT cuts them; memory that stays."""

import numpy as np
import pytest

from multihead.config.compose import compose
from multihead.config.data import DataConfig, TokenizerConfig
from multihead.data.mixture import Mixture
from multihead.data.plan import BatchPlan
from multihead.data.stream import BlockPlan, Stream, TextFiles, encode_stream, fingerprint
from multihead.data.tokenizer import Tokenizer, train_tokenizer
from multihead.errors import ConfigError, DataError

EOS = Tokenizer.eos_id


def stream(length=1000, **options):
    return Stream(np.arange(10, 10 + length), EOS, num_bytes=3 * length, **options)


def test_windows_shift_inputs_by_one_and_start_from_the_end_mark():
    inputs, labels = stream(10, block_size=4).windows(np.array([0, 4, 8, -3]))
    assert labels.tolist() == [[10, 11, 12, 13], [14, 15, 16, 17], [18, 19, -1, -1], [-1, -1, -1, 10]]
    assert inputs.tolist() == [[EOS, 10, 11, 12], [13, 14, 15, 16], [17, 18, -1, -1], [-1, -1, -1, EOS]]


@pytest.mark.parametrize(
    ("length", "size", "stride"), [(1000, 64, 0), (1000, 64, 16), (64, 64, 32), (65, 64, 1), (9, 64, 8)]
)
def test_evaluation_scores_every_token_once_with_the_context_it_is_promised(length, size, stride):
    one = stream(length, block_size=size, stride=stride)
    starts, scored_from = one.evaluation()
    seen = np.zeros(length, dtype=int)
    for start, first in zip(starts, scored_from, strict=True):
        places = np.arange(start + first, min(start + size, length))
        seen[places] += 1
        assert start == 0 or first == size - (stride or size)
    assert (seen == 1).all()


@pytest.mark.parametrize(
    ("length", "size", "batch"),
    [(1000, 64, 256), (1025, 256, 256), (513, 256, 256), (512, 256, 256), (1000, 7, 21), (63, 64, 64), (64, 64, 640)],
)
def test_an_epoch_holds_every_token_once_and_its_counts_are_known(length, size, batch):
    one = stream(length, block_size=size)
    plan = BlockPlan(
        one, batch_tokens=batch, part_tokens=batch, seed=3, targets=lambda t, _: np.round(0.15 * t).astype(int)
    )
    for epoch in range(3):
        tokens = []
        for step in plan.steps(epoch):
            _, labels = one.windows(step.indices)
            real = labels >= 0
            assert 0 < real.sum() == step.tokens <= batch
            assert step.targets == sum(round(0.15 * n) for n in real.sum(axis=1).tolist())
            tokens += labels[real].tolist()
        assert sorted(tokens) == list(range(10, 10 + length))
    assert len(plan.steps(0)) == plan.num_steps(0)
    first, again, second = (BlockPlan(one, batch_tokens=batch, part_tokens=batch, seed=3).steps(e) for e in (0, 0, 1))
    assert [s.indices.tolist() for s in first] == [s.indices.tolist() for s in again]
    if length > 2 * size:
        assert [s.indices.tolist() for s in first] != [s.indices.tolist() for s in second]


def test_parts_share_a_step_out():
    plan = BlockPlan(stream(10_000, block_size=50), batch_tokens=1000, part_tokens=200, seed=0)
    assert plan.num_micro_batches() == 5
    for step in plan.steps(0):
        for count in (5, 7, 30):
            parts = plan.micro_batches(step, count)
            assert sorted(np.concatenate(parts)) == sorted(step.indices) and len(parts) == count
    whole = BlockPlan(stream(10_000, block_size=50), batch_tokens=1000, part_tokens=1000, seed=0)
    for step, same in zip(plan.steps(0), whole.steps(0), strict=True):  # larger parts, and the same steps
        assert step.indices.tolist() == same.indices.tolist()
    with pytest.raises(ConfigError, match=r"data\.batch_tokens: must be at least 50, the tokens of a block, got 49"):
        BlockPlan(stream(100, block_size=50), batch_tokens=49, part_tokens=50, seed=0)


def test_a_mixture_of_one_is_that_plan_and_of_two_follows_the_temperature():
    lengths = np.random.default_rng(0).integers(3, 30, size=2000)
    small = BatchPlan(lengths, lengths, batch_tokens=500, part_tokens=500, seed=1)
    large = BlockPlan(stream(400_000, block_size=50), batch_tokens=500, part_tokens=500, seed=1)
    alone = Mixture({"a": small}, seed=1)
    for epoch in (0, 5):
        pairs = zip(alone.steps(epoch), small.steps(epoch), strict=True)
        assert all(np.array_equal(mixed.indices, own.indices) and mixed.task == "a" for mixed, own in pairs)
    sizes = {"a": small.num_steps(0), "b": large.num_steps(0)}
    assert Mixture({"a": small, "b": large}).counts == sizes
    equal = Mixture({"a": small, "b": large}, temperature=1e6)
    assert abs(equal.counts["a"] - equal.counts["b"]) <= 1
    halfway = Mixture({"a": small, "b": large}, temperature=2)
    total, root = sum(sizes.values()), {name: size**0.5 for name, size in sizes.items()}
    assert halfway.counts["a"] == round(total * root["a"] / sum(root.values()))
    met = [step for epoch in range(4) for step in equal.steps(epoch) if step.task == "a"]
    first_epoch = np.concatenate([step.indices for step in met[: small.num_steps(0)]])
    assert sorted(first_epoch) == list(range(2000))  # its own epochs stay whole


def files(tmp_path, monkeypatch, text, **options):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "all.txt").write_text(text)
    return TextFiles(DataConfig(format="text", train="all.txt", **options))


def test_a_file_is_cut_at_the_characters_where_nanogpt_cuts_it(tmp_path, monkeypatch):
    text = "".join(f"line {i} of the text\n" for i in range(500))
    source = files(tmp_path, monkeypatch, text, document="file", splits={"val": 0.1, "test": 0})
    cut = int(0.9 * len(text))
    assert "".join(source.lines("train")) == text[:cut]
    assert "".join(source.lines("val")) == "".join(source.lines("test")) == text[cut:]


def test_rows_are_held_out_whole_and_at_the_end(tmp_path, monkeypatch):
    text = "".join(f"row {i}\n" for i in range(100))
    source = files(tmp_path, monkeypatch, text, splits={"val": 0.1, "test": 5})
    assert list(source.lines("train")) == [f"row {i}" for i in range(85)]
    assert list(source.lines("val")) == [f"row {i}" for i in range(85, 95)]
    assert list(source.lines("test")) == [f"row {i}" for i in range(95, 100)]
    greedy = files(tmp_path, monkeypatch, text, splits={"val": 0.6, "test": 0.5})
    with pytest.raises(ConfigError, match=r"data\.splits: nothing is left for the train split of 100 lines"):
        list(greedy.lines("train"))


def test_a_folder_of_files_is_one_text_of_several_documents(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("b/2.txt", "a/1.txt"):
        path = tmp_path / "books" / name
        path.parent.mkdir(parents=True)
        path.write_text(f"text of {name}\n")
    config = DataConfig(format="text", train="books", document="file")
    assert list(TextFiles(config).lines("train"))[:1] != []
    source = TextFiles(DataConfig(format="text", train="books", val="books/a", test="books/b", document="file"))
    assert list(source.lines("train")) == ["text of a/1.txt\n", "", "text of b/2.txt\n"]
    assert list(source.lines("val")) == ["text of a/1.txt\n"]
    for junk in ("b/2.txt~", "b/.2.txt.swp", "b/old.txt.bak"):
        (tmp_path / "books" / junk).write_text("junk\n")
    (tmp_path / "books" / "notes.txt.d").mkdir()
    assert len(list(source.lines("train"))) == 3
    both = TextFiles(DataConfig(format="text", train=["books/a", "books/b/2.txt"], splits={}, document="file"))
    assert list(both.lines("train")) == ["text of a/1.txt\n", "", "text of b/2.txt\n"]
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"empty: holds no \.txt file, nor .*; fix: data\.train=FILE"):
        TextFiles(DataConfig(format="text", train="empty"))


@pytest.mark.parametrize("kind", ["char", "word", "byte", "bpe"])
def test_rows_end_with_a_mark_and_bytes_are_counted(kind, tmp_path):
    rows = ["ein Wort für dich", "", "zwei Wörter", "ein Wort"] * 5
    tokenizer = train_tokenizer(TokenizerConfig(kind=kind, vocab_size=300, min_frequency=1), rows)
    mark = fingerprint(rows)
    made = encode_stream(lambda: rows, tokenizer, document="row", mark=mark, cache=tmp_path, count_documents=True)
    assert made.num_bytes == sum(len(row.encode()) + 1 for row in rows) == made.document_bytes.sum()
    ids = made.read(0, len(made))
    expected = [i for row in rows for i in [*tokenizer.encode_batch([row])[0], EOS]]
    assert ids.tolist() == expected
    assert len(made.document_starts()) == len(made.document_bytes) == 20
    never = lambda: pytest.fail("encoded again")  # noqa: E731
    again = encode_stream(never, tokenizer, document="row", mark=mark, cache=tmp_path, count_documents=True)
    assert again.read(0, len(again)).tolist() == expected
    next(tmp_path.rglob("ids.npy")).write_bytes(b"short")
    mended = encode_stream(lambda: rows, tokenizer, document="row", mark=mark, cache=tmp_path, count_documents=True)
    assert mended.read(0, len(mended)).tolist() == expected


def test_a_file_has_no_marks_but_between_files(tmp_path):
    lines = ["one\n", "two\n", "", "three\n"]
    tokenizer = train_tokenizer(TokenizerConfig(kind="char"), lines)
    made = encode_stream(lambda: lines, tokenizer, document="file", mark="x", cache=None, count_documents=False)
    assert tokenizer.decode_batch([made.read(0, len(made)).tolist()]) == ["one\ntwo\nthree\n"]
    assert (made.read(0, len(made)) == EOS).sum() == 1 and made.num_bytes == 14


def test_an_empty_file_among_many_is_left_out_and_counted(tmp_path):
    for name, text in (("a.md", "one\n"), ("b.md", ""), ("c.md", "two\n")):
        (tmp_path / name).write_text(text)
    files = TextFiles(DataConfig(format="text", document="file", train=str(tmp_path), splits={}))
    assert list(files.lines("train")) == ["one\n", "", "two\n"]
    assert files.notes == [f"train: left out 1 empty files, the first is {tmp_path}/b.md"]
    (tmp_path / "a.txt").write_text("text\n")
    assert list(files.lines("train")) == ["text\n"]  # the .txt files alone count if there are any


def test_hidden_files_and_folders_are_no_text(tmp_path):
    for name in ("a.txt", "b/c.txt", ".ipynb_checkpoints/a.txt", "b/.c.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"{name}\n")
    files = TextFiles(DataConfig(format="text", document="file", train=str(tmp_path), splits={}))
    assert list(files.lines("train")) == ["a.txt\n", "", "b/c.txt\n"]
    assert compose(["task=lm", f"data={tmp_path}"]).config.data.train == [f"{tmp_path}/a.txt", f"{tmp_path}/b/c.txt"]


def test_a_cache_that_cannot_be_written_is_done_without(tmp_path):
    (tmp_path / "file").write_text("")
    notes, tokenizer = [], train_tokenizer(TokenizerConfig(kind="char"), ["ab"])
    options = {"document": "row", "mark": "x", "count_documents": False}
    made = encode_stream(lambda: ["ab"], tokenizer, cache=tmp_path / "file", note=notes.append, **options)
    assert len(made) == 3 and len(notes) == 1 and "cannot be written (Not a directory); nothing is cached" in notes[0]
    kept = encode_stream(lambda: ["ab"], tokenizer, cache=tmp_path / "cache", **options)
    assert kept.read(0, 3).tolist() == made.read(0, 3).tolist()
