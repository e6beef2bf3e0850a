"""Where a number that is not finite came from: the examples, and the first module that computed one."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
import torch.distributed
from torch import nn

from multihead.model.sharded import gathered, whole

if TYPE_CHECKING:
    from multihead.data.module import DataModule
    from multihead.tasks.base import Task

MOST_TOLD = 8
"""Examples that a message names; all of them stand in nan.json."""


def diagnose(trainer: L.Trainer, task: Task, data: DataModule, position: tuple[int, int]) -> dict[str, Any]:
    """Computes the step at ``position`` again, before its update, and looks at everything on the way.

    The weights and the random streams must be those that the step began with.

    Returns:
        ``told`` (a sentence), ``rank``, ``task``, ``examples`` (rows of the train split), ``loss`` (their sum) and
        ``module``; the same on every rank.
    """
    own: dict[str, Any] = {}
    gradients = _gradients(task)
    with whole(task):
        for batch in data.batches_of(position):
            loss, module = _first_not_finite(trainer, task, trainer.strategy.batch_to_device(batch))
            if module and not own:
                own = {"task": batch["task"], "examples": batch["index"].tolist(), "loss": loss, "module": module}
    own = own or gradients
    found = [{"rank": trainer.global_rank, **own}]
    if trainer.world_size > 1:
        found = [{} for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(found, {"rank": trainer.global_rank, **own})
    first = next((each for each in found if each.get("examples")), found[0])
    return {"told": _told(first, trainer.world_size), **first}


def _told(found: Mapping[str, Any], ranks: int) -> str:
    """The finding in words."""
    if "examples" not in found:
        return f"first not finite: {found['module']}"
    listed = ", ".join(str(row) for row in found["examples"][:MOST_TOLD])
    more = f" and {len(found['examples']) - MOST_TOLD} more" if len(found["examples"]) > MOST_TOLD else ""
    where = f" on rank {found['rank']}" if ranks > 1 else ""
    return f"loss {found['loss']} for rows {listed}{more} of train{where}; first not finite: {found['module']}"


def _first_not_finite(trainer: L.Trainer, task: Task, batch: dict[str, Any]) -> tuple[float, str]:
    """The loss of a batch, and the first module in the order of computation whose output is not finite, or nothing."""
    for name, parameter in task.model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return float("nan"), f"the weights {name}"
    with _watched(task.model) as seen, torch.no_grad(), trainer.precision_plugin.train_step_context():
        loss = float(task.training_step(batch, 0)["sum"])
    if seen:
        return loss, seen[0]
    return loss, "" if torch.isfinite(torch.tensor(loss)) else "the loss"


@contextlib.contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """Inside, the modules whose output is not finite are listed as they are met."""
    seen: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            for tensor in tensors:
                if isinstance(tensor, torch.Tensor) and not bool(torch.isfinite(tensor).all()):
                    seen.append(name)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _gradients(task: Task) -> dict[str, Any]:
    """Where the backward pass, which goes from the last parameter to the first, met the first such number."""
    bad = [
        name
        for name, parameter in task.model.named_parameters()
        if parameter.grad is not None and not bool(torch.isfinite(gathered(parameter.grad)).all())
    ]
    return {"module": f"the gradient of {bad[-1]}" if bad else "the norm of the gradient, by overflow"}
