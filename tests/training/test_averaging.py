"""Averaged weights: the formulas, what is in place when, checkpoints; and beside everything that users have on."""

import copy
import logging
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from trial import events, weights

import multihead
from multihead.config.training import TrainerConfig
from multihead.errors import ConfigError
from multihead.training.averaging import LastAverage, MovingAverage, averaging
from multihead.training.validation import Validation


class Tied(nn.Module):
    """A weight under two names, one that does not learn, and a buffer; it is a task and Lightning's module at once."""

    task = property(lambda self: self)

    def __init__(self, dtype=torch.float32):
        super().__init__()
        self.first, self.frozen = nn.Linear(3, 3, dtype=dtype), nn.Linear(3, 3, dtype=dtype)
        self.second = self.first
        self.frozen.requires_grad_(False)
        self.register_buffer("count", torch.zeros(1))


def trainer_at(step):
    return SimpleNamespace(global_step=step, is_global_zero=True, state=SimpleNamespace(fn="fit"))


def walked(average, module, steps, size=0.5):
    """The weights after each of ``steps`` steps, which ``average`` has seen."""
    average.on_fit_start(trainer_at(0), module)
    seen = []
    for step in range(1, steps + 1):
        with torch.no_grad():
            module.first.weight += size * step
        average.on_train_batch_end(trainer_at(step), module, None, None, 0)
        average.on_train_batch_end(trainer_at(step), module, None, None, 1)  # another micro-batch of the same step
        seen.append(module.first.weight.detach().clone())
    return seen


def test_the_moving_average_is_its_formula_and_starts_after_the_first_step():
    module, average = Tied(), MovingAverage(0.8)
    expected, *others = walked(average, module, 5)
    for weight in others:
        expected = 0.8 * expected + 0.2 * weight
    average.put_in(module)
    torch.testing.assert_close(module.first.weight, expected)
    average.take_out(module)
    assert torch.equal(module.first.weight, others[-1])


def test_the_last_average_is_the_mean_of_its_steps():
    module, average = Tied(), LastAverage(3, 2)
    seen = walked(average, module, 6)
    average.put_in(module)
    torch.testing.assert_close(module.first.weight, (seen[3] + seen[5]) / 2)


def test_nothing_is_in_place_before_the_first_sample():
    module, average = Tied(), LastAverage(3, 2)
    seen = walked(average, module, 2)
    average.put_in(module)
    assert torch.equal(module.first.weight, seen[-1])
    checkpoint = {"state_dict": module.state_dict()}
    average.on_save_checkpoint(trainer_at(2), module, checkpoint)
    assert list(checkpoint) == ["state_dict"]


def test_an_average_in_bfloat16_moves():
    """In bfloat16 itself it stood still: a step of 1/1000 of the difference is lost in rounding."""
    module, average = Tied(torch.bfloat16), MovingAverage(0.999)
    nn.init.ones_(module.first.weight)
    walked(average, module, 1, size=0)
    for step in range(2, 1002):
        with torch.no_grad():
            module.first.weight.fill_(2)
        average.on_train_batch_end(trainer_at(step), module, None, None, 0)
    assert average.averages[0].dtype == torch.float32
    torch.testing.assert_close(average.averages[0], torch.full((3, 3), 2 - 0.999**1000))
    average.put_in(module)
    assert module.first.weight.dtype == torch.bfloat16 and module.first.weight.max() < 1.7
    average.take_out(module)
    assert torch.equal(module.first.weight, torch.full((3, 3), 2.0, dtype=torch.bfloat16))


def test_a_checkpoint_gives_back_both_weights_and_average():
    module, average = Tied(), MovingAverage(0.8)
    walked(average, module, 3)
    checkpoint = {"state_dict": module.state_dict()}
    average.on_save_checkpoint(trainer_at(3), module, checkpoint)
    averaged, current = checkpoint["state_dict"], checkpoint["current_model_state"]
    assert averaged.keys() == current.keys() == module.state_dict().keys()
    assert averaged["first.weight"] is averaged["second.weight"]
    assert not torch.equal(averaged["first.weight"], current["first.weight"])
    assert torch.equal(averaged["frozen.weight"], current["frozen.weight"])
    again, new = MovingAverage(0.8), Tied()
    again.on_fit_start(trainer_at(0), new)
    new.load_state_dict(current)
    again.on_load_checkpoint(trainer_at(3), new, copy.deepcopy(checkpoint))
    again.load_state_dict(average.state_dict())
    assert again.num_averaged == 3 and again.latest_step == 3
    assert all(torch.equal(a, b) for a, b in zip(again.averages, average.averages, strict=True))


def test_only_what_learns_is_copied():
    average = MovingAverage(0.8)
    average.on_fit_start(trainer_at(0), Tied())
    assert [tuple(tensor.shape) for tensor in average.averages] == [(3, 3), (3,)]


