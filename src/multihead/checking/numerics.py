"""Checks of numbers: lower precision beside float32, and the scale of activations and gradients by depth and width.

Shapes: B batch, T time, D d_model.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from multihead.checking.gradients import parameters_by_module
from multihead.checking.look import running, where
from multihead.checking.outcome import Finding, Outcome, found, note, ok, skipped
from multihead.checking.subject import Subject
from multihead.config.model import ModelConfig
from multihead.errors import ConfigError
from multihead.tasks.base import Task
from multihead.torch_private import watching_operations

LOW = (torch.bfloat16, torch.float16)
NAMES = {torch.bfloat16: "bf16", torch.float16: "fp16"}
PLACES = (2, 24)
"""Texts and tokens whose errors are measured."""
WORSE, LEAST_ERROR = 5.0, 0.05
"""A relative error is a finding if it is so many times the baseline's, and at least this."""
BLOWN_UP, VANISHED = 100.0, 1e-3
"""Activations, and gradients, relative to the baseline's, that are a finding."""
MOST_GROWTH = 1e3
"""Growth over the depth that is a finding if there is no baseline."""
WIDTHS = (0.5, 1.0, 2.0)
"""Widths of the coordinate check, relative to that of the model."""
WIDEST = 256
"""The largest width of the coordinate check is at most twice this."""
COORDINATE_STEPS = 3
STEEP = 1.0
"""A slope that exceeds the baseline's by this is a finding."""


# ---- precision


@dataclass(frozen=True)
class Operation:
    """An operation of PyTorch in a pass."""

    module: str
    """Name of the innermost module that ran."""
    dtype: str
    """Type of its result."""
    name: str
    """Name of the operation."""


def precision(subject: Subject, baseline: Subject | None) -> Outcome:
    """Autocast to bfloat16 and float16 costs as much as it costs the baseline; float32 means float32."""
    task = subject.shaken()
    if low := _low_in_float32(subject, task):
        expected = "A pass in float32 computes in float32 or float64."
        what = f"It computes in {low.dtype}, first in the operation {low.name}."
        finding = Finding(expected, what, "2 texts of 7 tokens", where(task.model, low.module))
        return found(f"a block computes in {low.dtype}", finding)
    other = baseline.shaken() if baseline else None
    texts = []
    for dtype in LOW:
        largest, theirs = 0.0, math.inf
        for stack in subject.stacks:
            mine = _autocast_error(subject, task, stack, dtype)
            normal = _autocast_error(baseline, other, stack, dtype) if baseline and other else math.inf
            if not math.isfinite(mine) and (math.isfinite(normal) or baseline is None):
                expected = f"Under autocast to {NAMES[dtype]}, the hidden states are finite."
                finding = Finding(expected, "They are infinite or NaN.", f"2 texts of 24 tokens in the {stack}",
                                  _first_infinite(subject, task, stack, dtype))  # fmt: skip
                return found(f"{NAMES[dtype]} overflows", finding)
            if mine > max(LEAST_ERROR, WORSE * normal):
                expected = f"Autocast to {NAMES[dtype]} changes the hidden states about as much as the baseline's."
                what = f"At the median place they change by {mine:.2g} of their size, the baseline's by {normal:.2g}."
                return found(
                    f"{NAMES[dtype]} is far from float32",
                    Finding(expected, what, f"2 texts of 24 tokens in the {stack}"),
                )
            largest, theirs = max(largest, mine), min(theirs, normal)
        texts.append(f"{NAMES[dtype]} {largest:.1g}" + (f" (baseline {theirs:.1g})" if baseline else ""))
    return ok("errors: " + ", ".join(texts))


def _autocast_error(subject: Subject, task: Task, stack: str, dtype: torch.dtype) -> float:
    """The median over places of the relative error; infinite if a number is not finite.

    A block that routes tokens may route a few of them otherwise, which says nothing about its precision.
    """
    with torch.no_grad():
        expected = subject.hidden(task, stack, *PLACES).double()
        with torch.autocast("cpu", dtype=dtype):
            result = subject.hidden(task, stack, *PLACES).double()
    if not bool(torch.isfinite(result).all()):
        return math.inf
    return float(((result - expected).norm(dim=-1) / expected.norm(dim=-1).clamp(min=1e-30)).median())


def _first_operation(task: Task, run: Callable[[], object], condition: Callable[[Tensor], bool]) -> Operation | None:
    """The first operation of a pass whose result fulfils a condition."""
    first: list[Operation] = []
    with running(task.model) as names, torch.no_grad():

        def see(name: str, arguments: tuple[Any, ...], result: Any) -> None:
            if not first and isinstance(result, Tensor) and condition(result):
                module = names[-1] if names else ""
                first.append(Operation(module, str(result.dtype).removeprefix("torch."), name))

        with watching_operations(see):
            run()
    return first[0] if first else None


