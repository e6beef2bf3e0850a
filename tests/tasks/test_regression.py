"""Regression: standardised labels, numbers in their own units, and a run end to end."""

import json
import shlex
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy import stats

import multihead
from multihead.cli import main
from multihead.config.compose import compose
from multihead.data.corpus import load_corpus
from multihead.data.encode import encode_corpus
from multihead.data.labels import read_numbers
from multihead.data.prepare import prepare
from multihead.data.tokenizer import train_tokenizer
from multihead.errors import CheckpointError, ConfigError, DataError
from multihead.tasks import build_task
from multihead.text.vocabulary import Scale, Vocabulary

SMALL = ["model.d_model=32", "model.num_heads=2", "model.d_ff=64", "model.num_encoder_layers=1", "model.dropout=0",
         "tokenizer.kind=word", "tokenizer.min_frequency=1", "task.head_dropout=0"]  # fmt: skip
WORDS = [f"word{i}" for i in range(12)]


def task(*words, scale=Scale(100.0, 20.0)):  # noqa: B008
    config = compose(["task=regression", *SMALL, *words]).config
    tokenizer = train_tokenizer(config.tokenizer, WORDS)
    torch.manual_seed(0)
    return build_task(config, Vocabulary({"text": tokenizer}, scales={"regression": scale})).eval()


@pytest.mark.unhurried
def test_the_loss_is_of_standardised_labels_and_the_outputs_are_not_standardised():
    made, plain = task(), task(scale=Scale())
    labels = [80.0, 100.0, 150.0]
    rows = encode_corpus({"text": ["word1", "word2 word3", "word4"]}, made.tokenizers)
    rows = rows.with_numbers("label", [made.scale.standardised(label) for label in labels])
    batch = made.collate(rows, np.arange(3))
    assert batch["labels"].tolist() == [-1.0, 0.0, 2.5]
    found, _ = plain(batch)
    outputs, _ = made(batch)
    torch.testing.assert_close(outputs, 100 + 20 * found, check_dtype=False)
    loss = made.training_step({**batch, "parts": 1, "targets_of_step": 3}, 0)["loss"]
    wanted = ((outputs[:, 0] - torch.tensor(labels)) / 20).square().mean()
    torch.testing.assert_close(loss, wanted, check_dtype=False)
    empty = made.collate(rows, np.array([], dtype=np.int64))
    assert made.training_step({**empty, "parts": 1, "targets_of_step": 3}, 0)["loss"] == 0
    assert made.line(made.predict(["word1"], made.config.decoding)[0]) == f"{outputs[0, 0].item():.6g}"


def test_numbers_far_from_zero_keep_their_differences():
    dates, plain = task(scale=Scale(2_459_000.0, 0.1)), task(scale=Scale(0.0, 0.1))
    texts = [f"word{i} word{i + 1}" for i in range(6)]
    for far, near in zip(dates.answers(texts), plain.answers(texts), strict=True):
        assert far[0]["number"] - 2_459_000 == pytest.approx(near[0]["number"], abs=1e-7)
        assert float(dates.line(far)) - 2_459_000 == pytest.approx(near[0]["number"], abs=1e-4)
    assert task().line([{"number": 123.456789}]) == "123.457"  # as before where the mean is not far


def write(folder, name, pairs, seed=0, count=200):
    """A table whose number is the mean of its words' numbers, or how many words two texts share; and its rows."""
    draw = np.random.default_rng(seed)
    rows = []
    for _ in range(count):
        one = list(draw.choice(12, 5))
        two = [word if draw.random() < 0.5 else int(draw.integers(12)) for word in one]
        number = sum(a == b for a, b in zip(one, two, strict=True)) / 2 if pairs else 1900 + float(np.mean(one))
        texts = [" ".join(f"word{i}" for i in each) for each in ([one, two] if pairs else [one])]
        rows.append([*texts, number])
    head = ["sentence1", "sentence2", "similarity"] if pairs else ["text", "year"]
    lines = [";".join([*texts, f"{number:.2f}".replace(".", ",")]) for *texts, number in rows]
    (folder / name).write_text("\n".join([";".join(head), *lines]) + "\n")
    return rows


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("regression")
    write(folder, "years.csv", pairs=False)
    words = ["task=regression", f"data={folder / 'years.csv'}", *SMALL, "logger=none", "trainer.max_steps=60",
             "trainer.val_every_n_steps=20", "accelerator=cpu", f"run_dir={folder / 'run'}"]  # fmt: skip
    return folder, multihead.train(words)


