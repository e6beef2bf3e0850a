"""The report of the systems of one task, as tables, Markdown, LaTeX, and a section of a page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from multihead.comparing.curves import draw, stroke
from multihead.comparing.significance import Spread, Test
from multihead.comparing.verdicts import UNDECIDED, Overall
from multihead.config.extras import install, installed
from multihead.config.verbs import REPORT_FORMATS
from multihead.errors import ConfigError
from multihead.runs.page import embedded


@dataclass
class System:
    """Runs that differ only in their seed."""

    name: str
    runs: list[str]
    seeds: list[int]
    values: list[float]
    spread: Spread
    parameters: int


@dataclass
class Pair:
    """The comparison of two systems."""

    first: str
    second: str
    test: Test | None
    """The test, or None if there is none: with one seed each and no value for each example, or without any spread."""
    corrected: float | None
    """The p-value after Holm's correction."""
    statement: str
    verdict: str = UNDECIDED
    """What is said about the first system: better, worse, undecided, or underpowered."""
    detectable: float | None = None
    """The difference that would have been found with probability 0.8; None if there is no test."""


@dataclass
class Curve:
    """The values of one column in a run's metrics.csv."""

    system: int
    run: str
    points: list[tuple[float, float]]


@dataclass
class Report:
    """All results of a comparison."""

    task: str
    metric: str
    better: str
    """Which values of the metric are better: max or min."""
    systems: list[System]
    pairs: list[Pair]
    differences: dict[str, list[str]]
    """For each differing key of the configuration, its value in each system."""
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    curves: dict[str, list[Curve]] = field(default_factory=dict)
    """The curves against steps, by title."""
    test_looks: int = 0
    """How often the runs have read their test split."""
    smallest: float | None = None
    """The smallest difference that matters, if the user has said it."""


@dataclass
class Comparison:
    """Systems compared on one or several tasks."""

    reports: dict[str, Report]
    """The comparison of each task, by its name: the task, and its data if two tasks have the same one."""
    overall: list[Overall] = field(default_factory=list)
    """What is said about each pair of systems over all tasks; empty if there is one task."""
    warnings: list[str] = field(default_factory=list)
    """Warnings that are not about one task."""

    @property
    def systems(self) -> list[str]:
        """Names of all systems, in the order of their first task."""
        return list(dict.fromkeys(system.name for report in self.reports.values() for system in report.systems))


def outputs(formats: Sequence[str], out: str) -> list[tuple[str, Path | None]]:
    """Returns the formats to write, each with its file. The file is None for standard output.

    Args:
        formats: Names of `REPORT_FORMATS`. If it is empty, the suffix of ``out`` decides.
        out: A file. If several formats are written, their files' names begin with it.

    Raises:
        ConfigError: If several formats have no file, or if no format has the suffix of ``out``.
    """
    if not out:
        if len(formats) > 1:
            raise ConfigError("out", "is missing: several formats need files", "out=comparison")
        return [(kind, None) for kind in formats]
    file = Path(out)
    if file.is_dir():
        raise ConfigError("out", f"{out} is a directory", f"out={file / 'comparison.html'}")
    if not formats:
        formats = [kind for kind, suffix in REPORT_FORMATS.items() if suffix == file.suffix.lower()]
        if not formats:
            what = f"must end in {', '.join(REPORT_FORMATS.values())}, got {out}"
            raise ConfigError("out", what, "format=markdown")
    if len(formats) == 1:
        return [(formats[0], file)]
    stem = file.with_suffix("") if file.suffix in REPORT_FORMATS.values() else file
    return [(kind, stem.with_name(stem.name + REPORT_FORMATS[kind])) for kind in formats]


# ---- tables, as rows of text


def systems_rows(report: Report) -> list[list[str]]:
    """Returns the table of systems. The first row is the head."""
    digits = mean_digits(report)
    rows = [["system", "seeds", "mean", "sd", "95 % CI over seeds", "parameters"]]
    for system in report.systems:
        found = system.spread
        several = found.deviation is not None
        rows.append(
            [
                system.name,
                str(len(system.values)),
                f"{found.mean:.{digits}f}",
                f"{found.deviation:.{digits}f}" if several else "-",
                f"{found.low:.{digits}f} to {found.high:.{digits}f}" if several else "-",
                f"{system.parameters:,}",
            ]
        )
    return rows


def pairs_rows(report: Report) -> list[list[str]]:
    """Returns the table of comparisons. The first row is the head."""
    rows = [["first - second", "difference", "95 % CI", "p", "p (Holm)", "test"]]
    for pair in report.pairs:
        name = f"{pair.first} - {pair.second}"
        if pair.test is None:
            rows.append([name, "-", "-", "-", "-", "none possible"])
            continue
        test = pair.test
        digits = difference_digits(test)
        also = "".join(f"; {other} {p_text(p)}" for other, p in test.also)
        rows.append(
            [
                name,
                signed(test.difference, digits, plus=True),
                f"{signed(test.low, digits)} to {signed(test.high, digits)}",
                p_text(test.p, bare=True),
                p_text(pair.corrected, bare=True),
                test.method + also,
            ]
        )
    return rows