def _low_in_float32(subject: Subject, task: Task) -> Operation | None:
    """The first operation of a pass without autocast whose result has 16 bits."""
    passes = [functools.partial(subject.hidden, task, stack) for stack in subject.stacks]
    found = (_first_operation(task, run, lambda x: x.dtype in LOW) for run in passes)
    return next((operation for operation in found if operation), None)


def _first_infinite(subject: Subject, task: Task, stack: str, dtype: torch.dtype) -> str:
    """The module of the first operation under autocast whose result is NaN or plus infinity; masks have minus."""

    def is_bad(x: Tensor) -> bool:
        return x.is_floating_point() and (bool(x.isnan().any()) or bool((x == math.inf).any()))

    def run() -> None:
        with torch.autocast("cpu", dtype=dtype):
            subject.hidden(task, stack, *PLACES)

    operation = _first_operation(task, run, is_bad)
    return where(task.model, operation.module) if operation else ""


# ---- scales by depth


@dataclass
class Scales:
    """Root mean squares of one training step at initialisation."""

    stream: dict[str, float]
    """Each layer to the size of its output."""
    blocks: dict[str, float]
    """Each block of a layer to the size of its output."""
    gradients: dict[str, float]
    """Each block of a layer to the largest size of a parameter's gradient."""

    def growth(self) -> float:
        """The size of the last layer's output relative to the first one's, in the stack in which it grows most."""
        stacks: dict[str, list[float]] = {}
        for name, size in self.stream.items():
            stacks.setdefault(name.partition(".layers")[0], []).append(size)
        return max((sizes[-1] / max(sizes[0], 1e-30) for sizes in stacks.values()), default=1.0)


def scales(subject: Subject, baseline: Subject | None) -> Outcome:
    """At initialisation, neither activations nor gradients blow up or vanish with the depth."""
    mine = _scales(subject)
    theirs = _scales(baseline) if baseline else None
    task = subject.plain
    numbers = {**mine.stream, **mine.blocks, **mine.gradients}
    if bad := [name for name, size in numbers.items() if not math.isfinite(size)]:
        finding = Finding("Activations and gradients are finite at initialisation.", f"Those of {bad[0]} are not.",
                          "one step of the training", where(task.model, bad[0]))  # fmt: skip
        return found("not finite at initialisation", finding)
    for what, sizes, normal in (
        ("output", mine.blocks, theirs.blocks if theirs else {}),
        ("gradient", mine.gradients, theirs.gradients if theirs else {}),
    ):
        for name, size in sizes.items():
            ratio = size / normal[name] if normal.get(name) else 1.0
            if ratio > BLOWN_UP or (what == "gradient" and ratio < VANISHED):
                expected = f"At initialisation, a block's {what} has about the size of the baseline's."
                text = f"It is {ratio:.2g} times as large: {size:.2g} instead of {normal[name]:.2g}."
                finding = Finding(expected, text, "one step of the training", where(task.model, name))
                return found(f"a block's {what} is {ratio:.1g} times the baseline's", finding)
    growth, limit = mine.growth(), BLOWN_UP * theirs.growth() if theirs else MOST_GROWTH
    if growth > limit:
        expected = "At initialisation, hidden states keep their size from the first layer to the last."
        return found(f"hidden states grow {growth:.1g} times", Finding(expected, f"They grow {growth:.2g} times."))
    text = f"hidden states grow {growth:.2g} times over the depth"
    return ok(text + (f" (baseline {theirs.growth():.2g})" if theirs else ""))


def _scales(subject: Subject) -> Scales:
    task = subject.build(quiet=True).train()
    blocks = parameters_by_module(task.model)
    stream: dict[str, float] = {}
    outputs: dict[str, float] = {}
    hooks = []
    for name, module in task.model.named_modules():
        is_layer = name.rpartition(".")[0].endswith(".layers")
        if is_layer or name in blocks:
            hooks.append(module.register_forward_hook(_note_size(name, stream if is_layer else outputs)))
    try:
        loss = sum(
            subject.loss(task, batch) for first in subject.steps_of_all() for batch in subject.micro_batches(first)
        )
        assert isinstance(loss, Tensor)
        loss.backward()
    finally:
        for hook in hooks:
            hook.remove()
    parameters = dict(task.model.named_parameters())
    found: dict[str, float] = {}
    for name, names in blocks.items():
        sizes = [_size(g) for key in names if (g := parameters[key].grad) is not None]
        if sizes and not name.endswith("_norm"):
            found[name] = max(sizes)
    kept = {name: size for name, size in outputs.items() if not name.endswith("_norm")}
    return Scales(stream, kept, found)


