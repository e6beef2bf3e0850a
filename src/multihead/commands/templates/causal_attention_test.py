"""Checks of my_causal_attention.py: pytest test_my_causal_attention.py"""

from pathlib import Path

import pytest
import torch

import multihead

FILE = Path(__file__).with_name("my_causal_attention.py")
WORDS = ["task=lm", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}", "model.attention=my_causal_attention"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    multihead.train([*WORDS, "options.my_causal_attention.window=2", f"run_dir={folder}"])
    return multihead.load(folder, f"plugin={FILE}")


def test_it_trains_and_continues_a_text(run):
    assert len(run.generate(["The dog"], max_new_tokens=4)) == 1


@torch.no_grad()
def test_a_token_sees_itself_and_the_one_before_and_a_cache_changes_nothing(run):
    transformer, ids = run.model.transformer, torch.tensor([[5, 6, 7, 8], [9, 6, 7, 8]])
    hidden = transformer.decode(ids)  # [2, 4, D]; there is one layer
    torch.testing.assert_close(hidden[0, 2:], hidden[1, 2:])
    assert not torch.allclose(hidden[0, 1], hidden[1, 1])
    cache = transformer.new_cache()
    steps = [transformer.decode(ids[:, i : i + 1], cache=cache) for i in range(4)]
    torch.testing.assert_close(torch.cat(steps, dim=1), hidden, atol=1e-5, rtol=1e-4)
