"""Every private name of Lightning that Multihead uses, as they are in Lightning 2.6.6.

A resumed run does not use Lightning's own restart logic. It begins a fresh loop, and `set_counters` makes that loop
count on. `tests/test_private_names.py` fails first if Lightning changes one of these names.
"""

from __future__ import annotations

import lightning as L
from lightning.pytorch.profilers import Profiler


def leave_validation_to_us(trainer: L.Trainer) -> None:
    """Keeps Lightning from validating by itself: replaces ``_TrainingEpochLoop._should_check_val_fx`` (2.6.6)."""
    trainer.fit_loop.epoch_loop._should_check_val_fx = lambda data_fetcher: False


def set_counters(trainer: L.Trainer, step: int) -> None:
    """Sets Lightning's counters as if it had run ``step`` optimizer steps without a break.

    Writes ``_TrainingEpochLoop._batches_that_stepped`` and the totals of its two progress trackers (2.6.6).
    """
    loop = trainer.fit_loop.epoch_loop
    steps = loop.automatic_optimization.optim_progress.optimizer.step.total
    steps.ready = steps.completed = step
    loop._batches_that_stepped = step
    for name in ("ready", "started", "processed", "completed"):
        setattr(loop.batch_progress.total, name, step * trainer.accumulate_grad_batches)


def run_validation(trainer: L.Trainer) -> None:
    """Runs Lightning's validation loop once, in the midst of training.

    Keeps ``_LoggerConnector._first_loop_iter``, which the loop of validation would set to None (2.6.6).
    """
    first_batch = trainer._logger_connector._first_loop_iter
    trainer.validating = True
    trainer.fit_loop.epoch_loop.val_loop.run()
    trainer.training = True
    trainer._logger_connector._first_loop_iter = first_batch


def trainer_of(profiler: Profiler) -> L.Trainer:
    """The trainer that a profiler belongs to: reads ``_lightning_module``, which the trainer sets on it (2.6.6)."""
    return getattr(profiler, "_lightning_module").trainer  # noqa: B009  the base class does not declare it


def callbacks_of(trainer: L.Trainer) -> list[L.Callback]:
    """The trainer's callbacks: reads ``Trainer.callbacks``, which is public but which its class does not declare."""
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]


def profiler_of(trainer: L.Trainer) -> Profiler:
    """The trainer's profiler: reads ``Trainer.profiler``, which is public but which its class does not declare."""
    return trainer.profiler  # pyright: ignore[reportAttributeAccessIssue]
