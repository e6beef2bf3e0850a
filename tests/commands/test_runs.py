"""``runs``: what is listed, what is filtered, in which order, and what becomes of damaged folders."""

import functools
import json
import shutil
import sys

import pytest
from rich.console import Console
from trial import train

from multihead.commands import diff, runs
from multihead.config.compose import compose, to_yaml
from multihead.errors import ConfigError
from multihead.runs.lock import locked


@functools.cache
def composed(*words):
    """A configuration's YAML, and what it is monitored by."""
    composition = compose(list(words))
    return to_yaml(composition.tree), composition.config.task.monitor


@pytest.fixture
def made(tmp_path, monkeypatch):
    """Returns a function that makes a run's folder as a run leaves it."""
    monkeypatch.chdir(tmp_path)

    def make(name, words, best=None, events=(), result=None):
        folder = tmp_path / "outputs" / name
        (folder / "checkpoints" / "step_5").mkdir(parents=True)
        tree, metric = composed(*words)
        (folder / "config.yaml").write_text(tree)
        (folder / "environment.json").write_text("{}")
        (folder / "metrics.csv").write_text("step,seconds,val/loss\n5,61.5,\n5,62.0,1.5\n7,9")
        lines = [{"event": "started", "step": 0}]
        lines += [{"event": "validated", "step": 5, metric: best, "best": True}] if best is not None else []
        lines += [{"event": "validated", "step": 6, metric: -1.0}]  # not the best, whatever its value
        lines += [{"event": event, "step": 6} for event in events]
        told = [
            {"time": f"2026-01-0{len(list(tmp_path.glob('outputs/*')))}T10:00:00.000+00:00", **line} for line in lines
        ]
        (folder / "events.jsonl").write_text("".join(json.dumps(line) + "\n" for line in told) + '{"time": "20')
        if result is not None:
            (folder / "result.json").write_text(json.dumps(result))
        return folder

    return make


def listed(capsys, *words):
    assert runs.run([*words, "format=jsonl"]) == 0
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def names(capsys, *words):
    return [row["run"].rpartition("/")[2] for row in listed(capsys, *words)]


@pytest.fixture
def four(made):
    made("a", ["task=lm", "optim.lr=0.001"], 3.0, ["finished"], {"parameters": 100, "steps": 9, "seconds": 3.0})
    made("b", ["task=lm", "optim.lr=0.002"], 2.5, ["failed"])
    made("c", ["task=translation", "model=small"], 30.0, ["finished"], {"parameters": 500, "steps": 8, "seconds": 99.0})
    return made("d", ["task=translation"], 35.0, ["stopped", "left"])


def test_state_best_and_clock(four, capsys):
    rows = {row["run"]: row for row in listed(capsys)}
    assert [rows[f"outputs/{name}"]["state"] for name in "abcd"] == ["finished", "failed", "finished", "stopped"]
    assert [rows[f"outputs/{name}"]["best"] for name in "abcd"] == [3.0, 2.5, 30.0, 35.0]
    assert rows["outputs/a"]["metric"] == "val/loss" and rows["outputs/c"]["metric"] == "val/bleu"
    assert rows["outputs/c"]["model"] == "256 x 3+3" and rows["outputs/c"]["data"] == "grammar"
    assert rows["outputs/c"]["seconds"] == 99.0 and rows["outputs/d"]["seconds"] == 62.0  # without the torn row
    assert rows["outputs/d"]["steps"] == 6 and rows["outputs/a"]["date"] == "2026-01-01 10:00:00"
    held = sum(file.stat().st_size for file in four.rglob("*") if file.is_file())
    assert rows["outputs/d"]["size"] == held
    with locked(four):
        assert names(capsys, "state=running") == ["d"]


def test_filters_and_order(four, capsys):
    assert names(capsys) == ["d", "c", "b", "a"]  # the newest first
    assert names(capsys, "task=lm") == ["b", "a"] and names(capsys, "data=sst2") == []
    assert names(capsys, "optim.lr=1e-3", "task=lm") == ["a"] and names(capsys, "optim.lr=0.0020") == ["b"]
    assert names(capsys, "state=stopped") == ["d"] and names(capsys, "model.d_model=256") == ["c"]
    assert names(capsys, "sort=metric") == ["b", "a", "d", "c"]  # losses downwards, BLEU upwards
    assert names(capsys, "sort=time", "limit=1") == ["c"] and names(capsys, "sort=parameters")[:2] == ["c", "a"]
    assert names(capsys, "model.bias=true", "limit=2") == ["d", "c"]


