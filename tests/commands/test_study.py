"""The verb: a study from one file to its verdicts, its files and its exit status; killed, gone on with, looked at."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from trial import ROOT

from multihead.cli import main
from multihead.studying import launch, outlook, runner
from multihead.studying.ledger import StudyLedger
from multihead.studying.sizes import Size
from multihead.studying.tuning import Tuned
from multihead.sweeping import runner as sweep_runner

pytestmark = pytest.mark.unhurried

STAND_IN = str(ROOT / "tests" / "studying" / "stand_in.py")
FILE = """\
question: Is RMSNorm better than LayerNorm?
words: [model=tiny, trainer.max_steps=20]
baseline: {layer: [model.norm=layer_norm]}
variants:
  rms: [model.norm=rms_norm]
tasks:
  translation: [task=translation]
  opinions: [task=classification]
max_seeds: 5
"""
TUNED = FILE + "tune: {method: random, trials: 2, parameters: {optim.lr: {values: [0.001, 0.002]}}}\n"


DEPTH = 4
"""Layers of model=tiny, both stacks together."""


class Counts:
    """Stands in for `Counter`, which imports torch and prepares the data. rms_norm has 500 parameters more."""

    fold_ratio = 12 / 36

    def __init__(self, composition):
        pass

    def count(self, composition):
        model = composition.config.model
        layers = model.num_encoder_layers + model.num_decoder_layers - DEPTH
        parameters = 1_000 + 10 * model.d_ff + 200 * layers + (500 if model.norm == "rms_norm" else 0)
        return Size(parameters, 1e4 * model.d_model)


def stand_in(*traits):
    """Makes runs stand-ins, also in a process that a test starts."""
    runner.PROGRAM = sweep_runner.PROGRAM = [sys.executable, STAND_IN, *traits]
    launch.Counter = Counts
    times = {"seconds": 60.0, "seconds/training": 50.0}
    launch.forecast = lambda composition: times | {"steps": composition.config.trainer.max_steps}
    launch.import_all = lambda: 0.0


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for module in (runner, sweep_runner):
        monkeypatch.setattr(module, "PROGRAM", [])
    for name in ("Counter", "forecast", "import_all"):
        monkeypatch.setattr(launch, name, None)
    stand_in()
    (tmp_path / "s.yaml").write_text(FILE)
    return tmp_path


def report(folder):
    return json.loads((folder / "outputs" / "studies" / "s" / "report.json").read_text())


def verdicts(folder):
    return {(found["task"], found["variant"]): found["verdict"] for found in report(folder)["verdicts"]}


def starts(folder):
    found = (folder / "outputs" / "studies" / "s" / "runs").rglob("starts")
    return {str(path.parent.relative_to(folder)): len(path.read_text().splitlines()) for path in found}


def test_a_study_decides_what_is_clear_and_stops_there(here, capsys):
    """The typed d_ff is the baseline's: 1,000 + 640 = 1,500 + 140, so that the variant has 14."""
    stand_in("gain=20", "noise=0.5")
    (here / "s.yaml").write_text(FILE + "equal: parameters\n")
    assert main(["study", "file=s.yaml", "workers=2", "model.d_ff=64"]) == 0
    out = capsys.readouterr().out
    start = out.index("translation by val/bleu (higher is better), opinions by val/accuracy (higher is better); equal")
    assert start < out.index("4 runs a seed; 2 comparisons with layer. ") < out.index("measuring 4 configurations")
    assert "at most 5 seeds, with a look after each from seed 3 on\nwith 5 seeds, a difference of " in out
    assert "translation layer: 1.0 minutes a run; 3 more to measure, in about " in out
    assert "forecast: 4.0 minutes of runs for one seed of all, at most 20.0 minutes for 5 seeds" in out
    assert verdicts(here) == {("translation", "rms"): "better", ("opinions", "rms"): "undecided"}
    assert "translation: rms is better than layer by " in out
    assert "opinions: rms and layer are not distinguishable with this budget (difference" in out
    assert "accuracy would have been seen with probability 0.8" in out
    assert "answer: rms is better than layer on 1 of 2 tasks, and worse on none" in out
    seeds = {found["task"]: found["seeds"] for found in report(here)["verdicts"]}
    assert seeds["translation"] < 5 == seeds["opinions"]
    known = starts(here)
    assert len(known) == 2 * sum(seeds.values()) and set(known.values()) == {1}
    assert f"The test split was read {len(known)} times" in out
    assert "translation rms: model.d_ff=14 instead of 64 for equal parameters" in out
    assert {found["parameters"] for found in report(here)["systems"]} == {1_640} and report(here)["warnings"] == []
    assert main(["study", "file=s.yaml", "format=json", "model.d_ff=64"]) == 0  # nothing is left to do
    assert starts(here) == known
    printed = json.loads(capsys.readouterr().out)
    assert printed == report(here) and printed["ended"] and printed["question"].startswith("Is RMSNorm")
    assert {run["state"] for run in printed["runs"]} == {"complete"} and len(printed["runs"]) == len(starts(here))
    page = (here / "outputs" / "studies" / "s" / "report.html").read_text()
    assert "<h2>Differences</h2>" in page and "<h2>Learning curves: translation</h2>" in page
    assert "http" not in page and "<script" not in page  # nothing is fetched
    table = (here / "outputs" / "studies" / "s" / "report.tex").read_text()
    best = next(line for line in table.splitlines() if line.startswith("rms &"))
    assert r"\toprule" in table and best.startswith(r"rms & \textbf{") and r"$\pm$" in best
    assert main(["study", "file=s.yaml", "status=true", "format=latex", "model.d_ff=64"]) == 0
    assert capsys.readouterr().out == table
    folder = here / "outputs" / "studies" / "s"
    folder.rename(here / "moved")
    lost = here / "moved" / "runs" / "opinions" / "rms" / "seed_2" / "result.json"
    lost.unlink()
    assert main(["study", "file=s.yaml", "status=true", "format=json", "dir=moved", "model.d_ff=64"]) == 0
    again = json.loads(capsys.readouterr().out)
    assert again["verdicts"] == printed["verdicts"] and again["test_looks"] == printed["test_looks"]
    what = f"the files of 1 run cannot be read (first: {lost.parent}); the verdicts are those of the ledger"
    assert again["warnings"] == [what]


