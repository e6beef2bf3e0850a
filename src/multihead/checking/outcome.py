"""What a check says: one line for the table, and what was found."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

OK, NOTE, FINDING, SKIPPED = "ok", "note", "finding", "skipped"


@dataclass(frozen=True)
class Finding:
    """One property that the model lacks."""

    expected: str
    """What holds for a healthy model, as a sentence."""
    found: str
    """What was measured, with numbers."""
    smallest: str = ""
    """The smallest input that shows it; empty if the input does not matter."""
    where: str = ""
    """The module, its class, and the file and line of the class; empty if it is not known."""


@dataclass
class Outcome:
    """The result of one check."""

    status: str
    """ok, note (something to know, but no defect), finding, or skipped."""
    text: str
    """What was measured, or why the check was skipped: a few words for the table."""
    findings: Sequence[Finding] = field(default_factory=tuple)
    details: Sequence[str] = field(default_factory=tuple)
    """Sentences that are shown below the table."""
    name: str = ""
    """The check, which `examination.examine` fills in."""
    seconds: float = 0.0
    """The time that the check took, which `examination.examine` fills in."""


def ok(text: str, *details: str) -> Outcome:
    """The property holds."""
    return Outcome(OK, text, details=details)


def note(text: str, *details: str) -> Outcome:
    """There is something to know that is no defect."""
    return Outcome(NOTE, text, details=details)


def skipped(reason: str) -> Outcome:
    """The check does not apply, or it could not run."""
    return Outcome(SKIPPED, reason)


def found(text: str, *findings: Finding) -> Outcome:
    """The property does not hold."""
    return Outcome(FINDING, text, findings)
