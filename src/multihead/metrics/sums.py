"""Numbers that are added up over batches. They are added up over all ranks when they are read."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


def rank_and_size() -> tuple[int, int]:
    """The number of this rank and how many ranks there are; (0, 1) if no ranks were started."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def of_ranks(own: Tensor) -> list[Tensor]:
    """The tensors of all ranks, in their order and on the host. Every rank has to call it with its own."""
    _, size = rank_and_size()
    if size == 1:
        return [own]
    found: list[Tensor] = [own] * size
    dist.all_gather_object(found, own.cpu())
    return found


class WeightedMean:
    """Sum of ``value`` divided by the sum of ``weight``, for example the loss per token, or accuracy.

    Sums are float64, so that the order of batches and ranks does not change them. Nothing leaves the device before
    `compute`.
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forgets all values."""
        self.value = self.weight = torch.zeros((), dtype=torch.float64)

    def update(self, value: Tensor | float, weight: Tensor | float) -> None:
        """Adds ``value``, a sum over a batch, and its ``weight``, for example the number of tokens."""
        self.value = self.value + value
        self.weight = self.weight + weight

    def compute(self) -> Tensor:
        """The mean over all ranks; nan if nothing was added."""
        value, weight = torch.stack(of_ranks(torch.stack([self.value.cpu(), self.weight.cpu()]))).sum(0)
        return value / weight
