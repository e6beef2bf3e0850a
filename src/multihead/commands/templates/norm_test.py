"""Checks of my_norm.py: pytest test_my_norm.py"""

from pathlib import Path

import torch

import multihead
from multihead.config.model import ModelConfig
from multihead.plugin import load_plugin

FILE = Path(__file__).with_name("my_norm.py")
WORDS = ["task=classification", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}", "model.norm=my_norm"]


def test_it_trains_and_classifies(tmp_path):
    multihead.train([*WORDS, f"run_dir={tmp_path / 'run'}"])
    run = multihead.load(tmp_path / "run", f"plugin={FILE}")
    assert len(run.classify(["What a good film."])) == 1


def test_the_scale_of_its_input_does_not_matter():
    plugin = load_plugin(str(FILE))
    norm = plugin.norms["my_norm"](ModelConfig(), 8, options=plugin.options["my_norm"]())
    x = torch.randn(3, 8)
    torch.testing.assert_close(norm(1000 * x), norm(x), atol=1e-4, rtol=1e-4)
