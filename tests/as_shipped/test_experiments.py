"""Runs every experiment as it is shipped: default logger without an account, default intervals, averaging, precision.

Only the data are small, and the steps few. ``pytest -m "slow or not slow" tests/as_shipped`` runs the whole stage.
"""

import pytest
from stand_in_data import TASKS

from multihead.config.compose import compose, conf_dir

pytestmark = pytest.mark.unhurried

EXPERIMENTS = sorted(path.stem for path in (conf_dir() / "experiment").glob("*.yaml"))
OFTEN = ("multi30k_en_de", "text_classification")
"""The experiments with most options. Every run of the tests tries them."""
CUT = {"shakespeare": ["task.random_windows=8"]}
"""The beginning of a name, and words that make its validation short. (Any text gives as many windows.)"""


def words_of(name):
    cut = [word for beginning, words in CUT.items() if name.startswith(beginning) for word in words]
    return [f"experiment={name}", *cut]


@pytest.mark.parametrize(
    "name", [name if name in OFTEN else pytest.param(name, marks=pytest.mark.slow) for name in EXPERIMENTS]
)
def test_trains_tests_predicts_evaluates_and_goes_on(name, command, tmp_path):
    run, words = tmp_path / "run", words_of(name)
    config = compose(words).config
    assert config.data.name in TASKS, "add it to TASKS of stand_in_data.py"
    assert config.logger == "auto"
    out = command("train", *words, "trainer.max_steps=3", f"run_dir={run}")
    assert "W&B: not logged in (wandb login): logging offline to" in out
    result = command.result(run)
    assert result["steps"] == 3 and result["test/loss"] > 0
    assert list(run.glob("wandb/offline-run-*/run-*.wandb"))
    masked = getattr(config.task, "objective", "") == "masked"  # it predicts nothing; other runs start from it
    answers = command("predict", f"run={run}", lines="the old king\nthe dog\n", status=2 if masked else 0)
    assert masked or answers.count("\n") == 2
    command("evaluate", f"run={run}")
    again = command.evaluated(run, "test")
    assert again["test/loss"] == pytest.approx(result["test/loss"], rel=1e-4)
    command("evaluate", f"run={run}", "data.split=val")
    command("train", f"resume={run}", "trainer.max_steps=5")
    result = command.result(run)
    assert result["steps"] == 5 and len(list(run.glob("wandb/offline-run-*"))) == 2
    command("predict", f"run={run}", "format=jsonl", lines="the old king\n", status=2 if masked else 0)


@pytest.mark.slow
def test_a_classifier_starts_from_a_pretrained_model(command, tmp_path):
    """The comments of both files say so."""
    command("train", "experiment=text_pretraining", "trainer.max_steps=2", f"run_dir={tmp_path / 'first'}")
    words = ["experiment=text_classification", "trainer.max_steps=2", f"init_from={tmp_path / 'first'}"]
    command("train", *words, f"run_dir={tmp_path / 'second'}")
