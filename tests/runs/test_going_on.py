"""The same command again goes on with its run: which run that is, what may have changed, and who may write it."""

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
from trial import ROOT, SMOKE, events, process, rows, train, weights

import multihead
from multihead.config.changes import changes, same_run
from multihead.errors import CheckpointError, ConfigError, MachineError
from multihead.runs import lock
from multihead.runs.checkpoint import probe

RAISE = """
import os
import lightning as L
from multihead.plugin import Plugin

class Raise(L.Callback):
    def on_before_backward(self, trainer, module, loss):
        if str(trainer.global_step) == os.environ.get("RAISE_AT"):
            raise ValueError("no more")

PLUGIN = Plugin(callbacks={"raise": Raise})
"""


def equal(first, second):
    ours, theirs = weights(first), weights(second)
    return rows(first) == rows(second) and all(torch.equal(ours[name], theirs[name]) for name in ours)


@pytest.fixture
def unfinished(tmp_path, monkeypatch):
    """A run in outputs/ that has checkpoints and no result."""
    monkeypatch.chdir(tmp_path)
    result = multihead.train([*SMOKE])
    run = tmp_path / result["run_dir"]
    (run / "result.json").unlink()
    return run


def test_auto_finds_the_newest_unfinished_run_of_this_configuration(unfinished):
    time.sleep(1.1)  # names of runs differ by the second
    other = multihead.train([*SMOKE, "optim.lr=2e-3", "resume=auto"])["run_dir"]
    assert other != str(unfinished)
    result = multihead.train([*SMOKE, "resume=auto", "data.num_workers=1"])  # the machine may be another
    assert os.path.samefile(result["run_dir"], unfinished)
    assert [event["event"] for event in events(unfinished)].count("resumed") == 1
    assert multihead.train([*SMOKE, "resume=auto"])["run_dir"] not in (other, str(unfinished))  # all are finished


def test_a_run_that_another_process_writes_is_not_taken(unfinished):
    holder = "import sys, time; from pathlib import Path; from multihead.runs.lock import locked\n"
    holder += "with locked(Path(sys.argv[1])):\n    print('held', flush=True); time.sleep(60)"
    with subprocess.Popen(
        [sys.executable, "-c", holder, str(unfinished)], stdout=subprocess.PIPE, text=True
    ) as running:
        assert running.stdout.readline() == "held\n"
        assert lock.in_use(unfinished)
        lock.WAIT_SECONDS = 0.2
        with pytest.raises(MachineError, match=rf"in use by process {running.pid} since 2.*; fix: wait for it"):
            multihead.train([f"resume={unfinished}"])
        assert multihead.train([*SMOKE, "resume=auto"])["run_dir"] != str(unfinished)
        running.kill()
    assert not lock.in_use(unfinished)
    assert multihead.train([f"resume={unfinished}"])["steps"] == 10


def test_in_a_run_dir_the_same_words_start_go_on_and_end(tmp_path, runs):
    words = [*SMOKE, f"run_dir={tmp_path / 'run'}", "resume=auto"]
    whole = runs.result("task=translation")
    first = multihead.train(words)
    before = (tmp_path / "run" / "metrics.csv").read_text()
    assert multihead.train(words) == first  # finished: the result stands
    assert (tmp_path / "run" / "metrics.csv").read_text() == before
    assert first["test/loss"] == whole["test/loss"]
    longer = multihead.train([*words, "trainer.max_steps=12"])
    assert longer["steps"] == 12
    assert json.loads((tmp_path / "run" / "result_before.json").read_text())["steps"] == 10
    with pytest.raises(CheckpointError, match=r"model.d_ff: 64 -> 32"):
        multihead.train([*words, "model.d_ff=32"])


def test_a_run_that_ended_before_its_first_checkpoint_starts_again_in_place(tmp_path, runs):
    run = runs.copy(tmp_path / "run", "task=translation")
    shutil.rmtree(run / "checkpoints")
    (run / "result.json").unlink()
    with pytest.raises(CheckpointError, match=r"checkpoints: has no checkpoint; fix: resume=auto") as caught:
        train(run, "resume=must")
    assert caught.value.status == 3
    with pytest.raises(CheckpointError, match=r"has no checkpoint; fix: run_dir=.* resume=auto"):
        multihead.train([f"resume={run}"])
    train(run, "resume=auto")
    assert equal(run, runs.finished("task=translation"))
    assert [event["event"] for event in events(run)].count("started") == 1


def test_must_wants_a_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CheckpointError, match="resume=must: outputs: has no unfinished run of this configuration"):
        multihead.train([*SMOKE, "resume=must"])
    with pytest.raises(CheckpointError, match=f"resume=must: {tmp_path / 'none'}: has no unfinished run"):
        train(tmp_path / "none", "resume=must")
    assert list(tmp_path.iterdir()) == []


def test_without_resume_a_run_dir_is_not_written_over(tmp_path, runs):
    runs.copy(tmp_path / "run", "task=translation")
    with pytest.raises(ConfigError, match=r"exists already and is not empty; fix: .*resume=auto"):
        train(tmp_path / "run")


