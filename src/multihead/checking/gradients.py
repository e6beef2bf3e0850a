"""Checks of the gradients: that they reach every parameter, and that they do not depend on how a step is cut."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from multihead.checking.look import line_of, where
from multihead.checking.outcome import Finding, Outcome, found, note, ok, skipped
from multihead.checking.subject import Subject
from multihead.config.slots import from_plugin
from multihead.tasks.base import Task

CUTS = ((1, 3, "3 micro-batches"), (2, 1, "2 ranks"), (2, 2, "2 ranks with 2 micro-batches each"))
"""Ranks, micro-batches of each, and both in words."""
SMALL = 1e-3
"""A parameter whose gradient is below this share of the largest gradient is compared with that share."""
ROUNDING = 1e-4
"""Differences up to this share of a gradient are rounding: some losses are computed in float32 in any case."""


def gradients(subject: Subject) -> Outcome:
    """The gradient of the training loss reaches every trainable parameter and is finite."""
    task = subject.shaken(_dtype(subject)).train()
    trained = {name: p for name, p in task.model.named_parameters() if p.requires_grad}
    firsts = subject.steps_of_all()
    totals = gradients_of(
        subject, task, [b for first in firsts for n in (0, 1) for b in subject.micro_batches(first + n)]
    )
    zero = [name for name, g in totals.items() if not bool(g.any())]
    elsewhere = [name for name in zero if _learns_in_another_layer(name, totals, zero)]
    expected = "The gradient of the training loss reaches every trainable parameter, and it is finite."
    reasons = {
        "get no gradient": [name for name in trained if name not in totals],
        "get a gradient that is not finite": [name for name, g in totals.items() if not bool(torch.isfinite(g).all())],
        "get a gradient that is exactly zero": [name for name in zero if name not in elsewhere],
    }
    findings = [
        Finding(
            expected,
            f"{len(names)} of {len(trained)} parameters {reason}: {_listed(names)}.",
            "one step of the training",
            where(task.model, _module(names)),
        )
        for reason, names in reasons.items()
        if names
    ]
    if findings:
        return found(f"{sum(map(len, reasons.values()))} of {len(trained)} parameters learn nothing", *findings)
    if elsewhere:
        what = f"{_listed(elsewhere)}: the gradient is exactly zero here, and not in other layers."
        return note(f"{len(elsewhere)} of {len(trained)} parameters learn in other layers only", what)
    return ok(f"they reach all {len(trained)} trained parameters")


def _learns_in_another_layer(name: str, totals: dict[str, Tensor], zero: Sequence[str]) -> bool:
    """Whether the parameter of this name in another layer of the stack has a gradient that is not zero."""
    stack, layers, rest = name.partition(".layers.")
    if not layers:
        return False
    tail = rest.partition(".")[2]
    others = [key for key in totals if key.startswith(stack + layers) and key.endswith(f".{tail}") and key != name]
    return any(key not in zero for key in others)


def micro_batches(subject: Subject) -> Outcome:
    """The gradient of a step is the same however it is cut into micro-batches and ranks.

    DDP takes the mean of the ranks' gradients. So ranks are computed one after the other here, with the micro-batches
    that the batch plan gives to each, and their mean is taken.
    """
    task = subject.shaken(_dtype(subject)).train()
    if subject.training is None:
        return skipped("the model draws random numbers although dropout is off")
    expected = "The gradient of a step is the mean over its micro-batches and ranks."
    for first in subject.steps_of_all():
        whole, again = (gradients_of(subject, task, subject.micro_batches(first)) for _ in range(2))
        if max(subject.tolerance, ROUNDING) < _largest_difference(whole, again)[1] < math.inf:
            return skipped(f"the loss draws random numbers although dropout is off{_noise_off(subject, task)}")
        for ranks, parts, what in CUTS:
            means = [
                gradients_of(subject, task, subject.micro_batches(first, parts, rank, ranks)) for rank in range(ranks)
            ]
            mean = {name: torch.stack([g[name] for g in means if name in g]).sum(0) / ranks for name in whole}
            name, size = _largest_difference(whole, mean)
            if size > max(subject.tolerance, ROUNDING):
                shown = "are not finite" if math.isinf(size) else f"differ by {size:.2g} of their size"
                place = _loss(subject, task) or where(task.model, _module([name]))
                finding = Finding(expected, f"The gradients of {name} {shown}.", f"one step in {what}", place)
                return found(f"a step in {what} is another step", finding)
    empty = _empty(subject, task)
    return empty or ok("micro-batches and 2 ranks equal one batch")


def _loss(subject: Subject, task: Task) -> str:
    """Name, file and line of the plugin's loss; empty if the loss is the task's own."""
    for member in task.members().values():
        if (added := from_plugin(task.config, subject.plugin, "losses", member.settings)) is not None:
            function = getattr(added, "func", added)
            return f"task.loss ({function.__name__}, {line_of(function)})"
    return ""


def _noise_off(subject: Subject, task: Task) -> str:
    """What to type so that the plugin's loss draws nothing; empty if it has no options."""
    chosen = [member.settings.loss for member in task.members().values()]
    options = {name: subject.config.options[name] for name in chosen if name in subject.config.options}
    numbers = [f"options.{name}.{field.name}=0" for name, node in options.items() for field in dataclasses.fields(node)
               if isinstance(getattr(node, field.name), float)]  # fmt: skip
    return f": turn its noise off by its option ({' or '.join(numbers)})" if numbers else ""


