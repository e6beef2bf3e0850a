"""A comparison over all of its tasks: one table, the verdict of each pair of systems, and the files of all formats.

There is no mean over tasks, because their metrics have different units, and no rank. A system is marked in the table
only if the tests of its task call it better, or worse, than others.
"""

from __future__ import annotations

import json
from typing import Any

from multihead.comparing.report import (
    Comparison,
    Report,
    content_of,
    latex,
    latex_text,
    markdown,
    markdown_table,
    mean_digits,
    section,
)
from multihead.comparing.verdicts import BETTER, WORSE
from multihead.runs.page import render_page

MARKS = {BETTER: " +", WORSE: " -"}
BEST = " *"
AGAINST_ONE = "+ better and - worse than the baseline, corrected for all tasks together. No mark: not distinguishable."
AGAINST_ALL = "* better than each other system of the task, corrected for all tasks together."
"""What the marks mean if the systems were compared with one of them, and if all pairs were compared."""


def render(found: Comparison, kind: str) -> str:
    """Returns the comparison in one of `REPORT_FORMATS`."""
    return {"markdown": _markdown, "latex": _latex, "html": _page, "json": _json}[kind](found)


def overview_rows(found: Comparison) -> list[list[str]]:
    """Returns the table over all tasks: mean ± deviation (seeds) of each system. The first row is the head."""
    arrows = {"max": "higher", "min": "lower"}
    heads = [
        f"{task} ({report.metric.removeprefix('test/')}, {arrows[report.better]})"
        for task, report in found.reports.items()
    ]
    rows = [["system", *heads]]
    return rows + [[name, *(_cell(report, name) for report in found.reports.values())] for name in found.systems]


def _cell(report: Report, name: str) -> str:
    system = next((system for system in report.systems if system.name == name), None)
    if system is None:
        return "-"
    digits, found = mean_digits(report), system.spread
    deviation = "" if found.deviation is None else f" ± {found.deviation:.{digits}f}"
    return f"{found.mean:.{digits}f}{deviation} ({len(system.values)}){mark_of(report, name)}"


def mark_of(report: Report, name: str) -> str:
    """Returns the mark of a system in the table, which says only what the tests say; often it is empty."""
    own = [pair for pair in report.pairs if name in (pair.first, pair.second)]
    turned = {BETTER: WORSE, WORSE: BETTER}
    said = [pair.verdict if pair.first == name else turned.get(pair.verdict, pair.verdict) for pair in own]
    if against_one(report):
        return MARKS.get(said[0], "") if len(own) == 1 else ""  # the baseline is in several pairs
    return BEST if said and set(said) == {BETTER} else ""


def against_one(report: Report) -> bool:
    """Whether the systems of a task were compared with one of them, and not in all pairs."""
    count = len(report.systems)
    return 0 < len(report.pairs) < count * (count - 1) // 2


def legend(found: Comparison) -> str:
    """Says what the cells of the table mean."""
    marks = AGAINST_ONE if any(map(against_one, found.reports.values())) else AGAINST_ALL
    return f"mean ± deviation (seeds) on the test split. {marks}"


def looks_text(found: Comparison) -> str:
    """Says how often the compared runs have read a test split."""
    looks = sum(report.test_looks for report in found.reports.values())
    systems = max(len(report.systems) for report in found.reports.values())
    text = f"The test splits were read {looks} time{'s' * (looks != 1)} by these runs."
    if systems > 2:
        text += f" If you choose among {systems} systems by these numbers, that of the best is too good on average."
    return text


# ---- formats


def _json(found: Comparison) -> str:
    """One task: its report. Several: the report of each task, and the verdicts over all."""
    if len(found.reports) == 1:
        content = content_of(next(iter(found.reports.values())))
    else:
        content: dict[str, Any] = {
            "overall": [vars(each) for each in found.overall],
            "test_looks": sum(report.test_looks for report in found.reports.values()),
            "warnings": found.warnings,
            "tasks": {task: content_of(report) for task, report in found.reports.items()},
        }
    return json.dumps(content, ensure_ascii=False, indent=1) + "\n"


def _markdown(found: Comparison) -> str:
    parts = []
    if len(found.reports) > 1:
        parts = [*markdown_table(overview_rows(found)), "", legend(found), ""]
        parts += [*(f"- {each.statement}" for each in found.overall), ""]
        parts += [*(f"Warning: {text}  " for text in found.warnings), ""] if found.warnings else []
    for task, report in found.reports.items():
        parts += [f"### {task}", ""] if len(found.reports) > 1 else []
        parts += [markdown(report)]
    return "\n".join(parts).rstrip() + "\n"


def _latex(found: Comparison) -> str:
    if len(found.reports) == 1:
        return latex(next(iter(found.reports.values())))
    head, *rows = overview_rows(found)
    lines = [f"% Warning: {text}" for text in found.warnings]
    lines += [r"\begin{table}", r"\centering", rf"\begin{{tabular}}{{l{'r' * (len(head) - 1)}}}", r"\hline"]
    lines += [" & ".join(map(latex_text, head)) + r" \\", r"\hline"]
    lines += [" & ".join(latex_text(cell).replace("±", r"$\pm$") for cell in row) + r" \\" for row in rows]
    said = " ".join(latex_text(each.statement) + "." for each in found.overall)
    caption = latex_text(legend(found)).replace("±", r"$\pm$")
    lines += [r"\hline", r"\end{tabular}", rf"\caption{{{caption} {said}}}", r"\end{table}"]
    return "\n".join(lines) + "\n"


def _page(found: Comparison) -> str:
    sections = [section(report) for report in found.reports.values()]
    several = len(sections) > 1
    return render_page(
        "comparing/report.html",
        title=f"Comparison on {', '.join(found.reports)}" if several else sections[0]["title"],
        overview=overview_rows(found) if several else [],
        legend=legend(found),
        looks=looks_text(found),
        overall=found.overall,
        warnings=found.warnings,
        sections=sections,
    )
