"""Parameters that are divided among ranks (FSDP2): gathered for a moment, or one rank's part of them."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(task: nn.Module) -> bool:
    """Whether `multihead.training.sharding.shard` has divided its parameters among ranks."""
    return isinstance(task, FSDPModule)


def _sharded_modules(task: nn.Module) -> list[FSDPModule]:
    return [module for module in task.modules() if isinstance(module, FSDPModule)]


@contextlib.contextmanager
def whole(task: nn.Module) -> Iterator[None]:
    """Inside, every rank has all weights, and a forward pass waits for no other rank.

    All ranks have to enter. Inside, gradients cannot be computed. A task that is not sharded stays as it is.
    """
    _gather(task)
    try:
        yield
    finally:
        _release(task)


@contextlib.contextmanager
def parted(task: nn.Module) -> Iterator[None]:
    """Inside `whole`, gives each rank its parts of the parameters for a moment, so that it can change them."""
    inside = is_sharded(task) and not any(isinstance(p, DTensor) for p in task.parameters())
    if inside:
        _release(task)
    yield
    if inside:
        _gather(task)


def _gather(task: nn.Module) -> None:
    for module in _sharded_modules(task):
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()


def _release(task: nn.Module) -> None:
    """Gives each rank its parts again, and forgets the order of the forward passes inside.

    The next backward pass would prefetch in that order. Ranks have made different numbers of passes, so they would
    prefetch in different orders and wait for each other for ever.
    """
    if isinstance(task, FSDPModule):
        task.reset_iter_state()
    for module in _sharded_modules(task):
        module.set_reshard_after_forward(
            module is not task, recurse=False
        )  # the backward pass needs the root's at once


def gathered(tensor: Tensor) -> Tensor:
    """Returns the whole tensor; all ranks have to call it. A tensor that is not sharded is returned as it is."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def scattered(tensor: Any, like: Any) -> Any:
    """Returns this rank's part of a whole tensor, sharded as ``like`` is; all of it if ``like`` is not sharded."""
    if not isinstance(like, DTensor) or not isinstance(tensor, Tensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
