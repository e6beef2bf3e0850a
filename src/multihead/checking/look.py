"""Runs a model twice in two ways that should agree, and says which module makes the difference.

Shapes: B batch, T time, D d_model.
"""

from __future__ import annotations

import contextlib
import inspect
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

import multihead

View = Callable[[Tensor], Tensor | None]
"""Takes the part of a tensor that the two passes should have in common; None if the tensor has no such part."""


@dataclass(frozen=True)
class Pair:
    """Two passes whose results should agree in a part."""

    what: str
    """The input in words, for the user."""
    first: Callable[[], Tensor]
    """The pass that is right by definition."""
    second: Callable[[], Tensor]
    """The pass that is compared with it."""
    of_first: View
    """The part of the first result, and of what its modules return."""
    of_second: View
    """The same part of the second pass."""
    joined: bool = False
    """Whether the second pass calls modules several times, for one stretch of time after the other."""


@dataclass
class Record:
    """One call of a module: the tensors that it received and returned."""

    name: str
    module: nn.Module
    inputs: list[Tensor]
    output: Tensor


@dataclass(frozen=True)
class Mismatch:
    """A pair whose results differ."""

    pair: Pair
    size: float
    """Largest difference, relative to the largest magnitude of the first result; infinite if it is not a number."""
    where: str


def whole(x: Tensor) -> Tensor:
    """The view that takes everything."""
    return x


def difference(a: Tensor, b: Tensor) -> float:
    """Largest difference of two tensors relative to the largest magnitude of ``a``; infinite if they do not compare."""
    if a.shape != b.shape:
        return math.inf
    if a.numel() == 0:
        return 0.0
    a, b = a.detach().double(), b.detach().double()
    if not (bool(torch.isfinite(a).all()) and bool(torch.isfinite(b).all())):
        return 0.0 if torch.equal(a.nan_to_num(), b.nan_to_num()) and torch.equal(a.isnan(), b.isnan()) else math.inf
    scale = float(a.abs().max())
    largest = float((a - b).abs().max())
    return largest / scale if scale else (math.inf if largest else 0.0)


def first_mismatch(model: nn.Module, pairs: Iterable[Pair], tolerance: float) -> Mismatch | None:
    """The first pair that differs by more than ``tolerance``. If pairs come smallest first, it is the smallest.

    Raises:
        Exception: What the model raised on the first input that it cannot run on, if all others agree.
    """
    failed: Exception | None = None
    for pair in pairs:
        try:
            with torch.no_grad():
                first, second = pair.of_first(pair.first()), pair.of_second(pair.second())
        except (RuntimeError, ValueError, IndexError) as error:  # a larger input may say more than an error
            failed = failed or error
            continue
        assert first is not None and second is not None, "a pair's views take something of its results"
        if (size := difference(first, second)) > tolerance:
            return Mismatch(pair, size, blame(model, pair, tolerance))
    if failed is not None:
        raise failed
    return None


@contextlib.contextmanager
def recorded(model: nn.Module) -> Iterator[list[Record]]:
    """Records each call of a module inside this context, in the order in which the calls end."""
    records: list[Record] = []

    def note(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, arguments: tuple, options: dict[str, Any], result: Any) -> None:
            if isinstance(result, Tensor):
                given = [x.detach().clone() for x in (*arguments, *options.values()) if isinstance(x, Tensor)]
                records.append(Record(name, module, given, result.detach().clone()))

        return hook

    hooks = [m.register_forward_hook(note(name), with_kwargs=True) for name, m in model.named_modules()]
    try:
        yield records
    finally:
        for hook in hooks:
            hook.remove()


@torch.no_grad()
def blame(model: nn.Module, pair: Pair, tolerance: float) -> str:
    """The module that makes the difference: its inputs agree in both passes, and its outputs do not."""
    with recorded(model) as records:
        pair.first()
    with recorded(model) as others:
        pair.second()
    if pair.joined:
        records, others = _joined(records), _joined(others)
    return blame_records(model, records, others, pair, tolerance)


