"""strategy=fsdp: two ranks with a part each learn what one process learns, and their checkpoints are anybody's."""

import json
import shutil
import signal

import pytest
import torch
from trial import ROOT, SMOKE, events, process, rows, train, weights

import multihead
from multihead.config.compose import compose
from multihead.errors import ConfigError
from multihead.model.sharded import gathered, is_sharded, parted, scattered, whole
from multihead.training.sharding import scattered_state

TWO = ["devices=2", "accelerator=cpu", "trainer.watchdog_seconds=60"]
FSDP, DDP = [*TWO, "strategy=fsdp"], [*TWO, "strategy=ddp"]
SAME = ["model.dropout=0", "optim=adamw", "optim.lr=3e-3", "optim.warmup_steps=3", "model.num_decoder_layers=2"]
PLUGIN = '''
import json
import os
import signal
import torch
from pathlib import Path
import lightning as L
from multihead.plugin import Plugin

def held(tensors):
    return sum(t.to_local().nbytes if hasattr(t, "to_local") else t.nbytes for t in tensors if t.numel() > 1)

class Trouble(L.Callback):
    """Writes down what a rank holds; and whatever the environment says, on the last rank."""
    def on_before_optimizer_step(self, trainer, module, optimizer):
        if trainer.global_step == 5 and (folder := os.environ.get("HELD")):
            kept = {
                "weights": held(module.parameters()),
                "gradients": held(p.grad for p in module.parameters()),
                "optimizer": held(v for state in optimizer.state.values() for v in state.values()),
            }
            (Path(folder) / f"held_{trainer.global_rank}.json").write_text(json.dumps(kept))

    def on_before_zero_grad(self, trainer, module, optimizer):
        if trainer.global_step == 6 and (folder := os.environ.get("HELD")):
            clipped = [p.grad.full_tensor().square().sum() for p in module.parameters()]
            (Path(folder) / f"norm_{trainer.global_rank}").write_text(str(float(sum(clipped) ** 0.5)))

    def strike(self, trainer, hook):
        last = trainer.global_rank == trainer.world_size - 1
        if last and os.environ.get("STRIKE") == f"{hook} {trainer.global_step}":
            os.kill(os.getpid(), int(os.environ["SIGNAL"]))

    def on_train_batch_start(self, trainer, module, batch, batch_idx):
        self.strike(trainer, "step")
        name = os.environ.get("POISON_FORWARD")
        if name and trainer.global_rank == 1 and trainer.global_step == 7:
            module.task.model.get_submodule(name).register_forward_hook(lambda module, inputs, output: output / 0)

    def on_after_backward(self, trainer, module):
        name = os.environ.get("POISON_GRADIENT")
        if name and trainer.global_rank == 1 and trainer.global_step == 7:
            module.task.model.get_parameter(name).grad.to_local().fill_(float("nan"))

    def on_validation_batch_start(self, trainer, module, batch, batch_idx):
        self.strike(trainer, "validation")

PLUGIN = Plugin(callbacks={"trouble": Trouble})
'''


@pytest.fixture
def plugin(tmp_path):
    (tmp_path / "trouble.py").write_text(PLUGIN)
    return f"plugin={tmp_path / 'trouble.py'}"


def ended(words, status=0, **environment):
    """Trains in a process of its own; its stderr."""
    running = process(str(ROOT / "train.py"), *words, **environment)
    _, errors = running.communicate(timeout=300)
    assert running.returncode == status, errors
    return errors


def close(ours, theirs, tolerance=1e-5):
    for column in ("train/loss", "val/loss"):
        found, expected = rows(ours, column), rows(theirs, column)
        assert [step for step, _ in found] == [step for step, _ in expected]
        assert [float(v) for _, v in found] == pytest.approx([float(v) for _, v in expected], rel=tolerance), column
    results = [json.loads((run / "result.json").read_text()) for run in (ours, theirs)]
    assert results[0].keys() == results[1].keys()
    for name in ("parameters", "steps", "tokens", "best_step"):
        assert results[0][name] == results[1][name]
    assert results[0]["test/loss"] == pytest.approx(results[1]["test/loss"], rel=tolerance)


def same_bits(ours, theirs):
    found, expected = weights(ours), weights(theirs)
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)
    for column in ("train/loss", "val/loss"):
        assert rows(ours, column) == rows(theirs, column)


@pytest.mark.parametrize("precision", ["16-mixed", "64-true"])
def test_precisions_that_lightning_does_not_shard_are_refused(precision):
    with pytest.raises(
        ConfigError, match="precision: must be auto, 32-true, bf16-mixed or bf16-true if strategy=fsdp, got"
    ):
        compose(["task=lm", "hardware=fsdp", f"precision={precision}"])
    assert compose(["task=lm", "hardware=fsdp"]).config.strategy == "fsdp"


