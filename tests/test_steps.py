"""What happens between two steps, with a trainer that does nothing and a clock that stands still."""

import json
import logging
import math
from types import SimpleNamespace

import pytest
import torch

from multihead import steps as module_of_steps
from multihead.checkpoint import FolderCheckpointIO, random_state
from multihead.config.training import TrainerConfig
from multihead.errors import MachineError, NumericsError
from multihead.steps import Boundary, Start, Steps

STEPS_OF_AN_EPOCH = 4
TOKENS = 100


class Clock:
    """Stands in for the module `time`."""

    now = 1000.0

    def monotonic(self):
        return self.now


class Task(torch.nn.Module):
    """What `Steps` needs of a task; ``rows`` gets what is logged."""

    device = torch.device("cpu")

    def __init__(self, rows):
        super().__init__()
        self.tokens_seen, self.recorded = 0, {}
        self.record = lambda row, step: rows.append((step, row))


class Run:
    """A `Steps` with a trainer and a task beside it, which count; ``step`` does one optimizer step."""

    def __init__(self, folder, clock, start=None, **config):
        self.events, self.rows, self.saved, self.validations = [], [], [], []
        self.clock = clock
        plan = SimpleNamespace(num_steps=lambda epoch: STEPS_OF_AN_EPOCH)
        data = SimpleNamespace(plan=plan, seed=0, position=(0, 0), set_position=lambda epoch, step: None)
        every = {"val_every_n_steps": 100, "checkpoint_every_n_steps": 100, "log_every_n_steps": 1}
        self.steps = Steps(
            folder,
            data,
            TrainerConfig(**{**every, **config}),
            ("val/loss", "min"),
            start=start,
            events=lambda name, **fields: self.events.append((name, fields)),
        )
        self.module = Task(self.rows)
        self.trainer = self._trainer()
        self.steps.mark = clock.now
        self.steps._validate = self._validate
        self.steps._save = lambda trainer: self.saved.append(trainer.global_step)
        self.steps._set_boundary()

    def _trainer(self):
        weight = torch.zeros(1)
        groups = [
            {"params": [weight], "lr": lr, "kind": kind} for lr, kind in ((0.1, "adamw"), (0.3, "adamw"), (2.0, "muon"))
        ]
        return SimpleNamespace(
            global_step=0,
            world_size=1,
            is_global_zero=True,
            accumulate_grad_batches=1,
            should_stop=False,
            optimizers=[SimpleNamespace(param_groups=groups)],
            callbacks=[],
            state=SimpleNamespace(fn="fit"),
            strategy=SimpleNamespace(root_device=torch.device("cpu")),
        )

    def _validate(self, trainer, module):
        self.validations.append(trainer.global_step)
        self.clock.now += 50
        return False

    def step(self, loss=1.0, seconds=2.0):
        """One step of 100 target tokens, whose loss is a mean over them."""
        self.clock.now += seconds
        self.trainer.global_step += 1
        batch = {"tokens_of_step": TOKENS, "targets_of_step": TOKENS}
        self.steps.on_train_batch_end(self.trainer, self.module, {"sum": torch.tensor(loss * TOKENS)}, batch, 0)


