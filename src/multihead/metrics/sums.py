"""Means and collections over all batches and ranks, as torchmetrics' classes. Importing this module takes seconds."""

from __future__ import annotations

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat


class WeightedMean(Metric):
    """Sum of ``value`` divided by the sum of ``weight``, for example the loss per token, or accuracy.

    Sums are float64, so that the order of batches and ranks does not change them. Nothing leaves the device before
    `compute`.
    """

    is_differentiable = False
    full_state_update = False
    value: Tensor
    weight: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("value", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("weight", torch.zeros((), dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, value: Tensor | float, weight: Tensor | float) -> None:
        """Adds ``value``, a sum over a batch, and its ``weight``, for example the number of tokens."""
        self.value += value
        self.weight += weight

    def compute(self) -> Tensor:
        """The mean over all ranks; nan if nothing was added."""
        return self.value / self.weight


class Outputs(Metric):
    """Collects the outputs [N, ...] and the labels [N, ...] of all examples of all ranks."""

    is_differentiable = False
    full_state_update = False
    outputs: list[Tensor]
    labels: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("outputs", [], dist_reduce_fx="cat")
        self.add_state("labels", [], dist_reduce_fx="cat")

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Adds a batch, which may be empty; every rank adds at least one."""
        self.outputs.append(outputs.detach().double())
        self.labels.append(labels)

    def compute(self) -> tuple[Tensor, Tensor]:
        """Returns all outputs (float64) and all labels. A tensor of one element comes without dimensions."""
        return dim_zero_cat(self.outputs), dim_zero_cat(self.labels)