def test_the_table(four, capsys):
    assert runs.run(["task=translation"]) == 0
    head, first, second, last = capsys.readouterr().out.splitlines()
    assert head.split()[:4] == ["run", "state", "metric", "best"]
    assert last == "2 runs below outputs; type run=outputs/RUN"
    assert first.split()[0] == "d" and "stopped" in first and "500" in second and "0:01:39" in second
    assert runs.run(["seed=77"]) == 0
    assert capsys.readouterr().out == "no such runs below outputs\n"


def test_damaged_folders_are_named_and_the_others_listed(four, capsys):
    (four / "config.yaml").write_text("task: [")
    (four.parent / "a" / "result.json").write_text("{")
    (four.parent / "b" / "events.jsonl").write_bytes(b"\xff\n[]\n{}\n7\n")
    assert runs.run(["format=jsonl"]) == 0
    printed = capsys.readouterr()
    assert [json.loads(line)["run"] for line in printed.out.splitlines()] == ["outputs/b", "outputs/c"]
    first, second = printed.err.splitlines()
    assert "outputs/a" in first and "JSON" in first and "outputs/d" in second and "YAML" in second


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("dir=nowhere", "dir: nowhere is not a directory"),
        ("state=finishd", "state: must be one of running, finished, .*, got 'finishd'; fix: state=finished"),
        ("sort=bleu", "sort: must be one of date, metric"),
        ("limit=-1", "limit: must be a whole number"),
        ("format=json", "fix: format=jsonl"),
        ("sorted=date", "sorted: no such key; did you mean sort.; fix: sort=date"),
        ("optim.lrr=1", "optim.lrr: no such key.*optim.lr"),
        ("finished", "finished: not of the form key=value"),
        ("seed=[", r"seed: must be a whole number, got '\['"),
    ],
)
def test_refused(four, word, told):
    with pytest.raises(ConfigError, match=told):
        runs.run([word])


def test_a_real_run(tmp_path, capsys):
    train(tmp_path / "outputs" / "deep" / "run", "logger=none")
    capsys.readouterr()
    (row,) = listed(capsys, f"dir={tmp_path}")
    result = json.loads((tmp_path / "outputs" / "deep" / "run" / "result.json").read_text())
    assert row["state"] == "finished" and row["best"] == result[row["metric"]]
    assert row["parameters"] == result["parameters"] and row["steps"] == result["steps"]
    copy = shutil.copytree(tmp_path / "outputs" / "deep" / "run", tmp_path / "outputs" / "copy")
    (copy / "result.json").unlink()
    assert diff.run([f"a={tmp_path / 'outputs' / 'deep' / 'run'}", f"b={copy}"]) == 0
    told = capsys.readouterr().out
    words = " ".join(told.split())  # lines are wrapped
    assert "has no result yet; its last values in metrics.csv are compared" in words
    rows = [line.split() for line in told.splitlines()]
    assert not [cells for cells in rows if cells and cells[0] in ("steps", row["metric"])]  # the same


@pytest.mark.parametrize("width", [60, 80, 100, 120, 200])
def test_at_any_width_the_run_is_there_and_no_number_is_cut(four, capsys, monkeypatch, width):
    monkeypatch.setattr("multihead.runs.screen.report_console", lambda: Console(file=sys.stdout, width=width))
    (four / "result.json").write_text(json.dumps({"parameters": 1_353_600, "steps": 900, "seconds": 7.0}))
    four.rename(four.parent / "2026-11-27_02-03-36_ab12_a_long_name")
    assert runs.run([]) == 0
    shown = capsys.readouterr().out
    lines = shown.splitlines()
    assert all(len(line) <= width for line in lines) and lines[0].split()[0] == "run"
    assert any(line.startswith("2026-11-27_02-03-36_ab12_a_long_name ") for line in lines)  # whole, so it can be pasted
    head = lines[0].split()
    assert ("1,353,600" in shown) == ("parameters" in head) and ("900" in shown.split()) == ("steps" in head)
    assert "35" in shown.split()
    missing = [name for name in ("task", "data", "model", "parameters", "steps", "size", "began") if name not in head]
    assert bool(missing) == (width < 150)
    told = " ".join(shown.split()).partition("not shown, too narrow: ")[2]
    assert all(name in told for name in missing) and ("format=jsonl has" in told or not missing)


def test_in_a_pipe_all_columns_are_there_and_none_is_folded(four, capsys):
    four.rename(four.parent / ("long" * 60))
    assert runs.run([]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 6 and len(lines[0].split()) == 12 and any("long" * 60 in line for line in lines)
    assert all(len(line) < 600 for line in lines)


def test_the_groups_whose_choice_a_run_holds_are_filters():
    wanted = runs.filters(["task=lm", "data=wikitext2", "optim=muon", "model.d_model=256"])
    assert wanted == {"task.name": "lm", "data.name": "wikitext2", "optim.name": "muon", "model.d_model": 256}
