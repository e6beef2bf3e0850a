"""The ledger: each trial claimed once, what a killed owner leaves taken over, settled once, and never begun anew."""

import os
import signal
import subprocess
import sys
import time

import optuna
import pytest
from trial import FORKS, ROOT

from multihead.config.sweep import read_sweep
from multihead.errors import CheckpointError
from multihead.sweeping import optuna_private
from multihead.sweeping.ledger import Ledger
from multihead.sweeping.owner import alive, start_of, this_process

FILE = """\
program: train.py
method: {method}
metric: {{name: val/loss, goal: minimize}}
early_terminate: {{type: hyperband, min_iter: 1, eta: 2}}
parameters:
  optim.lr: {{distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-1}}
  optim.warmup_steps: {{values: [1, 2, 3]}}
command: ["python", "${{program}}", "${{args_no_hyphens}}"]
"""
GRID = FILE.replace("{{distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-1}}", "{{values: [0.1, 0.2]}}")


def opened(folder, method="random", text=FILE):
    folder.mkdir(exist_ok=True)
    file = folder / "s.yaml"
    if not file.exists():  # another process may be reading it
        file.write_text(text.format(method=method))
    return Ledger(read_sweep(str(file)), folder, val_every=10)


def claim_all(folder, method, text, trials, queue):
    ledger = opened(folder, method, text)
    while (claim := ledger.claim(trials)) is not None:
        queue.put((claim.number, tuple(claim.values.values())))
        ledger.settle(claim.number, "complete", 1.0)


@pytest.mark.parametrize(("method", "text", "trials"), [("random", FILE, 8), ("grid", GRID, 0)])
def test_processes_share_the_trials_without_doing_one_twice(tmp_path, method, text, trials):
    opened(tmp_path / "s", method, text)
    queue = FORKS.Queue()
    workers = [FORKS.Process(target=claim_all, args=(tmp_path / "s", method, text, trials, queue)) for _ in range(2)]
    for worker in workers:
        worker.start()
    found = []
    deadline = time.monotonic() + 60
    while len(found) < (trials or 6) and time.monotonic() < deadline:
        found.append(queue.get(timeout=60))
    for worker in workers:
        worker.join(60)
        assert worker.exitcode == 0
    assert queue.empty()
    numbers, points = zip(*found, strict=True)
    assert sorted(numbers) == list(range(trials or 6))
    assert len(set(points)) == len(points)  # no two workers drew the same
    if method == "grid":
        assert set(points) == {(lr, steps) for lr in (0.1, 0.2) for steps in (1, 2, 3)}


def test_what_a_killed_owner_leaves_is_taken_over_with_what_is_known_of_it(tmp_path):
    ledger = opened(tmp_path / "s")
    program = (
        "import sys, time; sys.path += sys.argv[2:]; from test_ledger import opened; from pathlib import Path;"
        "ledger = opened(Path(sys.argv[1])); claim = ledger.claim(3); ledger.note(claim.number, dir='there');"
        "print(claim.number, claim.values['optim.lr'], flush=True); time.sleep(600)"
    )
    here = [os.path.dirname(__file__), ROOT / "tests"]
    owner = subprocess.Popen([sys.executable, "-c", program, tmp_path / "s", *here], stdout=subprocess.PIPE, text=True)
    number, lr = owner.stdout.readline().split()
    assert [row.state for row in ledger.rows()] == ["running"]
    mine = ledger.claim(3)
    assert mine.number != int(number) and mine.attempt == 1
    owner.send_signal(signal.SIGKILL)
    owner.wait()
    assert [row.state for row in ledger.rows()] == ["orphaned", "running"]
    taken = ledger.claim(3)
    assert (taken.number, taken.values["optim.lr"], taken.attempt) == (int(number), float(lr), 2)
    assert taken.record["dir"] == "there"
    assert ledger.claim(2) is None


