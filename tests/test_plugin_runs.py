"""The plugin of the guide: another attention, that trains, resumes and predicts; and is never loaded unasked."""

import shutil
import signal

import pytest
import torch
from trial import ROOT, SMOKE, struck, train, weights

import multihead
from multihead.cli import main
from multihead.config.model import ModelConfig
from multihead.errors import CheckpointError
from multihead.model.transformer import Scope
from multihead.plugin import load_plugin

FILE = ROOT / "docs" / "examples" / "linear_attention.py"
WORDS = [f"plugin={FILE}", "model.attention=linear", "options.linear.floor=1e-5", "trainer.max_steps=12"]


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    path = tmp_path_factory.mktemp("runs") / "linear"
    train(path, *WORDS)
    return path


def test_it_is_short():
    assert len(FILE.read_text().splitlines()) <= 50
    assert len([line for line in FILE.read_text().splitlines() if line.strip()]) <= 40


@torch.no_grad()
def test_it_is_the_formula():
    """Against the sum over pairs, written down position by position (equation 5 of the paper)."""
    plugin = load_plugin(str(FILE))
    attention = plugin.attention["linear"](
        ModelConfig(d_model=8, num_heads=2, position="none"), options=plugin.options["linear"]()
    ).double()
    x = torch.randn(2, 5, 8, dtype=torch.double)
    query, key, value = (layer(x).unflatten(-1, (2, 4)) for layer in (attention.query, attention.key, attention.value))
    for causal in (True, False):
        expected = torch.zeros(2, 5, 2, 4, dtype=torch.double)
        for b in range(2):
            for t in range(5):
                for h in range(2):
                    seen = range(t + 1 if causal else 5)
                    phi = lambda y: torch.where(y > 0, y + 1, y.exp())  # noqa: E731
                    similar = torch.stack([phi(query[b, t, h]) @ phi(key[b, s, h]) for s in seen])
                    expected[b, t, h] = (
                        sum(w * value[b, s, h] for w, s in zip(similar, seen, strict=True)) / similar.sum()
                    )
        y = attention(x, Scope(torch.double, None, causal))
        torch.testing.assert_close(y, attention.output(expected.flatten(2)))


def test_it_replaces_the_attention(run):
    loaded = multihead.load(run, f"plugin={FILE}")
    layer = loaded.model.transformer.decoder.layers[0]
    assert type(layer.self_attention).__name__ == type(layer.cross_attention).__name__ == "LinearAttention"
    assert layer.self_attention.floor == 1e-5
    texts = ["Paul sees the dog.", "The cat sleeps where the old man has seen a dog.", ""]
    together = loaded.predict(texts, num_beams=3)
    for text, hypotheses in zip(texts, together, strict=True):
        (alone,) = loaded.predict([text], num_beams=3)
        assert alone[0]["text"] == hypotheses[0]["text"]
        if len(alone[0]["text"].split()) < 12:  # ended before the limit
            assert alone[0]["log_prob"] == pytest.approx(hypotheses[0]["log_prob"], rel=1e-4)
    assert (run / "plugin" / FILE.name).read_text() == FILE.read_text()
    assert " parameters, model.attention=linear; 12 steps of" in (run / "train.log").read_text()


def test_it_resumes(run, tmp_path):
    killed = tmp_path / "killed"
    assert struck(signal.SIGKILL, 8, *SMOKE, *WORDS, f"run_dir={killed}")[0] == -signal.SIGKILL
    multihead.train([f"resume={killed}", f"plugin={FILE}"])
    ours, theirs = weights(killed), weights(run)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


def test_without_its_name_the_run_is_refused(run, tmp_path, capsys):
    with pytest.raises(CheckpointError, match=r"was trained with the plugin .*linear_attention.py"):
        multihead.load(run)
    for words in (["evaluate", f"run={run}"], ["predict", f"run={run}"], ["train", f"resume={run}"]):
        capsys.readouterr()
        assert main(words) == 3
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error[checkpoint] ")
        assert "add plugin=" in lines[0]
    other = tmp_path / FILE.name
    shutil.copy(FILE, other)
    other.write_text(other.read_text() + "\nraise RuntimeError\n")
    assert main(["evaluate", f"run={run}", f"plugin={other}"]) in (2, 3)
