"""What happens between two steps: what is logged, validated, saved and said, and when a run ends."""

import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch
from steps_alone import TOKENS, validating

from multihead.errors import MachineError, NumericsError, Stopped
from multihead.runs.checkpoint import FolderCheckpointIO, Start
from multihead.training import saving as module_of_saving
from multihead.training import validation as module_of_validation
from multihead.training.streams import Streams


def test_seconds_are_those_of_all_parts_of_a_run(run, clock):
    one = run()
    clock.now += 7
    assert one.steps.counters.seconds == 7.0
    own = {"step": 3, "seconds": 30.0, "position": (0, 3), "targets": 0, "not_finite": {}}
    resumed = run(start=Start(name="step_3", state={"multihead": own}))
    clock.now += 5
    assert resumed.steps.counters.seconds == 35.0
    assert resumed.steps.counters.tokens_per_second == 0.0  # an older checkpoint does not have its tokens


def test_speed_is_that_of_all_parts_of_a_run(run):
    one = run()
    one.step(seconds=2.0)
    own = {"step": 1, "not_finite": one.steps.not_finite.counts} | one.steps.counters.state()
    resumed = run(start=Start(name="step_1", state={"multihead": own}))
    assert resumed.steps.counters.tokens_per_second == TOKENS / 2.0  # also if no step is left
    resumed.step(seconds=6.0)
    assert resumed.steps.counters.tokens_per_second == 2 * TOKENS / 8.0
    assert resumed.rows[0][1]["system/tokens_per_second"] == TOKENS / 6.0
    assert resumed.steps.counters.state()["trained_tokens"] == 2 * TOKENS


def test_speed_leaves_validation_out(run):
    one = run(val_every_n_steps=2)
    for _ in range(5):
        one.step(seconds=2.0)
    assert one.validations == [2, 4]
    assert one.steps.counters.tokens_per_second == TOKENS / 2.0
    assert [row["system/tokens_per_second"] for _, row in one.rows] == [TOKENS / 2.0] * 5


def test_what_is_logged_is_the_mean_since_the_last_log(run):
    one = run(log_every_n_steps=2)
    for loss in (1.0, 2.0, 5.0, 7.0, 1.0, 1.0):
        one.step(loss)
    assert [step for step, _ in one.rows] == [2, 4, 6]
    assert [row["train/loss"] for _, row in one.rows] == [1.5, 6.0, 1.0]
    assert [row["epoch"] for _, row in one.rows] == [0.5, 1.0, 1.5]
    assert [row["tokens"] for _, row in one.rows] == [200, 400, 600]
    assert all(row["optim/lr_adamw"] == 0.3 and row["optim/lr_muon"] == 2.0 for _, row in one.rows)


@pytest.mark.parametrize(
    ("limit", "seconds"),
    [("00:00:00:10", 10), ("00:00:02:03", 123), ("00:03:00:01", 10801), ("02:00:01:00", 172860)],
)
def test_the_run_ends_at_the_step_after_which_its_time_is_over(run, clock, limit, seconds):
    one = run(max_time=limit)
    one.step(seconds=seconds - 1)
    assert not one.trainer.should_stop and not one.validations
    one.step(seconds=1)
    assert one.trainer.should_stop and one.validations == one.saved == [2]
    assert one.events == [("out_of_time", {"step": 2})]


@pytest.mark.parametrize("what", ["val_every_n_steps", "checkpoint_every_n_steps"])
def test_a_loss_that_is_not_finite_is_neither_validated_nor_saved(run, what):
    one = run(log_every_n_steps=50, **{what: 2})
    one.step(math.nan)
    with pytest.raises(NumericsError, match="step 2: the training loss is nan within the last 50 steps"):
        one.step()
    assert not one.validations and not one.saved


@pytest.mark.parametrize("norm", [math.nan, math.inf])
@pytest.mark.parametrize("what", ["val_every_n_steps", "checkpoint_every_n_steps"])
def test_a_gradient_that_is_not_finite_is_neither_validated_nor_saved(run, what, norm):
    """On a GPU the update does not wait for the norm, and the loss of the step is that of the weights before it."""
    one = run(log_every_n_steps=1, **{what: 2})
    one.trainer.precision_plugin = SimpleNamespace(scaler=None)
    one.step()
    one.norm = norm
    with pytest.raises(NumericsError, match=f"step 2: the norm of the gradient is {norm}; fix: lower optim.lr or "):
        one.step()
    assert not one.validations and not one.saved


