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
from multihead.config.check import require_choice
from multihead.config.training import OPTIMIZERS, SCHEDULES, OptimConfig
from multihead.errors import ConfigError
from multihead.model.sharded import gathered, scattered

NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
"""Coefficients of the quintic iteration of Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon/)."""

DTYPES = {"auto": None, "bfloat16": torch.bfloat16, "float32": torch.float32}
"""The values of ``optim.muon_dtype``; None leaves the choice to the device."""


def build_optimizer(
    named_parameters: Iterable[tuple[str, nn.Parameter]],
    config: OptimConfig,
    *,
    fused: bool,
    added: Callable[..., torch.optim.Optimizer] | None = None,
) -> torch.optim.Optimizer:
    """`torch.optim.AdamW`, `MuonAdamW` for ``optim.name=muon``, or a plugin's; weight decay acts on matrices only.

    Args:
        named_parameters: Parameters with their names. A matrix with ``.layers.`` in its name is hidden and may go to
            Muon; embeddings, output layers, biases and norms always go to AdamW.
        config: The node ``optim``. Every group starts at its own peak rate, which `lr_factor` scales.
        fused: Whether to use the fused AdamW kernel (one pass, fastest on CPU and GPU). False lets PyTorch choose:
            foreach on GPUs, a loop on CPUs. It must be False if gradients are clipped under mixed precision, because
            `torch.optim.AdamW` would unscale gradients itself, and Lightning 2.6 then does not clip.
        added: A plugin's optimizer: (groups, config) to an optimizer. Each group has ``params``, ``lr``,
            ``weight_decay`` and ``hidden``, which says whether its parameters are hidden matrices.

    Raises:
        ConfigError: There is no such optimizer.
    """
    if added is None:
        require_choice("optim.name", config.name, OPTIMIZERS)
    named = list(named_parameters)
    shares = layer_rates([name for name, _ in named], config.layer_decay)  # frozen layers count too
    members: dict[tuple[int, float], list[nn.Parameter]] = {}
    for (name, parameter), share in zip(named, shares, strict=True):
        if not parameter.requires_grad:
            continue
        is_hidden = config.name != "adamw" and parameter.ndim == 2 and ".layers." in name
        members.setdefault((2 if is_hidden else int(parameter.ndim < 2), -share), []).append(parameter)
    betas = (config.betas[0], config.betas[1])
    groups = []
    for (kind, share), parameters in sorted(members.items(), key=lambda item: item[0]):
        group: dict[str, Any] = {"params": parameters, "weight_decay": 0.0 if kind == 1 else config.weight_decay}
        if added is not None:
            group |= {"lr": config.lr * -share, "hidden": kind == 2}
        elif kind == 2:
            group |= {"momentum": config.muon_momentum, "num_iterations": config.muon_steps, "kind": "muon"}
            group["dtype"] = config.muon_dtype
            group["lr"] = config.muon_lr * -share
        else:
            group["lr"] = config.lr * -share
            if config.name == "muon":
                group |= {"kind": "adamw", "betas": betas, "eps": config.eps, "fused": fused}
        groups.append(group)
    if added is not None:
        return added(groups, config)
    if config.name == "adamw":
        return torch.optim.AdamW(groups, lr=config.lr, betas=betas, eps=config.eps, fused=fused or None)
    return MuonAdamW(groups)


def layer_rates(names: Sequence[str], decay: float) -> list[float]:
    """The factor of the learning rate of each parameter (Howard and Ruder 2018, arXiv:1801.06146, section 3.2).

    Heads, final norms and the top layer of a stack have the factor 1. Each layer below has ``decay`` times the factor
    of the layer above it. Embeddings, n-grams and positions have the factor of the lowest layer.

    Args:
        names: Names of parameters, for example ``transformer.encoder.layers.0.feed_forward.up.weight``.
        decay: The factor from layer to layer; 1 gives all parameters the same rate.
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
        named_parameters: Parameters of the model with their names.
        patterns: ``optim.freeze``; ``*`` stands for any characters.

    Raises:
        ConfigError: If a pattern matches no parameter, or if no parameter is left to train.
    """
    named = dict(named_parameters)
    frozen = matching(named, patterns, "optim.freeze", "parameter")
    for name in frozen:
        named[name].requires_grad_(False)
    if frozen and not any(parameter.requires_grad for parameter in named.values()):  # a shared one has several names
        raise ConfigError("optim.freeze", "all parameters are frozen", "'optim.freeze=[]'")
    return frozen


