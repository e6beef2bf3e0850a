"""Checks of my_stack.py: pytest test_my_stack.py"""

from pathlib import Path

import pytest
import torch

import multihead

FILE = Path(__file__).with_name("my_stack.py")
WORDS = ["task=lm", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}", "model.stack=my_stack"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    multihead.train([*WORDS, f"run_dir={folder}"])
    return multihead.load(folder, f"plugin={FILE}")


def test_it_trains_and_continues_a_text(run):
    assert len(run.generate(["The dog"], max_new_tokens=4)) == 1


@torch.no_grad()
def test_a_later_token_changes_nothing_before_it_and_a_cache_changes_nothing(run):
    transformer, ids = run.model.transformer, torch.tensor([[5, 6, 7, 8], [5, 6, 7, 9]])
    hidden = transformer.decode(ids)  # [2, 4, D]
    torch.testing.assert_close(hidden[0, :3], hidden[1, :3])
    cache = transformer.new_cache()
    steps = [transformer.decode(ids[:, i : i + 1], cache=cache) for i in range(4)]
    torch.testing.assert_close(torch.cat(steps, dim=1), hidden, atol=1e-5, rtol=1e-4)