ABLATION = """\
question: Which of these switches help?
words: [model=tiny, trainer.max_steps=20]
baseline: {all: [model.norm=layer_norm]}
ablate:
  rms: [model.norm=rms_norm]
  wide: [model.d_ff=300]
tasks:
  translation: [task=translation]
seeds: [1, 2, 3]
"""


def test_an_ablation_ranks_its_switches(here, capsys):
    """rms_norm brings 20, and the width nothing. Without the width, all is only rms, so that four systems suffice."""
    stand_in("gain=20", "noise=0.1")
    (here / "s.yaml").write_text(ABLATION)
    assert main(["study", "file=s.yaml", "workers=2"]) == 0
    out = " ".join(capsys.readouterr().out.split())
    assert len(starts(here)) == 12
    assert "answer: rms helps: +" in out and "task rank switch left out of all added to none interaction" in out
    assert "above 0, the switch helps" in out
    first, second = report(here)["ablation"]
    assert (first["name"], first["verdict"], first["flagged"]) == ("rms", "better", False)
    assert (second["name"], second["left_out"]["value"]) == ("wide", 0.0)
    page = (here / "outputs" / "studies" / "s" / "report.html").read_text()
    assert "<h2>Effects of the switches</h2>" in page


def test_folds_take_the_rows_of_the_data(here, capsys, monkeypatch):
    """Before the data are read, the share of the configuration says how many rows are trained on."""
    monkeypatch.setattr(runner.StudyRunner, "run", lambda self: 0)
    drafts = []
    monkeypatch.setattr(outlook, "outline", lambda plan, equal: drafts.append(plan) or "")
    text = FILE.partition("tasks:")[0] + "tasks: {tickets: [task=classification, data=files]}\nfolds: 5\n"
    data = "data.train=t.tsv, 'data.columns=[text,label]', 'data.roles={text: text, label: label}'"
    (here / "s.yaml").write_text(text.replace("steps=20", f"steps=20, {data}, data.splits.val=0.2"))
    assert main(["study", "file=s.yaml"]) == 0
    fixed = StudyLedger("s", here / "outputs" / "studies" / "s", create=False).plan
    assert drafts[0].ratio == pytest.approx(1 / (4 * 0.8)) and fixed.ratio == pytest.approx(12 / 36)


