"""Losses, heads, metrics, optimizers and reports of a plugin take part in a run and in what is measured of it."""

import csv
from pathlib import Path

import pytest
import torch
from trial import train

import multihead
from multihead.commands import data
from multihead.config.compose import compose
from multihead.config.verbs import ExportSettings
from multihead.errors import ConfigError, DataError
from multihead.exporting.formats import export

PARTS = """
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from torch.nn import functional as F
from torchmetrics import Accuracy
from torchmetrics.text import CharErrorRate

from multihead.config.task import ClassificationConfig
from multihead.model.heads import PooledClassifier, VocabularyHead
from multihead.plugin import AddedMetric, Plugin


def own_loss(task, batch):
    logits, labels = task.logits_and_labels(batch)
    return F.cross_entropy(logits, labels, reduction="sum")


def doubled(task, batch):
    return 2 * own_loss(task, batch)


class Capped(VocabularyHead):
    def forward(self, hidden):
        return 5 * torch.tanh(super().forward(hidden) / 5)


def capped(config, settings, transformer, vocab):
    return Capped(config.model.d_model, vocab.tokenizers["target"].vocab_size)


def sgd(groups, config):
    assert {"params", "lr", "weight_decay", "hidden"} == set(groups[0])
    return torch.optim.SGD(groups, momentum=0.9)


def split_words(config, texts, normalize):
    specials = ["<pad>", "<bos>", "<eos>", "<unk>", "<sep>", "<mask>"]
    found = Tokenizer(models.WordLevel(unk_token="<unk>"))
    found.pre_tokenizer = pre_tokenizers.Whitespace()
    found.train_from_iterator(texts, trainers.WordLevelTrainer(vocab_size=300, special_tokens=specials))
    return found


def sections(path, columns, config):
    # a file of blocks: a line "= LABEL", and below it one text a line
    label, found = "", {"kind": [], "said": []}
    for line in path.read_text().splitlines():
        if line.startswith("= "):
            label = line[2:]
        else:
            found["kind"].append(label)
            found["said"].append(line)
    return found


PLUGIN = Plugin(
    tokenizers={"split": split_words},
    readers={"sections": sections},
    losses={"same": own_loss, "doubled": doubled},
    heads={"capped": capped},
    metrics={
        "hits": AddedMetric(new=lambda task: Accuracy("multiclass", num_classes=len(task.labels)),
                            tasks=("classification",)),
        "char_errors": AddedMetric(new=lambda task: CharErrorRate(), tasks=("translation",), better="min"),
    },
    optimizers={"sgd": sgd},
    schedules={"half": lambda config, max_steps, step: 0.5},
    reports={"note": lambda run_dir: (run_dir / "note.txt").write_text("done")},
)
"""


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    path = tmp_path_factory.mktemp("plugin") / "parts.py"
    path.write_text(PARTS)
    return path


def rows(run_dir):
    with (run_dir / "metrics.csv").open() as file:
        return list(csv.DictReader(file))


def test_a_translation_with_all_of_them(parts, tmp_path):
    words = [f"plugin={parts}", "task.loss=same", "task.head=capped", "optim.name=sgd", "optim.schedule=half"]
    result = train(tmp_path / "run", *words, "task.monitor=val/char_errors", "task.monitor_mode=min")
    assert result["test/char_errors"] == pytest.approx(result["test/cer"], rel=1e-5)
    assert (tmp_path / "run" / "note.txt").read_text() == "done"
    run = multihead.load(tmp_path / "run", f"plugin={parts}")
    assert type(run.model.head).__name__ == "Capped"
    with torch.inference_mode():
        assert run.model.head(100 * torch.ones(1, run.config.model.d_model)).abs().max() <= 5
    settings = ExportSettings(run=str(run.path), to="ctranslate2")
    with pytest.raises(ConfigError, match=r"task\.head=capped: to=ctranslate2 has no place for a plugin's head"):
        export(run, settings)
    rates = {name: value for name, value in rows(tmp_path / "run")[0].items() if name.startswith("optim/lr")}
    assert set(map(float, rates.values())) == {run.config.optim.lr / 2}


def test_the_loss_is_the_plugins_and_the_metrics_too(parts, tmp_path):
    words = ["task=classification", "task.head_dropout=0", "model.dropout=0"]
    plain = train(tmp_path / "plain", *words)
    words.append(f"plugin={parts}")
    same = train(tmp_path / "same", *words, "task.loss=same")
    assert same["test/loss"] == pytest.approx(plain["test/loss"], rel=1e-5)
    assert same["test/hits"] == pytest.approx(same["test/accuracy"]) and "test/char_errors" not in same
    train(tmp_path / "doubled", *words, "task.loss=doubled", "trainer.max_steps=1")
    ours, theirs = (rows(tmp_path / name)[0] for name in ("plain", "doubled"))
    for name in ("train/loss", "optim/gradient_norm"):
        assert float(theirs[name]) == pytest.approx(2 * float(ours[name]), rel=1e-4)