@pytest.mark.parametrize("why", ["skipped", "scaled"])
def test_a_gradient_that_was_not_used_may_have_any_norm(run, why):
    one = run(checkpoint_every_n_steps=1)
    one.trainer.precision_plugin = SimpleNamespace(scaler=object() if why == "scaled" else None)
    one.norm, one.steps.not_finite._skips_step = math.nan, why == "skipped"
    one.step()
    assert one.saved == [1]


def test_a_skipped_step_leaves_no_trace_in_the_loss(run):
    one = run(log_every_n_steps=4)
    for loss in (1.0, math.nan, 3.0, math.nan):
        one.steps.not_finite._skips_step = math.isnan(loss)
        one.step(loss)
    assert [row["train/loss"] for _, row in one.rows] == [2.0]
    assert one.module.tokens_seen == 400 and not one.steps.not_finite.end_step()
    for _ in range(4):
        one.steps.not_finite._skips_step = True
        one.step(math.nan)
    assert "train/loss" not in one.rows[-1][1]  # all were skipped


def test_a_step_of_several_parts_ends_with_its_last(run):
    one = run()
    one.trainer.accumulate_grad_batches = 3
    batch = {"tokens_of_step": TOKENS, "targets_of_step": TOKENS}
    for loss in (10.0, 20.0, 70.0):
        assert not one.rows
        one.trainer.global_step = int(loss == 70.0)
        one.steps.on_train_batch_end(one.trainer, one.module, {"sum": torch.tensor(loss)}, batch, 0)
    assert [row["train/loss"] for _, row in one.rows] == [1.0]
    assert one.module.tokens_seen == TOKENS and one.steps.counters.micro_batches == 0


def test_an_exception_saves_the_last_whole_step_once(run, caplog):
    one = run(log_every_n_steps=50)
    one.step()
    with caplog.at_level(logging.WARNING, logger="multihead"):
        one.steps.on_exception(one.trainer, one.module, ValueError())
    assert one.saved == [1] and one.steps.counters.loss_sum.item() == TOKENS
    assert f"saved step 1 before leaving; go on with resume={one.steps.run_dir}" in caplog.text


@pytest.mark.parametrize(
    "reason", ["ours", "updating", "saved already", "no step", "not training", "nothing to go back to"]
)
def test_an_exception_saves_nothing_where_that_would_be_wrong_or_is_done(run, reason):
    one = run(log_every_n_steps=50)
    one.step()
    error = NumericsError("step 1", "nan") if reason == "ours" else ValueError()
    one.steps._is_updating = reason == "updating"
    one.steps.saving.step = 1 if reason == "saved already" else -1
    one.trainer.global_step = 0 if reason == "no step" else 1
    one.trainer.state.fn = "test" if reason == "not training" else "fit"
    if reason == "nothing to go back to":  # it came while the checkpoint was being restored
        one.steps.streams = Streams(0)
    one.steps.on_exception(one.trainer, one.module, error)
    assert not one.saved


def test_an_exception_within_an_update_saves_nothing(run):
    one = run(log_every_n_steps=50)
    one.step()
    one.steps.on_before_optimizer_step(one.trainer, one.module, None)
    one.steps.on_exception(one.trainer, one.module, ValueError())
    assert not one.saved
    one.step()
    one.steps.on_exception(one.trainer, one.module, ValueError())
    assert one.saved == [2]


def test_twenty_steps_in_a_row_without_a_finite_gradient_end_the_run(run, monkeypatch):
    def fail(trainer, module, what):
        raise NumericsError("step", what)

    one = run(on_nan="skip")
    one.trainer.precision_plugin = None
    monkeypatch.setattr(one.steps.not_finite, "_fail", fail)
    for norm in (*[math.nan] * 19, 1.0, *[math.inf] * 19):
        one.steps.on_gradient(one.trainer, one.module, torch.tensor(norm))
        one.step()
    assert one.steps.not_finite.counts == {"skipped": 38, "in_a_row": 19, "rewinds": 0, "rewound_to": ""}
    with pytest.raises(NumericsError, match="the gradient is not finite"):
        one.steps.on_gradient(one.trainer, one.module, torch.tensor(math.nan))


