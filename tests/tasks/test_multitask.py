"""One body with many heads: shares of the steps, one task as the case n = 1, run directories, ranks."""

import json
import math

import pytest
import torch
from safetensors.torch import load_file

import multihead
from multihead.cli import main
from multihead.config.compose import compose
from multihead.data.prepare import prepare
from multihead.errors import ConfigError
from multihead.training.build import join

SMOKE = ["task=multitask", "debug=smoke", "model.dropout=0"]
ALL = "task.parts=[lm,translation,summarization,classification]"


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("multitask") / "run"
    return path, multihead.train([*SMOKE, f"run_dir={path}", ALL])


def test_every_task_is_measured_and_val_loss_is_their_mean(run):
    path, result = run
    names = {"lm/perplexity", "translation/bleu", "summarization/rougeL", "classification/accuracy"}
    assert {f"test/{name}" for name in names} <= set(result)
    losses = [result[f"val/{task}/loss"] for task in ("lm", "translation", "summarization", "classification")]
    assert result["val/loss"] == pytest.approx(sum(losses) / 4)
    samples = [json.loads(line) for line in (path / "samples.jsonl").read_text().splitlines()]
    of_test = {sample["task"] for sample in samples if sample["split"] == "test"}
    assert of_test == {"lm", "translation", "summarization", "classification"}


def test_one_backbone_and_a_head_for_each(run):
    path, _ = run
    weights = load_file(path / "model" / "model.safetensors")
    single = load_file(multihead_run(path, "translation") / "model" / "model.safetensors")
    body = {name for name in weights if name.startswith("transformer.")}
    assert {name for name in single if name.startswith("transformer.")} <= body | {
        "transformer.decoder.embedding.weight"
    }
    assert not {name for name in weights if not name.startswith(("transformer.", "heads."))}


def multihead_run(path, task):
    """A run of one task beside the fixture's."""
    other = path.parent / task
    if not other.exists():
        multihead.train([f"task={task}", "debug=smoke", f"run_dir={other}"])
    return other


def test_predict_takes_the_part(run, capsys, monkeypatch):
    path, _ = run
    loaded = multihead.load(path)
    assert len(loaded.translate(["Paul sees the dog."])) == len(loaded.summarize(["Paul is a baker."])) == 1
    assert loaded.classify(["The food was good."])[0]["label"] in ("positive", "negative")
    assert isinstance(loaded.generate(["The dog"], max_new_tokens=3)[0], str)
    assert len(loaded.score(["The dog."])) == len(loaded.score(["A dog."], ["Ein Hund."])) == 1
    with pytest.raises(
        ConfigError, match="part: is missing: this run has lm, translation, summarization, classification; fix: part=lm"
    ):
        loaded.predict(["x"])
    assert main(["evaluate", f"run={path}"]) == 0
    assert json.loads((path / "evaluate_test.json").read_text())["test/loss"] == run[1]["test/loss"]


def test_a_step_belongs_to_one_task_and_its_gradient_is_that_tasks(tmp_path):
    composition = compose([*SMOKE, "task.parts=[lm,classification]", "task.temperature=100", f"run_dir={tmp_path}"])
    task, data = join(composition, prepare(composition, ("train", "val", "test")), 1)
    task.eval()
    batches = list(data.train_dataloader())
    counts = data.plan.counts
    assert [sum(b["task"] == name for b in batches) for name in counts] == list(counts.values())
    assert abs(counts["lm"] - counts["classification"]) <= 1
    batch = next(b for b in batches if b["task"] == "classification")
    loss = task.training_step(batch, 0)["loss"]
    torch.testing.assert_close(loss, task.member("classification").training_step(batch, 0)["loss"])
    loss.backward()
    assert task.model.transformer.decoder.layers[0].feed_forward.up.weight.grad is None  # the language model's stack
    assert task.model.transformer.encoder.embedding.weight.grad is not None


def test_one_part_trains_as_the_task_alone(tmp_path):
    alone = multihead.train(
        [
            "task=classification",
            "debug=smoke",
            f"run_dir={tmp_path / 'a'}",
            "task.monitor=val/loss",
            "task.monitor_mode=min",
        ]
    )
    same = multihead.train(["task=multitask", "task.parts=[classification]", "debug=smoke", f"run_dir={tmp_path / 'b'}",
                            "data.overlong=cut", "tokenizer.lowercase=true", "tokenizer.vocab_size=8000"])  # fmt: skip
    assert same["test/classification/loss"] == pytest.approx(alone["test/loss"], rel=1e-6)
    assert same["train/loss"] == pytest.approx(alone["train/loss"], rel=1e-6)


def test_one_task_may_have_pairs_beside_single_texts_of_another(tmp_path):
    rows = [f"text {i}\tother {i}\t{'ab'[i % 2]}\t{i / 60}" for i in range(60)]
    (tmp_path / "pairs.tsv").write_text("\n".join(["a\tb\tl\ts", *rows]))
    words = ["task=multitask", "task.parts=[classification,regression]", "debug=smoke", f"run_dir={tmp_path / 'run'}"]
    words += ["data=files", f"data.train={tmp_path / 'pairs.tsv'}", "data.header=true", "data.columns=[]"]
    roles = "text: a, classification_text_b: b, classification_label: l, regression_label: s"
    result = multihead.train([*words, f"data.roles={{{roles}}}", "data.splits={val: 10, test: 10}"])
    assert math.isfinite(result["test/classification/loss"]) and math.isfinite(result["test/regression/loss"])
    run = multihead.load(tmp_path / "run")
    parts = run.task.members()
    assert parts["classification"].pairs and not parts["regression"].pairs


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("task.parts=[]", r"task\.parts: must be a list of one or more different tasks, got \[\]"),
        ("task.parts=[lm,lm]", r"task\.parts: must be a list of one or more different tasks"),
        ("task.parts=[lm,poetry]", r"task\.parts: must be one of lm, translation, summarization, classification"),
        ("task.temperature=0", r"task\.temperature: must be above 0 and finite"),
        ("task.monitor=val/lm/bleu", r"task\.monitor: must be one of"),
        ("task.parts=[lm] task.monitor=val/translation/bleu task.monitor_mode=max", r"a metric of one of task\.parts"),
        ("data=multi30k", r"data=multi30k.* has no text for task=lm"),
        (
            "tokenizer.joint=false model.tie_embeddings=none",
            r"tokenizer\.joint: must be true .* several tasks",
        ),
    ],
)
def test_refused(words, message):
    with pytest.raises(ConfigError, match=message):
        compose(["task=multitask", *words.split()])
