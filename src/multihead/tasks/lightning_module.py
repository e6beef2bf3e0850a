"""A task as Lightning trains and validates it. Prediction and ``evaluate`` do without this module."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import lightning as L
import torch
import torch.distributed
from torch import Tensor
from torch.optim import Optimizer

from multihead.config.slots import from_plugin
from multihead.errors import side_output
from multihead.model.losses import added_losses
from multihead.model.sharded import gathered
from multihead.plugin import Plugin
from multihead.tasks.base import Task


class TaskCallback(L.Callback):
    """A callback that is also called at two moments for which Lightning has no hook.

    `TaskModule` looks for them among its trainer's callbacks.
    """

    def on_gradient(self, trainer: L.Trainer, pl_module: TaskModule, norm: Tensor) -> None:
        """Called on every rank with the norm [] of a step's gradient, before it is clipped and used."""

    def on_samples(self, trainer: L.Trainer, pl_module: TaskModule, split: str) -> None:
        """Called on every rank when ``pl_module.task.samples`` holds the samples of a whole split."""


class TaskModule(L.LightningModule):
    """Lightning's hooks around a task. Its weights have the same names as those of the task.

    Args:
        task: The task that is trained.
        plugin: The user's plugin, which may bring its own losses, optimizer and schedule.
    """

    def __init__(self, task: Task, plugin: Plugin | None = None):
        super().__init__()
        self.task = task
        self.plugin = plugin

    # ---- checkpoints hold the weights by their names in the task

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        return self.task.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        return self.task.load_state_dict(state_dict, strict, assign)

    # ---- training

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        member = self.task.members()[batch.get("task", self.task.settings.name)]
        loss = from_plugin(self.task.config, self.plugin, "losses", member.settings)
        with added_losses() as added:
            if loss is None:
                step = self.task.training_step(batch, batch_idx)
            else:
                step = self.task.step_by(loss, member, batch)
        return step | {"loss": step["loss"] + torch.stack(added).sum()} if added else step

    def configure_optimizers(self) -> Any:
        return self.task.configure_optimizers(self.plugin)

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = gathered(torch.nn.utils.get_total_norm([p.grad for p in parameters]))
        for callback in self._listeners():
            callback.on_gradient(self.trainer, self, norm)
        if gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    # ---- validation and test

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.task.evaluate_batch(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.task.evaluate_batch(batch, "test")

    def on_validation_epoch_start(self) -> None:
        self.task.forget_samples()

    def on_test_epoch_start(self) -> None:
        self.task.forget_samples()

    def on_validation_epoch_end(self) -> None:
        self._record("val")

    def on_test_epoch_end(self) -> None:
        self._record("test")

    def _record(self, split: str) -> None:
        metrics = {f"{split}/{name}": value for name, value in self.task.metrics_of(split).items()}
        self.record({**metrics, "tokens": self.task.tokens_seen}, self.trainer.global_step)
        self._finish_samples(split)

    def record(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs plain numbers against optimizer steps, to every logger and to ``trainer.callback_metrics``."""
        self.task.recorded.update(metrics)
        self.trainer.callback_metrics.update({k: torch.tensor(float(v)) for k, v in metrics.items()})
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(metrics), step)

    def _finish_samples(self, split: str) -> None:
        """Gathers the samples of all ranks, in order, and calls `TaskCallback.on_samples`."""
        if self.trainer.world_size > 1:
            of_ranks: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(of_ranks, self.task.samples)
            self.task.samples = [sample for samples in of_ranks for sample in samples]
        with side_output("the order of the samples"):
            self.task.samples = self.task.merged_samples(self.task.samples)
        for callback in self._listeners():
            callback.on_samples(self.trainer, self, split)

    def _listeners(self) -> Iterator[TaskCallback]:
        callbacks = self.trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue]  # set by a connector
        return (callback for callback in callbacks if isinstance(callback, TaskCallback))
