"""What the changed model costs beside the baseline: parameters, operations, and seconds of a step."""

from __future__ import annotations

import statistics
import time

from multihead.checking.outcome import Outcome, ok, skipped
from multihead.checking.subject import Subject
from multihead.tasks.base import Task
from multihead.training.cost import kept_for_backward

PAIRS = 7
"""Pairs of steps, one of each model, that are timed."""


def cost(subject: Subject, baseline: Subject | None) -> Outcome:
    """Parameters, operations and pace relative to the baseline of the same sizes."""
    if baseline is None:
        return skipped("there is no plugin's part to compare")
    task = subject.build().train()
    (batch,) = subject.micro_batches(0)
    parameters, operations = _parameters(task), kept_for_backward(task, batch)[1]
    other = baseline.build().train()
    theirs, their_operations = _parameters(other), kept_for_backward(other, batch)[1]
    ratios = []
    for number in range(PAIRS):
        first, second = (task, other) if number % 2 else (other, task)
        times = {id(each): _seconds(subject if each is task else baseline, each, batch) for each in (first, second)}
        ratios.append(times[id(task)] / times[id(other)])
    ratios = sorted(ratios[1:])  # the first pair warms up
    pace = statistics.median(ratios)
    details = (
        f"Parameters: {parameters:,}, baseline {theirs:,} ({parameters / theirs - 1:+.1%}).",
        f"Counted operations of a step: {operations / 1e6:,.0f} MFLOP, baseline {their_operations / 1e6:,.0f} "
        f"({operations / max(1, their_operations) - 1:+.1%}); only matrix products count.",
        f"A step takes {pace:.2f} times as long as the baseline's (median of {len(ratios)} pairs; {ratios[0]:.2f} to "
        f"{ratios[-1]:.2f}).",
    )
    change = f"{parameters / theirs - 1:+.1%} parameters, {operations / max(1, their_operations) - 1:+.1%} FLOP"
    return ok(f"{change}, {pace:.2f} x the time", *details)


def _parameters(task: Task) -> int:
    return sum(p.numel() for p in task.model.parameters())


def _seconds(subject: Subject, task: Task, batch: dict) -> float:
    began = time.perf_counter()
    subject.loss(task, batch).backward()
    seconds = time.perf_counter() - began
    task.zero_grad(set_to_none=True)
    return seconds
