"""Checks of my_embedding.py: pytest test_my_embedding.py"""

from pathlib import Path

import pytest
import torch

import multihead

FILE = Path(__file__).with_name("my_embedding.py")
WORDS = ["task=lm", "debug=smoke", "trainer.max_steps=3", f"plugin={FILE}", "model.embedding=my_embedding"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run") / "run"
    multihead.train([*WORDS, f"run_dir={folder}"])
    return multihead.load(folder, f"plugin={FILE}")


def test_it_trains_and_continues_a_text(run):
    assert len(run.generate(["The dog"], max_new_tokens=4)) == 1


@torch.no_grad()
def test_all_vectors_have_one_length(run):
    embedding = run.model.transformer.decoder.embedding
    lengths = embedding(torch.tensor([[5, 6, 7]])).norm(dim=-1)
    torch.testing.assert_close(lengths, embedding.length.abs().expand(1, 3))
