"""A `Steps` without a training: with a trainer that does nothing, a task that counts, and a clock that stands still."""

from types import SimpleNamespace

import lightning as L
import torch

from multihead.config.training import TrainerConfig
from multihead.runs.checkpoint import random_state
from multihead.tasks import base
from multihead.training.steps import Steps

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
    task = property(lambda self: self)  # it is Lightning's module at once

    def __init__(self, rows):
        super().__init__()
        self.tokens_seen, self.recorded = 0, {}
        self.record = lambda row, step: rows.append((step, row))

    count_tokens, count_on = base.Task.count_tokens, base.Task.count_on


class Run:
    """A `Steps` with a trainer and a task beside it, which count; ``step`` does one optimizer step."""

    norm = 1.0  # of the gradient of a step

    def __init__(self, folder, clock, start=None, **config):
        self.events, self.rows, self.saved, self.validations = [], [], [], []
        self.clock = clock
        plan = SimpleNamespace(num_steps=lambda epoch: STEPS_OF_AN_EPOCH)
        data = SimpleNamespace(plan=plan, seed=0, position=(0, 0), set_position=lambda epoch, step: None)
        every = {"val_every_n_steps": 100, "checkpoint_every_n_steps": 100, "log_every_n_steps": 1}
        self.config = SimpleNamespace(
            trainer=TrainerConfig(**{**every, **config}), task=SimpleNamespace(monitor="val/loss", monitor_mode="min")
        )
        self.steps = Steps(
            folder,
            data,
            self.config,
            start=start,
            events=lambda name, **fields: self.events.append((name, fields)),
        )
        self.module = Task(self.rows)
        self.trainer = self._trainer()
        self.steps.counters.begin_step()
        self.steps.validation.run = self._validate
        self.steps.saving.save = self._save
        self.steps._mark_boundary()

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

    def _save(self, trainer, best):
        self.saved.append(trainer.global_step)

    def _validate(self, trainer, module):
        self.validations.append(trainer.global_step)
        self.clock.now += 50
        self.steps.validation.pending = False
        return False

    def step(self, loss=1.0, seconds=2.0):
        """One step of 100 target tokens, whose loss is a mean over them."""
        self.clock.now += seconds
        self.steps.telemetry.on_gradient(self.trainer, torch.tensor(self.norm), self.config.trainer.log_every_n_steps)
        self.trainer.global_step += 1
        batch = {"tokens_of_step": TOKENS, "targets_of_step": TOKENS}
        self.steps.on_train_batch_end(self.trainer, self.module, {"sum": torch.tensor(loss * TOKENS)}, batch, 0)


def validating(run, values, **config):
    """A `Run` whose validations find these values, one after the other."""
    one = run(**config)
    del one.steps.validation.run
    left = iter(values)

    def validation():
        assert one.trainer.validating and one.steps.validation.pending
        torch.rand(3)
        one.trainer._logger_connector._first_loop_iter = None
        one.module.recorded |= {"val/loss": next(left), "train/loss": 9.0}
        one.trainer.callback_metrics = {"val/loss": torch.tensor(one.module.recorded["val/loss"])}

    one.trainer.fit_loop = SimpleNamespace(epoch_loop=SimpleNamespace(val_loop=SimpleNamespace(run=validation)))
    one.trainer._logger_connector = SimpleNamespace(_first_loop_iter=True)
    one.trainer.training = one.trainer.validating = False
    return one


class Other(L.Callback):
    """A callback that keeps a number in checkpoints."""

    state_key = "other"

    def on_load_checkpoint(self, trainer, pl_module, checkpoint):
        self.told = trainer, pl_module, checkpoint

    def load_state_dict(self, state_dict):
        self.kept = state_dict


class Scaler:
    """A precision with a state."""

    def load_state_dict(self, state):
        self.state = state


def learning(one, width=3, lr=0.5, weight_decay=0.0):
    """Gives a `Run` a task with weights, an optimizer and a schedule, and what else a trainer has when it starts."""
    one.module.linear = torch.nn.Linear(width, 1)
    optimizer = torch.optim.AdamW(one.module.parameters(), lr=lr, weight_decay=weight_decay)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1 / (1 + step))
    counters = [SimpleNamespace(ready=0, started=0, processed=0, completed=0) for _ in range(2)]
    steps_done = SimpleNamespace(optimizer=SimpleNamespace(step=SimpleNamespace(total=counters[0])))
    one.loop = SimpleNamespace(
        automatic_optimization=SimpleNamespace(optim_progress=steps_done),
        batch_progress=SimpleNamespace(total=counters[1]),
    )
    one.counters, one.other = counters, Other()
    changes = {
        "optimizers": [optimizer],
        "lr_scheduler_configs": [SimpleNamespace(scheduler=schedule)],
        "lightning_module": one.module,
        "callbacks": [one.steps, one.other],
        "fit_loop": SimpleNamespace(epoch_loop=one.loop),
        "precision_plugin": Scaler(),
        "global_rank": 0,
        "accumulate_grad_batches": 2,
    }
    vars(one.trainer).update(changes)
    return optimizer, schedule


def saved_state(one, optimizer, schedule, **own):
    """A checkpoint after three steps."""
    for _ in range(3):
        one.module.linear(torch.ones(2, one.module.linear.in_features)).sum().backward()
        optimizer.step()
        schedule.step()
    before = {"step": 3, "position": [0, 3], "tokens_seen": 300, "seconds": 9.0, "best": {}, "bad_validations": 2}
    before |= {"recorded": {"val/loss": 3.0}, "targets": 200, "not_finite": {"skipped": 1}, "pending_validation": False}
    return {
        "state_dict": one.module.state_dict(),
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [schedule.state_dict()],
        "callbacks": {"other": {"number": 7}},
        "Scaler": {"scale": 4.0},
        "multihead": before | {"ranks": [{"random": random_state(), "sum": torch.tensor(500.0)}]} | own,
    }
