"""Checks of my_cross_attention.py: pytest test_my_cross_attention.py"""

from pathlib import Path

import pytest
import torch

import multihead

FILE = Path(__file__).with_name("my_cross_attention.py")
WORDS = ["task=translation", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}"]
WORDS += ["model.attention=my_cross_attention"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    multihead.train([*WORDS, f"run_dir={folder}"])
    return multihead.load(folder, f"plugin={FILE}")


def test_it_trains_and_translates(run):
    assert len(run.translate(["The dog sleeps."])) == 1


@torch.no_grad()
def test_a_closed_gate_hides_the_source(run):
    transformer, target = run.model.transformer, torch.tensor([[5, 6]])
    one, other = (transformer(source=torch.tensor([ids]), target=target) for ids in ([5, 6, 7], [8, 9, 10]))
    assert not torch.allclose(one, other)
    for layer in transformer.decoder.layers:
        torch.nn.init.constant_(layer.cross_attention.gate.bias, -1e9)
    one, other = (transformer(source=torch.tensor([ids]), target=target) for ids in ([5, 6, 7], [8, 9, 10]))
    torch.testing.assert_close(one, other)
