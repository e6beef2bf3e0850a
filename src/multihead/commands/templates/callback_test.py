"""Checks of my_callback.py: pytest test_my_callback.py"""

import csv
from pathlib import Path

import pytest
import torch

import multihead

FILE = Path(__file__).with_name("my_callback.py")
WORDS = ["task=classification", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}"]


def test_it_trains_and_logs_the_norm(tmp_path):
    multihead.train([*WORDS, f"run_dir={tmp_path / 'run'}"])
    run = multihead.load(tmp_path / "run", f"plugin={FILE}")
    assert len(run.classify(["What a good film."])) == 1
    with open(tmp_path / "run" / "metrics.csv", newline="") as file:
        logged = [float(row["train/norm_of_weights"]) for row in csv.DictReader(file) if row["train/norm_of_weights"]]
    norms = torch.stack([p.detach().norm() for p in run.model.parameters()])
    assert logged[-1] == pytest.approx(float(norms.norm()), rel=1e-3)