@pytest.mark.parametrize("task", ["translation", "multitask"])
def test_the_default_logger_and_averaging_go_together(task, tmp_path, monkeypatch):
    """And the task carries nothing of others: it can be copied and pickled in the midst of a run."""
    copies = []

    def validate(self, trainer, module, before=Validation.run):
        copies.append((copy.deepcopy(module), pickle.dumps(module)))
        return before(self, trainer, module)

    monkeypatch.setattr(Validation, "run", validate)
    words = [f"task={task}", "debug=smoke", "logger=auto", "trainer.ema_decay=0.9", "optim.lr=1e-2"]
    multihead.train([*words, f"run_dir={tmp_path / 'run'}"])
    assert list((tmp_path / "run").glob("wandb/offline-run-*"))
    task_then = copies[-1][0].model.state_dict()  # the weights of the last step but one validation, not averaged
    averaged = weights(tmp_path / "run")
    assert len(copies) == 2 and any(not torch.equal(averaged[name], task_then[name]) for name in averaged)


def test_an_average_of_fewer_than_two_steps_is_refused():
    """Three settings, the last with its default: nothing was averaged, silently."""
    what = (
        r"trainer.average_every_n_steps: 100 steps .* give 0 of the last 10 .*; fix: trainer.average_every_n_steps=1$"
    )
    with pytest.raises(ConfigError, match=what):
        TrainerConfig(max_steps=20, average_last_steps=10)
    with pytest.raises(ConfigError, match=r"give 1 of the last 100 "):  # the weights of one step are no average
        TrainerConfig(max_steps=2000, average_last_steps=100)
    TrainerConfig(max_steps=2000, average_last_steps=200)
    TrainerConfig(max_steps=20, average_last_steps=10, average_every_n_steps=1)
    TrainerConfig(max_steps=1, ema_decay=0.9)
    assert averaging(TrainerConfig()) == []


def test_a_run_that_ends_before_its_average_begins_says_so(tmp_path, caplog):
    words = ["task=translation", "debug=smoke", "trainer.max_steps=40", "trainer.average_last_steps=4"]
    early = ["trainer.early_stopping_patience=1", "optim.lr=1e-30", "trainer.max_time=00:00:00:00"]
    with caplog.at_level(logging.WARNING, "multihead"):
        multihead.train([*words, *early, f"run_dir={tmp_path / 'run'}"])
    assert "no weights were averaged: the run ended at step 1, " in (tmp_path / "run" / "train.log").read_text()
    assert events(tmp_path / "run")[-1]["event"] == "finished"


def test_an_average_that_is_still_the_beginning_is_said(tmp_path):
    words = ["task=translation", "debug=smoke", "trainer.ema_decay=0.999"]
    multihead.train([*words, f"run_dir={tmp_path / 'run'}"])
    log = (tmp_path / "run" / "train.log").read_text()
    assert "trainer.ema_decay=0.999: 99 % of the average is still the weights of the first averaged step; fix: " in log


def test_the_share_of_the_beginning_is_that_of_the_averaged_steps():
    """A resume may begin to average late: steps before it are not in the average."""
    module, average = Tied(), MovingAverage(0.99)
    average.on_fit_start(trainer_at(0), module)
    for step in range(901, 1001):
        average.on_train_batch_end(trainer_at(step), module, None, None, 0)
    text = "trainer.ema_decay=0.99: 37 % of the average is still the weights of the first averaged step; fix: "
    text += "trainer.ema_decay=0.95 "
    assert average.doubt().startswith(text)


def test_a_checkpoint_without_an_average_starts_it_anew():
    average, module = MovingAverage(0.5), Tied()
    walked(average, module, 3)
    assert average.num_averaged == 3
    average.on_load_checkpoint(trainer_at(0), module, {"state_dict": module.state_dict()})
    assert average.num_averaged == 0


def test_a_run_that_goes_on_to_more_steps_forgets_the_average_of_its_former_last_ones():
    module, average = Tied(), LastAverage(2, 1)
    walked(average, module, 3)
    checkpoint = {"state_dict": module.state_dict(), "global_step": 3}
    average.on_save_checkpoint(trainer_at(3), module, checkpoint)
    own, older = average.state_dict(), {"latest_update_step": 3}  # an older checkpoint does not name its steps
    cases = [(2, 1, own, 2), (3, 1, own, 0), (4, 1, own, 0), (2, 2, own, 0), (2, 1, older, 2), (4, 1, older, 0)]
    for first_step, every, state, kept in cases:
        again, new = LastAverage(first_step, every), Tied()
        again.on_fit_start(trainer_at(0), new)
        again.on_load_checkpoint(trainer_at(3), new, copy.deepcopy(checkpoint))
        again.load_state_dict(state)
        assert again.num_averaged == kept
