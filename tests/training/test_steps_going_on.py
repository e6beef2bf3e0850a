"""How a run goes on from a checkpoint, state by state; and what ranks tell each other."""

import pytest
import torch
from steps_alone import learning, saved_state

from multihead.errors import CheckpointError
from multihead.runs.checkpoint import Start, random_state
from multihead.training import validation as module_of_validation
from multihead.training.averaging import MovingAverage
from multihead.training.restore import loss_of_rank
from multihead.training.streams import Streams


@pytest.mark.parametrize(
    ("rank", "world", "expected"),
    [(0, 2, 1.0), (1, 2, 10.0), (0, 1, 11.0), (0, 3, 11.0), (1, 3, None), (2, 3, None)],
    ids=["same ranks, first", "same ranks, second", "fewer", "more, first", "more, second", "more, third"],
)
def test_ranks_share_out_the_loss_so_far(rank, world, expected):
    states = [{"sum": torch.tensor(1.0)}, {"sum": torch.tensor(10.0)}]
    found = loss_of_rank(states, rank, world)
    assert (found if expected is None else found.item()) == expected
    assert states[0]["sum"].item() == 1.0
    assert loss_of_rank([{"sum": None}, {"sum": None}], 0, world) is None


@pytest.mark.parametrize("rank", [0, 1, 2])
def test_a_rank_that_was_not_there_draws_from_new_streams(rank):
    streams = Streams(seed=5)
    streams.resume([{"random": "first"}, {"random": "second"}], rank, step=7)
    if rank < 2:
        assert streams.state() == ["first", "second"][rank]
        return
    drawn = torch.rand(3)
    torch.manual_seed(5 + 1_000_003 * 2 + 7)
    assert torch.equal(drawn, torch.rand(3))


def test_random_streams_are_put_back_once_before_the_first_step(run):
    one = run()
    batch = {"epoch": 0, "step_in_epoch": 0}
    one.steps.streams.resume([{"random": random_state()}], 0, step=7)
    expected = torch.rand(3)
    torch.rand(5)
    one.steps.on_train_batch_start(one.trainer, one.module, batch, 0)
    assert torch.equal(torch.rand(3), expected)
    one.steps.on_train_batch_start(one.trainer, one.module, batch, 0)
    assert not torch.equal(torch.rand(3), expected)


def test_a_batch_of_another_step_is_a_defect(run):
    one = run()
    with pytest.raises(RuntimeError, match=r"step 0 needs the batch at \(0, 0\) of the data, got the one at \(0, 1\)"):
        one.steps.on_train_batch_start(one.trainer, one.module, {"epoch": 0, "step_in_epoch": 1}, 0)
    assert not one.steps.counters.add_micro_batch(torch.tensor(1.0), 2)  # a later micro-batch is of the same step
    one.steps.on_train_batch_start(one.trainer, one.module, {"epoch": 0, "step_in_epoch": 1}, 0)


def going_on(run, state, width=3, **config):
    """A `Run` that has started from this state, with another learning rate and decay."""
    one = run(start=Start(name="step_3", state=state), **config)
    own = learning(one, width=width, lr=2.0, weight_decay=0.25)
    one.trainer.global_step = 3
    one.steps.on_train_start(one.trainer, one.module)
    return one, *own


def test_every_state_comes_back_and_rates_are_those_of_the_configuration(run):
    first = run()
    optimizer, schedule = learning(first)
    state = saved_state(first, optimizer, schedule)
    second, restored, rates = going_on(run, state)
    assert torch.equal(second.module.linear.weight, first.module.linear.weight)
    moments = [o.state_dict()["state"][0]["exp_avg"] for o in (optimizer, restored)]
    assert torch.equal(*moments)
    assert restored.param_groups[0]["weight_decay"] == 0.25
    assert restored.param_groups[0]["lr"] == rates.get_last_lr()[0] == 2.0 / 4
    assert rates.base_lrs == [2.0] and rates.last_epoch == 3
    assert second.other.told == (second.trainer, second.module, state) and second.other.kept == {"number": 7}
    assert second.trainer.precision_plugin.state == {"scale": 4.0}
    assert second.counters[0].ready == second.counters[0].completed == second.loop._batches_that_stepped == 3
    assert vars(second.counters[1]) == dict.fromkeys(("ready", "started", "processed", "completed"), 6)
    steps = second.steps
    assert (steps.saving.step, steps.validation.num_bad, steps.counters.targets) == (3, 2, 200)
    assert second.module.tokens_seen == 300
    assert second.module.recorded == {"val/loss": 3.0} and steps.not_finite.counts == {"skipped": 1}
    assert steps.counters.loss_sum.item() == 500.0 and steps.streams.state() is state["multihead"]["ranks"][0]["random"]
    steps.counters.add_micro_batch(torch.tensor(1.0), 2)
    steps.counters.go_back()
    assert steps.counters.loss_sum.item() == 500.0
    assert [name for name, _ in second.events] == ["resumed", "started"] and not second.validations
    assert second.loop._should_check_val_fx(None) is False  # we validate
    assert restored._optimizer_step_post_hooks  # of the telemetry


