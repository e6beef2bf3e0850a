"""Checks of my_task.py: pytest test_my_task.py"""

from pathlib import Path

import pytest

import multihead

FILE = Path(__file__).with_name("my_task.py")
WORDS = ["task=my_task", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}"]


def test_it_trains_and_classifies(tmp_path):
    multihead.train([*WORDS, f"run_dir={tmp_path / 'run'}"])
    run = multihead.load(tmp_path / "run", f"plugin={FILE}")
    (answers,) = run.predict(["What a good film."])
    assert sum(answer["probability"] for answer in answers) == pytest.approx(1, abs=1e-4)


def test_its_loss_is_0_without_a_margin_for_what_is_right(tmp_path):
    words = [*WORDS, "task.margin=0", "trainer.log_every_n_steps=1", f"run_dir={tmp_path / 'run'}"]
    assert multihead.train(words)["train/loss"] < 0.5
