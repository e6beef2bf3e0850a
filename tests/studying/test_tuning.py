"""The search of a study: what it found goes to the runs whole, and a search that is not whole is none."""

from types import SimpleNamespace

import pytest

from multihead.errors import MachineError
from multihead.studying import tuning
from multihead.sweeping.ledger import Row

FILE = """\
program: train.py
method: random
run_cap: 2
metric: {name: val/loss, goal: minimize}
parameters:
  optim.lr: {distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-1}
  optim.warmup_steps: {value: 7}
  model.dropout: {values: [0.1]}
command: ["python", "${program}", "task=lm", "${args_no_hyphens}"]
"""


def found(monkeypatch, folder, *rows):
    """What `tune` returns if its workers leave these rows."""
    file = folder / "sweep.yaml"
    file.write_text(FILE)
    first = SimpleNamespace(config=SimpleNamespace(trainer=SimpleNamespace(val_every_n_steps=1)))
    stand_ins = {"write_file": file, "check": first, "launch": SimpleNamespace(rows=lambda: list(rows))}
    for name, value in stand_ins.items():
        monkeypatch.setattr(tuning, name, lambda *_, value=value: value)
    monkeypatch.setattr(tuning, "Runner", lambda *_: SimpleNamespace(run=lambda *_: 0))
    study, settings = SimpleNamespace(name="s"), SimpleNamespace(workers=1, run_time="", storage="")
    return tuning.tune(study, folder, ["task=lm"], [], settings, SimpleNamespace())


def row(number, state, value, rate):
    return Row(number, state, value, {"optim.lr": rate}, {}, {})


def test_the_runs_have_the_constants_of_the_trials_too(monkeypatch, tmp_path):
    best = found(monkeypatch, tmp_path, row(0, "complete", 2.0, 0.01), row(1, "complete", 1.0, 0.003))
    assert best.words == ["optim.lr=0.003", "optim.warmup_steps=7", "model.dropout=0.1"]


def test_a_search_whose_workers_ended_early_is_an_error(monkeypatch, tmp_path):
    for rows in ([row(0, "complete", 1.0, 0.01)], [row(0, "complete", 1.0, 0.01), row(1, "orphaned", None, 0.1)]):
        with pytest.raises(
            MachineError, match=r"its workers ended after 1 of 2 trials; fix: .* the same command goes on"
        ):
            found(monkeypatch, tmp_path, *rows)