def differences_rows(report: Report) -> list[list[str]]:
    """Returns the table of differing configuration keys. The first row is the head."""
    head = ["key", *(system.name for system in report.systems)]
    return [head, *([key, *values] for key, values in report.differences.items())]


def p_text(p: float | None, bare: bool = False) -> str:
    """Formats a p-value as ``p = 0.004`` or ``p < 0.001``; if ``bare``, as ``0.004`` or ``< 0.001``."""
    if p is None:
        return "-"
    if p < 0.001:
        return "< 0.001" if bare else "p < 0.001"
    value = f"{p:.3f}" if p < 0.0995 else f"{p:.2f}"
    return value if bare else f"p = {value}"


def difference_digits(test: Test) -> int:
    """Returns the number of decimals at which an interval's width shows two digits."""
    width = test.high - test.low
    size = width if width > 0 else abs(test.difference)
    return min(6, max(0, 1 - math.floor(math.log10(size)))) if size > 0 else 2


def signed(value: float, digits: int, plus: bool = False) -> str:
    """Formats a number. A rounded zero has no sign; a positive number has a plus if ``plus``."""
    text = f"{value:{'+' if plus else ''}.{digits}f}"
    return text.lstrip("+-") if float(text) == 0 else text


def mean_digits(report: Report) -> int:
    """Returns the decimals of the means of a task's systems."""
    return _digits([system.spread for system in report.systems])


def _digits(spreads: Sequence[Spread]) -> int:
    """Returns the decimals for a column of means, which show two digits of the smallest deviation."""
    deviations = [s.deviation for s in spreads if s.deviation]
    if deviations:
        return min(5, max(1, 1 - math.floor(math.log10(min(deviations)))))
    return 2 if max(abs(s.mean) for s in spreads) >= 10 else 4


# ---- text formats


def content_of(report: Report) -> dict[str, Any]:
    """Returns everything but the curves as plain data, with unrounded numbers."""
    return {key: value for key, value in asdict(report).items() if key != "curves"}


def markdown_table(rows: list[list[str]]) -> list[str]:
    """Returns the lines of a table. The first row is the head."""
    cells = [[cell.replace("|", "\\|") for cell in row] for row in rows]
    rule = ["---", *["---:"] * (len(rows[0]) - 1)]
    return ["| " + " | ".join(row) + " |" for row in [cells[0], rule, *cells[1:]]]


def markdown(report: Report) -> str:
    """Returns a table of systems, a table of comparisons, and the findings in words."""
    parts = [f"**{report.metric}** ({_better(report)})", "", *markdown_table(systems_rows(report)), ""]
    parts += [*markdown_table(pairs_rows(report)), "", *(f"- {pair.statement}" for pair in report.pairs)]
    remarks = [*(f"Warning: {text}" for text in report.warnings), *report.notes]
    if remarks:
        parts += ["", *(f"{text}  " for text in remarks)]
    return "\n".join(parts).rstrip() + "\n"


_LATEX = {character: f"\\{character}" for character in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": "$<$",
    ">": "$>$",
    "|": r"\textbar{}",
}


def latex_text(text: str) -> str:
    """Escapes a text for LaTeX."""
    return "".join(_LATEX.get(character, character) for character in text)


def latex(report: Report) -> str:
    """Returns a table of the systems, which needs no LaTeX package. The caption has the findings."""

    escape = latex_text
    head, *rows = systems_rows(report)
    lines = [r"\begin{table}", r"\centering", r"\begin{tabular}{lrrrrr}", r"\hline"]
    lines += [" & ".join(map(escape, head)) + r" \\", r"\hline"]
    lines += [" & ".join(escape(cell) for cell in row) + r" \\" for row in rows]
    caption = " ".join(escape(_sentence(pair.statement)) for pair in report.pairs)
    title = f"{escape(report.metric)} ({_better(report)})."
    lines += [r"\hline", r"\end{tabular}", rf"\caption{{{title} {caption}}}", r"\end{table}"]
    comments = [f"% Warning: {text}" for text in report.warnings] + [f"% {text}" for text in report.notes]
    return "\n".join([*comments, *lines]) + "\n"


def _sentence(text: str) -> str:
    return text if text.endswith(".") else f"{text}."


def _better(report: Report) -> str:
    return f"{'higher' if report.better == 'max' else 'lower'} is better"


# ---- the HTML page


def section(report: Report) -> dict[str, Any]:
    """Returns what the page shows of one task: tables, findings, curves and differing keys."""
    drawn = installed("matplotlib")
    runs = [["run", "system", "seed", report.metric]]
    for system in report.systems:
        for run, seed, value in zip(system.runs, system.seeds, system.values, strict=True):
            runs.append([run, system.name, str(seed), f"{value:.6g}"])
    return {
        "title": f"{report.task}: {report.metric}",
        "better": _better(report),
        "report": report,
        "systems": systems_rows(report),
        "pairs": pairs_rows(report),
        "differences": differences_rows(report),
        "runs": runs,
        "install": "" if drawn else install("matplotlib"),
        "strokes": [stroke(i) for i in range(len(report.systems))],
        "pictures": [(name, embedded(draw(curves))) for name, curves in report.curves.items() if drawn],
    }