def test_depth_comes_before_width(here, capsys, monkeypatch):
    """By hand: rms has 500 too many. A layer less in each stack has 400 less, and 10 units of d_ff the other 100."""
    monkeypatch.setattr(runner.StudyRunner, "run", lambda self: 0)
    (here / "s.yaml").write_text(FILE + "equal: parameters\nresize: depth\n")
    assert main(["study", "file=s.yaml", "model.d_ff=64"]) == 0
    out = capsys.readouterr().out
    fewer = "model.num_encoder_layers=1 instead of 2 and model.num_decoder_layers=1 instead of 2"
    assert f"translation rms: {fewer} and model.d_ff=54 instead of 64 for equal parameters" in out


def test_trials_have_a_seed_that_no_run_has(here, monkeypatch):
    searched = []
    found = Tuned(["optim.lr=0.002"], 1.0, 2, 0, 1.0)
    monkeypatch.setattr(launch, "tune", lambda study, folder, words, *_: searched.append(words[-1]) or found)
    monkeypatch.setattr(runner.StudyRunner, "run", lambda self: 0)
    (here / "s.yaml").write_text(TUNED.replace("max_seeds: 5", "seeds: [1, 4, 2]"))
    assert main(["study", "file=s.yaml"]) == 0
    assert searched == ["seed=5"] * 4


@pytest.mark.slow
def test_every_variant_is_tuned_alike_and_the_runs_have_other_seeds(here, capsys):
    (here / "s.yaml").write_text(TUNED)
    assert main(["study", "file=s.yaml", "workers=2"]) == 0
    folder = here / "outputs" / "studies" / "s"
    assert len(list(folder.glob("tuning/*/*"))) == 4
    for search in folder.glob("tuning/*/*"):
        assert len(list(search.glob("trials/*/result.json"))) == 2
    words = (folder / "runs" / "opinions" / "rms" / "seed_2.console.log").read_text()
    chosen = report(here)["notes"]
    assert len(chosen) == 4 and all("optim.lr=0.00" in note and "2 trials" in note for note in chosen)
    assert next(n for n in chosen if "rms on opinions" in n).split("optim.lr=")[1].split(" ")[0] in words
    assert not list(folder.glob("runs/*/*/seed_1")) and report(here)["test_looks"] == len(starts(here)) + 8


def test_failed_runs_are_shown_and_a_larger_budget_goes_on(here, capsys):
    """The run of rms with seed 1 fails on both tasks; four of five seeds are left."""
    stand_in("gain=0", "fails=1")
    assert main(["study", "file=s.yaml", "budget=0.1s"]) == 7
    first, out = starts(here), capsys.readouterr().out
    assert set(verdicts(here).values()) == {"underpowered"} and len(first) == 4
    assert "The budget does not suffice for another seed of translation, opinions" in out
    assert "opinions rms seed 1 failed: crashed: train.de:88: is not text" in out
    assert main(["study", "file=s.yaml", "budget=10m"]) == 7
    assert len(starts(here)) == 20 and set(verdicts(here).values()) == {"undecided"}
    assert first.items() <= starts(here).items()
    assert {run["seed"] for run in report(here)["runs"] if run["state"] == "failed"} == {1}
    assert {found["seeds"] for found in report(here)["verdicts"]} == {4}
    (here / "s.yaml").write_text(FILE.replace("max_seeds: 5", "max_seeds: 9"))
    assert main(["study", "file=s.yaml"]) == 3
    what = "s.yaml:9: must be 'max_seeds: 5', as when the study was launched, got 'max_seeds: 9'"
    assert what in capsys.readouterr().err


def started(*words):
    """The command in a process of its own, its runs stand-ins."""
    program = (
        f"import sys; sys.path[:0] = {[str(ROOT / 'tests' / 'commands'), str(ROOT / 'tests')]!r};"
        "import test_study; test_study.stand_in('gain=20', 'noise=0.5', 'sleep=0.4');"
        "from multihead.cli import main; sys.exit(main(['study', *sys.argv[1:]]))"
    )
    pipes = {"stdout": subprocess.DEVNULL, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, "-c", program, *words], **pipes)


