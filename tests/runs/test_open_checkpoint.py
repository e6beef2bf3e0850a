"""From which checkpoint a run goes on, and which run a command finds, on folders made by hand."""

import json
import logging

import pytest
import torch

from multihead.config.changes import same_run
from multihead.config.compose import compose, to_yaml
from multihead.config.yaml_file import load_yaml
from multihead.errors import CheckpointError, ConfigError
from multihead.runs.checkpoint import FolderCheckpointIO
from multihead.runs.resume import KEYS, aim, finished_result, open_checkpoint, set_aside_result, start_again


def checkpoint(run, step, **changes):
    """Writes ``step_N`` of a run; what ``changes`` gives as None is left out."""
    own = dict.fromkeys(KEYS, 0) | {"step": step, "position": [1, 2], "record": {"seed": 1}} | changes
    own = {name: value for name, value in own.items() if value is not None}
    state = {"global_step": step, "state_dict": {"weight": torch.zeros(2)}, "multihead": own}
    FolderCheckpointIO().save_checkpoint(state, run / "checkpoints" / f"step_{step}")
    return run


def opened(run, record=None, force=(), main=True):
    return open_checkpoint(run, record or {"seed": 1}, force, main)


@pytest.mark.parametrize("changes", [{"ranks": None}, {"record": "text"}, {"record": None}])
def test_a_checkpoint_of_something_else_is_refused(tmp_path, changes):
    with pytest.raises(CheckpointError, match="step_5: is not the checkpoint of a run"):
        opened(checkpoint(tmp_path, 5, **changes))


@pytest.mark.parametrize(
    ("metrics", "told"),
    [
        ("step,train/loss\n4,1.0\n8,1.0\n", "; 3 steps after it are done again"),
        ("step,train/loss\n5,9.0\n", ""),
        ("step,train/loss\n", ""),
        ("", ""),
        (None, ""),
    ],
)
def test_what_was_lost_is_said(tmp_path, caplog, metrics, told):
    if metrics is not None:
        (tmp_path / "metrics.csv").write_text(metrics)
    with caplog.at_level(logging.INFO, logger="multihead"):
        start = opened(checkpoint(tmp_path, 5))
    assert caplog.messages == [f"resume: going on in {tmp_path} from step 5 (epoch 1, step 2 of it){told}"]
    assert start.name == "step_5" and start.own["step"] == 5


def test_a_damaged_checkpoint_is_passed_over_and_put_aside_by_one_process(tmp_path, caplog):
    for step in (5, 10):
        checkpoint(tmp_path, step)
    (tmp_path / "checkpoints" / "step_10" / "state.json").write_text("{}")
    with caplog.at_level(logging.INFO, logger="multihead"):
        assert opened(tmp_path, main=False).name == "step_5"
        assert caplog.messages == [] and (tmp_path / "checkpoints" / "step_10").is_dir()
        assert opened(tmp_path).name == "step_5"
    passed, aside, going_on = caplog.messages
    assert passed == "resume: step_10 is damaged (state.json: sha256 differs); using step_5"
    assert aside.startswith("resume: step_10 is kept as ") and " from step 5 " in going_on
    assert not (tmp_path / "checkpoints" / "step_10").exists()


def test_what_changed_is_refused_accepted_or_said(tmp_path, caplog):
    checkpoint(tmp_path, 5, record={"seed": 1, "optim.lr": 0.1})
    with pytest.raises(CheckpointError, match=r"may not change \(seed: 1 -> 2\).*resume_force=\[seed\]"):
        opened(tmp_path, {"seed": 2, "optim.lr": 0.1})
    with caplog.at_level(logging.INFO, logger="multihead"):
        opened(tmp_path, {"seed": 2, "optim.lr": 0.2}, force=["seed"])
    assert caplog.messages[-1] == "resume: changed: seed: 1 -> 2; optim.lr: 0.1 -> 0.2"


def test_a_key_that_did_not_exist_when_the_run_began_may_have_its_default_only(tmp_path):
    checkpoint(tmp_path, 5, record={"task.name": "translation"})
    assert opened(tmp_path, {"task.name": "translation", "task.ter": False, "data.encoding": "utf-8"}).name == "step_5"
    with pytest.raises(CheckpointError, match=r"may not change \(task.ter: False -> True\)"):
        opened(tmp_path, {"task.name": "translation", "task.ter": True})