def blame_records(
    model: nn.Module, records: Sequence[Record], others: Sequence[Record], pair: Pair, tolerance: float
) -> str:
    """As `blame`, from what two passes have recorded."""
    known: dict[str, list[Record]] = {}
    for record in others:
        known.setdefault(record.name, []).append(record)
    suspect = None
    for record in records:
        if not known.get(record.name):
            continue
        other = known[record.name].pop(0)
        if _differ(record.output, other.output, pair, tolerance) is not True:
            continue
        suspect = suspect or record
        agree = [_differ(a, b, pair, tolerance) for a, b in zip(record.inputs, other.inputs, strict=False)]
        if True not in agree:
            return where(model, record.name)
    return where(model, suspect.name) if suspect else ""


def _differ(a: Tensor, b: Tensor, pair: Pair, tolerance: float) -> bool | None:
    """Whether the common parts differ; None if there are none."""
    first, second = pair.of_first(a), pair.of_second(b)
    if first is None or second is None or first.shape != second.shape:
        return None
    return difference(first, second) > tolerance


def _joined(records: Sequence[Record]) -> list[Record]:
    """The calls of each module as one call, put together along the time."""
    calls: dict[str, list[Record]] = {}
    for record in records:
        calls.setdefault(record.name, []).append(record)
    joined = []
    for name, several in calls.items():
        try:
            inputs = [torch.cat(parts, 1) for parts in zip(*(call.inputs for call in several), strict=True)]
            joined.append(Record(name, several[0].module, inputs, torch.cat([call.output for call in several], 1)))
        except (RuntimeError, IndexError, ValueError):  # not of the shape [B, T, ...]
            continue
    return joined


@contextlib.contextmanager
def running(model: nn.Module) -> Iterator[list[str]]:
    """The names of the modules that run at the moment, the innermost last."""
    names: list[str] = []

    def enter(name: str) -> Callable[..., None]:
        return lambda *_: names.append(name)

    def leave(*_: Any) -> None:
        names.pop()

    hooks = [module.register_forward_pre_hook(enter(name)) for name, module in model.named_modules()]
    hooks += [module.register_forward_hook(leave) for module in model.modules()]
    try:
        yield names
    finally:
        for hook in hooks:
            hook.remove()


def where(model: nn.Module, name: str) -> str:
    """The module, and the file and line of its class, or of the class around it if its own is one of PyTorch."""
    modules = dict(model.named_modules(remove_duplicate=False))
    if name not in modules:
        return name
    own = type(modules[name])
    outer = name
    while outer and type(modules[outer]).__module__.startswith("torch."):
        outer = outer.rpartition(".")[0]
    cls = type(modules[outer])
    positions = getattr(modules[outer], "positions", None)  # its methods are no modules, so hooks do not see them
    if isinstance(positions, nn.Module):
        place = line_of(type(positions))
        return f"{name} ({cls.__name__}, {line_of(cls)}; its positions are {type(positions).__name__}, {place})"
    inside = own.__name__ if cls is own else f"{own.__name__} in {cls.__name__}"
    place = line_of(cls)
    return f"{name or type(model).__name__} ({inside}{f', {place}' if place else ''})"


def line_of(cls: Any) -> str:
    """FILE:LINE of a class or a function; empty if there is no source."""
    try:
        file, (_, line) = inspect.getsourcefile(cls), inspect.getsourcelines(cls)
    except (OSError, TypeError):
        return ""
    return f"{short_path(file or '')}:{line}"


def short_path(file: str) -> str:
    """A file as people know it: from the working directory, or from the package."""
    path, package = Path(file), Path(multihead.__file__).parent
    if path.is_relative_to(package):
        return str(Path("multihead") / path.relative_to(package))
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else path.name


@dataclass
class Watch:
    """Calls a function on every module's inputs and result, for checks that need no second pass."""

    model: nn.Module
    see: Callable[[str, nn.Module, tuple, Any], None]
    hooks: list[Any] = field(default_factory=list)
    """What removes the hooks again."""

    def __enter__(self) -> Watch:
        for name, module in self.model.named_modules():
            self.hooks.append(module.register_forward_hook(self._hook(name)))
        return self

    def _hook(self, name: str) -> Callable[..., None]:
        return lambda module, arguments, result: self.see(name, module, arguments, result)

    def __exit__(self, *_: object) -> None:
        for hook in self.hooks:
            hook.remove()
