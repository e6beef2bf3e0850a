"""Checks of the model's parts: shapes, types, inputs that stay as they are, registered tensors, lengths.

Shapes: B batch, T time, D d_model.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from multihead.checking.look import Watch, running, where
from multihead.checking.outcome import Finding, Outcome, found, note, ok
from multihead.checking.state import OF_TORCH
from multihead.checking.subject import Subject
from multihead.tasks.base import Task
from multihead.torch_private import version_of, watching_operations

LONGEST = 1024
"""Longest text that is tried, whatever model.max_len is."""
MAY_MIX = ("index", "index_put_", "index_put", "_to_copy", "copy_", "_unsafe_index")
"""Operations that take tensors of the CPU beside those of an accelerator."""
DEPTH = 4
"""Levels of lists and dicts in which tensors are looked for."""


def outputs(subject: Subject) -> Outcome:
    """The hidden states are finite float32 [B, T, D], and no module changes its input in place."""
    task = subject.build().eval()
    for stack in subject.stacks:
        size = (2, 7, subject.width(task))
        with _Inputs(task.model) as inputs, torch.no_grad():
            hidden = subject.hidden(task, stack)
        what = f"2 texts of 7 tokens in the {stack}"
        if not isinstance(hidden, Tensor) or tuple(hidden.shape) != size:
            shape = tuple(hidden.shape) if isinstance(hidden, Tensor) else type(hidden).__name__
            expected = f"The {stack} returns hidden states [B, T, D], here {size}."
            return found(f"hidden states are {shape}", Finding(expected, f"It returns {shape}.", what))
        if inputs.changed:
            expected = "A block leaves its input as it is; others still need it."
            finding = Finding(expected, "It changes its input in place.", what, where(task.model, inputs.changed))
            return found("a block changes its input in place", finding)
        if inputs.retyped:
            name, dtype = inputs.retyped
            expected = "A block that gets float32 returns float32."
            finding = Finding(expected, f"It returns {dtype}.", what, where(task.model, name))
            return found(f"a block returns {dtype}", finding)
        if not bool(torch.isfinite(hidden).all()):
            subject.finite = False
            finding = Finding("The hidden states are finite.", _how_many(hidden), what, inputs.place(task.model))
            return found("hidden states are not finite", finding)
    return ok("hidden states are finite float32 [B, T, D]")


class _Inputs(Watch):
    """Notes the first module that changes its input in place, changes the type, or returns what is not finite."""

    def __init__(self, model: nn.Module):
        super().__init__(model, self._look)
        self.changed, self.infinite = "", ""
        self.retyped: tuple[str, str] | None = None
        self._versions: dict[int, list[int]] = {}

    def __enter__(self) -> _Inputs:
        super().__enter__()
        for module in self.model.modules():
            self.hooks.append(module.register_forward_pre_hook(self._remember))
        return self

    def _remember(self, module: nn.Module, arguments: tuple[Any, ...]) -> None:
        self._versions[id(module)] = [version_of(x) for x in arguments if isinstance(x, Tensor)]

    def _look(self, name: str, module: nn.Module, arguments: tuple[Any, ...], result: Any) -> None:
        given = [x for x in arguments if isinstance(x, Tensor)]
        own = not type(module).__module__.startswith("torch.")
        if own and not self.changed and [version_of(x) for x in given] != self._versions[id(module)]:
            self.changed = name
        if not isinstance(result, Tensor) or not result.is_floating_point():
            return
        floats = [x for x in given if x.is_floating_point()]
        if floats and not self.retyped and result.dtype != torch.float32 and floats[0].dtype == torch.float32:
            self.retyped = name, str(result.dtype).removeprefix("torch.")
        finite = all(bool(torch.isfinite(x).all()) for x in floats)
        if finite and not self.infinite and not bool(torch.isfinite(result).all()):
            self.infinite = name

    def place(self, model: nn.Module) -> str:
        """Where the first number that is not finite comes from."""
        return where(model, self.infinite) if self.infinite else ""


def _how_many(hidden: Tensor) -> str:
    bad = int((~torch.isfinite(hidden)).sum())
    return f"{bad} of {hidden.numel()} numbers are infinite or NaN."


def registration(subject: Subject, baseline: Subject | None) -> Outcome:
    """Every tensor of the model is registered, and the optimizer has each trained parameter once."""
    task = subject.build().eval()
    with torch.no_grad():
        for stack in subject.stacks:
            subject.hidden(task, stack)
    expected = "Tensors are parameters or buffers, so that they are trained, saved and moved with the model."
    findings = []
    for name, key, kind in _loose(task.model):
        what = f"{name}.{key} holds {kind} that is not registered." if name else f"{key} holds {kind}."
        findings.append(Finding(expected, what, "", where(task.model, name)))
    groups = task.configure_optimizers(subject.plugin)["optimizer"].param_groups
    given = [id(p) for group in groups for p in group["params"]]
    for name, p in task.model.named_parameters():
        if given.count(id(p)) != int(p.requires_grad):
            what = f"It has {name} {given.count(id(p))} times."
            findings.append(Finding("The optimizer has each trained parameter once.", what, "", where(task.model, "")))
    if not findings and (finding := _other_device(subject)):
        findings.append(finding)
    if findings:
        return found("tensors are not registered, moved or trained", *findings[:3])
    shared = _shared(task) - (_shared(baseline.build()) if baseline else _shared(task))
    if shared:
        return note("blocks share parameters", f"These names are one parameter: {', '.join(sorted(shared)[:4])}.")
    return ok("all tensors are registered and move")


def _loose(model: nn.Module) -> Iterator[tuple[str, str, str]]:
    """Module, attribute and kind of each tensor that is an attribute but neither a parameter nor a buffer."""
    known = {id(x) for x in (*model.parameters(), *model.buffers())}
    modules = {id(module) for module in model.modules()}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if key in OF_TORCH:
                continue
            for each in _tensors(value, modules):
                if id(each) not in known:
                    yield name, key, "a parameter" if each.requires_grad else "a tensor"
                    break


def _tensors(value: Any, modules: set[int], depth: int = 0) -> Iterator[Tensor]:
    """The tensors in a value: itself, or in lists, dicts and modules that are not registered."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, nn.Module):
        if id(value) not in modules:
            yield from value.parameters()
            yield from value.buffers()
    elif isinstance(value, list | tuple | set | dict) and depth < DEPTH:
        for each in value.values() if isinstance(value, dict) else value:
            yield from _tensors(each, modules, depth + 1)