def _note_size(name: str, sizes: dict[str, float]) -> Any:
    def note(module: Any, arguments: tuple, result: Any) -> None:
        if isinstance(result, Tensor):
            sizes[name] = _size(result.detach())

    return note


def _size(x: Tensor) -> float:
    return float(x.double().pow(2).mean().sqrt())


# ---- scales by width


def widths(subject: Subject, baseline: Subject | None) -> Outcome:
    """How much a few steps change hidden states, by width: the coordinate check (Yang et al. 2022, arXiv:2203.03466).

    If the change does not depend on the width, the learning rate of a narrow model suits a wide one (section 2 and
    appendix D.1 of the paper).
    """
    configs = _configs(subject.config.model)
    if len(configs) < len(WIDTHS):
        return skipped("the sizes of this model cannot be scaled evenly")
    changes = [_change(subject, config) for config in configs]
    if not any(changes):
        return skipped("no step changes what is checked, so nothing below the last layer is trained")
    mine = _slope(configs, changes)
    if not math.isfinite(mine):
        expected = f"{COORDINATE_STEPS} steps leave hidden states finite at every width."
        what = f"They are not finite at a width of {', '.join(str(c.d_model) for c in configs)}."
        return found("not finite after a few steps", Finding(expected, what, f"{COORDINATE_STEPS} steps"))
    theirs = None
    if baseline:
        normal = _configs(baseline.config.model)
        theirs = _slope(normal, [_change(baseline, config) for config in normal])
    beside = f" (baseline {theirs:z.1f})" if theirs is not None else ""
    text = f"a step changes hidden states by width^{mine:z.1f}{beside}"
    shown = ", ".join(str(config.d_model) for config in configs)
    if theirs is not None and mine > theirs + STEEP:
        expected = f"With the width ({shown}), a step's change of hidden states grows about as in the baseline."
        what = f"It grows as width^{mine:.2f}, in the baseline as width^{theirs:.2f}."
        return found("the learning rate does not transfer", Finding(expected, what, f"{COORDINATE_STEPS} steps"))
    if abs(mine) <= 0.25:
        return ok(text, f"Over widths of {shown}, the learning rate transfers as it is.")
    how = "smaller" if mine > 0 else "larger"
    detail = f"A learning rate found at one width is not the best at another: a wider model needs a {how} one."
    return note(text, f"Over widths of {shown}: {detail}")


def _configs(model: ModelConfig) -> list[ModelConfig]:
    """The model at several widths, the heads with the same dimensions."""
    base = min(1.0, WIDEST / model.d_model)
    found = []
    for factor in WIDTHS:
        names = ("d_model", "d_ff", "num_heads", "num_kv_heads", "embedding_width")
        sizes = {name: getattr(model, name) * base * factor for name in names}
        if any(size != int(size) for name, size in sizes.items() if name != "d_ff"):
            continue
        try:
            found.append(replace(model, **{name: int(size) for name, size in sizes.items()}))
        except ConfigError:
            continue
    return found


def _slope(configs: list[ModelConfig], changes: list[float]) -> float:
    """The exponent of the width in the change of the last layer's output after a few steps."""
    if not all(math.isfinite(change) and change > 0 for change in changes):
        return math.inf
    xs, ys = [math.log(config.d_model) for config in configs], [math.log(change) for change in changes]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    top = sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True))
    return top / sum((x - x_mean) ** 2 for x in xs)


def _change(subject: Subject, config: ModelConfig) -> float:
    """Root mean square of the change of the last layer's output, after steps at the peak learning rate."""
    task = subject.build(quiet=True, model=config).train()
    optimizer = task.configure_optimizers(subject.plugin)["optimizer"]
    for group in optimizer.param_groups:
        group["lr"] = group.get("initial_lr", group["lr"])  # the peak, without warm-up
    before = _last_layer(subject, task)
    for number in range(COORDINATE_STEPS):
        (batch,) = subject.micro_batches(number)
        optimizer.zero_grad()
        subject.loss(task, batch, number).backward()
        optimizer.step()
    return _size(_last_layer(subject, task) - before)


@torch.no_grad()
def _last_layer(subject: Subject, task: Task) -> Tensor:
    """The output [B, T, D] of the last layer of the last stack, before the final norm."""
    stack = subject.stacks[-1]
    outputs: list[Tensor] = []
    layers = getattr(getattr(task.model.transformer, stack), "layers", None)
    hook = layers[-1].register_forward_hook(lambda module, x, y: outputs.append(y)) if layers else None
    hidden = subject.hidden(task, stack)
    if hook is not None:
        hook.remove()
    return outputs[-1] if outputs else hidden
