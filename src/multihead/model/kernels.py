"""Attention and matrix products by the fastest PyTorch kernel for their device and size; and how memory is freed.

Shapes: N inputs, H heads, G key-value heads, T queries, S keys, K head_dim. Masks are boolean, True = may be attended
to, or are added to the scores.
"""

from __future__ import annotations

import contextlib
import ctypes

import torch
import torch.nn.functional as F
from torch import Tensor

from multihead import capabilities, torch_private

SHORT = 128
"""Largest number of keys for which `attend` does not use the fused kernel on a CPU."""


def attend(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    causal: bool,
    dropout: float,
    scale: float | None = None,
) -> Tensor:
    """softmax(Q K^T / sqrt(K)) V of heads [N, H or G, T or S, K].

    On a CPU, the backward pass of the fused kernel takes several times as long in bfloat16 as in float32, so float32 is
    used there. For short sequences the fused kernel is slower than two plain products, except in float32 without
    gradients.

    Args:
        query: [N, H, T, K].
        key: [N, G, S, K]; each key serves H / G heads.
        value: [N, G, S, K], or of another width.
        mask: Broadcastable to [N, H, T, S]; None hides nothing.
        causal: Whether each position sees only itself and the positions before it; only without a mask.
        dropout: Share of the attention weights that is set to zero.
        scale: Factor of the scores; None means 1 / sqrt(K).
    """
    dtype, grouped = query.dtype, query.size(1) != key.size(1)
    on_cpu = query.device.type == "cpu"
    plain = on_cpu and not (torch.compiler.is_compiling() or grouped or dropout)
    plain = plain and (torch.is_grad_enabled() or dtype != torch.float32)
    if dtype == torch.bfloat16 and on_cpu and torch.is_grad_enabled():
        query, key, value = query.float(), key.float(), value.float()
        mask = mask.float() if mask is not None and mask.is_floating_point() else mask
    with torch.autocast(query.device.type, enabled=False):
        if (
            plain and query.size(2) > 1 and key.size(2) <= SHORT
        ):  # lengths come last: in a traced program they are unknown
            y = _attend_plainly(query, key, value, mask, causal, scale)
        else:
            y = F.scaled_dot_product_attention(
                query, key, value, mask, dropout, causal, scale=scale, enable_gqa=grouped
            )
    return y.to(dtype)


def _attend_plainly(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, causal: bool, scale: float | None
) -> Tensor:
    """Computes equation 1 of the paper (arXiv:1706.03762) as two batched products."""
    shape, hidden = query.shape, None
    factor = query.size(-1) ** -0.5 if scale is None else scale
    if causal:
        hidden = torch.ones(shape[2], key.size(2), dtype=torch.bool).triu(1)  # [T, S]
    elif mask is not None and mask.dtype == torch.bool:
        hidden = ~mask
    lowest = torch.finfo(query.dtype).min  # not -inf, so that a row that may attend to nothing stays finite
    if hidden is not None:
        mask = torch.zeros(hidden.shape, dtype=query.dtype).masked_fill_(hidden, lowest)
    query, key, value = query.flatten(0, 1), key.flatten(0, 1), value.flatten(0, 1)  # [N * H, T or S, K]
    if mask is None:
        scores = torch.bmm(query * factor, key.mT)  # [N * H, T, S]
    else:
        mask = mask.clamp(min=lowest).expand(*shape[:3], key.size(1)).flatten(0, 1)
        scores = torch.baddbmm(mask, query, key.mT, alpha=factor)
    return torch.bmm(scores.softmax(-1), value).view(*shape[:3], value.size(-1))


def product(left: Tensor, right: Tensor) -> Tensor:
    """Computes ``left @ right.T`` of two matrices without gradients; in float32 on a CPU, oneDNN does it.

    PyTorch would use MKL for it, which on some processors takes a third longer. In bfloat16 PyTorch uses oneDNN itself.
    """
    if left.dtype == torch.float32 and left.device.type == "cpu" and capabilities.has_onednn():
        return torch_private.onednn_linear(left, right)
    return left @ right.T


def keep_freed_memory() -> None:
    """Makes glibc keep freed memory for the next request, up to 32 MiB a piece; without glibc it does nothing.

    Otherwise glibc returns the memory to the system, which then fills new pages with zeros for the next array. Larger
    arrays are still returned. Small arrays would come to lie between them, and the process would grow.
    """
    trim_threshold, mmap_threshold = -1, -3  # malloc.h: M_TRIM_THRESHOLD, M_MMAP_THRESHOLD
    with contextlib.suppress(AttributeError, OSError, TypeError):  # no glibc
        libc = ctypes.CDLL(None)
        libc.mallopt(mmap_threshold, 2**25)
        libc.mallopt(trim_threshold, 2**31 - 1)
