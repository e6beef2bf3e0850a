"""Numbers that are not finite: which examples, which module, and that they never reach a checkpoint."""

import json
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from trial import ROOT, SMOKE, events, process, rows, train

from multihead.config.training import TrainerConfig
from multihead.errors import NumericsError
from multihead.training.steps import Steps

PLUGIN = '''
import os
import lightning as L
from multihead.plugin import Plugin

class Poison(L.Callback):
    """Makes a module's output infinite, or a gradient nan, at given steps."""
    handle = None
    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        if self.handle:
            self.handle.remove()
            self.handle = None
        rank = os.environ.get("POISON_RANK", str(trainer.global_rank))
        if str(trainer.global_step) not in os.environ["POISON"].split(",") or rank != str(trainer.global_rank):
            return
        name = os.environ.get("POISON_MODULE", "transformer.decoder.layers.0.feed_forward")
        poisoned = module.task.model.get_submodule(name)
        if os.environ.get("POISON_BACKWARD"):
            self.handle = poisoned.weight.register_hook(lambda gradient: gradient * float("nan"))
        else:
            self.handle = poisoned.register_forward_hook(lambda module, inputs, output: output / 0)

PLUGIN = Plugin(callbacks={"poison": Poison})
'''
WORDS = ["trainer.max_steps=8", "trainer.val_every_n_steps=20", "trainer.checkpoint_every_n_steps=5"]


@pytest.fixture
def plugin(tmp_path, monkeypatch):
    (tmp_path / "poison.py").write_text(PLUGIN)
    monkeypatch.setenv("POISON", "7")
    return f"plugin={tmp_path / 'poison.py'}"


def saved(run, step):
    return load_file(run / "checkpoints" / f"step_{step}" / "tensors.safetensors")


def weights_at(run, step):
    return {name: tensor for name, tensor in saved(run, step).items() if "state_dict" in name}


def test_the_run_stops_before_the_update_and_says_where(tmp_path, plugin):
    run = tmp_path / "run"
    message = r"step 8: the gradient is not finite; loss nan for rows \d+, .*feed_forward; newest checkpoint: step_5"
    with pytest.raises(NumericsError, match=message) as caught:
        train(run, *WORDS, plugin)
    assert caught.value.status == 4
    report = json.loads((run / "nan.json").read_text())
    assert report["module"] == "transformer.decoder.layers.0.feed_forward"
    assert (report["step"], report["epoch"], report["step_in_epoch"]) == (8, 0, 7)
    assert sorted(path.name for path in (run / "checkpoints").glob("step_*")) == ["step_5"]
    assert not (run / "result.json").exists()
    assert events(run)[-1]["event"] == "failed"


def test_the_examples_are_those_of_the_step(tmp_path, plugin, monkeypatch):
    """Against the rows that the same run without poison takes at that step."""
    monkeypatch.setenv("POISON", "")
    watch = tmp_path / "watch.py"
    watch.write_text(
        PLUGIN.replace(
            "rank = os",
            "open(os.environ['LEDGER'], 'a').write(f'{trainer.global_step} {batch[\"index\"].tolist()}\\n'); rank = os",
        )
    )
    monkeypatch.setenv("LEDGER", str(tmp_path / "ledger"))
    train(tmp_path / "clean", *WORDS, f"plugin={watch}")
    expected = json.loads((tmp_path / "ledger").read_text().splitlines()[7].partition(" ")[2])
    monkeypatch.setenv("POISON", "7")
    with pytest.raises(NumericsError):
        train(tmp_path / "run", *WORDS, plugin)
    assert json.loads((tmp_path / "run" / "nan.json").read_text())["examples"] == expected


def test_a_gradient_alone(tmp_path, plugin, monkeypatch):
    monkeypatch.setenv("POISON_BACKWARD", "1")
    monkeypatch.setenv("POISON_MODULE", "transformer.encoder.layers.0.self_attention.output")
    with pytest.raises(NumericsError, match=r"first not finite: the gradient of .*self_attention.output.weight"):
        train(tmp_path / "run", *WORDS, plugin)


