"""Checks of what a model keeps: it is the same when it is seeded, saved, loaded, resumed or evaluated again."""

from __future__ import annotations

import copy
import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from multihead.checking.look import Pair, Record, blame_records, line_of, recorded, where, whole
from multihead.checking.outcome import Finding, Outcome, found, note, ok
from multihead.checking.subject import Subject, seed_all, shake
from multihead.tasks.base import Task

STEPS = 2
"""Optimizer steps before and after the break."""
OF_OPTIMIZER = frozenset(("state", "param_groups", "defaults", "_opt_called", "_step_count"))
"""Attributes of every optimizer that its state holds, or that schedules set."""
OF_TORCH = frozenset(vars(nn.Module()))
"""Attributes that every module has."""


class Training:
    """A few optimizer steps in this process, with the configured optimizer and schedule."""

    def __init__(self, subject: Subject, seed: int | None = None):
        self.subject = subject
        self.task = subject.build(seed=seed).train()
        made = self.task.configure_optimizers(subject.plugin)
        self.optimizer, self.scheduler = made["optimizer"], made["lr_scheduler"]["scheduler"]
        self.clip = subject.config.trainer.gradient_clip_val
        seed_all(subject.config.seed)

    def steps(self, first: int, count: int) -> list[float]:
        """Losses of ``count`` steps from step ``first``."""
        losses = []
        for number in range(first, first + count):
            (batch,) = self.subject.micro_batches(number)
            self.optimizer.zero_grad()
            loss = self.subject.loss(self.task, batch, number)
            loss.backward()
            if self.clip:
                nn.utils.clip_grad_norm_(self.task.parameters(), self.clip)
            self.optimizer.step()
            self.scheduler.step()
            losses.append(float(loss.detach()))
        return losses

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds."""
        of = {name: getattr(self, name).state_dict() for name in ("optimizer", "scheduler")}
        return copy.deepcopy(of | {"model": self.task.model.state_dict(), "random": random_state()})

    def load(self, state: dict[str, Any]) -> None:
        """Continues from a checkpoint."""
        state = copy.deepcopy(state)
        self.task.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        set_random_state(state["random"])


def random_state() -> tuple[Any, ...]:
    """The states of the random streams of Python, NumPy and PyTorch."""
    return random.getstate(), np.random.get_state(), torch.get_rng_state()


def set_random_state(state: tuple[Any, ...]) -> None:
    """Restores what `random_state` returned."""
    random.setstate(state[0])
    np.random.set_state(state[1])
    torch.set_rng_state(state[2])


def evaluation(subject: Subject) -> Outcome:
    """In evaluation mode a pass draws nothing and changes nothing; dropout acts in training only."""
    task = shake(subject.build()).eval()
    before = copy.deepcopy(task.model.state_dict())
    (batch,) = subject.micro_batches(0)
    for name, run in _passes(subject, task, batch):
        records = []
        for seed in (1, 2):
            seed_all(seed)
            with torch.no_grad(), recorded(task.model) as calls:
                run()
            records.append(calls)
        pair = Pair(name, run, run, whole, whole)
        if place := blame_records(task.model, records[0], records[1], pair, 0.0):
            subject.steady = False
            expected = "In evaluation mode, the same input gives the same bits twice. Dropout acts in training only."
            finding = Finding(expected, "The second pass gives other numbers.", name, place)
            return found("two equal passes differ", finding)
    changed = [name for name, x in task.model.state_dict().items() if not same(x, before[name])]
    if changed:
        expected = "A pass in evaluation mode changes no parameter and no buffer."
        finding = Finding(expected, f"{changed[0]} has changed.", "one pass", where(task.model, _of(changed[0])))
        return found("evaluation changes the model", finding)
    return _dropout_acts(subject)


def _dropout_acts(subject: Subject) -> Outcome:
    """Says whether dropout changes the outputs in training, if the configuration has some."""
    model = subject.config.model
    if not (model.dropout or model.attention_dropout or model.ff_dropout):
        return ok("two passes give the same bits")
    task = subject.build().train()
    for stack in subject.stacks:
        with torch.no_grad():
            if torch.equal(subject.hidden(task, stack), subject.hidden(task, stack)):
                return note(f"dropout has no effect in the {stack}")
    return ok("same bits twice; dropout acts in training only")


def _passes(subject: Subject, task: Task, batch: dict[str, Any]) -> list[tuple[str, Any]]:
    """A pass of each stack over a small input, and one of the task."""
    passes = [
        (f"1 text of 2 tokens in the {stack}", lambda stack=stack: subject.hidden(task, stack, 1, 2))
        for stack in subject.stacks
    ]
    return [*passes, ("a batch of the task", lambda: subject.loss(task, batch))]


def repeat(subject: Subject) -> Outcome:
    """The same seed gives the same weights after some steps, bit by bit."""
    trainings, losses = [], []
    for _ in range(2):
        trainings.append(Training(subject))  # seeds what the steps draw
        losses.append(trainings[-1].steps(0, STEPS))
    first, second = (training.task.model.state_dict() for training in trainings)
    differ = [name for name in first if not same(first[name], second[name])]
    if not differ and str(losses[0]) == str(losses[1]):
        return ok(f"two trainings of {STEPS} steps give the same bits")
    model = trainings[0].task.model
    expected = f"Two trainings of {STEPS} steps with the same seed give the same bits."
    place = _between(subject, *(Training(subject).task for _ in range(2))) or where(model, _of((differ or [""])[0]))
    what = f"{len(differ)} of {len(first)} tensors differ; the losses are {losses[0]} and {losses[1]}."
    return found("the same seed gives other weights", Finding(expected, what, f"{STEPS} steps", place))


def resume(subject: Subject) -> Outcome:
    """A training that continues from a checkpoint is the training without a break, bit by bit."""
    straight = Training(subject)
    straight.steps(0, STEPS)
    state = straight.state()
    continued = Training(subject)
    continued.load(state)
    hidden = hidden_state(straight.task.model, continued.task.model)
    hidden += hidden_attributes("optimizer", straight.optimizer, continued.optimizer)
    losses = straight.steps(STEPS, STEPS)
    set_random_state(state["random"])
    others = continued.steps(STEPS, STEPS)
    first, second = straight.task.model.state_dict(), continued.task.model.state_dict()
    differ = [name for name in first if not same(first[name], second[name])]
    if not differ and str(losses) == str(others):
        return ok(f"{STEPS} steps, a break and {STEPS} steps give the same bits")
    expected = "A training that continues from a checkpoint gives the same bits as one without a break."
    what = f"{len(differ)} of {len(first)} tensors differ; the losses are {losses} and {others}."
    if hidden:
        what += f" The checkpoint does not hold {hidden[0][0]}: it is {hidden[0][1]}."
    place = hidden[0][2] if hidden else where(straight.task.model, _of((differ or [""])[0]))
    return found("it does not continue as it was", Finding(expected, what, f"{STEPS} steps before a break", place))


def reload(subject: Subject) -> Outcome:
    """Weights that are loaded into a new model give the same outputs."""
    saved = shake(subject.build()).eval()
    loaded = subject.build(seed=subject.config.seed + 1).eval()
    expected = "A saved model that is loaded again gives the same bits."
    missing, unexpected = loaded.model.load_state_dict(copy.deepcopy(saved.model.state_dict()), strict=False)
    if missing or unexpected:
        what = f"The new model lacks {', '.join([*missing, *unexpected][:3])}, or has it under another name."
        return found("the names of parameters change", Finding(expected, what))
    if place := _between(subject, saved, loaded):
        what = "The outputs differ, although all parameters and buffers are equal: something else is not saved."
        return found("the loaded model is another one", Finding(expected, what, "1 text of 2 tokens", place))
    return ok("a loaded model gives the same bits")


def _between(subject: Subject, first: Task, second: Task) -> str:
    """The module that gives something else in a second model with the same parameters; empty if none does."""
    for stack in subject.stacks:
        records: list[list[Record]] = []
        for task in (first, second):
            seed_all(1)
            with torch.no_grad(), recorded(task.model) as calls:
                subject.hidden(task, stack, 1, 2)
            records.append(calls)
        pair = Pair(stack, lambda: torch.empty(0), lambda: torch.empty(0), whole, whole)
        if place := blame_records(first.model, records[0], records[1], pair, 0.0):
            return place
    return ""


def hidden_state(used: nn.Module, fresh: nn.Module) -> list[tuple[str, str, str]]:
    """Attributes that differ between a model that has trained and one that has loaded its state.

    Returns:
        For each the name, both values in words, and where the class is.
    """
    others = dict(fresh.named_modules())
    pairs = ((name, module, others[name]) for name, module in used.named_modules() if name in others)
    return [each for name, module, other in pairs for each in hidden_attributes(name, module, other)]


def hidden_attributes(name: str, used: object, fresh: object) -> list[tuple[str, str, str]]:
    """As `hidden_state`, for one object that is known as ``name``."""
    found = []
    for key, value in vars(used).items():
        other = vars(fresh).get(key)
        if key not in OF_TORCH | OF_OPTIMIZER and _plain(value) and repr(value) != repr(other):
            words = f"{_short(value)} after {STEPS} steps and {_short(other)} in a new one"
            found.append((f"{name}.{key}", words, f"{name} ({type(used).__name__}, {line_of(type(used))})"))
    return found


def _plain(value: object) -> bool:
    return isinstance(value, int | float | str | list | tuple | dict | set | Tensor | type(None))


def _short(value: object) -> str:
    text = " ".join(repr(value).split())
    return text if len(text) <= 40 else text[:37] + "..."


def same(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors have the same bits, NaN included."""
    return a.shape == b.shape and a.dtype == b.dtype and bool(((a == b) | (a.isnan() & b.isnan())).all())


def _of(parameter: str) -> str:
    return parameter.rpartition(".")[0]
