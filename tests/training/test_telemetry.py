"""Norms are those of the gradient and of what the weights really moved by; measuring changes nothing."""

import csv
import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from trial import train

from multihead.runs.checkpoint import FolderCheckpointIO
from multihead.training.telemetry import Telemetry, peak_flops

EVERY = ["trainer.checkpoint_every_n_steps=1", "trainer.keep_checkpoints=20", "trainer.max_steps=6"]


def rows(run):
    with open(run / "metrics.csv", newline="") as file:
        return {int(row["step"]): row for row in csv.DictReader(file) if row["train/loss"]}


def weights(run, step):
    state = FolderCheckpointIO().load_checkpoint(run / "checkpoints" / f"step_{step}")["state_dict"]
    unique = {tensor.data_ptr(): tensor for tensor in state.values()}  # shared embeddings count once
    return torch.cat([tensor.double().flatten() for tensor in unique.values()])


@pytest.mark.parametrize("optim", ["adamw", "muon"])
def test_the_update_is_what_the_weights_moved_by_and_measuring_it_changes_nothing(tmp_path, optim):
    words = [*EVERY, f"optim={optim}", "optim.weight_decay=0.1", "optim.lr=0.01"]
    train(tmp_path / "each", *words, "trainer.log_every_n_steps=1")
    train(tmp_path / "seldom", *words, "trainer.log_every_n_steps=6")
    found = rows(tmp_path / "each")
    for step in range(2, 7):
        moved = (weights(tmp_path / "each", step) - weights(tmp_path / "each", step - 1)).norm().item()
        assert float(found[step]["optim/update_norm"]) == pytest.approx(moved, rel=1e-4)
        assert 0 < float(found[step]["optim/gradient_norm"]) < 100
        assert float(found[step]["system/peak_memory_mb"]) > 100
    assert torch.equal(weights(tmp_path / "each", 6), weights(tmp_path / "seldom", 6))
    norms = [rows(tmp_path / run)[6]["optim/gradient_norm"] for run in ("each", "seldom")]
    assert norms[0] == norms[1]


def test_the_share_of_the_peak(tmp_path, monkeypatch):
    """Against the operations of a Transformer's step, 6 for each weight of a matrix product and token."""

    def known(self, trainer):
        self.peak = 1e12

    monkeypatch.setattr(Telemetry, "start", known)
    train(
        tmp_path / "run", "task=lm", "trainer.log_every_n_steps=1", "trainer.max_steps=3", "model.tie_embeddings=none"
    )
    row, result = rows(tmp_path / "run")[3], json.loads((tmp_path / "run" / "result.json").read_text())
    state = load_file(tmp_path / "run" / "model" / "model.safetensors")
    matrices = sum(t.numel() for name, t in state.items() if t.dim() == 2 and "embedding" not in name)
    expected = 6 * matrices * float(row["system/tokens_per_second"]) / 1e12
    assert 0.9 * expected < float(row["system/mfu"]) < 1.3 * expected  # attention itself comes on top
    assert "system/mfu" not in result


@pytest.mark.parametrize("ranks", [1, 4])
def test_the_share_of_the_peak_is_that_of_all_devices(ranks):
    """Each of the ranks computed a part of 100 GFLOP; 10 such steps a second are a tenth of 10 TFLOP/s."""
    trainer = SimpleNamespace(world_size=ranks, strategy=SimpleNamespace(root_device=torch.device("cpu")))
    telemetry = Telemetry()
    telemetry.peak = 1e13 / ranks
    telemetry._counter = SimpleNamespace(get_total_flops=lambda: 1e11 / ranks)
    telemetry.end_step(trainer, 500)
    assert telemetry.row(trainer, 5000, 1.0)["system/mfu"] == pytest.approx(0.1)
    assert telemetry.row(trainer, 7500, 1.25)["system/mfu"] == pytest.approx(0.2)  # since the row before


def test_peaks_of_known_devices():
    assert peak_flops("NVIDIA H100 80GB HBM3", "bf16-mixed") == 989.4e12
    assert peak_flops("NVIDIA H200", "bf16-true") == 989.4e12
    assert peak_flops("NVIDIA A100-SXM4-80GB", "32-true") == 19.5e12
    assert peak_flops("Some other device", "bf16-mixed") is None


def test_the_learning_rate_of_a_row_is_the_one_with_which_its_step_was_done(tmp_path):
    """The schedule moves right after the update, so the optimizer already has the next step's rate then."""
    train(tmp_path / "run", "optim=adamw", "optim.lr=0.1", "optim.warmup_steps=4", "optim.schedule=constant",
          "trainer.log_every_n_steps=1", "trainer.max_steps=5")  # fmt: skip
    rates = [float(row["optim/lr_adamw"]) for row in rows(tmp_path / "run").values()]
    assert rates == pytest.approx([0.025, 0.05, 0.075, 0.1, 0.1])
