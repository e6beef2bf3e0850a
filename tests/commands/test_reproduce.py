"""``reproduce`` trains a run or a record again: what is the same, within the tolerance, or not; and what is refused."""

import json
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from trial import ROOT

from multihead.cli import main
from multihead.config.compose import compose
from multihead.config.record import read_record
from multihead.errors import ConfigError
from multihead.studying import records, reproduce
from multihead.studying.reproduce import _compared

SHIPPED = sorted((ROOT / "benchmarks" / "records").glob("*.yaml"))
TASK = "task=classification"


def edit(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.fixture
def run(runs, tmp_path, monkeypatch):
    """A run whose environment is that of now, in a folder of the test."""
    copy = runs.copy(tmp_path / "then", TASK)
    monkeypatch.setattr("multihead.runs.directory.git_state", lambda: ("c0ffee", False))
    edit(copy / "environment.json", git_commit="c0ffee", git_dirty=False)
    return copy


@pytest.fixture
def trains(run, monkeypatch):
    """Replaces the training by a copy of the run, and returns the compositions that were trained."""
    finished = shutil.copytree(run, run.with_name("finished"))
    seen = []

    def train(composition, quiet):
        assert quiet
        seen.append(composition)
        shutil.copytree(finished, composition.config.run_dir)
        result = finished / "results.json"
        if result.is_file():  # one value for each training
            edit(Path(composition.config.run_dir, "result.json"), **json.loads(result.read_text())[len(seen) - 1])

    monkeypatch.setattr(reproduce, "train", train)
    train.seen, train.finished = seen, finished
    return train


def answer(capsys, *words, status):
    capsys.readouterr()
    assert main(["reproduce", *words, "format=json"]) == status
    found = json.loads(capsys.readouterr().out)
    assert found["reproduced"] == (status == 0)
    return found


def test_a_run_gives_the_same_to_the_last_digit(run, tmp_path, capsys):
    out = tmp_path / "kept"
    assert main(["reproduce", f"run={run}", f"out={out}"]) == 0
    printed = capsys.readouterr().out
    result = json.loads((run / "result.json").read_text())
    known = [name for name in result if name.startswith(("val/", "test/"))]
    assert f"reproduced: all {len(known)} metrics are the same to the last digit" in printed
    assert "differs" not in printed and "time of training: " in printed
    again = json.loads((out / "run" / "result.json").read_text())
    assert [again[name] for name in known] == [result[name] for name in known] and len(known) > 3
    assert "next:" in (out / "run" / "train.log").read_text() and "next:" not in printed
    assert yaml.safe_load((out / "run" / "config.yaml").read_text())["run_dir"] == str(out / "run")


def test_in_the_same_circumstances_only_the_same_is_reproduced(run, trains, capsys):
    value = json.loads((run / "result.json").read_text())["test/loss"]
    edit(run / "result.json", **{"test/loss": value * (1 + 1e-9)})
    found = answer(capsys, f"run={run}", status=2)
    assert {m["name"]: m["verdict"] for m in found["metrics"] if m["verdict"] != "same"} == {"test/loss": "within"}
    assert main(["reproduce", f"run={run}"]) == 2
    assert "the metrics differ, though data, code, versions, processor and threads do not" in capsys.readouterr().out


def test_in_other_circumstances_the_monitored_metric_decides(run, trains, capsys):
    result = json.loads((run / "result.json").read_text())
    edit(run / "environment.json", threads=64, git_dirty=True)
    edit(
        run / "result.json", **{"test/accuracy": result["test/accuracy"] * 1.005, "test/loss": result["test/loss"] * 3}
    )
    found = answer(capsys, f"run={run}", status=0)
    verdicts = {metric["name"]: metric["verdict"] for metric in found["metrics"] if metric["verdict"] != "same"}
    assert verdicts == {"test/accuracy": "within", "test/loss": "differs"}
    assert {m["name"] for m in found["metrics"] if m["decides"]} == {"val/accuracy", "test/accuracy"}
    assert found["differs"] == {"threads": [64, 1], "git_dirty": [True, False]}
    answer(capsys, f"run={run}", "tolerance=0.001", status=2)
    assert main(["reproduce", f"run={run}"]) == 0
    printed = capsys.readouterr().out
    assert "differs: threads was 64 and is 1" in printed and "in no commit (then)" in printed
    assert "reproduced within the tolerance: val/accuracy, test/accuracy may change by 0.01" in printed


def test_other_data_are_an_error_before_anything_is_trained(run, trains, capsys):
    data = json.loads((run / "environment.json").read_text())["data"]
    edit(run / "environment.json", data=data | {"data_train": "0" * 64})
    assert main(["reproduce", f"run={run}"]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error[data] ") and "data_train was 000000000000 and is " in error
    assert error.count("\n") == 1 and not trains.seen


def test_a_run_computes_with_its_own_number_of_threads(monkeypatch):
    composition, before = compose([TASK]), torch.get_num_threads()
    monkeypatch.setattr("multihead.capabilities.cores", lambda: 3)
    for shell, then, now in (("", 3, 3), ("", 4, before), ("1", 3, before), ("", 0, before)):
        monkeypatch.setenv("OMP_NUM_THREADS", shell)
        with reproduce.threads_of_then(composition, then):
            assert torch.get_num_threads() == now
        assert torch.get_num_threads() == before


RECORD = {
    "what": "A smoke test.",
    "task": "classification",
    "data": "grammar",
    "metric": "test/accuracy",
    "value": 0.5,
    "seeds": {4: 0.4, 5: 0.5, 6: 0.6},
    "command": [TASK, "debug=smoke"],
    "seconds": 3,
    "processor": "a slow one",
    "machine": "2 CPU cores",
    "parameters": 7,
    "threads": 1,
    "commit": "c0ff",
    "versions": {},
    "source": "nowhere",
}


def written(folder, **changes):
    file = folder / "record.yaml"
    file.write_text(yaml.safe_dump({key: value for key, value in (RECORD | changes).items() if value != "-"}))
    return f"record={file}"


def test_a_record_passes_if_mean_and_spread_are_what_further_seeds_give(trains, tmp_path, capsys):
    """Three seeds have a deviation of 0.1: with t(2) = 4.303, one seed may be 0.497 away and three 0.351."""
    values = [{"test/accuracy": value, "seconds": 70.0} for value in (0.98, 0.79, 0.79, 0.82, 0.05, 0.99, 0.50)]
    (trains.finished / "results.json").write_text(json.dumps(values))
    found = answer(capsys, written(tmp_path), status=0)
    assert (found["allowed"], found["value"]) == (pytest.approx(0.4968, abs=1e-4), 0.98)
    assert [each["seed"] for each in found["seeds"]] == [4] and found["seconds"] == 70.0
    assert found["differs"]["processor"][0] == "a slow one" and "git_commit" not in found["differs"]
    trains.seen[:] = trains.seen[:1]
    assert main(["reproduce", written(tmp_path), "seeds=all"]) == 0
    printed = capsys.readouterr().out
    assert "seed 5  0.5     0.79  3 s        1 min 10 s" in printed
    assert "mean: 0.3 from the record's; up to 0.351 is allowed (the 95 % prediction interval of 3 after" in printed
    assert "deviation between seeds: 0.0173; up to 0.436 is allowed" in printed  # F(2, 2) = 19
    assert "passed: test/accuracy is 0.8 (3 of 3 seeds), and the record has 0.5 ± 0.1" in printed
    assert [composition.config.seed for composition in trains.seen[1:]] == [4, 5, 6]
    assert {composition.config.accelerator for composition in trains.seen} == {"cpu"}
    found = answer(capsys, written(tmp_path), "seeds=all", status=2)  # the mean is near, and the spread too wide
    assert abs(found["value"] - 0.5) < found["allowed"] and found["deviation"] > found["allowed_deviation"]


def test_a_stated_tolerance_is_the_rule_for_the_mean(trains, tmp_path, capsys):
    (trains.finished / "results.json").write_text(json.dumps([{"test/accuracy": 0.8, "seconds": 1.0}] * 2))
    one = {"seeds": {4: 0.5}, "tolerance": 0.31}
    assert main(["reproduce", written(tmp_path, **one)]) == 0
    assert "up to 0.31 is allowed (as the record states)" in capsys.readouterr().out
    assert answer(capsys, written(tmp_path, **one | {"tolerance": 0.29}), status=2)["allowed"] == 0.29


def test_what_differs_is_said_before_the_training(run, trains, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(records, "has_commit", lambda commit: commit == "beef")
    values = {"versions": {"torch": "1.0", "joeynmt": "2.3.0"}, "threads": 9}
    main(["reproduce", written(tmp_path, **values, commit="dead"), "format=json"])
    lines = capsys.readouterr().err.splitlines()
    place = next(number for number, line in enumerate(lines) if line.startswith("training seed 4"))
    notes = "\n".join(lines[:place])
    assert "the record used 9 threads, and this process may use only " in notes
    assert "the record was made with other versions, which may change the result: " in notes
    assert f"torch 1.0 (here {torch.__version__})" in notes and "joeynmt 2.3.0 (here not installed)" in notes
    assert "the record is of commit dead, and this clone does not have it; git fetch may bring it" in notes
    main(["reproduce", written(tmp_path, commit="beef"), "format=json"])
    notes = capsys.readouterr().err
    assert "the record is of commit beef, and this clone is at c0ffee; git checkout beef has it" in notes
    main(["reproduce", written(tmp_path), "format=json"])
    assert "note:" not in capsys.readouterr().err
    monkeypatch.setattr("multihead.runs.directory.git_state", lambda: (None, None))
    main(["reproduce", written(tmp_path), "format=json"])
    assert "this is no clone of git, so its code cannot be compared with commit c0ff" in capsys.readouterr().err


def test_has_commit_asks_git():
    from multihead.runs.directory import git_state, has_commit

    head, _ = git_state()
    assert head and has_commit(head[:7]) and not has_commit("0" * 40)


def test_a_record_of_a_gpu_on_a_machine_without_one(trains, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("multihead.capabilities.device_counts", lambda: {"cpu": 1})
    assert main(["reproduce", written(tmp_path, machine="one GPU")]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and not trains.seen
    assert 'of the class "one GPU", and torch finds no GPU on this machine; fix: check it on a machine' in error
    assert f"python train.py {TASK} debug=smoke seed=4" in error


def test_a_record_whose_data_are_missing_says_where_they_come_from(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MULTIHEAD_DATA", str(tmp_path))
    assert main(["reproduce", "record=classification_trec"]) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "train.txt.gz: no such file" in error
    assert "set MULTIHEAD_DATA to the folder that holds trec/" in error
    assert "the data are: TREC questions (Li and Roth 2002" in error


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"value": 0.6}, "value: must be the mean of the seeds, 0.5, got 0.6"),
        ({"seeds": {1: 0.5}}, "tolerance: must be given if there is no deviation of several seeds"),
        ({"command": [TASK, "plugin=mine.py"]}, "command: plugin may not stand in the command of a record"),
        ({"command": [TASK, "accelerator=gpu"]}, "command: accelerator may not stand in the command of a record"),
        ({"machine": "a phone"}, "machine: must be one of 2 CPU cores, one GPU, got 'a phone'"),
        ({"commit": "--version"}, "commit: must be a commit of git, such as 2f89205, got '--version'"),
        ({"tolerence": 1}, "tolerence: no such key of a record; fix: write tolerance"),
        ({"metric": "-"}, "metric: must be given"),
        ({"threads": "two"}, "threads: must be a whole number above 0, got 'two'"),
        ({"data": "trec"}, "command: trains classification on grammar, and not classification on trec"),
    ],
)
def test_a_wrong_record_is_one_line(tmp_path, capsys, changes, message):
    assert main(["reproduce", written(tmp_path, **changes)]) == 2
    error = capsys.readouterr().err
    assert message in error and error.count("\n") == 1


def test_a_record_with_a_plugin_trains_with_it_only_if_the_user_names_it(trains, tmp_path, capsys):
    file = ROOT / "benchmarks" / "recurrent_and_convolutional.py"
    needs = {"plugin": "benchmarks/recurrent_and_convolutional.py", "command": [TASK, "model.attention=conv"]}
    record = written(tmp_path, **needs)
    for words, message in (
        ([], "no file may name code to run; fix: plugin=benchmarks/recurrent_and_convolutional.py"),
        ([f"plugin={ROOT / 'docs' / 'examples' / 'conll.py'}"], "recurrent_and_convolutional.py, and not with "),
    ):
        assert main(["reproduce", record, *words]) == 2
        error = capsys.readouterr().err
        assert error.startswith("error[config] plugin: ") and message in error and error.count("\n") == 1
    assert not trains.seen
    (trains.finished / "results.json").write_text(json.dumps([{"test/accuracy": 0.5, "seconds": 70.0}]))
    assert main(["reproduce", record, f"plugin={file}"]) == 0
    assert trains.seen[0].config.model.attention == "conv" and trains.seen[0].config.plugin == str(file)
    capsys.readouterr()
    assert main(["reproduce", written(tmp_path), f"plugin={file}"]) == 2
    assert "has no plugin; fix: leave plugin out" in capsys.readouterr().err


def test_a_metric_that_a_run_does_not_have(trains, tmp_path, capsys):
    assert main(["reproduce", written(tmp_path, metric="test/bleu")]) == 2
    assert "result.json has no test/bleu; it has " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "run: is missing: which run or record should be reproduced?"),
        (["run=a", "record=b"], "record: cannot be given together with run="),
        (["run=a", "seeds=all"], "seeds: is for a record"),
        (["run=a", "tolerance=much"], "tolerance: must be a share of at least 0"),
        (["run=nowhere"], "run: nowhere is not the directory of a run"),
        (["record=clasification_trec"], "has no record clasification_trec; fix: record=classification_trec"),
        (["record=mine"], "has no record mine; fix: the names are aeslc, ag_news_headlines, "),
        (["record=nowhere.yaml"], "record: nowhere.yaml: no such file"),
    ],
)
def test_wrong_words(capsys, words, message):
    assert main(["reproduce", *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("file", SHIPPED, ids=[file.stem for file in SHIPPED])
def test_a_shipped_record_composes_and_names_where_its_value_stands(file):
    record = read_record(file.stem)
    plugin = [f"plugin={ROOT / record.plugin}"] if record.plugin else []
    config = compose([*record.command, *plugin]).config
    assert (config.task.name, config.data.name) == (record.task, record.data)
    one = records.judged(record, [records.SeedAgain(1, None, record.value, 1.0, "")], {})
    assert one.reproduced and one.allowed < 0.1 * record.value
    text = (ROOT / record.source.partition(",")[0]).read_text()
    stated = [f"{record.value:.2f}", f"{100 * record.value:.2f}", *map(str, record.seeds.values())]
    assert any(number in text for number in stated)
    assert record.why_tolerance or len(record.seeds) > 1
    results = (ROOT / "docs" / "results.md").read_text()
    assert f"records.md#{record.name}\n" in results, "no row of the results has a link to the record"


def test_an_unreadable_record(tmp_path):
    (tmp_path / "a.yaml").write_text("[1]")
    with pytest.raises(ConfigError, match="must be a mapping"):
        read_record(str(tmp_path / "a.yaml"))


def test_a_metric_that_is_undefined_in_both_runs_is_the_same():
    nan = float("nan")
    found = _compared({"test/x": nan, "val/x": nan}, {"test/x": nan, "val/x": 1.0}, "val/x", 0.1)
    assert [metric.verdict for metric in found] == ["same", "differs"]
