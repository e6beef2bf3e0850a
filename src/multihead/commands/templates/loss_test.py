"""Checks of my_loss.py: pytest test_my_loss.py"""

from pathlib import Path
from types import SimpleNamespace

import torch

import multihead
from multihead.plugin import load_plugin

FILE = Path(__file__).with_name("my_loss.py")
WORDS = ["task=classification", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}", "task.loss=my_loss"]


def test_it_trains_and_classifies(tmp_path):
    multihead.train([*WORDS, f"run_dir={tmp_path / 'run'}"])
    run = multihead.load(tmp_path / "run", f"plugin={FILE}")
    assert len(run.classify(["What a good film."])) == 1


def test_a_step_can_be_cut_anywhere():
    plugin, logits, labels = load_plugin(str(FILE)), torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])

    def of(rows):
        task = SimpleNamespace(logits_and_labels=lambda batch: (logits[rows], labels[rows]), settings=None)
        return plugin.losses["my_loss"](task, {}, options=plugin.options["my_loss"]())

    torch.testing.assert_close(of(slice(6)), of(slice(2)) + of(slice(2, 6)))


def test_without_weight_it_is_the_default_loss_with_its_label_smoothing():
    plugin, logits, labels = load_plugin(str(FILE)), torch.randn(6, 3), torch.tensor([0, 1, 2, 0, 1, 2])
    settings = SimpleNamespace(label_smoothing=0.1)
    task = SimpleNamespace(logits_and_labels=lambda batch: (logits, labels), settings=settings)
    loss = plugin.losses["my_loss"](task, {}, options=plugin.options["my_loss"](weight=0.0))
    expected = torch.nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=0.1)
    torch.testing.assert_close(loss, expected)