def test_a_changed_rate_takes_effect_and_is_told(tmp_path, capsys):
    train(tmp_path / "run", "optim.schedule=constant", "optim.warmup_steps=0")
    result = multihead.train([f"resume={tmp_path / 'run'}", "optim.lr=1e-4", "trainer.max_steps=12"])
    assert [float(rate) for _, rate in rows(tmp_path / "run", "optim/lr_adamw")] == [3e-3] * 10 + [1e-4] * 2
    assert "resume: changed: optim.lr: 0.003 -> 0.0001; trainer.max_steps: 10 -> 12" in capsys.readouterr().out
    assert result["steps"] == 12


def test_what_must_stay_is_accepted_by_name(tmp_path, runs):
    runs.copy(tmp_path / "run", "task=translation")
    words = [f"resume={tmp_path / 'run'}", "seed=2", "data.batch_tokens=256", "trainer.max_steps=12"]
    with pytest.raises(CheckpointError, match=r"data.batch_tokens: 512 -> 256; seed: 1 -> 2"):
        multihead.train([*words, "resume_force=[model.d_model]"])
    assert multihead.train([*words, "resume_force=[seed,data.batch_tokens]"])["steps"] == 12
    assert "resume_force: []" in (tmp_path / "run" / "config.yaml").read_text()


def test_what_may_change():
    saved = {"seed": 1, "model": {"d_model": 8, "dropout": 0.1}, "optim": {"lr": 1.0, "name": "adamw"}, "devices": "1"}
    wanted = {"seed": 1, "model": {"d_model": 9, "dropout": 0.2}, "optim": {"lr": 2.0, "name": "muon"}, "devices": "2"}
    assert changes(saved, saved) == ([], [])
    assert changes(saved, wanted) == (
        ["model.d_model: 8 -> 9", "optim.name: adamw -> muon"],
        ["model.dropout: 0.1 -> 0.2", "optim.lr: 1.0 -> 2.0", "devices: 1 -> 2"],
    )
    assert changes(saved, wanted, ["model.d_model"])[0] == ["optim.name: adamw -> muon"]
    assert changes(saved, {**saved, "task": {"pooling": "max"}})[0] == ["task.pooling: missing -> max"]
    model = saved["model"]
    assert changes(saved, {**saved, "model": {**model, "embedding_norm": False}}) == ([], [])  # an option that is newer
    refused, _ = changes(saved, {**saved, "model": {**model, "embedding_norm": True}})
    assert refused == ["model.embedding_norm: False -> True"]
    assert same_run(saved, {**saved, "devices": "4", "run_dir": "x"})
    assert not same_run(saved, {**saved, "seed": 2})


def test_an_exception_saves_the_last_whole_step(tmp_path, monkeypatch):
    (tmp_path / "plugin.py").write_text(RAISE)
    words = [f"plugin={tmp_path / 'plugin.py'}", "trainer.ema_decay=0.9", "trainer.log_every_n_steps=3"]
    words += ["data.part_tokens=256", "trainer.checkpoint_every_n_steps=100", "trainer.val_every_n_steps=5"]
    train(tmp_path / "whole", *words)
    monkeypatch.setenv("RAISE_AT", "7")
    with pytest.raises(ValueError, match="no more"):
        train(tmp_path / "run", *words)
    assert events(tmp_path / "run")[-2]["event"] == "saved"
    assert events(tmp_path / "run")[-2]["step"] == 7
    monkeypatch.delenv("RAISE_AT")
    train(tmp_path / "run", *words, "resume=auto")
    assert equal(tmp_path / "run", tmp_path / "whole")


def test_max_time_ends_the_run_with_a_validation(tmp_path):
    result = train(tmp_path / "run", "trainer.max_time=00:00:00:00", "trainer.val_every_n_steps=100")
    assert result["steps"] == 1
    assert result["best_step"] == 1


def test_the_probe_says_how_much_is_missing(tmp_path):
    probe(tmp_path / "checkpoints", 3_000_000)
    assert list((tmp_path / "checkpoints").iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="checkpoints cannot be saved here"):
        probe(tmp_path / "file" / "checkpoints", 10)


@pytest.mark.parametrize(
    ("signum", "status"), [(signal.SIGHUP, 129), pytest.param(signal.SIGUSR1, 138, marks=pytest.mark.slow)]
)
def test_a_signal_before_the_first_step_ends_with_its_status(tmp_path, signum, status):
    running = process(str(ROOT / "train.py"), *SMOKE, f"run_dir={tmp_path / 'run'}")
    while not (tmp_path / "run" / lock.FILE).exists():
        assert running.poll() is None, running.communicate()
        time.sleep(0.005)
    os.kill(running.pid, signum)
    _, errors = running.communicate(timeout=60)
    assert running.returncode == status, errors
    assert len(errors.splitlines()) == 1
    assert errors.startswith(f"stopped by {signum.name}")


def test_the_lock_is_flock_on_one_file(tmp_path):
    with lock.locked(tmp_path):
        handle = os.open(tmp_path / lock.FILE, os.O_RDWR)
        with pytest.raises(BlockingIOError):
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.close(handle)
    assert not lock.in_use(tmp_path)
