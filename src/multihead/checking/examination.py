"""All checks in order. A check that needs a property which the model lacks is skipped, and says so."""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from multihead.checking import agreement, cost, exports, gradients, numerics, parts, state
from multihead.checking.look import short_path
from multihead.checking.outcome import Finding, Outcome, found, skipped
from multihead.checking.subject import Subject
from multihead.config.verbs import DOCTOR_CHECKS
from multihead.errors import reason

Check = Callable[[Subject, Subject | None], Outcome]


def alone(check: Callable[[Subject], Outcome]) -> Check:
    """A check that needs no baseline."""
    return lambda subject, baseline: check(subject)


CHECKS: dict[str, Check] = {
    "outputs": alone(parts.outputs),
    "evaluation": alone(state.evaluation),
    "causality": alone(agreement.causality),
    "documents": alone(agreement.documents),
    "padding": alone(agreement.padding),
    "batch": alone(agreement.batch),
    "cache": alone(agreement.cache),
    "order": alone(agreement.order),
    "lengths": parts.lengths,
    "gradients": alone(gradients.gradients),
    "micro_batches": alone(gradients.micro_batches),
    "registration": parts.registration,
    "precision": numerics.precision,
    "repeat": alone(state.repeat),
    "resume": alone(state.resume),
    "reload": alone(state.reload),
    "scales": numerics.scales,
    "cost": cost.cost,
    "widths": numerics.widths,
    "export": alone(exports.export),
}
assert tuple(CHECKS) == DOCTOR_CHECKS
NEED_STEADY = (
    *("causality", "documents", "padding", "batch", "cache", "order", "micro_batches", "precision", "resume"),
    *("reload", "export"),
)
"""Checks that compare two passes, which tells nothing if equal passes differ."""


def examine(
    subject: Subject, baseline: Subject | None, names: Sequence[str] = (), seconds: float = 0.0
) -> Iterator[Outcome]:
    """Yields the outcome of each check when it is done.

    Args:
        subject: The model.
        baseline: The model without the plugin's parts; None if there is no plugin.
        names: The checks; empty for all.
        seconds: After so many seconds no check starts any more; 0 for no limit.
    """
    began, runs = time.monotonic(), True
    for name in names or CHECKS:
        start = time.monotonic()
        if not runs:
            outcome = skipped("the model does not run: see outputs")
        elif not subject.steady and name in NEED_STEADY:
            outcome = skipped("equal passes differ: see evaluation")
        elif seconds and start - began > seconds:
            outcome = skipped(f"{seconds:g} s are over; seconds=0 runs all")
        else:
            outcome, raised = _guarded(name, subject, baseline)
            runs = runs and not (name == "outputs" and (raised or not subject.finite))
        outcome.name, outcome.seconds = name, time.monotonic() - start
        yield outcome


def _guarded(name: str, subject: Subject, baseline: Subject | None) -> tuple[Outcome, bool]:
    """The outcome of a check, and whether the model raised an error, which is a finding."""
    try:
        return CHECKS[name](subject, baseline), False
    except Exception as error:  # the user's code may raise anything
        expected = "The model runs on every input of this check."
        finding = Finding(expected, f"It raises {reason(error)}", "", _raised_at(error, subject))
        return found(f"the model raises {type(error).__name__}", finding), True


def _raised_at(error: BaseException, subject: Subject) -> str:
    """FILE:LINE and function of the innermost frame in the plugin's file, or else in any file."""
    frames = traceback.extract_tb(error.__traceback__)
    files = subject.plugin.files if subject.plugin else ()
    own = [frame for frame in frames if Path(frame.filename) in files]
    frame = (own or list(frames))[-1]
    return f"{short_path(frame.filename)}:{frame.lineno}, in {frame.name}"
