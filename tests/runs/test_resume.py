"""Killed, stopped, damaged: a run goes on from its checkpoint as if nothing had been, bit by bit."""

import json
import shutil
import signal
import time

import pytest
import torch
from trial import ROOT, SMOKE, events, process, rows, struck, train, weights

import multihead
from multihead.errors import CheckpointError

LENGTH = [
    "trainer.max_steps=30",
    "trainer.checkpoint_every_n_steps=4",
    "trainer.val_every_n_steps=50",
    "optim=adamw",
    "optim.lr=3e-3",
]
"""Two epochs of 13 steps and a part of the third; saved in mid-epoch."""
CHANGING = ("seconds", "tokens_per_second", "peak_memory", "git_commit", "run_dir")


def same(resumed, whole):
    """Whether two runs ended with the same weights and went through the same losses."""
    ours, theirs = weights(resumed), weights(whole)
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert rows(resumed) == rows(whole)
    assert rows(resumed, "val/loss") == rows(whole, "val/loss")
    return True


def lasting(result):
    """A result without what changes from run to run."""
    return {name: value for name, value in result.items() if name not in CHANGING}


def resume(run_dir, *words):
    return multihead.train([f"resume={run_dir}", *words])


@pytest.mark.parametrize(
    ("words", "step", "micro_batch"),
    [
        pytest.param(["trainer.log_every_n_steps=3"], 11, 0, id="plain", marks=pytest.mark.slow),
        pytest.param(["data.part_tokens=150"], 18, 1, id="accumulation"),
        pytest.param(
            ["trainer.val_every_n_steps=3", "trainer.ema_decay=0.9", "model.attention_dropout=0.1"],
            10,
            0,
            id="validation-dropout-ema",
        ),
        pytest.param(
            ["optim=muon", "trainer.average_last_steps=20", "trainer.average_every_n_steps=3"], 19, 0, id="muon"
        ),
        pytest.param(["data.num_workers=2"], 11, 0, id="workers"),
    ],
)
def test_killed_in_mid_epoch(tmp_path, words, step, micro_batch):
    words = [*LENGTH, *words]
    train(tmp_path / "whole", *words)
    status, _ = struck(signal.SIGKILL, step, *SMOKE, f"run_dir={tmp_path / 'killed'}", *words, micro_batch=micro_batch)
    assert status == -signal.SIGKILL
    assert not (tmp_path / "killed" / "result.json").exists()
    result = resume(tmp_path / "killed")
    assert [e["event"] for e in events(tmp_path / "killed")].count("resumed") == 1
    assert result["steps"] == 30
    assert same(tmp_path / "killed", tmp_path / "whole")


@pytest.mark.parametrize(
    "task",
    [
        "lm task.random_windows=5",
        "lm task.objective=masked task.document_mask=true",
        "lm task.objective=both task.masked_blocks=0.5 data.batch_tokens=2048",
        "summarization task.copy=true",
        "classification task.token_dropout=0.2",
        "multitask task.temperature=3 trainer.ema_decay=0.9",
    ],
)
def test_every_task_goes_on_where_it_was(tmp_path, task):
    words = [f"task={task.split()[0]}", "debug=smoke", *task.split()[1:], "trainer.max_steps=12"]
    multihead.train([*words, f"run_dir={tmp_path / 'whole'}"])
    assert struck(signal.SIGKILL, 8, *words, f"run_dir={tmp_path / 'killed'}")[0] == -signal.SIGKILL
    resume(tmp_path / "killed")
    assert same(tmp_path / "killed", tmp_path / "whole")


def test_killed_twice_across_an_epochs_end(tmp_path):
    words = [*LENGTH, "trainer.val_every_n_steps=4", "trainer.checkpoint_every_n_steps=1", "data.part_tokens=256"]
    whole = train(tmp_path / "whole", *words)
    killed = tmp_path / "killed"
    assert struck(signal.SIGKILL, 13, *SMOKE, f"run_dir={killed}", *words)[0] == -signal.SIGKILL  # all of the epoch
    assert struck(signal.SIGKILL, 26, f"resume={killed}", micro_batch=1)[0] == -signal.SIGKILL
    result = resume(killed)
    assert same(killed, tmp_path / "whole")
    assert lasting(result) == lasting(whole)


def test_killed_from_outside_at_any_moment(tmp_path):
    words = [*LENGTH, "trainer.max_steps=60"]
    running = process(str(ROOT / "train.py"), *SMOKE, f"run_dir={tmp_path / 'killed'}", *words)
    file = tmp_path / "killed" / "events.jsonl"
    while not (file.exists() and '"saved"' in file.read_text()):
        assert running.poll() is None, running.communicate()
        time.sleep(0.002)
    running.kill()
    assert running.wait(timeout=10) == -signal.SIGKILL
    running.communicate()
    train(tmp_path / "whole", *words)
    resume(tmp_path / "killed")
    assert same(tmp_path / "killed", tmp_path / "whole")


