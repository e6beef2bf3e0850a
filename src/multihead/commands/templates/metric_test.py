"""Checks of my_metric.py: pytest test_my_metric.py"""

from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import multihead
from multihead.plugin import load_plugin

FILE = Path(__file__).with_name("my_metric.py")
WORDS = ["task=classification", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}", "task.monitor=val/my_metric"]


def test_it_trains_and_classifies(tmp_path):
    result = multihead.train([*WORDS, "task.monitor_mode=max", f"run_dir={tmp_path / 'run'}"])
    assert -1 <= result["test/my_metric"] <= 1
    run = multihead.load(tmp_path / "run", f"plugin={FILE}")
    assert len(run.classify(["What a good film."])) == 1


def test_it_is_0_for_always_the_same_class_and_1_for_what_is_right():
    labels = torch.tensor([0, 1, 1, 0])
    for right, value in ((False, 0.0), (True, 1.0)):
        metric = load_plugin(str(FILE)).metrics["my_metric"].new(SimpleNamespace(labels=["bad", "good"]))
        metric.update(torch.eye(2)[labels if right else torch.zeros(4, dtype=torch.long)], labels)
        assert float(metric.compute()) == pytest.approx(value)