def test_an_owner_elsewhere_is_taken_for_dead_after_a_silence():
    here = this_process()
    assert alive(here) and not alive(None)
    assert not alive(here | {"start": "1"})  # the number was given to another process since
    assert not alive(here | {"boot": "another"})
    there = here | {"host": "another", "pid": 1}
    assert alive(there) and not alive(there | {"beat": time.time() - 1000})
    assert start_of(os.getpid()) and not start_of(2**22 + 1)


def test_a_trial_is_settled_once_and_by_its_owner(tmp_path):
    ledger = opened(tmp_path / "s")
    claim = ledger.claim(2)
    assert ledger.settle(claim.number, "failed", reason="it fell", seconds=3.0)
    assert ledger.settle(claim.number, "complete", 1.0)  # as after a reply that was lost: nothing changes
    (row,) = ledger.rows()
    assert (row.state, row.value, row.record["reason"]) == ("failed", None, "it fell")
    claim = ledger.claim(2)
    assert ledger.beat(claim, 1.0)
    ledger.note(claim.number, owner=this_process() | {"host": "another"})
    assert not ledger.beat(claim, 2.0) and not ledger.settle(claim.number, "complete", 1.0)
    assert ledger.rows()[1].state == "running"


def test_time_of_trials_is_a_budget(tmp_path):
    ledger = opened(tmp_path / "s")
    ledger.settle(ledger.claim(0, 100).number, "complete", 1.0, seconds=60.0)
    ledger.settle(ledger.claim(0, 100).number, "pruned", seconds=60.0)
    assert ledger.claim(0, 100) is None


def test_the_worse_ones_are_stopped_at_the_rungs_that_the_file_means(tmp_path):
    """min_iter=1 and eta=2 with a validation every 10 steps: at 10, 20, 40 steps the better half goes on."""
    ledger = opened(tmp_path / "s")
    good, bad = ledger.claim(9), ledger.claim(9)
    assert not ledger.report(good.number, 5, 9.0)  # before the first rung
    assert not ledger.report(good.number, 10, 1.0)
    assert ledger.report(bad.number, 10, 2.0)
    assert not ledger.report(good.number, 10, 1.0)  # a resumed run tells it again
    ledger.settle(bad.number, "pruned")
    assert ledger.rows()[bad.number].curve == {10: 2.0}


def test_it_is_a_study_that_optuna_reads(tmp_path):
    ledger = opened(tmp_path / "s")
    ledger.settle(ledger.claim(1).number, "complete", 0.5)
    study = optuna.load_study(study_name="s", storage=f"sqlite:///{tmp_path}/s/ledger.db")
    assert study.best_value == 0.5 and set(study.best_params) == {"optim.lr", "optim.warmup_steps"}


def test_a_sweep_of_the_same_name_and_another_launch_is_refused(tmp_path):
    opened(tmp_path / "s").freeze({"words": ["a=1"], "seeds": 1})
    opened(tmp_path / "s").freeze({"words": ["a=1"], "seeds": 1})
    with pytest.raises(CheckpointError, match=r"words must be \['a=1'\], as when .*, got \['a=2'\]"):
        opened(tmp_path / "s").freeze({"words": ["a=2"], "seeds": 1})


def test_a_pruned_trial_whose_metric_was_undefined_can_be_read_again(tmp_path):
    ledger = opened(tmp_path / "s")
    claim = ledger.claim(2)
    ledger.report(claim.number, 10, float("nan"))
    assert ledger.settle(claim.number, "pruned")
    (row,) = opened(tmp_path / "s").rows()
    assert (row.state, row.value) == ("pruned", None)
    assert ledger.claim(2) is not None


def test_a_sign_of_life_waits_for_a_database_that_is_away(tmp_path, monkeypatch):
    ledger = opened(tmp_path / "s")
    claim, frozen, failed = ledger.claim(2), optuna_private.frozen, []

    def once(study, number):
        if not failed:
            failed.append(number)
            raise optuna.exceptions.StorageInternalError("the server is away")
        return frozen(study, number)

    monkeypatch.setattr(optuna_private, "frozen", once)
    assert ledger.beat(claim, 1.0) and failed == [claim.number]