def test_skip_changes_nothing_and_goes_on(tmp_path, plugin):
    run = tmp_path / "run"
    words = [*WORDS, "trainer.checkpoint_every_n_steps=1", "trainer.keep_checkpoints=9"]
    result = train(run, *words, plugin, "trainer.on_nan=skip", "trainer.max_steps=10")
    before, after, later = (weights_at(run, step) for step in (7, 8, 9))
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert any(not torch.equal(after[name], later[name]) for name in after)
    assert result["steps"] == 10
    assert [event["step"] for event in events(run) if event["event"] == "skipped"] == [8]
    assert [step for step, _ in rows(run)] == [1, 2, 3, 4, 5, 6, 7, 9, 10]
    assert rows(run, "optim/skipped_steps")[0] == (8, "1")


@pytest.mark.parametrize("micro_batches", [1, 2])
def test_the_mean_loss_of_an_interval_leaves_a_skipped_step_out(tmp_path, micro_batches):
    """At the default interval, which the other tests here shorten to one step."""
    config = TrainerConfig(on_nan="skip")
    assert config.log_every_n_steps == 20
    data = SimpleNamespace(plan=SimpleNamespace(num_steps=lambda epoch: 99), position=(0, 0), seed=0)
    task = SimpleNamespace(monitor="val/loss", monitor_mode="min")
    steps = Steps(tmp_path, data, SimpleNamespace(trainer=config, task=task))
    trainer = SimpleNamespace(
        global_step=0, world_size=1, should_stop=False, accumulate_grad_batches=micro_batches, callbacks=[],
        optimizers=[SimpleNamespace(param_groups=[{"lr": 0.1, "params": []}])], precision_plugin=None,
        strategy=SimpleNamespace(root_device=torch.device("cpu")),
    )  # fmt: skip
    logged = {}
    task = SimpleNamespace(tokens_seen=0, count_tokens=int, device="cpu", parameters=lambda: [])
    module = SimpleNamespace(task=task, device="cpu", record=lambda row, step: logged.update(row))
    for step in range(1, 21):
        for part in range(micro_batches):
            bad = step == 7 and part == 0
            if part == micro_batches - 1:
                steps.on_gradient(trainer, module, torch.tensor(float("nan") if step == 7 else 1.0))
                trainer.global_step = step
            outputs = {"sum": torch.tensor(float("nan") if bad else float(step))}
            batch = {"tokens_of_step": 4, "targets_of_step": 4}
            steps.on_train_batch_end(trainer, module, outputs, batch, 0)
    others = [step for step in range(1, 21) if step != 7]
    assert logged["train/loss"] == pytest.approx(micro_batches * sum(others) / (4 * len(others)))
    assert logged["optim/skipped_steps"] == 1


def test_skip_gives_up_after_many_in_a_row(tmp_path, plugin, monkeypatch):
    monkeypatch.setenv("POISON", ",".join(map(str, range(3, 40))))
    with pytest.raises(NumericsError, match="step 23: the gradient is not finite"):
        train(tmp_path / "run", *WORDS, plugin, "trainer.on_nan=skip", "trainer.max_steps=40")


def test_rewind_takes_the_newest_checkpoint_and_leaves_the_examples_out(tmp_path, plugin):
    run = tmp_path / "run"
    train(run, *WORDS, plugin, "trainer.on_nan=rewind")
    before, after = weights_at(run, 5), weights_at(run, 8)
    assert all(torch.equal(before[name], after[name]) for name in before)
    assert [(event["event"], event["step"]) for event in events(run) if event["event"] in ("rewound", "skipped")] == [
        ("rewound", 8),
        ("skipped", 8),
    ]


def test_rewind_without_a_checkpoint_stops(tmp_path, plugin, monkeypatch):
    monkeypatch.setenv("POISON", "3")
    with pytest.raises(NumericsError, match="there is no checkpoint to rewind to"):
        train(tmp_path / "run", *WORDS, plugin, "trainer.on_nan=rewind")


@pytest.mark.slow
def test_on_one_rank_only(tmp_path, plugin):
    words = [*SMOKE, f"run_dir={tmp_path / 'run'}", *WORDS, plugin, "devices=2", "accelerator=cpu", "strategy=ddp"]
    running = process(str(ROOT / "train.py"), *words, POISON="7", POISON_RANK="1")
    _, errors = running.communicate(timeout=120)
    assert running.returncode == 4, errors
    assert len(errors.splitlines()) == 1
    assert "of train on rank 1; first not finite: transformer.decoder.layers.0.feed_forward" in errors