def test_a_run_predicts_in_the_units_of_the_table(run, predicted):
    folder, result = run
    assert result["test/pearson"] > 0.9 and result["test/r2"] > 0.8  # labels with decimal commas
    samples = [json.loads(line) for line in (folder / "run" / "samples.jsonl").read_text().splitlines()]
    tested = [sample for sample in samples if sample["split"] == "test"]
    outputs, labels = ([sample[name] for sample in tested] for name in ("predicted", "label"))
    assert result["test/spearman"] == pytest.approx(stats.spearmanr(outputs, labels)[0])
    assert result["test/mse"] == pytest.approx(np.square(np.subtract(outputs, labels)).mean(), rel=1e-4)
    scale = json.loads((folder / "run" / "model" / "scales.json").read_text())["regression"]
    assert scale == {"mean": result["label_mean"], "deviation": result["label_deviation"]}
    assert result["test/loss"] == pytest.approx(result["test/mse"] / scale["deviation"] ** 2)
    lines = predicted(folder / "run", b"word11 word11\n\nword0\n")
    assert float(lines[0]) > float(lines[2]) > 1890 and lines[1] == ""
    loaded = multihead.load(folder / "run")
    assert loaded.task.line([{"number": loaded.regress("word0")}]) == lines[2] == f"{loaded.regress('word0'):.7g}"
    assert loaded.regress(["word0", " "])[1] is None
    (line,) = predicted(folder / "run", b"word0\n", "format=jsonl")
    assert json.loads(line)["outputs"] == [{"number": loaded.regress("word0")}]
    assert "labels of train: mean 190" in (folder / "run" / "train.log").read_text()


def test_a_damaged_scale_is_refused(run):
    file = run[0] / "run" / "model" / "scales.json"
    before = file.read_text()
    try:
        for text in ('{"regression": {"mean": 1}}', '{"regression": {"mean": 1, "deviation": 0}}'):
            file.write_text(text)
            with pytest.raises(CheckpointError, match=r"scales.json: is damaged \(.*\); fix: copy the run again"):
                multihead.load(run[0] / "run")
    finally:
        file.write_text(before)


@pytest.mark.parametrize("word", ["calibrate=true", "threshold=cost:1"])
def test_classes_alone_have_probabilities_and_thresholds(run, word):
    from multihead.commands.evaluate import evaluate

    words = [word] + ["threshold_label=x"] * word.startswith("threshold")
    key = word.partition("=")[0]
    message = rf"{key}: needs a run of task=classification, but this run has task=regression; fix: leave {key} out"
    with pytest.raises(ConfigError, match=message):
        evaluate(str(run[0] / "run"), words)


