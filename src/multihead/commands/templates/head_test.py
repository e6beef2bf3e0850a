"""Checks of my_head.py: pytest test_my_head.py"""

from pathlib import Path

import pytest
import torch

import multihead

FILE = Path(__file__).with_name("my_head.py")
WORDS = ["task=lm", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}", "task.head=my_head"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    multihead.train([*WORDS, f"run_dir={folder}"])
    return multihead.load(folder, f"plugin={FILE}")


def test_it_trains_and_continues_a_text(run):
    assert len(run.generate(["The dog"], max_new_tokens=4)) == 1


@torch.no_grad()
def test_its_loss_is_that_of_evaluation(run):
    hidden, labels = torch.randn(5, run.config.model.d_model), torch.tensor([5, 6, 7, 8, 9])
    nats, _ = run.model.head.evaluate(hidden, labels)
    torch.testing.assert_close(run.model.head.loss(hidden, labels), nats.sum())
