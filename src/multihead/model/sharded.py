"""Parameters that are shared out over ranks (FSDP2): whole for a moment, or one rank's part."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor


def is_sharded(task: nn.Module) -> bool:
    """Whether `shard` was here."""
    return isinstance(task, FSDPModule)


def _sharded_modules(task: nn.Module) -> list[FSDPModule]:
    return [module for module in task.modules() if isinstance(module, FSDPModule)]


@contextlib.contextmanager
def whole(task: nn.Module) -> Iterator[None]:
    """Inside, every rank has all weights, and a forward pass waits for nobody; nothing happens to what is not sharded.

    All ranks have to enter. Gradients cannot be computed inside.
    """
    _gather(task)
    try:
        yield
    finally:
        _release(task)


@contextlib.contextmanager
def parted(task: nn.Module) -> Iterator[None]:
    """Inside `whole`, for a moment: the parameters are each rank's parts again, and may be changed."""
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
    """Parts again; and what the passes inside left, by which the next backward pass would prefetch, is forgotten.

    Ranks have made different numbers of passes, would prefetch in different orders, and wait for each other for ever.
    """
    if is_sharded(task):
        task.reset_iter_state()
    for module in _sharded_modules(task):
        module.set_reshard_after_forward(module is not task, recurse=False)  # the root's are needed again at once


def gathered(tensor: Tensor) -> Tensor:
    """The whole tensor, which all ranks have to ask for; itself where it is not sharded."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def scattered(tensor: Any, like: Any) -> Any:
    """This rank's part of a whole tensor, as ``like`` is sharded; itself where ``like`` is not."""
    if not isinstance(like, DTensor) or not isinstance(tensor, Tensor) or tensor.shape != like.shape:
        return tensor
    return distribute_tensor(tensor.to(like.device), like.device_mesh, like.placements, src_data_rank=None)