# ---- which run


WORDS = ["task=lm", "debug=smoke"]


def run_of(folder, *words):
    """A folder that looks like a run of the configuration."""
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(to_yaml(compose([*WORDS, *words]).tree))
    return folder


def test_a_run_that_began_before_a_key_existed_is_found(tmp_path):
    run = run_of(tmp_path / "run")
    text = (run / "config.yaml").read_text()
    (run / "config.yaml").write_text("".join(x for x in text.splitlines(True) if "qk_norm" not in x))
    assert "qk_norm" in text
    assert same_run(load_yaml(run / "config.yaml"), compose(WORDS).tree)
    assert not same_run(load_yaml(run / "config.yaml"), compose([*WORDS, "model.qk_norm=true"]).tree)


def test_the_newest_unfinished_run_of_the_configuration_is_found(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    outputs = tmp_path / "outputs" / "lm" / "grammar"
    for number in range(4):
        run_of(outputs / f"2026-01-0{number}", *(["seed=7"] if number == 3 else []))
    (outputs / "2026-01-02" / "result.json").write_text("{}")
    found = aim(compose([*WORDS, "resume=auto"]))
    assert (found.run_dir.name, found.how) == ("2026-01-01", "again")
    checkpoint(outputs / "2026-01-01", 5)
    found = aim(compose([*WORDS, "resume=must"]))
    assert (found.run_dir.name, found.how, found.resumes) == ("2026-01-01", "on", True)


@pytest.mark.unhurried
def test_run_dir_names_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = run_of(tmp_path / "run")
    run_of(tmp_path / "outputs" / "lm" / "grammar" / "2026-01-01")
    here = f"run_dir={run}"
    assert aim(compose([*WORDS, here, "resume=auto"])).how == "again"
    with pytest.raises(CheckpointError, match="has no checkpoint; fix: resume=auto starts the run again"):
        aim(compose([*WORDS, here, "resume=must"]))
    (run / "result.json").write_text("{}")
    assert aim(compose([*WORDS, here, "resume=auto"])).how == "done"
    assert aim(compose([*WORDS, here, "resume=auto", "trainer.max_steps=11"])).how == "on"
    with pytest.raises(CheckpointError, match="no unfinished run of this configuration"):
        aim(compose([*WORDS, f"run_dir={tmp_path / 'other'}", "resume=must"]))


def test_a_run_goes_on_in_its_own_directory_only(tmp_path):
    run = run_of(tmp_path / "run")
    before = {file: file.read_bytes() for file in run.iterdir()}
    what = r"run_dir: is .*new, but resume=.*run goes on in .*run itself; fix: run_dir=.*run$"
    with pytest.raises(ConfigError, match=what):
        aim(compose([f"resume={run}", f"run_dir={tmp_path / 'new'}"]))
    assert {file: file.read_bytes() for file in run.iterdir()} == before
    found = aim(compose([f"resume={run}", f"run_dir={tmp_path / 'x' / '..' / 'run'}"]))
    assert (found.run_dir, found.how) == (run, "on")


def test_a_finished_run_is_found_by_what_the_device_decided_for_it(tmp_path):
    run = run_of(tmp_path / "run", "precision=32-true")
    (run / "result.json").write_text("{}")
    assert aim(compose([*WORDS, "precision=auto", f"run_dir={run}", "resume=auto"])).how == "done"


def test_starting_again_takes_away_what_a_run_has_written(tmp_path):
    for name in ("metrics.csv", "events.jsonl", "config.yaml", "x.tmp"):
        (tmp_path / name).write_text("old")
    (tmp_path / "checkpoints" / "step_5").mkdir(parents=True)
    start_again(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["config.yaml"]


def test_results_of_finished_runs(tmp_path):
    set_aside_result(tmp_path)
    (tmp_path / "result.json").write_text(json.dumps({"steps": 10}))
    assert finished_result(tmp_path) == {"steps": 10}
    set_aside_result(tmp_path)
    assert json.loads((tmp_path / "result_before.json").read_text()) == {"steps": 10}
    (tmp_path / "result.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        finished_result(tmp_path)
