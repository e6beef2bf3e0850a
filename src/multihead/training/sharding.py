"""FSDP2: weights, gradients and moments in equal parts on all ranks (arXiv:2304.11277).

Each layer of a stack is sharded on its own. Embeddings, final norms and heads are sharded together, because both ends
of a pass need them and embeddings may be shared. Checkpoints hold whole tensors, so that a run can resume with another
strategy or another number of ranks. Validation and decoding use whole weights: ranks decode different numbers of
tokens and must not wait for each other in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import lightning as L
import torch
from lightning.pytorch.strategies import ModelParallelStrategy, ParallelStrategy
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard, register_fsdp_forward_method
from torch.distributed.tensor import DTensor

from multihead import torch_private
from multihead.errors import ConfigError
from multihead.model.sharded import is_sharded, scattered
from multihead.tasks.base import Task
from multihead.tasks.lightning_module import TaskModule


class Sharded(ModelParallelStrategy):
    """Lightning's strategy, with our layers, one mesh of all ranks, and checkpoints of whole tensors.

    Args:
        ranks: The number of ranks on all machines.

    Raises:
        ConfigError: If this PyTorch cannot forget the order of the passes of a validation.
    """

    def __init__(self, ranks: int):
        if not hasattr(FSDPModule, "reset_iter_state"):
            raise ConfigError("strategy", f"fsdp needs a newer PyTorch than {torch.__version__}", "strategy=ddp")
        super().__init__(data_parallel_size=ranks, tensor_parallel_size=1)

    def setup(self, trainer: L.Trainer) -> None:
        """Shards a task that is trained, before it is on the device as a whole; a test uses the whole task."""
        assert self.accelerator is not None and self.model is not None
        self.accelerator.setup(trainer)
        self.model = self.precision_plugin.convert_module(self.model)
        fitting = trainer.state.fn == TrainerFn.FITTING
        if fitting:
            shard(self._task(), self.device_mesh["data_parallel"])
        self.model_to_device()
        self.barrier()
        if fitting:
            self.setup_optimizers(trainer)
        self.setup_precision_plugin()

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """This rank's part of the weights; `save_checkpoint` gathers them."""
        return self._task().state_dict()

    def optimizer_state(self, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
        """This rank's part of the optimizer's state."""
        return ParallelStrategy.optimizer_state(self, optimizer)

    def save_checkpoint(self, checkpoint: dict[str, Any], filepath: Any, storage_options: Any = None) -> None:
        """Gathers one tensor after the other into the memory of rank 0, which writes; all ranks have to call it."""
        whole_state = _whole_state(checkpoint, {}, self.is_global_zero)
        ParallelStrategy.save_checkpoint(self, whole_state, filepath, storage_options)

    def _task(self) -> Task:
        assert isinstance(self.lightning_module, TaskModule)
        return self.lightning_module.task


def shard(task: Task, mesh: DeviceMesh) -> None:
    """Leaves each rank of ``mesh`` its part of every parameter; before, all ranks hold equal parameters."""
    for stack in (task.model.transformer.encoder, task.model.transformer.decoder):
        for layer in dict.fromkeys(stack.layers if stack is not None else ()):  # a shared one stands there often
            fully_shard(layer, mesh=mesh)
    fully_shard(task, mesh=mesh)
    for method in ("training_step", "step_by"):  # those of the whole task, which gather its weights
        register_fsdp_forward_method(task, method)
    torch_private.make_root_of_fsdp(task)


def scattered_state(
    state: Mapping[str, Any], task: nn.Module, optimizers: Sequence[torch.optim.Optimizer]
) -> Mapping[str, Any]:
    """A checkpoint with this rank's parts of weights and moments; the same checkpoint if nothing is sharded."""
    if not is_sharded(task):
        return state
    held = task.state_dict()
    parts = dict(state)
    for name in ("state_dict", "current_model_state"):
        if name in state:
            parts[name] = {key: scattered(value, held.get(key)) for key, value in state[name].items()}
    parts["optimizer_states"] = [
        _scattered_moments(saved, optimizer)
        for saved, optimizer in zip(state["optimizer_states"], optimizers, strict=True)
    ]
    return parts


def _scattered_moments(saved: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    numbers = [number for group in saved["param_groups"] for number in group["params"]]
    known = dict(zip(numbers, parameters, strict=len(numbers) == len(parameters)))
    moments = {
        number: {name: scattered(value, known.get(number)) for name, value in values.items()}
        for number, values in saved["state"].items()
    }
    return {**saved, "state": moments}


def _whole_state(state: Any, known: dict[int, Tensor | None], keep: bool) -> Any:
    """Gathers every tensor of a nested state.

    Args:
        state: The state, which is the same on all ranks except for their parts of the tensors.
        known: The whole tensor of each storage that was met; a state names a shared weight several times.
        keep: Whether this rank keeps the tensors, because it writes; on the others they become None.
    """
    if isinstance(state, DTensor):
        storage = state.to_local().untyped_storage().data_ptr() or id(state)  # it is 0 for a part without elements
        if storage not in known:
            full = state.full_tensor()
            known[storage] = full.cpu() if keep else None
        return known[storage]
    if isinstance(state, Mapping):
        return {key: _whole_state(value, known, keep) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return [_whole_state(value, known, keep) for value in state]
    return state
