"""Checks of my_layer.py: pytest test_my_layer.py"""

from pathlib import Path

import pytest
import torch

import multihead
from multihead.model.transformer import Scope

FILE = Path(__file__).with_name("my_layer.py")
WORDS = ["task=translation", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}", "model.layer=my_layer"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    multihead.train([*WORDS, f"run_dir={folder}"])
    return multihead.load(folder, f"plugin={FILE}")


def test_it_trains_and_translates(run):
    assert len(run.translate(["The dog sleeps."])) == 1


@torch.no_grad()
def test_a_layer_whose_scales_are_0_changes_nothing(run):
    layer, x = run.model.transformer.encoder.layers[0], torch.randn(2, 3, run.config.model.d_model)
    torch.nn.init.zeros_(layer.scales)
    torch.testing.assert_close(layer(x, Scope(x.dtype)), x)