def test_an_older_pytorch_is_refused(monkeypatch):
    monkeypatch.delattr("torch.distributed.fsdp.FSDPModule.reset_iter_state")
    with pytest.raises(ConfigError, match=r"strategy: fsdp needs a newer PyTorch than .*; fix: strategy=ddp"):
        multihead.training.sharding.Sharded(2)


def test_what_is_not_sharded_is_left_alone():
    model, tensor = torch.nn.Linear(2, 2), torch.ones(2)
    state = {"state_dict": {"weight": tensor}, "optimizer_states": []}
    with whole(model), parted(model):
        assert not is_sharded(model)
    assert gathered(tensor) is tensor
    assert scattered(tensor, tensor) is tensor
    assert scattered_state(state, model, []) is state


def test_two_ranks_learn_as_one_and_hold_half(tmp_path, plugin, monkeypatch):
    """Losses to rounding, gradients clipped by their whole norm, whole tensors on disk, in memory what a plan says."""
    monkeypatch.setenv("HELD", str(tmp_path))
    same = [*SAME, "trainer.gradient_clip_val=0.1"]
    train(tmp_path / "two", *same, *FSDP, plugin)
    train(tmp_path / "one", *same, "devices=1", "strategy=fsdp", "accelerator=cpu")
    close(tmp_path / "two", tmp_path / "one", 1e-6)
    sizes = [
        (tmp_path / run / "checkpoints" / "step_10" / "tensors.safetensors").stat().st_size for run in ("two", "one")
    ]
    assert sizes[0] == pytest.approx(sizes[1], rel=0.01)  # one more random state
    plan = multihead.train([*SMOKE, *SAME, *FSDP, "plan=true"])
    for rank in (0, 1):
        assert float((tmp_path / f"norm_{rank}").read_text()) == pytest.approx(0.1, rel=1e-4)
        for name, size in json.loads((tmp_path / f"held_{rank}.json").read_text()).items():
            assert size == pytest.approx(plan[f"memory/{name}"], rel=0.01), name
    assert plan["memory/weights gathered for validation"] == pytest.approx(2 * plan["memory/weights"], abs=2)


