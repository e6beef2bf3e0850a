"""Shows what the checks have found: a table, and below it a paragraph for each finding."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

from rich.table import Table
from rich.text import Text

from multihead.checking.outcome import FINDING, NOTE, OK, SKIPPED, Outcome

STYLES = {OK: "green", NOTE: "yellow", FINDING: "bold red", SKIPPED: "dim"}
WIDTH = 80


def table(outcomes: Sequence[Outcome]) -> Table:
    """A row for each check: its name, the result, seconds, and a few words. It fits 80 columns."""
    shown = Table(box=None, pad_edge=False, header_style="bold", width=WIDTH)
    shown.add_column("check", no_wrap=True)
    shown.add_column("result", no_wrap=True)
    shown.add_column("s", justify="right", no_wrap=True)
    shown.add_column("", overflow="fold")
    for outcome in outcomes:
        result = Text(outcome.status, style=STYLES[outcome.status])
        seconds = "" if outcome.status == SKIPPED else f"{outcome.seconds:.1f}"
        shown.add_row(outcome.name, result, seconds, Text(outcome.text))
    return shown


def paragraphs(outcomes: Sequence[Outcome]) -> Iterator[str]:
    """The findings, then what else there is to know, as lines that the terminal breaks."""
    for outcome in outcomes:
        for finding in outcome.findings:
            yield f"\n{outcome.name}"
            yield f"  expected: {finding.expected}"
            yield f"  found:    {finding.found}"
            if finding.smallest:
                yield f"  input:    {finding.smallest}"
            if finding.where:
                yield f"  look at:  {finding.where}"
    if any(outcome.details for outcome in outcomes):
        yield "\nto know"
    for outcome in outcomes:
        for detail in outcome.details:
            yield f"  {outcome.name}: {detail}"


def verdict(outcomes: Sequence[Outcome]) -> str:
    """One sentence about all checks."""
    count = {status: sum(outcome.status == status for outcome in outcomes) for status in STYLES}
    seconds = sum(outcome.seconds for outcome in outcomes)
    number = len(outcomes) - count[SKIPPED]
    checked = f"{number} check{'s' * (number != 1)} in {seconds:.0f} s"
    left_out = f", {count[SKIPPED]} skipped" if count[SKIPPED] else ""
    if not number:
        return f"nothing was checked: {count[SKIPPED]} skipped"
    if not count[FINDING]:
        return f"healthy: {checked}, no finding{left_out}"
    return f"{count[FINDING]} finding{'s' * (count[FINDING] > 1)}: {checked}{left_out}"


def is_healthy(outcomes: Sequence[Outcome]) -> bool | None:
    """Whether no check has a finding; None if every check was skipped, so that nothing is known."""
    results = {outcome.status for outcome in outcomes} - {SKIPPED}
    return FINDING not in results if results else None


def as_json(outcomes: Sequence[Outcome], about: dict[str, Any]) -> dict[str, Any]:
    """Everything as plain data, with the sentence of `verdict`."""
    checks = [asdict(outcome) for outcome in outcomes]
    return {**about, "healthy": is_healthy(outcomes), "verdict": verdict(outcomes), "checks": checks}