def gradients_of(
    subject: Subject, task: Task, batches: Sequence[dict[str, Any]], *, of_parts: bool = False
) -> dict[str, Tensor]:
    """The mean gradient over micro-batches, by the names of the model's parameters that have one.

    Args:
        subject: The model's configuration.
        task: The model.
        batches: The micro-batches.
        of_parts: Whether the losses count that parts of the model add. They are means over micro-batches, so they may
            depend on how a step is cut.
    """
    task.zero_grad(set_to_none=True)
    for number, batch in enumerate(batches):
        loss = subject.loss(task, batch, number, of_parts=of_parts) / len(batches)
        loss.backward()
    found = {name: p.grad.detach().clone() for name, p in task.model.named_parameters() if p.grad is not None}
    task.zero_grad(set_to_none=True)
    return found


def _empty(subject: Subject, task: Task) -> Outcome | None:
    """The finding if a micro-batch without examples, which some ranks get, has a loss or a gradient."""
    for name, member in task.members().items():
        encoded = subject.prepared.encoded[name]["train"]
        batch = member.collate(encoded, np.zeros(0, dtype=np.int64))
        batch |= {"task": name, "parts": 2, "tokens_of_step": 1, "targets_of_step": 1, "epoch": 0}
        result = gradients_of(subject, task, [batch])
        bad = [key for key, g in result.items() if not bool(torch.isfinite(g).all()) or bool(g.any())]
        if bad:
            expected = "A micro-batch without examples, which some ranks get, has a gradient of zero."
            finding = Finding(expected, f"The gradient of {_listed(bad)} is not zero.", "an empty micro-batch",
                              where(task.model, _module(bad)))  # fmt: skip
            return found("an empty micro-batch has a gradient", finding)
    return None


def _largest_difference(a: dict[str, Tensor], b: dict[str, Tensor]) -> tuple[str, float]:
    """The parameter whose gradients differ most, and by how much of their size."""
    floor = SMALL * max((float(g.abs().max()) for g in a.values()), default=0.0)
    sizes = {}
    for name, g in a.items():
        size = float((g - b[name]).abs().max()) / max(float(g.abs().max()), floor, 1e-30)
        sizes[name] = size if math.isfinite(size) else math.inf
    name = max(sizes, key=sizes.__getitem__)
    return name, sizes[name]


def _dtype(subject: Subject) -> torch.dtype:
    return next(subject.exact.parameters()).dtype


def _module(names: Sequence[str]) -> str:
    """The module that holds the first of these parameters."""
    return names[0].rpartition(".")[0]


def _listed(names: Sequence[str], most: int = 3) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more


def parameters_by_module(model: nn.Module) -> dict[str, list[str]]:
    """The names of the parameters below each module of a layer: attention, feed-forward, norms."""
    found: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        parts = name.split(".")
        if "layers" in parts and len(parts) > parts.index("layers") + 3:
            found.setdefault(".".join(parts[: parts.index("layers") + 3]), []).append(name)
    return found
