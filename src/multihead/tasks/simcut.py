"""SimCut (Gao et al. 2022, arXiv:2206.02368, section 3): two passes over a batch must agree, one of them without some
tokens.

Shapes: B batch, T time, D width of the embeddings.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from multihead.model.transformer import Transformer
from multihead.tasks.base import Task


@contextlib.contextmanager
def cut_tokens(transformer: Transformer, probability: float) -> Iterator[None]:
    """Sets the embeddings [B, T, D] of randomly chosen tokens to zero, in each stack."""

    def zero(module: nn.Module, ids: Any, embedded: Tensor) -> Tensor:
        return embedded * (torch.rand(embedded.shape[:-1], device=embedded.device) >= probability).unsqueeze(-1)

    stacks = [stack for stack in (transformer.encoder, transformer.decoder) if stack is not None]
    hooks = [stack.embedding.register_forward_hook(zero) for stack in stacks]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def simcut(task: Task, batch: Mapping[str, Any], *, alpha: float, cut: float, label_smoothing: float) -> Tensor:
    """Sum over the targets of the cross-entropy and of ``alpha`` times KL(whole, cut), in nats.

    Gradients go through both passes.

    Args:
        task: What is trained.
        batch: A batch of the task.
        alpha: Weight of the divergence.
        cut: Probability that the embedding of a token is set to zero in the second pass.
        label_smoothing: As in `torch.nn.functional.cross_entropy`, for the first pass.
    """
    logits, labels = task.logits_and_labels(dict(batch))
    nats = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
    with cut_tokens(task.model.transformer, cut):
        others, _ = task.logits_and_labels(dict(batch))
    whole, without = logits.log_softmax(-1), others.log_softmax(-1)
    return nats + alpha * F.kl_div(without, whole, reduction="sum", log_target=True)
