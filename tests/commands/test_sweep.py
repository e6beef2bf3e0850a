"""The verb: a sweep from one file to its table, its page and its exit status; gone on with, looked at."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from trial import ROOT

from multihead.cli import main
from multihead.config.compose import compose
from multihead.config.sweep import read_sweep
from multihead.sweeping import report, runner
from multihead.sweeping.ledger import Ledger

pytestmark = pytest.mark.unhurried

DRAW = report.draw_sweep
"""What draws the pictures. It takes seconds, so that one test has it."""
SLEEPER = str(ROOT / "tests" / "sweeping" / "sleeper.py")
FILE = """\
program: train.py
method: random
metric: {name: val/loss, goal: minimize}
parameters:
  task: {value: lm}
  optim.lr: {min: 0.1, max: 0.9}
  model.dropout: {values: [0.0, 0.1]}
command: ["python", "${program}", "${args_no_hyphens}"]
"""


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "PROGRAM", [sys.executable, SLEEPER])
    monkeypatch.setattr(report, "draw_sweep", lambda *_: [])
    (tmp_path / "s.yaml").write_text(FILE)
    return tmp_path


def rows(folder):
    return Ledger(read_sweep("s.yaml"), folder / "outputs" / "sweeps" / "s", create=False).rows()


def test_a_sweep_runs_to_its_end_and_can_be_extended_and_looked_at(here, capsys, monkeypatch):
    assert main(["sweep", "file=s.yaml", "budget=4", "workers=2", "seeds=2"]) == 0
    out = capsys.readouterr().out
    first = rows(here)
    assert [row.state for row in first] == ["complete"] * 4
    assert all(row.value == pytest.approx(row.values["optim.lr"] / 30) for row in first)
    best = min(first, key=lambda row: row.value)
    assert "4 complete" in out and f"optim.lr={best.values['optim.lr']}" in out
    assert main(["sweep", "file=s.yaml", "budget=4", "workers=2", "seeds=2"]) == 0  # nothing is left to do
    monkeypatch.setattr(report, "draw_sweep", DRAW)
    assert main(["sweep", "file=s.yaml", "budget=5", "seeds=2"]) == 0
    assert [row.values for row in rows(here)][:4] == [row.values for row in first]
    folder = here / "outputs" / "sweeps" / "s"
    starts = {path.parent: len(path.read_text().splitlines()) for path in folder.glob("trials/*/seed_*/starts")}
    assert len(starts) == 10 and set(starts.values()) == {1}
    capsys.readouterr()
    assert main(["sweep", "file=s.yaml", "best=true"]) == 0
    words = capsys.readouterr().out.split()
    assert words[:2] == ["python", "train.py"] and compose(words[2:]).config.task.name == "lm"
    page = (folder / "report.html").read_text()
    for title in ("History", "Learning curves", "Slices", "Parallel coordinates"):
        assert f"<h2>{title}" in page
    assert "Importance of parameters: not known (" in page and "it takes 10" in page  # of so few trials it is chance
    assert "http" not in page and "<script" not in page  # nothing is fetched


def test_failed_trials_are_told_and_the_status_is_7(here, capsys):
    (here / "s.yaml").write_text(FILE.replace('"${args', '"tokenizer.kind=word", "${args'))
    runner.PROGRAM = [sys.executable, SLEEPER, "fails=0.2"]
    assert main(["sweep", "file=s.yaml", "budget=5"]) == 7
    out = capsys.readouterr().out
    assert "trial 3 failed: crashed: train.de:88: is not text" in out and "4 complete, 1 failed" in out
    assert main(["sweep", "file=s.yaml", "status=true"]) == 0


def test_what_has_changed_since_the_launch_is_refused(here, capsys, monkeypatch):
    assert main(["sweep", "file=s.yaml", "budget=1"]) == 0
    (here / "s.yaml").write_text(FILE.replace("max: 0.9", "max: 0.8"))
    assert main(["sweep", "file=s.yaml", "budget=2"]) == 3
    assert (
        "s.yaml:6: must be 'optim.lr: {min: 0.1, max: 0.9}', as when the sweep was launched, got"
        in capsys.readouterr().err
    )
    (here / "s.yaml").write_text(FILE)
    assert main(["sweep", "file=s.yaml", "budget=2", "data.batch_tokens=99"]) == 3
    assert "words must be [], as when it was launched, got [" in capsys.readouterr().err
    conf = here / "outputs" / "sweeps" / "s" / "conf"
    assert yaml.safe_load((conf / "model" / "tiny.yaml").read_text())["d_model"] == 128
    (conf / "model" / "tiny.yaml").write_text("d_model: 64\n")
    assert main(["sweep", "file=s.yaml", "budget=2"]) == 3
    assert "conf must be " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "file: is missing; fix: file=sweeps/"),
        (["file=nowhere.yaml"], "no such sweep file"),
        (["file=s.yaml"], "budget: must be given, because method: random has no last trial"),
        (["file=s.yaml", "budget=1", "optim.lrr=1"], "optim.lrr"),
        (["file=s.yaml", "status=true"], "no sweep in"),
        (["file=s.yaml", "budget=1", "-m"], "no flags"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(here, capsys, words, message):
    assert main(["sweep", *words]) == 2
    assert message in capsys.readouterr().err
    assert [file.name for file in here.iterdir()] == ["s.yaml"]


def test_a_signal_ends_it_and_the_same_command_goes_on(here):
    words = ["file=s.yaml", "budget=3", "workers=2"]
    process = started("sleep=3", *words)
    folder = here / "outputs" / "sweeps" / "s"
    while len(list(folder.glob("trials/*/starts"))) < 2:
        assert process.poll() is None
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130
    assert "the same command goes on" in process.stderr.read()
    assert {row.state for row in rows(here)} == {"orphaned"}
    for path in folder.glob("trials/*/starts"):
        with pytest.raises(ProcessLookupError):
            os.kill(int(path.read_text()), 0)
    assert main(["sweep", *words]) == 0
    assert [(row.state, row.record["attempt"]) for row in rows(here)] == [("complete", 2)] * 2 + [("complete", 1)]


def test_a_worker_that_is_killed_is_replaced(here):
    process = started("sleep=0.7", "file=s.yaml", "budget=2")
    while not list((here / "outputs").glob("sweeps/s/trials/*/starts")):
        time.sleep(0.05)
    (worker,) = workers_of(process.pid)
    os.kill(worker, signal.SIGKILL)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "was killed by SIGKILL; a new one goes on" in out
    assert [row.state for row in rows(here)] == ["complete"] * 2


def started(trait, *words):
    """The command in a process of its own, its trials sleepers."""
    program = (
        "import sys; from multihead.sweeping import runner; from multihead.cli import main;"
        f"runner.PROGRAM = [sys.executable, {SLEEPER!r}, {trait!r}]; sys.exit(main(['sweep', *sys.argv[1:]]))"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", program, *words], **pipes)


def workers_of(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_cores_and_gpus_are_shared_among_workers(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr("multihead.sweeping.runner.cores", lambda: 16)
    first = compose(["task=lm", "devices=2"])
    shares = [runner.share_of(index, 2, first) for index in range(2)]
    assert [share["CUDA_VISIBLE_DEVICES"] for share in shares] == ["4,5", "6,7"]
    assert {share["OMP_NUM_THREADS"] for share in shares} == {"4"}
    assert runner.share_of(0, 1, first) == {}
    assert "CUDA_VISIBLE_DEVICES" not in runner.share_of(0, 2, compose(["task=lm", "accelerator=cpu"]))