def test_shared_layers_are_sharded_once(tmp_path, forked_ranks):
    """PyTorch refuses to shard a layer that is sharded already."""
    words = [*SAME, "model.share_layers=true", "trainer.max_steps=3", "trainer.accumulate_grad_batches=1"]
    train(tmp_path / "two", *words, *FSDP)
    train(tmp_path / "one", *words, "accelerator=cpu")
    close(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize("task", ["lm", "classification", "summarization", "multitask"])
def test_every_task_learns_as_one_process_does(tmp_path, task):
    head = {"classification": ["task.head_dropout=0"], "multitask": ["task.classification.head_dropout=0"]}
    words = [f"task={task}", "debug=smoke", *SAME, *head.get(task, [])]
    multihead.train([*words, *FSDP, f"run_dir={tmp_path / 'two'}"])
    multihead.train([*words, f"run_dir={tmp_path / 'one'}"])
    close(tmp_path / "two", tmp_path / "one")
    samples = [(tmp_path / run / "samples.jsonl").read_text().count('"split": "test"') for run in ("one", "two")]
    assert samples[0] == samples[1] > 0


@pytest.mark.slow
def test_one_of_several_tasks_learns_by_a_plugins_loss_as_in_one_process(tmp_path):
    words = ["task=multitask", "debug=smoke", *SAME, "task.classification.head_dropout=0"]
    words.append("task.classification.loss=r_drop")
    words.append(f"plugin={ROOT / 'docs' / 'examples' / 'plugins' / 'r_drop.py'}")
    multihead.train([*words, *FSDP, f"run_dir={tmp_path / 'two'}"])
    multihead.train([*words, f"run_dir={tmp_path / 'one'}"])
    close(tmp_path / "two", tmp_path / "one")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "tolerance"),
    [
        (["optim=muon", "optim.muon_lr=0.01"], 2e-5),  # its iterations enlarge what rounding does
        (["precision=bf16-mixed"], 1e-3),
        (["precision=bf16-true"], 1e-3),
        (["trainer.activation_checkpointing=true"], 1e-5),
        (["trainer.ema_decay=0.8", "trainer.accumulate_grad_batches=3"], 1e-5),
        (["trainer.average_last_steps=6", "trainer.average_every_n_steps=2"], 1e-5),
        (["optim.layer_decay=0.8", "optim.freeze=[transformer.encoder.layers.0.*]"], 1e-5),
        (["model.tie_embeddings=none", "model.position=learned", "trainer.gradient_clip_val=0.1"], 1e-5),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_options_do_what_they_do_with_whole_weights(tmp_path, words, tolerance):
    train(tmp_path / "fsdp", *SAME, *FSDP, *words)
    train(tmp_path / "ddp", *SAME, *DDP, *words)
    close(tmp_path / "fsdp", tmp_path / "ddp", tolerance)


@pytest.mark.slow
def test_starts_from_another_run_and_compiles(tmp_path):
    train(tmp_path / "first", *SAME)
    words = [*SAME, f"init_from={tmp_path / 'first'}", "init_tokenizer=same", "trainer.watchdog_seconds=0"]
    train(tmp_path / "fsdp", *words, *FSDP[:-2], "strategy=fsdp", "compile=true")
    train(tmp_path / "one", *words)
    close(tmp_path / "fsdp", tmp_path / "one")


@pytest.mark.slow
def test_killed_and_resumed_under_any_strategy(tmp_path, plugin):
    """Under FSDP2 bit by bit, in one process and under DDP to rounding; and a run of one process goes on sharded."""
    words = [*SMOKE, *SAME, "trainer.max_steps=12", "trainer.ema_decay=0.8", plugin]
    ended([*words, *FSDP, f"run_dir={tmp_path / 'whole'}"])
    killed = [*words, *FSDP, f"run_dir={tmp_path / 'fsdp'}"]
    errors = ended(killed, 6, STRIKE="step 8", SIGNAL=str(int(signal.SIGKILL)))
    assert errors.startswith("error[peer] rank 1: was killed by SIGKILL")
    for how in ("one", "ddp"):
        shutil.copytree(tmp_path / "fsdp", tmp_path / how)
    ended([f"resume={tmp_path / 'fsdp'}", *FSDP, plugin])
    same_bits(tmp_path / "fsdp", tmp_path / "whole")
    ended([f"resume={tmp_path / 'ddp'}", *DDP, plugin])
    ended([f"resume={tmp_path / 'one'}", "devices=1", "strategy=auto", plugin])
    alone = [*words, "accelerator=cpu", "devices=1", f"run_dir={tmp_path / 'back'}"]
    ended(alone, -9, STRIKE="step 8", SIGNAL="9")
    ended([f"resume={tmp_path / 'back'}", *FSDP, plugin])
    close(tmp_path / "back", tmp_path / "whole")
    for how in ("ddp", "one"):
        close(tmp_path / how, tmp_path / "whole")


@pytest.mark.slow
@pytest.mark.parametrize("hook", ["step 7", "validation 5"])
def test_a_signal_to_one_rank_saves_on_all(tmp_path, plugin, hook):
    """Also within a validation, on whole averaged weights; what was broken off is done again, bit by bit."""
    words = [*SMOKE, *SAME, *FSDP, "trainer.ema_decay=0.8", plugin]
    ended([*words, f"run_dir={tmp_path / 'whole'}"])
    errors = ended([*words, f"run_dir={tmp_path / 'run'}"], 143, STRIKE=hook, SIGNAL=str(int(signal.SIGTERM)))
    step = 8 if hook == "step 7" else 5
    assert errors == f"stopped by SIGTERM, saved step {step}; go on with resume={tmp_path / 'run'}\n"
    ended([f"resume={tmp_path / 'run'}", plugin])
    same_bits(tmp_path / "run", tmp_path / "whole")


@pytest.mark.slow
def test_numbers_that_are_not_finite_on_one_rank(tmp_path, plugin):
    """The update is not done by any rank, and the module or parameter is named."""
    module = "transformer.decoder.layers.0.feed_forward"
    words = [*SMOKE, *SAME, *FSDP, plugin, "trainer.val_every_n_steps=20"]
    errors = ended([*words, f"run_dir={tmp_path / 'a'}"], 4, POISON_FORWARD=module)
    assert f"of train on rank 1; first not finite: {module}; newest checkpoint: step_5" in errors
    errors = ended([*words, f"run_dir={tmp_path / 'b'}"], 4, POISON_GRADIENT=f"{module}.up.weight")
    assert f"first not finite: the gradient of {module}.up.weight; newest" in errors
    for on_nan in ("skip", "rewind"):
        more = [f"run_dir={tmp_path / on_nan}", f"trainer.on_nan={on_nan}"]
        ended([*words, *more], POISON_GRADIENT=f"{module}.up.weight")
        names = [event["event"] for event in events(tmp_path / on_nan)]
        assert ("skipped" in names, "rewound" in names) == (True, on_nan == "rewind")


@pytest.mark.slow
def test_under_torchrun(tmp_path):
    command = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(ROOT / "train.py")]
    running = process(*command, *SMOKE, *SAME, "accelerator=cpu", "strategy=fsdp", f"run_dir={tmp_path / 'two'}")
    _, errors = running.communicate(timeout=180)
    assert running.returncode == 0, errors
    train(tmp_path / "one", *SAME)
    close(tmp_path / "two", tmp_path / "one")