def test_a_precision_without_a_saved_state_is_left_alone(run):
    first = run()
    state = saved_state(first, *learning(first))
    del state["Scaler"]
    second, *_ = going_on(run, state)
    assert not hasattr(second.trainer.precision_plugin, "state")


def test_a_callback_without_a_state_of_its_own_reads_the_checkpoint(run):
    """It may have written into the checkpoint by `on_save_checkpoint`."""
    first = run()
    state = saved_state(first, *learning(first)) | {"callbacks": {}, "mine": 7}
    second, *_ = going_on(run, state)
    assert second.other.told[2]["mine"] == 7 and not hasattr(second.other, "kept")


def test_an_average_does_not_read_one_of_another_kind(run):
    first = run()
    state = saved_state(first, *learning(first))
    state |= {"averaging_state": {"n_averaged": torch.tensor(3)}, "current_model_state": state["state_dict"]}
    one = run(start=Start(name="step_3", state=state))
    learning(one)
    average = MovingAverage(0.5)
    one.trainer.callbacks.append(average)
    one.trainer.global_step = 3
    one.steps.on_train_start(one.trainer, one.module)
    assert average.num_averaged == 0


def test_a_checkpoint_of_another_shape_is_refused(run):
    first = run()
    state = saved_state(first, *learning(first))
    with pytest.raises(CheckpointError, match=r"step_3: does not fit the configuration .*size mismatch"):
        going_on(run, state, width=4)


def test_a_pending_validation_comes_first_and_its_step_is_saved_again(run):
    first = run()
    second, *_ = going_on(run, saved_state(first, *learning(first), pending_validation=True))
    assert second.validations == second.saved == [3]


@pytest.mark.parametrize(
    ("config", "own", "validated"),
    [
        ({"max_time": "00:00:00:00"}, {}, [3]),  # a run that was stopped before its first validation
        ({"max_time": "00:00:00:00"}, {"best": {"step": 2}, "monitored": [[2, 1.0]]}, [3]),
        ({"max_time": "00:00:00:00"}, {"best": {"step": 3}, "monitored": [[3, 1.0]]}, []),
        ({"max_time": "00:00:00:00"}, {"monitored": [[3, 1.0]]}, [3]),  # the best checkpoint is damaged
        ({"max_steps": 3}, {"best": {"step": 2}, "monitored": [[2, 1.0]]}, [3]),
        ({"early_stopping_patience": 2}, {"best": {"step": 1}, "monitored": [[3, 1.0]]}, []),
        ({}, {"best": {"step": 2}, "monitored": [[2, 1.0]]}, []),
    ],
)
def test_the_last_step_is_validated_if_none_is_left_to_train(run, monkeypatch, config, own, validated):
    monkeypatch.setattr(module_of_validation, "damage", lambda path: "")
    first = run()
    own = {"monitored": [], "bad_validations": 2} | {**own, "best": {**own.get("best", {}), "monitor": "val/loss"}}
    own["best"] = own["best"] if "step" in own["best"] else {}
    second, *_ = going_on(run, saved_state(first, *learning(first), **own), **config)
    assert second.validations == second.saved == validated


# ---- ranks


@pytest.mark.parametrize(("received", "others", "expected"), [(0, 0, 0), (15, 0, 15), (0, 2, 2), (15, 15, 15)])
def test_a_signal_to_any_rank_is_one_to_all(run, monkeypatch, received, others, expected):
    def all_reduce(tensor, op=torch.distributed.ReduceOp.SUM, group=None):
        assert group == "gloo"  # from host to host
        both = tensor.item(), others
        tensor.fill_(max(both) if op == torch.distributed.ReduceOp.MAX else sum(both))

    monkeypatch.setattr(torch.distributed, "new_group", lambda backend: backend)
    monkeypatch.setattr(torch.distributed, "all_reduce", all_reduce)
    one = run()
    one.trainer.world_size, one.steps.signals.received = 2, received
    assert one.steps.signals.reached_any_rank(one.trainer) is bool(expected)
    assert one.steps.signals.agreed == expected


def test_the_loss_is_the_mean_over_all_ranks(run, monkeypatch):
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda tensor: tensor.add_(300.0))
    one = run()
    one.trainer.world_size, one.steps.counters.targets, one.steps.counters.loss_sum = 2, 200, torch.tensor(100.0)
    assert one.steps.not_finite.check_loss(one.trainer, one.module) == 2.0
