"""Losses of classification, and the losses that parts of the model add.

Each loss of classification is a sum over examples, so that a step can be cut into micro-batches at any place.

Shapes: N examples, C classes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor


def class_loss(
    logits: Tensor,
    labels: Tensor,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Sum over examples of the cross-entropy in nats, or of the focal loss (arXiv:1708.02002).

    Args:
        logits: [N, C].
        labels: [N].
        weights: [C], a factor for each class; the sum is not divided by them.
        label_smoothing: As in `torch.nn.functional.cross_entropy`.
        focal_gamma: Exponent g of the factor (1 - p)^g for an example whose class has probability p. If it is not 0,
            ``label_smoothing`` must be 0.
    """
    if not focal_gamma:
        weights = None if weights is None else weights.to(logits.dtype)  # precision=bf16-true converts a batch
        return F.cross_entropy(logits, labels, weights, reduction="sum", label_smoothing=label_smoothing)
    nats = F.cross_entropy(logits, labels, reduction="none")  # [N]
    losses = _focal(nats, focal_gamma)
    return (losses if weights is None else losses * weights[labels]).sum()


def label_set_loss(
    logits: Tensor,
    targets: Tensor,
    *,
    weights: Tensor | None = None,
    label_smoothing: float = 0.0,
    focal_gamma: float = 0.0,
) -> Tensor:
    """Sum over examples of the mean over classes of the binary cross-entropy in nats, or of its focal form.

    Args:
        logits: [N, C].
        targets: [N, C], 1 if the example has the class.
        weights: [2, C], factors for not having and for having each class.
        label_smoothing: Targets move towards one half by half of it.
        focal_gamma: As in `class_loss`, with p the probability of the right answer for one class.
    """
    targets = targets.to(logits.dtype)
    smoothed = targets * (1 - label_smoothing) + label_smoothing / 2
    losses = F.binary_cross_entropy_with_logits(logits, smoothed, reduction="none")  # [N, C]
    if focal_gamma:
        losses = _focal(losses, focal_gamma)
    if weights is not None:
        losses = losses * torch.where(targets > 0.5, weights[1], weights[0])
    return losses.sum() / logits.size(1)


def _focal(nats: Tensor, gamma: float) -> Tensor:
    """-(1 - p)^gamma log p from -log p; the clamp keeps the gradient finite if p rounds to 1 and gamma < 1."""
    return (-torch.expm1(-nats)).clamp(min=1e-7) ** gamma * nats


def balanced_weights(counts: Tensor) -> Tensor:
    """n / (C * count) for counts along the first axis: every class counts the same, and examples weigh 1 on average."""
    return counts.sum(0) / (len(counts) * counts.clamp(min=1))


_open: list[list[Tensor]] = []
"""The lists that collect losses now; the last one counts."""


def add_loss(loss: Tensor) -> None:
    """Adds a loss of a part of the model to that of the task, such as one that balances experts.

    A part calls it in `forward`, with a scalar in the units of the task's loss per target. The step's loss grows by the
    mean over its micro-batches. Outside of a training step, as in validation, it does nothing. The record and
    ``train/loss`` have the task's loss alone.
    """
    if _open:
        _open[-1].append(loss)


@contextlib.contextmanager
def added_losses() -> Iterator[list[Tensor]]:
    """Collects the losses that parts of the model add in this context; one training step of a task is one."""
    _open.append([])
    try:
        yield _open[-1]
    finally:
        _open.pop()