STOPPED = [*LENGTH, "trainer.val_every_n_steps=15", "trainer.checkpoint_every_n_steps=100", "trainer.ema_decay=0.9"]


@pytest.fixture(scope="module")
def never_stopped(tmp_path_factory):
    """A whole run of these words, and its result."""
    path = tmp_path_factory.mktemp("never_stopped") / "run"
    return path, train(path, *STOPPED)


@pytest.mark.parametrize(
    ("signum", "status", "hook", "step"),
    [
        (signal.SIGTERM, 143, "on_train_batch_start", 11),
        (signal.SIGINT, 130, "on_validation_batch_start", 15),
        pytest.param(signal.SIGTERM, 143, "on_validation_batch_start", 30, marks=pytest.mark.slow),
        (signal.SIGTERM, 143, "on_test_batch_start", 30),
        pytest.param(signal.SIGINT, 130, "on_test_batch_start", 30, marks=pytest.mark.slow),
    ],
)
def test_signals_save_and_leave(tmp_path, never_stopped, signum, status, hook, step):
    run, (whole, known) = tmp_path / "run", never_stopped
    code, errors = struck(signum, step, *SMOKE, f"run_dir={run}", *STOPPED, hook=hook)
    assert code == status, errors
    assert len(errors.splitlines()) == 1
    assert f"resume={run}" in errors
    result = resume(run)
    assert same(run, whole)
    assert lasting(result) == lasting(known)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A run of 10 steps with checkpoints at 5 and 10."""
    path = tmp_path_factory.mktemp("runs") / "saved"
    train(path, "optim=adamw")
    return path


@pytest.fixture
def run(saved, tmp_path):
    return shutil.copytree(saved, tmp_path / "run")


def test_damaged_checkpoints_are_passed_over(run, saved):
    tensors = run / "checkpoints" / "step_10" / "tensors.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-100])
    (run / "result.json").unlink()
    resume(run)
    assert same(run, saved)
    log = (run / "train.log").read_text()
    assert "resume: step_10 is damaged (tensors.safetensors: sha256 differs); using step_5" in log


def test_no_checkpoint_left(run):
    for state in run.glob("checkpoints/*/state.json"):
        state.write_text("")
    with pytest.raises(CheckpointError, match=r"step_10 is damaged .*; step_5 is damaged") as caught:
        resume(run)
    assert caught.value.status == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["data.grammar.train_size=399"],
            r"data_train: sha256 \w+ -> sha256 \w+.*resume_force=.data.grammar.train_size,data_train.",
        ),
        (["tokenizer.vocab_size=300"], "tokenizer.vocab_size: 8000 -> 300"),
        (["model.max_len=128"], "model.max_len: 256 -> 128"),
        (["data.batch_tokens=256"], "data.batch_tokens: 512 -> 256"),
        (["seed=2"], "seed: 1 -> 2"),
        (["model.d_ff=32", "seed=2"], "model.d_ff: 64 -> 32; seed: 1 -> 2"),
        (["optim=muon"], "optim.name: adamw -> muon"),
    ],
)
def test_a_checkpoint_that_does_not_fit_is_refused(run, words, message):
    before = (run / "config.yaml").read_text()
    with pytest.raises(CheckpointError, match=message) as caught:
        resume(run, *words)
    assert caught.value.status == 3
    assert len(str(caught.value).splitlines()) == 1
    assert (run / "config.yaml").read_text() == before


def test_a_longer_horizon_goes_on_and_is_written_down(run):
    result = resume(run, "trainer.max_steps=12")
    assert result["steps"] == 12
    assert "max_steps: 12" in (run / "config.yaml").read_text()
    assert json.loads((run / "checkpoints" / "latest.json").read_text())["step"] == 12


@pytest.mark.parametrize(
    "ending", ["trainer.early_stopping_patience=1", "trainer.max_time=00:00:00:00"], ids=["early", "time"]
)
def test_a_run_whose_training_had_ended_before_its_last_step_goes_on_with_its_test(tmp_path, ending):
    words = ["trainer.max_steps=9", "trainer.val_every_n_steps=1", "optim=adamw", "optim.lr=1e-30", ending]
    whole = train(tmp_path, *words)
    assert whole["steps"] < 9
    before = weights(tmp_path)
    (tmp_path / "result.json").unlink()  # as after a kill in the test
    again = train(tmp_path, *words, "resume=auto")
    assert lasting(again) == lasting(whole)
    assert all(torch.equal(tensor, before[name]) for name, tensor in weights(tmp_path).items())