def _other_device(subject: Subject) -> Finding | None:
    """The finding if a module mixes devices; tried on the meta device, which needs no accelerator.

    Each module gets the inputs that it has in a pass on the CPU. A module whose code needs a value fails on the meta
    device, which has none; that is no finding.
    """
    task = subject.build(quiet=True).eval()
    calls: dict[str, tuple[tuple[Any, ...], dict[str, Any]]] = {}

    def note(name: str) -> Any:
        return lambda module, arguments, options: calls.setdefault(name, (arguments, options)) and None

    hooks = [m.register_forward_pre_hook(note(n), with_kwargs=True) for n, m in task.model.named_modules()]
    with torch.no_grad():
        for stack in subject.stacks:
            subject.hidden(task, stack, 1, 3)
    for hook in hooks:
        hook.remove()
    modules = dict(task.model.named_modules())
    task.to("meta")
    for name, (arguments, options) in calls.items():
        if type(modules[name]).__module__.startswith("torch."):
            continue
        mixed = _mixed(task, modules[name], _on_meta(arguments), _on_meta(options))
        if mixed is not None:
            expected = "All tensors of a pass are on the device of the model."
            what = f"The operation {mixed[1]} takes a tensor of the CPU when the model is on another device."
            return Finding(expected, what, "1 text of 3 tokens", where(task.model, mixed[0] or name))
    return None