def test_a_format_and_a_tokenizer_of_a_plugin(parts, tmp_path):
    texts = {"good": "the sun is warm", "bad": "the rain is cold"}
    lines = [line for label, text in texts.items() for line in (f"= {label}", *(f"{text} {i}" for i in range(30)))]
    (tmp_path / "weather.txt").write_text("\n".join(lines))
    words = [f"plugin={parts}", "task=classification", "tokenizer.kind=split", "data=files", "data.format=sections"]
    words += [f"data.root={tmp_path}", "data.train=weather.txt", "data.columns=[]"]
    words.append("data.roles={text: said, label: kind}")
    train(tmp_path / "run", *words)
    run = multihead.load(tmp_path / "run", f"plugin={parts}")
    tokenizer = run.task.tokenizers["text"]
    assert run.task.labels == ["bad", "good"]
    assert tokenizer.decode_batch(tokenizer.encode_batch(["the sun is warm"])) == ["the sun is warm"]
    assert tokenizer.vocab[tokenizer.encode_batch(["snow"])[0][0]] == "<unk>"
    assert {row["label"] for row in run.predict(["the sun is warm 3"])[0]} == {"bad", "good"}
    with pytest.raises(DataError, match=r"weather\.txt: the plugin's reader gave no column 'no'; it gave kind, said"):
        train(tmp_path / "other", *words, "data.roles.text=no")


def test_a_path_whose_format_a_plugin_reads(parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("weather.txt").write_text("= good\nthe sun is warm\n" * 30)  # our own readers see one column, of sentences
    words = [f"plugin={parts}", "task=classification", "data=weather.txt", "data.format=sections"]
    with pytest.raises(ConfigError, match=r"fix: 'data\.roles=\{text: TEXT_COLUMN, label: LABEL_COLUMN\}'"):
        compose(words)
    found = compose([*words, "data.roles={text: said, label: kind}", "data.splits.val=7"]).config.data
    assert (found.name, found.train, found.columns) == ("weather", "weather.txt", [])
    assert found.splits == {"val": 7, "test": 0.1}
    roles = "data.roles={text: said, label: kind}"
    named = compose([*words[:2], "data=files", "data.train=weather.txt", words[3], roles]).config.data
    assert (named.train, named.columns) == ("weather.txt", [])
    with pytest.raises(ConfigError, match=r"data\.format=sections: is read by your plugin"):
        data.run(["file=weather.txt", "data.format=sections", f"plugin={parts}"])
    with pytest.raises(ConfigError, match=r"data\.format: must be .*, got 'section'; fix: data\.format=sections"):
        data.run(["file=weather.txt", "data.format=section", f"plugin={parts}"])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("tokenizer.target.kind=wrd", r"tokenizer\.target\.kind: must be one of bpe, .*byte, split, got 'wrd'"),
        ("data.roles.sauce=x", r"data\.roles: must be one of source, target, .* got 'sauce'"),
        ("task.loss=some", r"task\.loss: must be one of default, same, doubled, got 'some'; fix: task\.loss=same"),
        ("task=multitask task.lm.loss=x", r"task\.lm\.loss: must be one of default, same, doubled, got 'x'"),
        ("task=multitask task.loss=same", r"task\.loss: must be default; each task has its own, got 'same'; fix: "),
        ("task.monitor=val/hits", r"task\.monitor: must be one of val/bleu, .*val/char_errors, got 'val/hits'"),
        ("task.monitor=val/char_errors", r"task\.monitor_mode: must be min if task\.monitor=val/char_errors"),
    ],
)
def test_choices_are_checked(parts, words, message):
    with pytest.raises(ConfigError, match=message):
        compose(["task=translation", f"plugin={parts}", *words.split()])


def test_a_monitor_of_one_of_several_tasks(parts):
    words = ["task=multitask", f"plugin={parts}", "task.monitor=val/translation/char_errors", "task.monitor_mode=min"]
    assert compose(words).config.task.monitor == "val/translation/char_errors"


@pytest.mark.parametrize(
    ("metrics", "message"),
    [
        ("{'a': 3}", r"metrics\['a'\] must be an AddedMetric, got int"),
        ("{'a': AddedMetric(new=int, tasks=('lm',), better='up')}", r"better must be max or min, got 'up'"),
        ("{'bleu': AddedMetric(new=int, tasks=('translation',))}", r"task=translation has a metric of this name"),
    ],
)
def test_a_metric_that_is_wrong(tmp_path, metrics, message):
    file = tmp_path / "wrong.py"
    file.write_text(f"from multihead.plugin import AddedMetric, Plugin\nPLUGIN = Plugin(metrics={metrics})\n")
    with pytest.raises(ConfigError, match=message):
        compose(["task=translation", f"plugin={file}"])