@pytest.mark.unhurried
def test_the_onnx_program_gives_the_numbers_of_predict(run, tmp_path, predicted):
    assert main(["export", f"run={run[0] / 'run'}", "to=onnx", "sentences=4", f"out={tmp_path / 'out'}"]) == 0
    assert json.loads((tmp_path / "out" / "verification.json").read_text())["largest_difference"] < 0.01
    script = [sys.executable, str(tmp_path / "out" / "predict.py")]
    done = subprocess.run(script, input="word1 word2\nword11\n", capture_output=True, text=True, check=True)
    ours = predicted(run[0] / "run", b"word1 word2\nword11\n")
    assert list(map(float, done.stdout.split())) == pytest.approx(list(map(float, ours)), rel=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_transformers_predict_the_same_numbers_for_pairs(tmp_path):
    transformers = pytest.importorskip("transformers")
    write(tmp_path, "sts.csv", pairs=True, count=120)
    bert = ["model.norm_placement=post", "model.position=learned", "model.activation=gelu", "task.pooling=first",
            "model.embedding_norm=true", "model.embedding_scale=false", "task.head_activation=tanh",
            "model.segment_types=2"]  # fmt: skip
    words = ["task=regression", f"data={tmp_path / 'sts.csv'}", *SMALL, *bert, "logger=none", "accelerator=cpu",
             "trainer.max_steps=4", "trainer.val_every_n_steps=4", f"run_dir={tmp_path / 'run'}"]  # fmt: skip
    multihead.train(words)
    assert main(["export", f"run={tmp_path / 'run'}", "to=huggingface", f"out={tmp_path / 'out'}"]) == 0
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["problem_type"] == "regression" and len(config["id2label"]) == 1
    model = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out").eval()
    task = multihead.load(tmp_path / "run").task
    rows = task.tokenizers["text"].encode_batch(["word1 word2", "word1 word3"])
    row = [*task.start, *rows[0], *task.between, *rows[1], *task.end]
    types = [0] * (len(rows[0]) + len(task.start) + len(task.between)) + [1] * (len(rows[1]) + len(task.end))
    ours = multihead.load(tmp_path / "run").regress("word1 word2\tword1 word3")
    with torch.no_grad():
        assert float(
            model(input_ids=torch.tensor([row]), token_type_ids=torch.tensor([types])).logits
        ) == pytest.approx(ours, abs=1e-4)


def test_a_published_decoder_cannot_hold_the_mean():
    from multihead.exporting.huggingface import family_of

    with pytest.raises(ConfigError, match=r"task.stack=decoder: a published decoder's head has no bias, so it cannot"):
        family_of(task("task.stack=decoder"))


def test_a_run_that_was_stopped_goes_on_with_the_same_scale(run, tmp_path):
    words = ["task=regression", f"data={run[0] / 'years.csv'}", *SMALL, "logger=none", "trainer.val_every_n_steps=20",
             "accelerator=cpu", "trainer.checkpoint_every_n_steps=20"]  # fmt: skip
    multihead.train([*words, "trainer.max_steps=40", f"run_dir={tmp_path / 'run'}"])
    again = multihead.train([f"resume={tmp_path / 'run'}", "trainer.max_steps=60", "resume_force=[trainer.max_steps]"])
    assert again["label_mean"] == run[1]["label_mean"] and again["steps"] == 60
    assert again["test/pearson"] > 0.9


@pytest.mark.slow
def test_two_ranks_measure_what_one_measures(run, tmp_path):
    words = ["task=regression", f"data={run[0] / 'years.csv'}", *SMALL, "logger=none", "trainer.max_steps=60",
             "trainer.val_every_n_steps=20", "accelerator=cpu"]  # fmt: skip
    both = multihead.train([*words, "devices=2", "strategy=ddp", f"run_dir={tmp_path / 'run'}"])
    for name in ("test/mse", "test/spearman", "val/r2"):
        assert both[name] == pytest.approx(run[1][name], rel=1e-2)


def prepared(folder, rows, *words):
    (folder / "t.tsv").write_text("".join(f"{label}\t{text}\n" for label, text in rows))
    own = ["task=regression", *SMALL, "data=files", "data.columns=[label,text]", f"data.train={folder / 't.tsv'}",
           "data.roles={text: text, label: label}", "data.splits={val: 2, test: 2}"]  # fmt: skip
    return prepare(compose([*own, "data.cache=false", *words]), ("train", "val", "test"))


GOOD = [(str(i / 2), f"word{i} word{i % 5}") for i in range(12)]


@pytest.mark.parametrize(
    ("label", "message"),
    [
        (
            "high",
            r"t.tsv:13: the label 'high' is not a number, but task=regression predicts numbers; fix: fix the line",
        ),
        ("nan", r"t.tsv:13: the label 'nan' is not a number"),
        ("1_0", r"t.tsv:13: the label '1_0' is not a number"),
        ("1,234", r"t.tsv:13: the label '1,234' may be read in two ways; write it without the comma"),
    ],
)
def test_a_label_that_is_no_number_is_refused_or_skipped(tmp_path, label, message):
    rows = [*GOOD, (label, "word1 word2 word3")]
    with pytest.raises(DataError, match=message):
        prepared(tmp_path, rows, "data.splits={val: 1, test: 1}")
    found = prepared(tmp_path, rows, "data.on_bad_line=skip")
    assert sum(len(ids) for ids in found.encoded["regression"].values()) == 12
    assert any("skipped 1 rows whose label is not a number" in note for note in found.notes)


def test_labels_are_standardised_by_the_training_split_alone(tmp_path):
    found = prepared(tmp_path, GOOD)
    numbers = found.texts["regression"].numbers
    assert found.vocab.scales["regression"] == Scale(float(np.mean(numbers["train"])), float(np.std(numbers["train"])))
    train = found.encoded["regression"]["train"]
    standardised = train.numbers("label", np.arange(len(train)))
    assert float(standardised.mean()) == pytest.approx(0, abs=1e-6)
    assert float(standardised.std(correction=0)) == pytest.approx(1, abs=1e-6)
    assert not any("accuracy" in note or "classes" in note for note in found.notes)


def test_labels_that_are_all_equal_are_refused(tmp_path):
    with pytest.raises(DataError, match=r"every label of train is 3, so there is nothing to learn"):
        prepared(tmp_path, [("3", text) for _, text in GOOD])


def test_a_decimal_comma_is_a_decimal_point(tmp_path):
    rows = [(label.replace(".", ","), text) for label, text in GOOD]
    assert prepared(tmp_path, rows).texts["regression"].numbers == prepared(tmp_path, GOOD).texts["regression"].numbers


# ---- which column holds the number


def table(folder, head, rows):
    path = folder / "reviews.csv"
    path.write_text("\n".join([",".join(head), *(",".join(map(str, row)) for row in rows)]) + "\n")
    return path


def test_a_column_of_many_decimal_numbers_is_asked_about(tmp_path):
    rows = [(i, f"word{i % 12} word{i % 7}", f"{i % 40 / 8:.3f}") for i in range(120)]
    path = table(tmp_path, ["id", "text", "score"], rows)
    question = r"reviews.csv: is score a number to predict, or a class\?; fix: multihead train "
    with pytest.raises(DataError, match=question + r".*task=regression  or  .*data.roles.label=score"):
        compose(["task=classification", f"data={path}"])
    assert "task=classification" not in _first_command(path)
    roles = compose(["task=regression", f"data={path}"]).config.data.roles
    assert roles == {"text": "text", "label": "score"}
    grades = [(i, text, i % 10 / 2) for i, text, _ in rows]  # ten grades may be classes
    assert compose(["task=classification", f"data={table(tmp_path, ['id', 'text', 'score'], grades)}"]).config


def _first_command(path):
    with pytest.raises(DataError) as caught:
        compose(["task=classification", f"data={path}"])
    return str(caught.value).partition("fix: ")[2].partition("  or  ")[0]


def test_several_columns_of_numbers_are_asked_about_and_none_is_said(tmp_path):
    rows = [(f"word{i % 12} word{i % 7}", f"{i % 9 / 8}", f"{i % 11 / 8}") for i in range(60)]
    with pytest.raises(DataError, match=r"which column holds the number to predict: heat or joy\?"):
        compose(["task=regression", f"data={table(tmp_path, ['text', 'heat', 'joy'], rows)}"])
    words = [(i, f"word{i % 12} word{i % 7}", "yes" if i % 2 else "no") for i in range(60)]
    with pytest.raises(DataError, match=r"has no column of numbers to predict; it has id, text, label; fix: task=cl"):
        compose(["task=regression", f"data={table(tmp_path, ['id', 'text', 'label'], words)}"])


def test_numbers_with_a_sign_get_the_pattern_that_reads_them(tmp_path):
    path = table(tmp_path, ["text", "score"], [(f"word{i % 12} word{i % 7}", f"{i / 2}%") for i in range(60)])
    shown = r"no plain numbers such as 12.5: '0.0%' \(row 1\), '0.5%' \(row 2\), '1.0%' \(row 3\); fix: multihead"
    with pytest.raises(DataError, match=shown) as refused:
        compose(["task=regression", f"data={path}"])
    config = compose(shlex.split(str(refused.value).partition("fix: ")[2])[2:]).config.data
    config.splits = {}
    rows = load_corpus(config, ["text", "label"], splits=["train"]).splits["train"]
    assert read_numbers(config, rows)[0] == [i / 2 for i in range(60)]
    path = table(tmp_path, ["text", "score"], [("some words", f'"{i + 1},000,{i + 100}"') for i in range(60)])
    with pytest.raises(DataError, match=r"'1,000,100' \(row 1\), .*; fix: write .* without marks between the digits"):
        compose(["task=regression", f"data={path}"])
