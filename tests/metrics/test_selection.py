"""Which checkpoint wins, and when a run ends early, in runs whose validations say what the test wants."""

import json
import math

import pytest
import trial

from multihead.metrics.selection import is_better, loss_beside, never_moved, say_unmoved
from multihead.tasks.translation import TranslationTask

NAN = math.nan


@pytest.mark.parametrize(
    ("value", "loss", "best", "best_loss", "mode", "expected"),
    [
        (2.0, 9.0, 1.0, 1.0, "max", True),
        (1.0, 0.0, 2.0, 1.0, "max", False),
        (1.0, 9.0, 2.0, 1.0, "min", True),
        (0.0, 0.9, 0.0, 1.0, "max", True),  # a tie is the loss's
        (0.0, 1.0, 0.0, 1.0, "max", False),
        (0.0, 1.1, 0.0, 1.0, "max", False),
        (NAN, 0.1, 0.0, 1.0, "max", False),  # what is undefined is worse than any number
        (0.0, 9.0, NAN, 1.0, "max", True),
        (NAN, 0.9, NAN, 1.0, "max", True),
        (NAN, 1.1, NAN, 1.0, "max", False),
        (1.0, NAN, 1.0, NAN, "max", False),  # no loss at all: the first of equals stays
        (1.0, 1.0, 1.0, NAN, "max", True),
    ],
)
def test_better(value, loss, best, best_loss, mode, expected):
    assert is_better(value, loss, best, best_loss, mode) is expected


def test_the_loss_beside_a_metric_is_of_its_task():
    metrics = {"val/loss": 1.0, "val/translation/loss": 2.0, "val/translation/bleu": 3.0}
    assert loss_beside("val/translation/bleu", metrics) == 2.0
    assert loss_beside("val/bleu", metrics) == loss_beside("val/classification/mcc", metrics) == 1.0
    assert math.isnan(loss_beside("val/bleu", {}))


def test_never_moved():
    assert never_moved([0.0, 0.0]) and never_moved([NAN, NAN])
    assert not any(map(never_moved, ([], [0.0], [0.0, 0.1], [0.0, NAN])))


@pytest.fixture
def scripted(tmp_path, monkeypatch):
    """Trains with a validation at every step that finds the given BLEU and loss, which end with the last given."""

    def train(pairs, *words):
        left = list(pairs)
        before = TranslationTask.finish_evaluation

        def finish(self, split):
            found = before(self, split)
            if split == "val":
                bleu, loss = left.pop(0)
                found |= {"bleu": bleu, "loss": loss}
            return found

        monkeypatch.setattr(TranslationTask, "finish_evaluation", finish)
        steps = f"trainer.max_steps={len(pairs)}"
        words = [steps, "trainer.val_every_n_steps=1", "trainer.limit_val_examples=4", *words]
        return trial.train(tmp_path / "run", *words), trial.events(tmp_path / "run")

    return train


def test_a_tie_for_the_best_checkpoint_is_decided_by_the_loss(scripted, tmp_path):
    result, events = scripted([(0.0, 5.0), (0.0, 4.0), (0.0, 3.0), (0.0, 3.5)], "trainer.keep_checkpoints=1")
    assert result["best_step"] == 3 and result["val/loss"] == 3.0
    assert [event["best"] for event in events if event["event"] == "validated"] == [True, True, True, False]
    assert "val/bleu is 0 at each of 3 validations" in (tmp_path / "run" / "train.log").read_text()
    assert result["notes"][0].startswith("val/bleu was 0 at all 4 validations, so the loss chose the checkpoint")
    assert json.loads((tmp_path / "run" / "result.json").read_text())["notes"] == result["notes"]


def test_a_run_ends_after_as_many_validations_without_improvement_as_it_was_given(scripted):
    pairs = [(1.0, 5.0), (5.0, 5.0), (4.0, 4.0), (3.0, 3.0), (9.0, 2.0), (9.0, 1.0)]
    result, events = scripted(pairs, "trainer.early_stopping_patience=2")
    assert result["steps"] == 4 and result["best_step"] == 2
    assert [event["step"] for event in events if event["event"] == "early_stop"] == [4]


def test_a_metric_that_does_not_move_ends_no_run_whose_loss_falls(scripted):
    pairs = [(0.0, 5.0), (0.0, 4.0), (0.0, 3.0), (0.0, 2.0), (0.0, 2.5), (0.0, 2.5), (0.0, 1.0)]
    result, _ = scripted(pairs, "trainer.early_stopping_patience=2")
    assert result["steps"] == 6 and result["best_step"] == 4


@pytest.mark.parametrize(
    ("values", "messages"),
    [
        ([0.0, 0.0, 0.0], ["val/bleu is 0 at each of 3 validations: the loss decides which checkpoint is best"]),
        (
            [NAN, NAN, NAN],
            ["val/bleu is undefined at each of 3 validations: the loss decides which checkpoint is best"],
        ),
        ([0.0, 0.0], []),
        ([0.0, 0.0, 0.0, 0.0], []),
        ([0.0, 0.0, 0.1], []),
    ],
)
def test_a_metric_that_has_not_moved_is_reported_at_the_third_validation(caplog, values, messages):
    say_unmoved("val/bleu", values)
    assert caplog.messages == messages
