"""A number on which all ranks agree."""

from __future__ import annotations

import lightning as L
import torch
import torch.distributed
from torch.distributed import ProcessGroup


class Agreement:
    """Finds the largest of the ranks' numbers.

    The ranks exchange their numbers from host to host. If they did it on their devices, each step would wait for the
    device.
    """

    def __init__(self) -> None:
        self._hosts: ProcessGroup | None = None

    def largest(self, trainer: L.Trainer, value: int) -> int:
        """Returns the largest ``value`` of all ranks; every rank has to call it."""
        if trainer.world_size == 1:
            return value
        if self._hosts is None:
            self._hosts = torch.distributed.new_group(backend="gloo")  # pyright: ignore[reportAttributeAccessIssue]
        largest = torch.tensor([value])
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX, group=self._hosts)
        return int(largest)
