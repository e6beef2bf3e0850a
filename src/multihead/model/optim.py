"""AdamW, Muon, and the learning-rate schedules.

Shapes: ``N`` stacked matrices of one shape, ``R`` rows, ``C`` columns, R <= C.
"""

from __future__ import annotations

import difflib
import fnmatch
import math
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adamw import adamw

from multihead import capabilities, torch_private
from multihead.config.training import OptimConfig
from multihead.errors import ConfigError
from multihead.model.sharded import gathered, scattered

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration of Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/)."""

DTYPES = {"auto": None, "bfloat16": torch.bfloat16, "float32": torch.float32}
"""What ``optim.muon_dtype`` stands for."""


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]], config: OptimConfig, *, fused: bool
) -> torch.optim.Optimizer:
    """`torch.optim.AdamW`, or `MuonAdamW` for ``optim.name=muon``; weight decay acts on matrices only.

    Args:
        named_parameters: Names decide: a matrix with ``.layers.`` in its name is hidden and may go to Muon;
            embeddings, output layers, biases and norms always go to AdamW.
        config: Every group starts at its own peak rate, which `lr_factor` scales.
        fused: Use the fused AdamW kernel (one pass, fastest on CPU and GPU). False lets torch choose: foreach on
            GPUs, a loop on CPUs. It must be False where gradients are clipped under mixed precision, since
            `torch.optim.AdamW` then unscales gradients itself and Lightning 2.6 refuses to clip.
    """
    named = list(named_parameters)
    shares = layer_rates([name for name, _ in named], config.layer_decay)  # depth counts frozen layers too
    members: dict[tuple[int, float], list[nn.Parameter]] = {}
    for (name, parameter), share in zip(named, shares, strict=True):
        if not parameter.requires_grad:
            continue
        is_hidden = config.name == "muon" and parameter.ndim == 2 and ".layers." in name
        members.setdefault((2 if is_hidden else int(parameter.ndim < 2), -share), []).append(parameter)
    betas = (config.betas[0], config.betas[1])
    groups = []
    for (kind, share), parameters in sorted(members.items(), key=lambda item: item[0]):
        group = {"params": parameters, "weight_decay": 0.0 if kind == 1 else config.weight_decay}
        if kind == 2:
            group |= {"momentum": config.muon_momentum, "num_iterations": config.muon_steps, "kind": "muon"}
            group["dtype"] = config.muon_dtype
            group["lr"] = config.muon_lr * -share
        else:
            group["lr"] = config.lr * -share
            if config.name == "muon":
                group |= {"kind": "adamw", "betas": betas, "eps": config.eps, "fused": fused}
        groups.append(group)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=fused or None)
    return MuonAdamW(groups)


def layer_rates(names: Sequence[str], decay: float) -> list[float]:
    """The share of the learning rate of each parameter (Howard and Ruder 2018, arXiv:1801.06146, section 3.2).

    Heads, final norms and the top layer of a stack have 1, each layer below ``decay`` times the one above, embeddings,
    n-grams and positions that of the lowest layer.

    Args:
        names: Of parameters, as in ``transformer.encoder.layers.0.feed_forward.up.weight``.
        decay: 1 is the same rate everywhere.
    """
    places = [re.search(r"(\w+)\.layers\.(\d+)\.", name) for name in names]
    depth: dict[str, int] = {}
    for place in places:
        if place:
            depth[place[1]] = max(depth.get(place[1], 0), int(place[2]))
    shares = []
    for name, place in zip(names, places, strict=True):
        below = depth[place[1]] - int(place[2]) if place else 0
        if embedded := re.search(r"(\w+)\.(embedding|ngrams|positions|types|embedding_norm|widen)\.", name):
            below = depth.get(embedded[1], 0)
        shares.append(decay**below)
    return shares


def freeze(named_parameters: Iterable[tuple[str, nn.Parameter]], patterns: Sequence[str]) -> list[str]:
    """Takes the parameters whose names match out of training; returns these names.

    Args:
        named_parameters: Of the model.
        patterns: ``optim.freeze``; ``*`` stands for anything.

    Raises:
        ConfigError: A pattern matches nothing, or nothing is left to learn.
    """
    named = dict(named_parameters)
    frozen: dict[str, None] = {}
    for pattern in patterns:
        matched = fnmatch.filter(named, pattern)
        if not matched:
            near = difflib.get_close_matches(pattern, named, n=1, cutoff=0.0)[0]
            raise ConfigError(
                "optim.freeze", f"{pattern} is no parameter; the nearest is {near}", "* stands for anything"
            )
        frozen |= dict.fromkeys(matched)
    if len(frozen) == len(named):
        raise ConfigError("optim.freeze", "leaves nothing to learn", "freeze fewer parameters")
    for name in frozen:
        named[name].requires_grad_(False)
    return list(frozen)


class MuonAdamW(torch.optim.Optimizer):
    """Muon for hidden matrices and AdamW for everything else, as one optimizer of two kinds of groups.

    Muon (Jordan et al., 2024) replaces the momentum of a matrix by the nearest orthogonal matrix, found by a few
    Newton-Schulz iterations, and steps by ``lr * sqrt(max(1, rows / columns))`` times that: the original scaling,
    for which rates near 0.02 are usual, and the default of `torch.optim.Muon`, whose update this is. What differs
    is speed: matrices of equal or transposed shapes are iterated as one stack. Weight decay is decoupled in both
    kinds. All state is tensors, so that its state_dict is plain.

    Args:
        groups: Dictionaries with ``params``, ``kind``, ``lr``, ``weight_decay``, and either ``momentum`` and
            ``num_iterations`` (kind ``muon``) or ``betas``, ``eps`` and ``fused`` (kind ``adamw``).
    """

    def __init__(self, groups: list[dict[str, Any]]):
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """One update; ``closure`` recomputes loss and gradients first, as torch's optimizers do it."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            parameters = [p for p in group["params"] if p.grad is not None]
            if not parameters:
                continue
            if group["kind"] == "muon":
                self._step_muon(group, parameters)
            else:
                self._step_adamw(group, parameters)
        return loss

    def _step_muon(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        momentum, lr = group["momentum"], group["lr"]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["momentum_buffer"] = torch.zeros_like(p)
        gradients = [p.grad for p in parameters]
        buffers = [self.state[p]["momentum_buffer"] for p in parameters]
        torch_private.lerp_each_(buffers, gradients, 1 - momentum)
        directions = torch_private.lerp_each(gradients, buffers, momentum)  # Nesterov: look ahead along the momentum
        if group["weight_decay"]:
            torch_private.multiply_each_(parameters, 1 - lr * group["weight_decay"])
        stacks: dict[tuple, list[int]] = {}
        for i, p in enumerate(parameters):
            stacks.setdefault((min(p.shape), max(p.shape), p.dtype, p.device), []).append(i)
        for members in stacks.values():
            updates = orthogonalize(
                [gathered(directions[i]) for i in members], group["num_iterations"], DTYPES[group["dtype"]]
            )
            for i, update in zip(members, updates, strict=True):
                rows, columns = parameters[i].shape
                parameters[i].add_(scattered(update, parameters[i]), alpha=-lr * max(1, rows / columns) ** 0.5)

    def _step_adamw(self, group: dict[str, Any], parameters: list[nn.Parameter]) -> None:
        fused = group["fused"]
        for p in parameters:
            if not self.state[p]:
                self.state[p]["step"] = torch.zeros((), device=p.device if fused else "cpu")
                self.state[p]["exp_avg"] = torch.zeros_like(p)
                self.state[p]["exp_avg_sq"] = torch.zeros_like(p)
        states = [self.state[p] for p in parameters]
        adamw(
            parameters,
            [p.grad for p in parameters],
            [state["exp_avg"] for state in states],
            [state["exp_avg_sq"] for state in states],
            [],
            [state["step"] for state in states],
            foreach=None,
            fused=fused or None,
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=group["weight_decay"],
            eps=group["eps"],
            maximize=False,
        )


def orthogonalize(matrices: Sequence[Tensor], num_iterations: int, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Approximately ``U @ V.T`` of each matrix's singular value decomposition ``U @ S @ V.T``.

    The quintic iteration pushes singular values into about [0.7, 1.2] without converging to 1, which training does
    not mind. `torch.optim.Muon` always computes it in bfloat16; with ``dtype=None`` it is computed in bfloat16 where
    that is faster (`capabilities.fast_bf16`), else in float32.

    Args:
        matrices: Each [R, C] or [C, R]. The tall ones are transposed, so that the Gram matrices are the smaller ones.
        num_iterations: 5 is usual.
        dtype: What the iteration computes in; None leaves it to the device.

    Returns:
        One matrix per matrix, of its shape, in the dtype of the iteration.
    """
    a, b, c = NEWTON_SCHULZ
    if dtype is None:
        dtype = torch.bfloat16 if capabilities.fast_bf16(matrices[0].device.type) else torch.float32
    tall = [matrix.shape[0] > matrix.shape[1] for matrix in matrices]
    wide = [
        (m.mT if t else m).to(dtype, memory_format=torch.contiguous_format) for m, t in zip(matrices, tall, strict=True)
    ]
    x = torch.stack(wide)  # [N, R, C]
    x.div_(x.norm(dim=(-2, -1), keepdim=True).clamp(min=1e-7))
    for _ in range(num_iterations):
        gram = x @ x.mT  # [N, R, R]
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        x = torch.baddbmm(x, polynomial, x, beta=a)  # [N, R, C]
    return [update.mT if t else update for update, t in zip(x.unbind(), tall, strict=True)]


def lr_factor(config: OptimConfig, max_steps: int, step: int) -> float:
    """The share of the peak learning rate used by optimizer step ``step``, counted from 0.

    All warm up linearly: step ``warmup_steps - 1`` is the first at the peak. Then

    - noam: ``sqrt(warmup_steps / (step + 1))``. Section 5.3 of the paper,
      ``d_model**-0.5 * min(n**-0.5, n * warmup_steps**-1.5)`` for n = step + 1, divided by its peak.
    - cosine: half a cosine from 1 to ``min_lr_ratio`` at ``max_steps`` (arXiv:1608.03983, without restarts).
    - wsd: stays at 1, and falls linearly to ``min_lr_ratio`` over the last ``decay_share`` of ``max_steps``
      (arXiv:2404.06395; linear decay: arXiv:2405.18392).
    - constant: stays at 1.
    """
    warmup = max(1, config.warmup_steps)
    if step + 1 < warmup:
        return (step + 1) / warmup
    if config.schedule == "noam":
        return math.sqrt(warmup / (step + 1))
    if config.schedule == "constant":
        return 1.0
    start = config.warmup_steps
    if config.schedule == "wsd":
        start = max(start, max_steps - round(config.decay_share * max_steps))
    progress = min(1.0, max(0, step - start) / max(1, max_steps - start))
    share = 0.5 * (1 + math.cos(math.pi * progress)) if config.schedule == "cosine" else 1 - progress
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * share
