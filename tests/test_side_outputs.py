"""Whatever a run shows or uploads beside its result may fail: the run goes on, and result.json is written."""

import builtins
import io
import json
import logging
import sys
from pathlib import Path

import pytest
import tagging
import torch
from rich.console import Console

import multihead
from multihead.cli import main
from multihead.errors import Stopped, side_output
from multihead.metrics.classification import Confusion
from multihead.runs.console import open_log

BROKEN = {
    "multihead.runs.progress.Progress._report": "the progress bar",
    "multihead.tasks.base.Task.merged_samples": "the order of the samples",
    "multihead.tasks.language_modeling.LanguageModelingTask.prompts_of": "the continuations of prompts",
    "multihead.tasks.multitask.MultiTask.merged_samples": "the order of the samples",
    "multihead.runs.wandb.WandbMetrics.log_samples": "the table of samples",
    "multihead.runs.wandb.WandbMetrics.log_table": "a table",
    "multihead.runs.wandb.WandbMetrics.log_picture": "a picture's upload",
    "multihead.runs.wandb.WandbMetrics.log_result": "the upload of the result",
    "multihead.runs.wandb.WandbMetrics.finish": "closing the logger wandb",
    "multihead.metrics.classification.Confusion.draw": "the picture of the confusion matrix",
    "multihead.training.suspicions.of_training": "the notes on the result",
    "multihead.training.attention_maps.draw": "the pictures of attention",
    "multihead.runs.tables.plain_table": "the table confusion_test",
    "multihead.training.screen.texts_of": "the samples on the screen",
    "multihead.runs.tables.summary": "the summary on the screen",
}
"""What is made to raise, and what the warning calls it."""


def test_a_run_in_which_every_side_output_fails_has_its_result(tmp_path, monkeypatch):
    def fails(*arguments, **options):
        if name_of_picture := [argument for argument in arguments if isinstance(argument, Path)]:
            name_of_picture[0].touch()  # half a picture
        raise KeyError("broken\non purpose")

    for name in BROKEN:
        monkeypatch.setattr(name, fails)
    (tmp_path / "run").mkdir()
    words = ["task=multitask", "debug=smoke", "logger=auto", "trainer.ema_decay=0.9", f"run_dir={tmp_path / 'run'}"]
    result = multihead.train(words)
    assert json.loads((tmp_path / "run" / "result.json").read_text())["test/loss"] == result["test/loss"] > 0
    told = [line for line in (tmp_path / "run" / "train.log").read_text().splitlines() if "goes on without" in line]
    why = "failed, and the run goes on without it: KeyError: 'broken\\non purpose'"
    assert sorted(line[20:] for line in told) == sorted(f"{what} {why}" for what in set(BROKEN.values()))  # once each
    assert (tmp_path / "run" / "samples.jsonl").exists() and (tmp_path / "run" / "confusion_test.csv").exists()


def test_a_report_that_fails_costs_no_result(tmp_path, monkeypatch):
    def fails(self, *arguments):
        raise OSError(30, "Read-only file system", "confusion_test.csv")

    monkeypatch.setattr(Confusion, "write", fails)
    nowhere = tmp_path / "nowhere" / "samples.jsonl"
    monkeypatch.setattr("multihead.runs.loggers.SamplesFile.__init__", lambda self, _: setattr(self, "path", nowhere))
    multihead.train(["task=classification", "debug=smoke", f"run_dir={tmp_path / 'run'}"])
    assert (tmp_path / "run" / "result.json").exists()
    told = (tmp_path / "run" / "train.log").read_text()
    assert "the task's report on the test split failed, and the run goes on without it: OSError: [Errno 30]" in told
    assert told.count("samples.jsonl failed, and the run goes on without it: FileNotFoundError: ") == 1
    assert main(["evaluate", f"run={tmp_path / 'run'}"]) == 0


def test_a_plugins_task_with_samples_of_its_own(tmp_path, capsys):
    """Token tagging: its ids are not those of the tokenizer that the picture took, and its samples have no output."""
    words = [*tagging.write_data(tmp_path), "model=tiny", "model.d_model=32", "trainer.max_steps=2", "logger=none"]
    multihead.train([*words, f"run_dir={tmp_path / 'run'}"])
    out = capsys.readouterr().out
    assert "goes on without" not in out and " tags " in out and " words " in out
    assert (tmp_path / "run" / "pictures" / "attention_encoder_self.png").exists()
    samples = [json.loads(line) for line in (tmp_path / "run" / "samples.jsonl").read_text().splitlines()]
    assert len(samples) == 20 and isinstance(samples[0]["words"], list)


@pytest.mark.parametrize("error", [ImportError("numpy._ARRAY_API not found"), ValueError("Key backend: 'nonsense'")])
def test_a_broken_matplotlib(tmp_path, monkeypatch, caplog, error):
    def imports(name, *rest, before=builtins.__import__):
        if name.startswith("matplotlib"):
            raise error
        return before(name, *rest)

    for name in [name for name in sys.modules if name.startswith("matplotlib")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setattr(builtins, "__import__", imports)
    files = Confusion.of(torch.tensor([0, 1]), torch.tensor([0, 0]), ["ham", "spam"]).write(tmp_path, "confusion")
    assert [path.name for path in files] == ["confusion.csv", "confusion.json"]
    assert (
        f"the picture of the confusion matrix failed, and the run goes on without it: {type(error).__name__}"
        in caplog.text
    )


def test_a_missing_matplotlib_is_no_fault(tmp_path, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    Confusion.of(torch.tensor([0]), torch.tensor([0]), ["ham", "spam"]).write(tmp_path, "confusion")
    assert caplog.text == ""


def test_a_screen_and_a_log_that_cannot_be_written(tmp_path, capsys):
    class Broken(io.StringIO):
        def write(self, text):
            raise OSError(28, "No space left on device")

    log = open_log(tmp_path, Console(file=Broken()))
    log.handlers[1].stream = Broken()
    for step in range(3):
        logging.getLogger("multihead").info("step %d", step)
    log.handlers[1].stream = None
    log.close()
    assert capsys.readouterr().err.splitlines() == [
        "the screen cannot be written, and the run goes on without it: OSError: [Errno 28] No space left on device",
        "train.log cannot be written, and the run goes on without it: OSError: [Errno 28] No space left on device",
    ]


def test_a_signal_is_no_failure():
    with pytest.raises(Stopped), side_output("a picture"):
        raise Stopped(15)
    with pytest.raises(KeyboardInterrupt), side_output("a picture"):
        raise KeyboardInterrupt


def test_the_traceback_is_there_for_who_asks(monkeypatch, capsys):
    monkeypatch.setenv("MULTIHEAD_TRACEBACK", "1")
    with side_output("a picture"):
        raise ValueError("why")
    assert "Traceback (most recent call last)" in capsys.readouterr().err