def test_an_exception_in_a_pending_validation_saves_that_step_again(run):
    one = run(log_every_n_steps=50)
    one.step()
    one.steps.saving.step, one.steps.validation.pending = 1, True
    one.steps.on_exception(one.trainer, one.module, ValueError())
    assert one.saved == [1]


def test_a_signal_during_the_test_leaves_at_once(run):
    one = run()
    one.steps.on_test_batch_end(one.trainer)
    one.steps.signals.received = 15
    for hook in (
        lambda: one.steps.on_test_batch_end(one.trainer),
        lambda: one.steps.on_test_start(one.trainer, one.module),
    ):
        with pytest.raises(Stopped, match="stopped by SIGTERM, saved step 0; go on with resume="):
            hook()
    assert one.events == [("stopped", {"step": 0, "signal": "SIGTERM"})] * 2


# ---- validation


def test_a_step_after_which_a_callback_ends_the_run_is_the_last(run):
    one = validating(run, [3.0], log_every_n_steps=50)
    one.step()
    one.trainer.should_stop = True
    one.step()
    assert [fields["step"] for name, fields in one.events if name == "validated"] == one.saved == [2]
    assert one.steps.validation.best["step"] == 2 and one.rows[0][0] == 2


def test_a_validation_leaves_everything_as_it_was(run):
    one = validating(run, [3.0], val_every_n_steps=1)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one.step()
    assert torch.equal(torch.rand(3), expected)
    assert one.trainer.training and one.trainer._logger_connector._first_loop_iter is True
    assert not one.steps.validation.pending


def test_the_best_validation_is_saved_and_remembered(run):
    one = validating(run, [3.0, 2.0, 2.5, 2.75, 1.0], val_every_n_steps=2)
    bad = []
    for step in range(1, 11):
        one.step()
        bad += [one.steps.validation.num_bad] if step % 2 == 0 else []
    assert bad == [0, 0, 1, 2, 0]
    assert one.saved == [2, 4, 10]
    assert one.steps.validation.best == {"step": 10, "monitor": "val/loss", "value": 1.0, "metrics": {"val/loss": 1.0}}
    told = [(name, fields) for name, fields in one.events if name.startswith("validat")]
    assert told[0] == ("validating", {"step": 2})
    assert told[1::2] == [
        ("validated", {"step": step, "val/loss": value, "best": best})
        for step, value, best in [(2, 3.0, True), (4, 2.0, True), (6, 2.5, False), (8, 2.75, False), (10, 1.0, True)]
    ]


@pytest.mark.parametrize(("patience", "last"), [(0, None), (1, 2), (2, 5)])
def test_a_run_ends_after_as_many_bad_validations_in_a_row_as_it_may_have(run, patience, last):
    values = [3.0, 4.0, 2.0, 2.5, 2.75, 2.875]
    one = validating(run, values, val_every_n_steps=1, early_stopping_patience=patience)
    for step in range(1, len(values) + 1):
        one.step()
        assert one.trainer.should_stop == (last is not None and step >= last)
    ended = [fields["step"] for name, fields in one.events if name == "early_stop"]
    assert ended == ([] if last is None else [last])


def test_early_stopping_logs_the_last_steps(run):
    one = validating(run, [3.0, 4.0], val_every_n_steps=3, early_stopping_patience=1, log_every_n_steps=4)
    for loss in (1.0, 1.0, 1.0, 1.0, 2.0, 4.0):
        one.step(loss)
    assert one.trainer.should_stop and [(step, row["train/loss"]) for step, row in one.rows] == [(4, 1.0), (6, 3.0)]
    assert one.steps.counters.loss_sum is None and one.saved[-1] == 6


def test_another_metric_of_a_resume_is_compared_with_its_own_best(tmp_path, monkeypatch):
    monkeypatch.setattr(module_of_validation, "damage", lambda path: "")
    best = {"step": 4, "monitor": "val/loss", "value": 2.0, "metrics": {"val/loss": 2.0, "val/bleu": 30.0}}
    own = {"best": best, "bad_validations": 3, "monitored": [(2, 3.0), (4, 2.0)]}
    for monitor, value, bad in (("val/loss", 2.0, 3), ("val/bleu", 30.0, 0), ("val/chrf", math.nan, 0)):
        task = SimpleNamespace(monitor=monitor, monitor_mode="max")
        found = module_of_validation.Validation(task, print, SimpleNamespace(own=own), tmp_path)
        assert (found.best["monitor"], found.num_bad, len(found.monitored)) == (monitor, bad, 2 * (bad > 0))
        assert found.best["step"] == 4 and str(found.best["value"]) == str(value)