@pytest.fixture
def clock(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(module_of_steps, "time", clock)
    return clock


@pytest.fixture
def run(tmp_path, clock):
    return lambda **config: Run(tmp_path, clock, **config)


def test_seconds_are_those_of_all_parts_of_a_run(run, clock):
    one = run()
    clock.now += 7
    assert one.steps.seconds == 7.0
    own = {"step": 3, "seconds": 30.0, "position": (0, 3)}
    resumed = run(start=Start(name="step_3", state={"multihead": own}))
    clock.now += 5
    assert resumed.steps.seconds == 35.0


def test_speed_leaves_validation_out(run):
    one = run(val_every_n_steps=2)
    for _ in range(5):
        one.step(seconds=2.0)
    assert one.validations == [2, 4]
    assert one.steps.tokens_per_second == TOKENS / 2.0
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


def test_a_step_of_several_parts_ends_with_its_last(run):
    one = run()
    one.trainer.accumulate_grad_batches = 3
    batch = {"tokens_of_step": TOKENS, "targets_of_step": TOKENS}
    for loss in (10.0, 20.0, 70.0):
        assert not one.rows
        one.trainer.global_step = int(loss == 70.0)
        one.steps.on_train_batch_end(one.trainer, one.module, {"sum": torch.tensor(loss)}, batch, 0)
    assert [row["train/loss"] for _, row in one.rows] == [1.0]
    assert one.module.tokens_seen == TOKENS and one.steps.micro_batches == 0


def test_an_exception_saves_the_last_whole_step_once(run, caplog):
    one = run(log_every_n_steps=50)
    one.step()
    with caplog.at_level(logging.WARNING, logger="multihead"):
        one.steps.on_exception(one.trainer, one.module, ValueError())
    assert one.saved == [1] and one.steps.sum.item() == TOKENS
    assert f"saved step 1 before leaving; go on with resume={one.steps.run_dir}" in caplog.text


@pytest.mark.parametrize(
    "reason", ["ours", "updating", "saved already", "no step", "not training", "nothing to go back to"]
)
def test_an_exception_saves_nothing_where_that_would_be_wrong_or_is_done(run, reason):
    one = run(log_every_n_steps=50)
    one.step()
    error = NumericsError("step 1", "nan") if reason == "ours" else ValueError()
    one.steps.updating = reason == "updating"
    one.steps.saved = 1 if reason == "saved already" else -1
    one.trainer.global_step = 0 if reason == "no step" else 1
    one.trainer.state.fn = "test" if reason == "not training" else "fit"
    if reason == "nothing to go back to":  # it came while the checkpoint was being restored
        one.steps.boundary = Boundary()
    one.steps.on_exception(one.trainer, one.module, error)
    assert not one.saved


def test_an_exception_in_a_pending_validation_saves_that_step_again(run):
    one = run(log_every_n_steps=50)
    one.step()
    one.steps.saved, one.steps.pending_validation = 1, True
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
        with pytest.raises(module_of_steps.Stopped, match="stopped by SIGTERM, saved step 0; go on with resume="):
            hook()
    assert one.events == [("stopped", {"step": 0, "signal": "SIGTERM"})] * 2


# ---- validation


def validating(run, values, **config):
    """A `Run` whose validations find these values, one after the other."""
    one = run(**config)
    del one.steps._validate
    left = iter(values)

    def validation():
        assert one.trainer.validating and one.steps.pending_validation
        torch.rand(3)
        one.trainer._logger_connector._first_loop_iter = None
        one.module.recorded |= {"val/loss": next(left), "train/loss": 9.0}
        one.trainer.callback_metrics = {"val/loss": torch.tensor(one.module.recorded["val/loss"])}

    one.trainer.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(val_loop=SimpleNamespace(run=validation)))
    one.trainer._logger_connector = SimpleNamespace(_first_loop_iter=True)
    one.trainer.training = one.trainer.validating = False
    return one


def test_a_validation_leaves_everything_as_it_was(run):
    one = validating(run, [3.0], val_every_n_steps=1)
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    one.step()
    assert torch.equal(torch.rand(3), expected)
    assert one.trainer.training and one.trainer._logger_connector._first_loop_iter is True
    assert not one.steps.pending_validation and one.steps.validated == 1


def test_the_best_validation_is_saved_and_remembered(run):
    one = validating(run, [3.0, 2.0, 2.5, 2.75, 1.0], val_every_n_steps=2)
    bad = []
    for step in range(1, 11):
        one.step()
        bad += [one.steps.bad_validations] if step % 2 == 0 else []
    assert bad == [0, 0, 1, 2, 0]
    assert one.saved == [2, 4, 10]
    assert one.steps.best == {"step": 10, "monitor": "val/loss", "value": 1.0, "metrics": {"val/loss": 1.0}}
    told = [(name, fields) for name, fields in one.events if name.startswith("validat")]
    assert told[0] == ("validating", {"step": 2})
    assert told[1::2] == [
        ("validated", {"step": step, "val/loss": value, "best": best})
        for step, value, best in [(2, 3.0, True), (4, 2.0, True), (6, 2.5, False), (8, 2.75, False), (10, 1.0, True)]
    ]


def test_a_signal_leaves_before_a_validation_which_is_then_pending(run):
    one = validating(run, [3.0], val_every_n_steps=1)
    one.steps.signals.received = 2
    with pytest.raises(module_of_steps.Stopped):
        one.step()
    assert one.steps.pending_validation and one.steps.validated == -1
    assert one.saved == [1] and [name for name, _ in one.events] == ["stopped"]


