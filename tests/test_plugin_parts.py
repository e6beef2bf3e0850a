"""Losses, heads, metrics, optimizers and reports of a plugin take part in a run and in what is measured of it."""

import csv

import pytest
import torch
from trial import train

import multihead
from multihead.config.compose import compose
from multihead.errors import ConfigError

PARTS = """
import torch
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


PLUGIN = Plugin(
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


@pytest.mark.parametrize(
    ("words", "message"),
    [
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
