"""One run of a trial, watched: however it ends, the sweep knows why, and nothing is left of it."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from multihead.errors import OUR_BUG
from multihead.sweeping import trial
from multihead.sweeping.trial import Curve, Outcome, Watch, run_once

SLEEPER = [sys.executable, str(Path(__file__).with_name("sleeper.py"))]


def watch(limit=0.0, on_value=lambda step, value: False, on_tick=lambda: False):
    return Watch("val/loss", limit, on_value, on_tick)


def once(folder, *words, **watched):
    run_dir = folder / "0007"
    return run_once([*SLEEPER, *words, f"run_dir={run_dir}"], run_dir, {}, watch(**watched)), run_dir


def test_a_run_that_ends_well_gives_its_value_and_its_curve(tmp_path):
    seen = []
    outcome, run_dir = once(tmp_path, "optim.lr=3", on_value=lambda *pair: seen.append(pair))
    assert outcome == Outcome("complete", 0.1)
    assert seen == [(10, 0.3), (20, 0.15), (30, 0.1)]
    assert (run_dir.parent / "0007.console.log").read_text().startswith("$ ")


def test_a_finished_run_is_not_done_again(tmp_path):
    once(tmp_path)
    outcome, run_dir = once(tmp_path)
    assert outcome.state == "complete" and len((run_dir / "starts").read_text().splitlines()) == 1


@pytest.mark.parametrize(
    ("how", "status", "reason"),
    [
        ("crash", 1, "crashed: train.de:88: is not text"),
        ("diverge", 4, "diverged: step 3: the loss is nan"),
        ("kill", -9, "killed by SIGKILL"),
        ("nan", 0, "diverged: val/loss is nan"),
        ("empty", 0, "result.json has no val/loss (KeyError)"),
    ],
)
def test_a_run_that_fails_says_why(tmp_path, how, status, reason):
    outcome, _ = once(tmp_path, f"how={how}")
    assert (outcome.state, outcome.value, outcome.status, outcome.reason) == ("failed", None, status, reason)


@pytest.mark.parametrize("bug", [OUR_BUG, trial.OLD_BUG])
def test_a_bug_is_told_by_its_message_alone(tmp_path, bug):
    log = tmp_path / "console.log"
    log.write_text(f"a line\nerror[internal] ValueError: one\u2028line; {bug}; traceback in crash.txt\n")
    assert trial._reason(1, log) == "crashed: ValueError: one\u2028line"
    log.write_text("error[plugin] in your plugin mine.py:3: ValueError: one; traceback in crash.txt\n")
    assert trial._reason(1, log) == "crashed: in your plugin mine.py:3: ValueError: one"


@pytest.mark.unhurried
def test_a_run_that_takes_too_long_is_ended(tmp_path, monkeypatch):
    monkeypatch.setattr(trial, "GRACE_SECONDS", 0.5)
    began = time.monotonic()
    outcome, run_dir = once(tmp_path, "how=deaf", "sleep=60", limit=1.0)
    assert (outcome.state, outcome.reason) == ("failed", "took longer than trial_time=1s")
    assert time.monotonic() - began < 20
    with pytest.raises(ProcessLookupError):
        os.kill(int((run_dir / "starts").read_text()), 0)


@pytest.mark.unhurried
def test_a_hopeless_run_is_ended_and_a_sweep_that_ends_lets_it_save(tmp_path):
    outcome, _ = once(tmp_path / "a", "sleep=1", "steps=60", on_value=lambda step, value: step >= 20)
    assert outcome.state == "pruned"
    ticks = iter([False] * 5)
    outcome, _ = once(tmp_path / "b", "sleep=60", on_tick=lambda: next(ticks, True))
    assert outcome.state == "stopped"


def test_a_run_ends_with_a_worker_that_is_killed(tmp_path):
    program = (
        "import sys; from pathlib import Path; from multihead.sweeping.trial import Watch, run_once;"
        "run_once(sys.argv[2:], Path(sys.argv[1]), {}, Watch('val/loss', 0, lambda *_: False, lambda: False))"
    )
    words = [*SLEEPER, "sleep=600", f"run_dir={tmp_path / 'r'}"]
    worker = subprocess.Popen([sys.executable, "-c", program, str(tmp_path / "r"), *words])
    starts = tmp_path / "r" / "starts"
    while not starts.is_file() or not starts.read_text():
        time.sleep(0.05)
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    pid, deadline = int(starts.read_text()), time.monotonic() + 20
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not Path(f"/proc/{pid}").exists()


def test_a_curve_is_read_while_it_grows(tmp_path):
    curve = Curve(tmp_path / "metrics.csv", "val/loss")
    assert curve.news() == []
    with open(tmp_path / "metrics.csv", "w") as file:
        file.write("step,train/loss,val/loss\n1,2.0,\n2,,1.5\n4,,1.")
        file.flush()
        assert curve.news() == [(2, 1.5)] and curve.news() == []
        file.write("25\n")
        file.flush()
        assert curve.news() == [(4, 1.25)]


@pytest.mark.parametrize(
    ("status", "reason"),
    [
        (-9, "killed by SIGKILL"),
        (-40, "killed by signal 40"),
        (143, "ended by SIGTERM"),
        (168, "ended by signal 40"),
        (255, "its last line"),
    ],
)
def test_every_exit_status_has_a_reason(tmp_path, status, reason):
    log = tmp_path / "console.log"
    log.write_text("a line\nits last line\n")
    assert trial._reason(status, log) == reason
