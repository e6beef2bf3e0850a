"""Averaged weights: an exponential moving average, or the equal average of the last steps.

Only the trained weights are copied; an average needs nothing else of a task. Averages are kept in float32 or better.
An average in bfloat16 would stand still, because a step of a slow average is smaller than the distance between two
bfloat16 numbers.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from typing import Any

import lightning as L
import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim.swa_utils import get_ema_multi_avg_fn, get_swa_multi_avg_fn

from multihead import torch_private
from multihead.config.training import TrainerConfig
from multihead.model.sharded import parted
from multihead.tasks.lightning_module import TaskModule
from multihead.training import lightning_private

log = logging.getLogger("multihead")

MOST_OF_FIRST = 0.2
"""Share of the weights after the first step in an exponential average from which a warning is logged."""


class Averaging(L.Callback):
    """Averages the weights. Once a step was sampled, validation and the exported model use the averaged weights.

    A checkpoint holds the average as ``state_dict``, the weights that training goes on with as
    ``current_model_state``, and the number of sampled steps as ``averaging_state``.

    Args:
        update: Moves averages towards weights; it gets averages, weights, and the number of steps sampled before.
    """

    def __init__(self, update: Callable[[list[Tensor], list[Tensor], int], None]):
        self.update = update
        self.num_averaged = 0
        self.latest_step = 0
        self.averages: list[Tensor] = []
        """The average of each trained parameter, in their order; it is sharded as the parameter is."""
        self.current: list[Tensor] = []
        """The weights that training goes on with, while the model holds the averages."""

    def samples_step(self, step: int) -> bool:
        """Whether the weights after optimizer step ``step``, counted from 1, enter the average."""
        return True

    def on_fit_start(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        self.averages = [
            p.detach().clone().to(torch.promote_types(p.dtype, torch.float32)) for p in _trained(pl_module.task)
        ]

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: TaskModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step = trainer.global_step
        if step <= self.latest_step or not self.samples_step(step):
            return
        with torch.no_grad():
            pairs = zip(self.averages, _trained(pl_module.task), strict=True)
            averages, weights = zip(*((_local(a), _local(p).to(a.dtype)) for a, p in pairs), strict=True)
            if self.num_averaged:
                self.update(list(averages), list(weights), self.num_averaged)
            else:
                torch_private.copy_each_(averages, weights)
        self.num_averaged += 1
        self.latest_step = step

    # ---- in the place of the weights

    def put_in(self, task: nn.Module) -> None:
        """Replaces the weights by the averages and keeps the weights. Before the first sample, nothing happens."""
        if self.num_averaged and not self.current:
            with parted(task), torch.no_grad():
                self.current = [p.detach().clone() for p in _trained(task)]
                _copy(self.averages, task)

    def take_out(self, task: nn.Module) -> None:
        """Puts the weights back."""
        if self.current:
            with parted(task), torch.no_grad():
                _copy(self.current, task)
            self.current = []

    def on_validation_epoch_start(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        if trainer.state.fn == "fit":
            self.put_in(pl_module.task)

    def on_validation_end(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        """Puts the weights back. The end of the epoch is too early: the task validates after its callbacks."""
        self.take_out(pl_module.task)

    def on_train_end(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        self.put_in(pl_module.task)
        self.current = []
        if not trainer.is_global_zero:
            return
        if not self.num_averaged:
            text = "no weights were averaged: the run ended at step %d, before the first step that counts"
            log.warning(text, trainer.global_step)
        if self.num_averaged and (doubt := self.doubt()):
            log.warning("%s", doubt)

    def doubt(self) -> str:
        """A warning if the average of the steps that were sampled is hardly an average; else empty."""
        return ""

    # ---- checkpoints

    def state_dict(self) -> dict[str, int]:
        return {"latest_update_step": self.latest_step}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        self.latest_step = state_dict["latest_update_step"]

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: TaskModule, checkpoint: dict[str, Any]) -> None:
        if not self.num_averaged:
            return
        averages = {id(p): average for p, average in zip(_trained(pl_module.task), self.averages, strict=True)}
        named = {name: averages.get(id(p)) for name, p in pl_module.task.named_parameters(remove_duplicate=False)}
        current = checkpoint["state_dict"]
        averaged = {name: weight if named.get(name) is None else named[name] for name, weight in current.items()}
        checkpoint["state_dict"], checkpoint["current_model_state"] = averaged, current
        checkpoint["averaging_state"] = {"n_averaged": torch.tensor(self.num_averaged)}

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: TaskModule, checkpoint: dict[str, Any]) -> None:
        """Loads the average of a checkpoint. If it holds none, the average starts anew."""
        self.num_averaged = int(checkpoint.get("averaging_state", {}).get("n_averaged", 0))
        if self.num_averaged:
            names = {id(p): name for name, p in pl_module.task.named_parameters()}
            with torch.no_grad():
                for p, average in zip(_trained(pl_module.task), self.averages, strict=True):
                    average.copy_(checkpoint["state_dict"][names[id(p)]])


class MovingAverage(Averaging):
    """Exponential moving average, which starts as the weights after the first step.

    Args:
        decay: Share of the average that a step keeps.
    """

    def __init__(self, decay: float):
        super().__init__(get_ema_multi_avg_fn(decay))
        self.decay = decay

    def doubt(self) -> str:
        steps = self.num_averaged
        share = self.decay ** (steps - 1)
        if steps < 2 or share < MOST_OF_FIRST:
            return ""
        first = "the weights of the first averaged step"
        text = f"trainer.ema_decay={self.decay}: {share:.0%} of the average is still {first}"
        return f"{text.replace('%', ' %')}; fix: trainer.ema_decay={1 - 5 / max(steps, 10):.4g} or more steps"


class LastAverage(Averaging):
    """Equal average of the weights of the last steps (checkpoint averaging, section 6.1 of arXiv:1706.03762).

    Args:
        first_step: Earlier steps do not enter the average.
        every: Only steps whose number it divides enter the average.
    """

    def __init__(self, first_step: int, every: int):
        super().__init__(get_swa_multi_avg_fn())
        self.first_step, self.every = first_step, every

    def on_load_checkpoint(self, trainer: L.Trainer, pl_module: TaskModule, checkpoint: dict[str, Any]) -> None:
        """As above. If the run now has more steps, the average of its former last ones is forgotten."""
        super().on_load_checkpoint(trainer, pl_module, checkpoint)
        if checkpoint["global_step"] < self.first_step:
            self.num_averaged = 0

    def state_dict(self) -> dict[str, int]:
        return super().state_dict() | {"first_step": self.first_step, "every": self.every}

    def load_state_dict(self, state_dict: dict[str, int]) -> None:
        """Forgets an average that has other steps than this one; an older checkpoint does not name its steps."""
        super().load_state_dict(state_dict)
        if state_dict.get("first_step", self.first_step) != self.first_step:
            self.num_averaged = 0
        if state_dict.get("every", self.every) != self.every:
            self.num_averaged = 0

    def samples_step(self, step: int) -> bool:
        return step >= self.first_step and step % self.every == 0


def averaging(config: TrainerConfig) -> list[Averaging]:
    """The callback that averages weights, if the configuration asks for one."""
    if config.ema_decay:
        return [MovingAverage(config.ema_decay)]
    if config.average_last_steps:
        return [LastAverage(config.max_steps - config.average_last_steps + 1, config.average_every_n_steps)]
    return []


def averages_of(trainer: L.Trainer) -> list[Averaging]:
    """The callbacks of the trainer that average weights."""
    return [callback for callback in lightning_private.callbacks_of(trainer) if isinstance(callback, Averaging)]


def _trained(module: nn.Module) -> Iterator[nn.Parameter]:
    """The parameters that the optimizer changes; a shared one comes once."""
    return (p for p in module.parameters() if p.requires_grad)


def _local(tensor: Tensor) -> Tensor:
    """This rank's part of a tensor, in the same memory."""
    tensor = tensor.detach()
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def _copy(weights: list[Tensor], module: nn.Module) -> None:
    for weight, parameter in zip(weights, _trained(module), strict=True):
        _local(parameter).copy_(_local(weight))