def matching(named: Iterable[str], patterns: Sequence[str], key: str, kind: str) -> list[str]:
    """The names that match one of the patterns; ``*`` stands for any characters.

    Args:
        named: All names.
        patterns: What the user wrote.
        key: The key of the configuration that has the patterns.
        kind: What is named, for the message.

    Raises:
        ConfigError: If a pattern matches no name.
    """
    names, found = list(named), {}
    for pattern in patterns:
        matched = fnmatch.filter(names, pattern)
        if not matched:
            near = difflib.get_close_matches(pattern, names, n=1, cutoff=0.0)[0]
            what = f"no {kind} is named {pattern}; the nearest name is {near}"
            raise ConfigError(key, what, "name it so, or use * for any characters")
        found |= dict.fromkeys(matched)
    return list(found)


class MuonAdamW(torch.optim.Optimizer):
    """Muon for hidden matrices and AdamW for everything else, as one optimizer of two kinds of groups.

    Muon (Jordan et al., 2024) replaces the momentum of a matrix by the nearest orthogonal matrix, which a few
    Newton-Schulz iterations find. It then steps by ``lr * sqrt(max(1, rows / columns))`` times this matrix. This is the
    original scaling, for which rates near 0.02 are usual, and the default of `torch.optim.Muon`. The update is the same
    as there, but it is faster: matrices of equal or transposed shapes are iterated as one stack. Weight decay is
    decoupled in both kinds of groups. All state is tensors, so that the state_dict is plain data.

    Args:
        groups: Dictionaries with ``params``, ``kind``, ``lr``, ``weight_decay``, and either ``momentum`` and
            ``num_iterations`` (kind ``muon``) or ``betas``, ``eps`` and ``fused`` (kind ``adamw``).
    """

    def __init__(self, groups: list[dict[str, Any]]):
        super().__init__(groups, {})

    @torch.no_grad()
    def step(self, closure: Callable[[], Tensor] | None = None) -> Tensor | None:
        """Does one update. A ``closure`` first computes loss and gradients; Lightning passes one."""
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
        gradients = _gradients(parameters)
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
            [*parameters],
            _gradients(parameters),
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


def _gradients(parameters: Sequence[nn.Parameter]) -> list[Tensor]:
    return [p.grad for p in parameters if p.grad is not None]


def orthogonalize(matrices: Sequence[Tensor], num_iterations: int, dtype: torch.dtype | None = None) -> list[Tensor]:
    """Computes about ``U @ V.T`` of each matrix's singular value decomposition ``U @ S @ V.T``.

    The quintic iteration moves singular values into about [0.7, 1.2]. It does not converge to 1, and training does not
    need that. `torch.optim.Muon` always computes it in bfloat16. With ``dtype=None`` this function computes it in
    bfloat16 if that is faster on the device (`capabilities.fast_bf16`), else in float32.

    Args:
        matrices: Matrices [R, C] or [C, R]. Tall ones are transposed, so that the Gram matrices are small.
        num_iterations: Number of iterations; 5 is usual.
        dtype: The dtype of the iteration; None leaves it to the device.

    Returns:
        One matrix for each matrix, with its shape, in the dtype of the iteration.
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
    """The factor of the peak learning rate at optimizer step ``step``, counted from 0.

    All schedules warm up linearly, and step ``warmup_steps - 1`` is the first at the peak. After that:

    - noam: ``sqrt(warmup_steps / (step + 1))``. Section 5.3 of the paper,
      ``d_model**-0.5 * min(n**-0.5, n * warmup_steps**-1.5)`` for n = step + 1, divided by its peak.
    - cosine: half a cosine from 1 to ``min_lr_ratio`` at ``max_steps`` (arXiv:1608.03983, without restarts).
    - wsd: stays at 1, and falls linearly to ``min_lr_ratio`` over the last ``decay_share`` of ``max_steps``
      (arXiv:2404.06395; linear decay: arXiv:2405.18392).
    - constant: stays at 1.

    Raises:
        ConfigError: There is no such schedule.
    """
    require_choice("optim.schedule", config.schedule, SCHEDULES)
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
