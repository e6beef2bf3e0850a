"""Checks of my_feed_forward.py: pytest test_my_feed_forward.py"""

from pathlib import Path

import torch

import multihead
from multihead.config.model import ModelConfig
from multihead.plugin import load_plugin

FILE = Path(__file__).with_name("my_feed_forward.py")
WORDS = ["task=lm", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}", "model.feed_forward=my_feed_forward"]


def test_it_trains_and_continues_a_text(tmp_path):
    multihead.train([*WORDS, f"run_dir={tmp_path / 'run'}"])
    run = multihead.load(tmp_path / "run", f"plugin={FILE}")
    assert len(run.generate(["The dog"], max_new_tokens=4)) == 1


def test_each_position_is_computed_by_itself():
    plugin = load_plugin(str(FILE))
    new, options = plugin.feed_forward["my_feed_forward"], plugin.options["my_feed_forward"]
    part = new(ModelConfig(d_model=8, d_ff=16), options=options()).eval()
    x = torch.randn(2, 5, 8)
    torch.testing.assert_close(part(x)[:, 3], part(x[:, 3]))
