"""Putting a checkpoint's states back into a run.

Multihead does this by itself, and Lightning begins a fresh loop over what is left of the epoch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch.distributed
from torch import Tensor
from torch.optim.lr_scheduler import LambdaLR

from multihead import torch_private
from multihead.errors import CheckpointError
from multihead.runs.checkpoint import Start
from multihead.tasks.base import Task
from multihead.training import lightning_private
from multihead.training.averaging import Averaging
from multihead.training.sharding import scattered_state


def load_states(trainer: L.Trainer, task: Task, start: Start, folder: Path) -> None:
    """Loads weights, optimizer, schedule, precision and the states of callbacks, and sets Lightning's counters.

    Args:
        trainer: The trainer at the start of the fit.
        task: The task that is trained.
        start: The checkpoint.
        folder: The folder of checkpoints, for the error.

    Raises:
        CheckpointError: If the model or the optimizer has another shape than in the checkpoint.
    """
    try:
        load_weights(trainer, task, start.state)
        for config, saved in zip(trainer.lr_scheduler_configs, start.state["lr_schedulers"], strict=True):
            assert isinstance(config.scheduler, LambdaLR)
            _load_schedule(config.scheduler, saved)
        precision = trainer.precision_plugin
        if type(precision).__qualname__ in start.state:
            precision.load_state_dict(start.state[type(precision).__qualname__])
    except (RuntimeError, ValueError, KeyError) as error:
        what = f"does not fit the configuration ({' '.join(str(error).split())[:200]})"
        fix = "leave out settings that change the model or the optimizer"
        raise CheckpointError(str(folder / start.name), what, fix) from error
    lightning_private.set_counters(trainer, start.own["step"])


def load_weights(trainer: L.Trainer, task: Task, state: Mapping[str, Any]) -> None:
    """Loads the weights, the state of the optimizer, and what callbacks keep, for example averages.

    Learning rates and weight decays stay those of the configuration.
    """
    state = scattered_state(state, task, trainer.optimizers)
    task.load_state_dict(state.get("current_model_state", state["state_dict"]))
    for optimizer, saved in zip(trainer.optimizers, state["optimizer_states"], strict=True):
        configured = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        optimizer.load_state_dict(saved)
        for group, values in zip(optimizer.param_groups, configured, strict=True):
            group.update(values)
    for callback in lightning_private.callbacks_of(trainer):
        own = state["callbacks"].get(callback.state_key)
        if own is not None or not isinstance(callback, Averaging):  # not the average of another kind
            callback.on_load_checkpoint(trainer, trainer.lightning_module, dict(state))
        if own is not None:
            callback.load_state_dict(own)


def _load_schedule(schedule: LambdaLR, saved: dict[str, Any]) -> None:
    """Loads the step of a schedule; its rates are those that the configuration gives for this step."""
    configured = schedule.base_lrs
    schedule.load_state_dict(saved)
    schedule.base_lrs = configured
    factors = [factor(schedule.last_epoch) for factor in schedule.lr_lambdas]
    rates = [rate * factor for rate, factor in zip(configured, factors, strict=True)]
    for group, rate in zip(schedule.optimizer.param_groups, rates, strict=True):
        group["lr"] = rate
    torch_private.set_last_rates(schedule, rates)


def gathered_from_ranks(trainer: L.Trainer, own: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What a checkpoint holds of each rank; every rank has to call it with its own."""
    ranks: list[Any] = [own]
    if trainer.world_size > 1:
        ranks = [None] * trainer.world_size
        torch.distributed.all_gather_object(ranks, own)
    return ranks


def loss_of_rank(ranks: Sequence[Mapping[str, Any]], rank: int, world_size: int) -> Tensor | None:
    """A rank's sum of losses since the last log; with another number of ranks, the first one has it all.

    Args:
        ranks: What the checkpoint holds of each rank.
        rank: The number of this rank.
        world_size: How many ranks there are now.
    """
    if world_size == len(ranks):
        return ranks[rank]["sum"]
    total: Tensor | None = None if rank else ranks[0]["sum"]
    for other in ranks[1:]:
        total = None if total is None else total + other["sum"]
    return total
