"""Bad data and bad directories: one line, exit 2, before training starts and without a run directory."""

import pytest

import multihead
from multihead.cli import main

GOOD = "".join(f"the dog number {n} sleeps here\tder Hund Nummer {n} schläft hier\n" for n in range(60))


@pytest.fixture
def words(tmp_path):
    """A training on mine.tsv."""
    (tmp_path / "mine.tsv").write_text(GOOD)
    return [
        *("task=translation", "debug=smoke", "data=files", f"data.train={tmp_path / 'mine.tsv'}"),
        *("trainer.max_steps=2", "trainer.val_every_n_steps=2", f"run_dir={tmp_path / 'run'}"),
        *("tokenizer.vocab_size=300", "data.splits={val: 5, test: 5}"),
    ]


def refused(capsys, tmp_path, words, *parts):
    """Whether the command ends with one line on stderr that holds ``parts``, and leaves nothing."""
    capsys.readouterr()
    assert main(["train", *words]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1, lines
    assert lines[0].startswith(("error[data] ", "error[config] "))
    for part in parts:
        assert part in lines[0]
    return not (tmp_path / "run").exists()


def test_ones_own_file_by_overrides_alone(words, tmp_path, capsys):
    assert main(["train", *words]) == 0
    assert (tmp_path / "run" / "result.json").exists()
    assert "train 50, val 5, test 5 examples" in capsys.readouterr().out


def test_parallel_files_swapped(words, tmp_path):
    for number, name in enumerate(("my.en", "my.de")):
        (tmp_path / name).write_text("".join(line.split("\t")[number].strip() + "\n" for line in GOOD.splitlines()))
    files = f"data.train=[{tmp_path / 'my.en'},{tmp_path / 'my.de'}]"
    swapped = "data.roles={source: target, target: source}"
    multihead.train([*(w for w in words if "data.train" not in w), "data.format=parallel", files, swapped])
    samples = (tmp_path / "run" / "samples.jsonl").read_text()
    assert '"source": "der Hund' in samples


@pytest.mark.parametrize(
    ("content", "parts"),
    [
        (GOOD.encode() + b"a\tb\tc\n", ["mine.tsv:61", "3 columns"]),
        (GOOD.encode() + b"alone\n", ["mine.tsv:61", "1 column"]),
        (GOOD.encode() + b"caf\xe9\tb\n", ["mine.tsv:61:4", "0xE9 is not UTF-8"]),
        (b"", ["mine.tsv", "is empty"]),
        (GOOD.encode() + b"a\t\n", ["mine.tsv:61", "the target is empty"]),
        (None, ["mine.tsv", "fix: "]),
        (b"a\tb\n" * 3, ["data.splits holds out all of the 3 rows", "fix: data.splits"]),
    ],
)
@pytest.mark.unhurried
def test_bad_files(words, tmp_path, capsys, content, parts):
    (tmp_path / "mine.tsv").unlink() if content is None else (tmp_path / "mine.tsv").write_bytes(content)
    assert refused(capsys, tmp_path, words, *parts)


def test_files_of_different_length(words, tmp_path, capsys):
    (tmp_path / "my.en").write_text("one\ntwo\nthree\n")
    (tmp_path / "my.de").write_text("eins\nzwei\n")
    files = f"data.train=[{tmp_path / 'my.en'},{tmp_path / 'my.de'}]"
    words = [*(w for w in words if "data.train" not in w), "data.format=parallel", files]
    assert refused(capsys, tmp_path, words, "my.en", "3", "2")


@pytest.mark.parametrize(
    ("changed", "parts"),
    [
        ("tokenizer.vocab_size=12", ["tokenizer.vocab_size"]),
        ("data.part_tokens=3", ["data.part_tokens", "longest target"]),
        ("data.overlong=error model.max_len=8", ["mine.tsv:1", "data.overlong=drop, data.overlong=cut"]),
        ("data.part_tokens=100 trainer.accumulate_grad_batches=1", ["trainer.accumulate_grad_batches"]),
        ("tokenizer.joint=false tokenizer.vocab_size=270 model.tie_embeddings=all", ["model.tie_embeddings"]),
        ("data.roles={source: nothing, target: target}", ["data.roles.source", "nothing"]),
        ("data.train=null", ["data.train"]),
    ],
)
@pytest.mark.unhurried
def test_bad_values_that_only_the_data_tells(words, tmp_path, capsys, changed, parts):
    assert refused(capsys, tmp_path, [*words, *(changed.split(" ") if "{" not in changed else [changed])], *parts)


def test_a_run_directory_that_exists(words, tmp_path, capsys):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("x")
    assert not refused(capsys, tmp_path, words, "run_dir", "exists already")
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["thesis.tex"]


@pytest.mark.parametrize("overlong", ["drop", "cut"])
def test_long_sentences_are_counted_aloud(words, tmp_path, overlong):
    long = "the dog sleeps " * 100
    (tmp_path / "mine.tsv").write_text(GOOD + f"{long}\t{long}\n")
    multihead.train([*words, "model.max_len=64", f"data.overlong={overlong}"])
    log = (tmp_path / "run" / "train.log").read_text()
    (note,) = [line for line in log.splitlines() if "mine.tsv:61" in line]
    assert "1 of 51" in note or "1 " in note
    assert {"drop": "dropped", "cut": "cut"}[overlong] in note