def test_what_was_measured_before_a_kill_is_not_measured_again(here, capsys, monkeypatch):
    """A run is forecast to take a minute and a seed 4 minutes, so that 13 minutes pay 3 of 5 seeds."""
    calls = []

    def forecast(composition):
        calls.append(composition.config.task.name)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return {"seconds": 60.0, "seconds/training": 50.0, "steps": 20}

    monkeypatch.setattr(launch, "forecast", forecast)
    assert main(["study", "file=s.yaml", "budget=13m"]) == 130
    assert main(["study", "file=s.yaml", "status=true"]) == 0
    assert "its plan is not fixed yet" in capsys.readouterr().out
    monkeypatch.setattr(runner.StudyRunner, "run", lambda self: 0)
    assert main(["study", "file=s.yaml", "budget=13m"]) == 0
    assert calls == ["translation"] * 2 + ["classification"] * 4
    out = capsys.readouterr().out
    assert "measuring 2 configurations" in out and "the budget of 13.0 minutes does not pay all" in out
    way = "write max_seeds: 3 and type a new name= (finds "
    assert "the budget pays about 3 of 5 seeds; with 3 seeds, a difference of " in out and way in out
    assert "or type budget=20m for all 5 seeds" in out
    assert "no result yet" in out and "underpowered" not in out and "0 runs (none), 0.0 minutes" in out
    assert [row[5:] for row in system_rows_of(out)] == [["-", "-"]] * 4  # tokens/s and minutes
    assert main(["study", "file=s.yaml", "budget=13m"]) == 0  # the plan is fixed; the forecast is remembered
    out = capsys.readouterr().out
    assert "the budget pays about 3 of 5 seeds" in out and "measuring" not in out


def system_rows_of(out):
    """The cells of the table of systems."""
    return [
        line.split()
        for line in out.splitlines()
        if line.startswith(("translation  ", "opinions  ")) and "val/" not in line
    ]


LADDER = """\
question: How much compute is RMSNorm worth?
words: [model=tiny]
baseline: {layer: [model.norm=layer_norm]}
variants: {rms: [model.norm=rms_norm]}
tasks: {lm: [task=lm, task.monitor=val/bits_per_byte, task.monitor_mode=min]}
ladder:
  small: [model.d_model=32, trainer.max_steps=10]
  middle: [model.d_model=64, trainer.max_steps=20]
  large: [model.d_model=128, trainer.max_steps=40]
optimum: {lm: 0.8}
seeds: [1, 2]
"""


@pytest.mark.slow
@pytest.mark.parametrize("text", [FILE, ABLATION, LADDER], ids=["variants", "ablation", "ladder"])
def test_killed_twice_it_gives_the_same_answer(here, text):
    (here / "s.yaml").write_text(text)
    words = ["file=s.yaml", "workers=2"]
    for runs in (3, 9):
        process = started(*words)
        while len(starts(here)) < runs:
            assert process.poll() is None, process.stderr.read()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.wait(30)
    process = started(*words)
    assert process.wait(120) == 0, process.stderr.read()
    killed, tries = report(here), [run["attempts"] for run in report(here)["runs"]]
    assert max(tries) > 1
    os.rename(here / "outputs", here / "killed")
    stand_in("gain=20", "noise=0.5")
    assert main(["study", *words]) == 0
    for name in ("verdicts", "overall", "ablation", "ladder", "rungs", "ended", "seeds_run", "test_looks"):
        assert report(here)[name] == killed[name]
    assert [run["value"] for run in report(here)["runs"]] == [run["value"] for run in killed["runs"]]
    assert all(0.9 < found["factor"] < 1.8 for found in killed["ladder"])  # 1.3, but for the noise


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "file: is missing; fix: file=sweeps/studies/"),
        (["file=nowhere.yaml"], "no such study file"),
        (["file=s.yaml", "seed=3"], "seed: the study sets it for each run"),
        (["file=s.yaml", "optim.lrr=1"], "optim.lrr"),
        (["file=s.yaml", "status=true"], "there is no study in outputs/studies/s yet"),
        (["file=s.yaml", "budget=20"], "budget: must be a time such as 90s, 30m or 2h, got '20'"),
    ],
)
def test_what_cannot_be_is_refused_before_anything_is_written(here, capsys, words, message):
    assert main(["study", *words]) == 2
    assert message in capsys.readouterr().err
    assert [file.name for file in here.iterdir()] == ["s.yaml"]


@pytest.mark.slow
def test_the_page_of_a_study_that_goes_on_says_so(here, capsys):
    stand_in("sleep=0.2")
    process = started("file=s.yaml")
    while len(starts(here)) < 2:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    assert process.wait(60) == 130 and "the same command goes on" in process.stderr.read()
    assert main(["study", "file=s.yaml", "status=true"]) == 0
    assert "the study has not ended; the same command goes on" in capsys.readouterr().out
    assert "The study has not ended" in Path("outputs/studies/s/report.html").read_text()