def test_a_signal_during_a_validation_that_ended_leaves_none_pending(run):
    one = validating(run, [3.0], val_every_n_steps=1)
    before = one.trainer.fit_loop.epoch_loop.val_loop.run

    def validation():
        before()
        one.steps.signals.received = 2

    one.trainer.fit_loop.epoch_loop.val_loop.run = validation
    with pytest.raises(module_of_steps.Stopped):
        one.step()
    assert not one.steps.pending_validation and one.saved == [1]


# ---- saving


def saving(run, **config):
    """A `Run` that writes real checkpoints, of one tensor."""
    one = run(checkpoint_every_n_steps=1, **config)
    del one.steps._save
    state = {"global_step": 1, "state_dict": {"weight": torch.zeros(2)}}
    one.trainer.save_checkpoint = lambda path: FolderCheckpointIO().save_checkpoint(state, path)
    return one


def test_the_newest_and_the_best_checkpoint_are_kept(run):
    one = saving(run, keep_checkpoints=2)
    for step in range(1, 7):
        if step == 2:
            one.steps.best = {"step": 2, "value": 1.0}
        one.step()
    folder = one.steps.run_dir / "checkpoints"
    assert sorted(path.name for path in folder.iterdir()) == ["best.json", "latest.json", "step_2", "step_5", "step_6"]
    assert json.loads((folder / "latest.json").read_text()) == {"step": 6, "name": "step_6"}
    assert json.loads((folder / "best.json").read_text()) == {"step": 2, "value": 1.0}
    assert one.steps.saved == 6
    assert [event for event in one.events if event[1]["step"] == 6] == [("saving", {"step": 6}), ("saved", {"step": 6})]


def test_what_cannot_be_deleted_is_said_once(run, monkeypatch, caplog):
    def refuse(path):
        raise PermissionError(13, "Permission denied")

    one = saving(run, keep_checkpoints=1)
    monkeypatch.setattr(module_of_steps.shutil, "rmtree", refuse)
    with caplog.at_level(logging.WARNING, logger="multihead"):
        for _ in range(4):
            one.steps.best = {}
            one.trainer.global_step += 1
            one.steps._forget()
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
    with pytest.raises(MachineError, match="right after it was written"):
        one.step()
    assert not (one.steps.run_dir / "checkpoints" / "latest.json").exists()


# ---- going on


@pytest.mark.parametrize(
    ("rank", "world", "expected"),
    [(0, 2, 1.0), (1, 2, 10.0), (0, 1, 11.0), (0, 3, 11.0), (1, 3, None), (2, 3, None)],
    ids=["same ranks, first", "same ranks, second", "fewer", "more, first", "more, second", "more, third"],
)
def test_ranks_share_out_the_loss_so_far(run, rank, world, expected):
    one = run()
    one.trainer.global_rank, one.trainer.world_size, one.trainer.is_global_zero = rank, world, rank == 0
    states = [{"random": "first", "sum": torch.tensor(1.0)}, {"random": "second", "sum": torch.tensor(10.0)}]
    one.steps.data.seed, one.steps.first_step = 5, 7
    one.steps._restore_rank(one.trainer, states)
    assert (one.steps.sum if expected is None else one.steps.sum.item()) == expected
    assert one.steps.restore_random == (["first", "second", None][rank])
    if rank == 2:  # was not there
        drawn = torch.rand(3)
        torch.manual_seed(5 + 1_000_003 * 2 + 7)
        assert torch.equal(drawn, torch.rand(3))


def test_random_streams_are_put_back_once_before_the_first_step(run):
    one = run()
    batch = {"epoch": 0, "step_in_epoch": 0}
    one.steps.restore_random = random_state()
    expected = torch.rand(3)
    torch.rand(5)
    one.steps.on_train_batch_start(one.trainer, one.module, batch, 0)
    assert torch.equal(torch.rand(3), expected) and one.steps.restore_random is None
    one.steps.on_train_batch_start(one.trainer, one.module, batch, 0)
    assert not torch.equal(torch.rand(3), expected)


def test_a_batch_of_another_step_is_a_defect(run):
    one = run()
    with pytest.raises(RuntimeError, match=r"step 0 is at \(0, 0\) of the data, and its batch is of \(0, 1\)"):
        one.steps.on_train_batch_start(one.trainer, one.module, {"epoch": 0, "step_in_epoch": 1}, 0)
    one.steps.micro_batches = 1  # a later part of the step has been looked at with the first
    one.steps.on_train_batch_start(one.trainer, one.module, {"epoch": 0, "step_in_epoch": 1}, 0)