@pytest.mark.parametrize(("values", "told"), [([1.0, 1.0, 1.0, 1.0], 1), ([1.0, 1.0, 2.0, 2.0], 0)])
def test_a_metric_that_has_not_moved_at_three_validations_is_said_once(run, caplog, values, told):
    one = validating(run, values, val_every_n_steps=1)
    with caplog.at_level(logging.WARNING, logger="multihead"):
        for number in range(len(values)):
            one.step()
            assert len(caplog.messages) == (told if number >= 2 else 0)


def test_a_signal_leaves_before_a_validation_which_is_then_pending(run):
    one = validating(run, [3.0], val_every_n_steps=1)
    one.steps.signals.received = 2
    with pytest.raises(Stopped):
        one.step()
    assert one.steps.validation.state()["pending_validation"]
    assert one.saved == [1] and [name for name, _ in one.events] == ["stopped"]


def test_a_signal_during_a_validation_that_ended_leaves_none_pending(run):
    one = validating(run, [3.0], val_every_n_steps=1)
    before = one.trainer.fit_loop.epoch_loop.val_loop.run

    def validation():
        before()
        one.steps.signals.received = 2

    one.trainer.fit_loop.epoch_loop.val_loop.run = validation
    with pytest.raises(Stopped):
        one.step()
    assert not one.steps.validation.pending and one.saved == [1]


def test_a_validation_that_an_error_ends_stays_pending(run):
    one = validating(run, [], val_every_n_steps=2)
    one.step()
    assert not one.steps.validation.pending
    with pytest.raises(StopIteration):
        one.step()
    assert one.steps.validation.pending
    one.steps.on_exception(one.trainer, one.module, StopIteration())
    assert one.saved == [2]


# ---- saving


def saving(run, **config):
    """A `Run` that writes real checkpoints, of one tensor."""
    one = run(checkpoint_every_n_steps=1, **config)
    del one.steps.saving.save
    state = {"global_step": 1, "state_dict": {"weight": torch.zeros(2)}}
    one.trainer.save_checkpoint = lambda path: FolderCheckpointIO().save_checkpoint(state, path)
    return one


def test_the_newest_and_the_best_checkpoint_are_kept(run):
    one = saving(run, keep_checkpoints=2)
    for step in range(1, 7):
        if step == 2:
            one.steps.validation.best = {"step": 2, "value": 1.0}
        one.step()
    folder = one.steps.run_dir / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.json", "latest.json", "step_2", "step_5", "step_6"]
    assert json.loads((folder / "latest.json").read_text()) == {"step": 6, "name": "step_6"}
    assert json.loads((folder / "best.json").read_text()) == {"step": 2, "value": 1.0}
    assert one.steps.saving.step == 6
    assert [event for event in one.events if event[1]["step"] == 6] == [("saving", {"step": 6}), ("saved", {"step": 6})]


def test_what_cannot_be_deleted_is_said_once(run, monkeypatch, caplog):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    one = saving(run, keep_checkpoints=1)
    monkeypatch.setattr(module_of_saving.shutil, "rmtree", refuse)
    with caplog.at_level(logging.WARNING, logger="multihead"):
        for _ in range(4):
            one.trainer.global_step += 1
            one.steps.saving._delete_old({})
            path = one.steps.run_dir / "checkpoints" / f"step_{one.trainer.global_step}"
            path.mkdir(parents=True)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 1 and "step_1 (Permission denied)" in told[0]


def test_a_checkpoint_that_is_damaged_right_away_ends_the_run(run):
    one = saving(run)
    write = one.trainer.save_checkpoint

    def damaged(path):
        write(path)
        (path / "state.json").write_text("{}")

    one.trainer.save_checkpoint = damaged
    with pytest.raises(MachineError, match="was just written, but is damaged"):
        one.step()
    assert not (one.steps.run_dir / "checkpoints" / "latest.json").exists()