def _mixed(
    task: Task, module: nn.Module, arguments: tuple[Any, ...], options: dict[str, Any]
) -> tuple[str, str] | None:
    """The innermost module and the operation that mixes devices first; None if there is none."""
    mixed: list[tuple[str, str]] = []
    with running(task.model) as names:

        def see(operation: str, given: tuple[Any, ...], result: Any) -> None:
            kinds = {x.device.type for x in _tensors(list(given), set()) if x.dim()}
            if len(kinds) > 1 and operation not in MAY_MIX:
                mixed.append((names[-1] if names else "", operation))

        errors = (RuntimeError, NotImplementedError, TypeError)
        with contextlib.suppress(*errors), torch.no_grad(), watching_operations(see):
            module(*arguments, **options)
    return mixed[0] if mixed else None


def _on_meta(value: Any) -> Any:
    """The same arguments with their tensors on the meta device."""
    if isinstance(value, Tensor):
        return value.to("meta")
    if isinstance(value, tuple | list):
        return type(value)(_on_meta(each) for each in value)
    if isinstance(value, dict):
        return {key: _on_meta(each) for key, each in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _on_meta(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return dataclasses.replace(value, **fields)
    return value


def _shared(task: Task) -> frozenset[str]:
    """Names of parameters that have another name too."""
    names: dict[int, list[str]] = {}
    for name, p in task.model.named_parameters(remove_duplicate=False):
        names.setdefault(id(p), []).append(name)
    return frozenset(name for several in names.values() if len(several) > 1 for name in several)


def lengths(subject: Subject, baseline: Subject | None) -> Outcome:
    """One token and model.max_len tokens give finite numbers, and so do rows of which nothing is real."""
    longest = min(LONGEST, subject.config.model.max_len)
    cut = f" (model.max_len is {subject.config.model.max_len})" if longest < subject.config.model.max_len else ""
    task = subject.shaken()
    for stack in subject.stacks:
        for length in (1, longest):
            with _Inputs(task.model) as inputs, torch.no_grad():
                hidden = subject.hidden(task, stack, 1, length)
            if not bool(torch.isfinite(hidden).all()):
                what = f"1 text of {length} tokens in the {stack}"
                expected = f"Texts of 1 to {longest} tokens give finite numbers."
                return found(what, Finding(expected, _how_many(hidden), what, inputs.place(task.model)))
    other = baseline.shaken() if baseline else None
    for what, of_subject in _all_padded(subject, task):
        with _Inputs(task.model) as inputs:
            hidden, real = of_subject()
        healthy = None if baseline is None or other is None else dict(_all_padded(baseline, other))[what]()[0]
        everywhere = healthy is None or bool(torch.isfinite(healthy).all())
        if not bool(torch.isfinite(hidden if everywhere else real).all()):
            expected = "A row that is all padding gives no NaN."
            return found(what, Finding(expected, _how_many(hidden), what, inputs.place(task.model)))
    return ok(f"1 to {longest} tokens{cut}, and rows of padding")


def _all_padded(subject: Subject, task: Task) -> Iterator[tuple[str, Any]]:
    """Passes in which the second of two rows is all padding; each returns all hidden states, and those of the first."""
    transformer = task.model.transformer
    mask = torch.tensor([[True, True, True], [False, False, False]])

    def passed(run: Any) -> Any:
        with torch.no_grad():
            hidden = run()
        return hidden, hidden[:1]

    if "encoder" in subject.stacks:
        ids = subject.ids("encoder", 2, 3)
        yield (
            "2 texts of 3 tokens in the encoder, the second all padding",
            lambda: passed(lambda: transformer.encode(ids, mask)),
        )
    if "decoder" in subject.stacks:
        ids, memory = subject.ids("decoder", 2, 3), subject.memory(task, 2, 3)
        yield (
            "2 texts of 3 tokens in the decoder, the second all padding",
            lambda: passed(lambda: transformer.decode(ids, target_mask=mask, memory=memory)),
        )
        if memory is not None:
            yield (
                "2 texts of 3 tokens in the decoder, the second memory all padding",
                lambda: passed(lambda: transformer.decode(ids, memory=memory, memory_mask=mask)),
            )
