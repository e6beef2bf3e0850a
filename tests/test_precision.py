"""Every precision trains and resumes exactly; layers that are computed again have the same gradients."""

import pytest
import torch
from trial import rows, train, weights

import multihead
from multihead.commands.train import join
from multihead.config.compose import compose
from multihead.config.data import SPLITS
from multihead.config.training import PRECISIONS
from multihead.prepare import prepare

WORDS = [
    "trainer.max_steps=6",
    "trainer.val_every_n_steps=3",
    "trainer.checkpoint_every_n_steps=3",
    "model.dropout=0.1",
]


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_trains_and_resumes_exactly(tmp_path, capsys, precision):
    words = [*WORDS, f"precision={precision}", "accelerator=cpu"]
    whole = train(tmp_path / "whole", *words)
    assert whole["test/loss"] > 0
    said = capsys.readouterr().err + (tmp_path / "whole" / "train.log").read_text()
    assert "You passed" not in said
    assert ("is for GPUs; a CPU computes in bf16-mixed instead" in said) == (precision == "16-mixed")
    first = train(tmp_path / "run", *words, "trainer.max_steps=4", "optim.schedule=constant")
    assert first["steps"] == 4
    train(tmp_path / "other", *words, "optim.schedule=constant")
    multihead.train([f"resume={tmp_path / 'run'}", "trainer.max_steps=6"])
    ours, theirs = weights(tmp_path / "run"), weights(tmp_path / "other")
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert rows(tmp_path / "run")[-2:] == rows(tmp_path / "other")[-2:]


def gradients(*words):
    """Gradients of one batch of a tiny translation model, and bytes kept for the backward pass."""
    composition = compose(
        ["task=translation", "debug=smoke", "model.dropout=0.2", "model.num_decoder_layers=3", *words]
    )
    task, data = join(composition, prepare(composition, SPLITS), 1)
    batch = next(iter(data.train_dataloader()))
    kept, parameters = {}, {p.untyped_storage().data_ptr() for p in task.parameters()}

    def keep(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in parameters:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    torch.manual_seed(5)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = task.training_step(batch, 0)["loss"]
        size = sum(kept.values())
        loss.backward()
    return {name: p.grad for name, p in task.named_parameters()}, size


def test_recomputed_layers_have_the_same_gradients_and_keep_less():
    plain, much = gradients()
    again, little = gradients("trainer.activation_checkpointing=true")
    assert plain.keys() == again.keys()
    assert all(torch.equal(plain[name], again[name]) for name in plain)
    assert little < 0.7 * much


def test_smaller_parts_keep_less():
    _, whole = gradients()
    _, part = gradients("data.part_tokens=128")
    assert part < 0.5 * whole
