"""plan=true: what is counted is there, nothing is left behind, what cannot fit is refused before it is allocated."""

import json
import os
import resource
import signal

import pytest
import torch
from trial import SMOKE, train

import multihead
from multihead.config.compose import compose
from multihead.config.data import SPLITS
from multihead.data.prepare import prepare
from multihead.errors import MachineError, Stopped
from multihead.training.build import join
from multihead.training.cost import bytes_by_part, parameters_by_part, peak_memory
from multihead.training.steps import Steps


def built(*words):
    composition = compose([*SMOKE, *words])
    task, data = join(composition, prepare(composition, SPLITS), 1)
    return composition.config, task, data


def test_parameters_and_bytes_are_those_of_the_model_and_its_optimizer():
    config, task, data = built(
        "optim=muon", "trainer.ema_decay=0.9", "model.tie_embeddings=none", "model.ngram_buckets=50"
    )
    parts = parameters_by_part(task.model)
    assert sum(parts.values()) == sum(p.numel() for p in task.parameters())
    assert parts["heads"] == task.model.head.weight.numel()
    tables = [table for stack in task.model.transformer.children() for table in (stack.embedding, stack.ngrams)]
    assert parts["embeddings"] == sum(table.weight.numel() for table in tables)
    optimizer = task.configure_optimizers()["optimizer"]
    found = bytes_by_part(task.model, config, optimizer.param_groups)
    task.training_step(next(iter(data.train_dataloader())), 0)["loss"].backward()
    optimizer.step()
    states = [value for state in optimizer.state.values() for value in state.values() if torch.is_tensor(value)]
    assert found["optimizer"] == sum(value.nbytes for value in states if value.numel() > 1)
    assert found["weights"] == found["gradients"] == found["averaged weights"] == 4 * sum(parts.values())
    config.precision = "bf16-true"
    assert bytes_by_part(task.model, config, optimizer.param_groups)["weights"] == 2 * sum(parts.values())


@pytest.mark.parametrize("task", ["translation", "lm", "classification", "multitask"])
def test_a_plan_is_made_and_nothing_is_left(tmp_path, monkeypatch, capsys, task):
    monkeypatch.chdir(tmp_path)
    plan = multihead.train([f"task={task}", "debug=smoke", "plan=true"])
    assert list(tmp_path.iterdir()) == []
    assert "peak, 1 rank" in capsys.readouterr().out
    result = multihead.train([f"task={task}", "debug=smoke", "run_dir=run"])
    for name in ("parameters", "steps"):
        assert plan[name] == result[name]
    assert plan["tokens"] == pytest.approx(result["tokens"], rel=0.05)
    assert plan["padding"] == pytest.approx(result["padding"], abs=1e-9)
    assert plan["seconds"] == pytest.approx(sum(v for name, v in plan.items() if name.startswith("seconds/")))
    stacks = sum(plan.get(f"parameters/{stack}", 0) for stack in ("encoder", "decoder"))
    assert plan["flops_per_step"] > 6 * stacks * plan["tokens_per_step"] / 4  # multitask: not every stack in each step
    size = sum(f.stat().st_size for f in (tmp_path / "run" / "checkpoints" / "step_10").iterdir())
    assert plan["disk/checkpoint"] == pytest.approx(size, rel=0.25)


@pytest.mark.parametrize("steps", [1, 2])
def test_a_run_of_a_step_or_two_has_a_plan(tmp_path, monkeypatch, steps):
    monkeypatch.chdir(tmp_path)
    plan = multihead.train(["task=lm", "debug=smoke", f"trainer.max_steps={steps}", "plan=true"])
    assert plan["steps"] == steps and plan["seconds/training"] > 0 and plan["tokens_per_second"] > 0


@pytest.mark.parametrize("steps", [1, 2, 10])
def test_the_measured_steps_are_no_run_whose_average_is_judged(caplog, steps):
    """A plan of a recipe with a slow average once advised a lower decay, because it had taken 16 steps itself."""
    multihead.train([*SMOKE, "trainer.ema_decay=0.995", f"trainer.max_steps={steps}", "plan=true"])
    assert "average" not in caplog.text


@pytest.mark.parametrize(
    ("ends", "error", "said"),
    [
        (lambda: os.kill(os.getpid(), signal.SIGINT), Stopped, "stopped by SIGINT while the plan was measured"),
        (lambda: os.kill(os.getpid(), signal.SIGTERM), Stopped, "stopped by SIGTERM while the plan was measured"),
        (lambda: 1 / 0, ZeroDivisionError, "division by zero"),
    ],
)
def test_a_plan_that_ends_early_advises_no_resume(tmp_path, monkeypatch, caplog, ends, error, said):
    """It once said how to continue in its temporary folder, which it had deleted."""

    def between(self, *rest, before=Steps._between_steps):
        ends()
        before(self, *rest)

    monkeypatch.setattr(Steps, "_between_steps", between)
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    with pytest.raises(error, match=said) as caught:
        multihead.train([*SMOKE, "plan=true"])
    assert "resume" not in str(caught.value) + caplog.text
    assert list(tmp_path.iterdir()) == []


def test_what_is_kept_for_the_backward_pass_is_counted_as_it_is_computed():
    words = ["task=translation", "debug=smoke", "accelerator=cpu", "plan=true"]
    name = "memory/activations of a micro-batch"
    plain = multihead.train(words)[name]
    assert multihead.train([*words, "precision=bf16-mixed"])[name] < plain
    assert multihead.train([*words, "trainer.activation_checkpointing=true"])[name] < 0.5 * plain


def test_what_cannot_fit_is_refused_and_not_allocated(tmp_path):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    words = ["plan=true", "model.d_model=65536", "model.d_ff=262144", "model.num_heads=64"]
    with pytest.raises(
        MachineError, match=r"memory: the run needs at least \d+.* GB .*but only \d+.* GB are free; fix: a smal"
    ) as e:
        train(tmp_path / "run", *words)
    assert e.value.status == 5
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 300_000
    assert not (tmp_path / "run").exists()


def test_what_the_measured_steps_took_is_refused_for_all_ranks(tmp_path, monkeypatch):
    from multihead.training import cost as budget

    monkeypatch.setattr(budget, "available_memory", lambda on_gpu: 50_000_000)
    words = ["plan=true", "devices=4", "accelerator=cpu", "strategy=ddp"]
    with pytest.raises(
        MachineError, match=r"memory: 4 ranks would need \d.* GB, but only .* are free; fix: fewer devices"
    ):
        train(tmp_path / "run", *words)


def test_the_peak_stands_in_the_result(tmp_path):
    result = train(tmp_path / "run")
    assert 1e8 < result["peak_memory"] <= peak_memory()
    assert json.loads((tmp_path / "run" / "result.json").read_text())["peak_memory"] == result["peak_memory"]
