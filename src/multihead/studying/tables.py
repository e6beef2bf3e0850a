"""The answer of a study as rows of text, for the terminal, the page and LaTeX, and its statements."""

from __future__ import annotations

from multihead.studying.ablation import ALL_TASKS, Switch, effect_text, statement
from multihead.studying.collect import StudyReport
from multihead.studying.verdicts import Verdict, digits_for, unit_of


def verdict_rows(report: StudyReport) -> list[list[str]]:
    """Returns the table of comparisons. The first row is the head."""
    rows = [["task", "variant", "metric", "difference", f"{percent(report.alpha)} interval", "seeds", "verdict"]]
    for found in report.verdicts:
        digits = digits_of(found)
        gap = "-" if found.difference is None else f"{found.difference:+.{digits}f}"
        ends = "-" if found.low is None else f"{found.low:.{digits}f} to {found.high:.{digits}f}"
        rows.append([found.task, found.variant, found.metric, gap, ends, str(found.seeds), found.verdict])
    return rows


def digits_of(found: Verdict) -> int:
    """Returns the decimals of a comparison's numbers."""
    if found.low is not None and found.high is not None:
        return digits_for(found.high - found.low)
    return digits_for(abs(found.difference or 0.0))


def system_rows(report: StudyReport) -> list[list[str]]:
    """Returns the table of systems with their costs. The first row is the head."""
    judged = "test folds" if report.folds else "validation"
    rows = [["task", "system", judged, "test", "parameters", "tokens/s", "training"]]
    for found in report.systems:
        digits = digits_of_metric(report, found.task)
        rows.append(
            [
                found.task,
                found.name,
                spread_text(found.mean, found.deviation, digits),
                "-" if report.folds else spread_text(found.test_mean, found.test_deviation, digits),
                f"{found.parameters:,}",
                f"{found.tokens_per_second:,.0f}" if found.tokens_per_second else "-",
                f"{found.minutes:.2f}" if found.minutes else "-",
            ]
        )
    return rows


def run_rows(report: StudyReport) -> list[list[str]]:
    """Returns the table of all runs that were started. The first row is the head."""
    rows = [["task", "system", "seed", "state", "validation", "minutes", "tries", "reason"]]
    for found in report.runs:
        value = "" if found.value is None else f"{found.value:.6g}"
        minutes = f"{found.seconds / 60:.2f}"
        cells = [found.task, found.name, str(found.seed), found.state, value, minutes, str(found.attempts)]
        rows.append([*cells, found.reason])
    return rows


def switch_rows(report: StudyReport) -> list[list[str]]:
    """Returns the table of an ablation, with one row for each switch on each task. The first row is the head."""
    rows = [["task", "rank", "switch", "left out of all", "added to none", "interaction", ""]]
    for found in report.ablation:
        digits = digits_of_effects(report, found.task)
        effects = [effect_text(effect, digits) for effect in (found.left_out, found.added, found.interaction)]
        task = f"{found.task} (%)" if found.task == ALL_TASKS else found.task
        rows.append([task, rank_text(found), found.name, *effects, "depends on the others" if found.flagged else ""])
    return rows


def rank_text(found: Switch) -> str:
    """Formats the ranks that chance allows."""
    if found.first_rank is None:
        return "-"
    return " to ".join(dict.fromkeys((str(found.first_rank), str(found.last_rank))))


def rung_rows(report: StudyReport) -> list[list[str]]:
    """Returns the table of a ladder, with the compute and the loss of each system at each size."""
    rows = [["task", "size", *(f"{name}, {what}" for name in systems_of(report) for what in ("compute", "loss"))]]
    for task, systems in report.rungs.items():
        for size in dict.fromkeys(rung.size for rungs in systems.values() for rung in rungs):
            cells = []
            for name in systems_of(report):
                found = next((rung for rung in systems[name] if rung.size == size), None)
                mean = sum(found.losses) / len(found.losses) if found else 0.0
                cells += [f"{found.compute:.3g}", f"{mean:.4f}"] if found else ["-", "-"]
            rows.append([task, size, *cells])
    return rows


def systems_of(report: StudyReport) -> list[str]:
    """Returns the baseline and the variants, in their order."""
    return list(dict.fromkeys(row.name for row in report.systems))


def statements(report: StudyReport) -> list[str]:
    """Returns the answer of a study in words: what its ladder, its switches or its comparisons say."""
    if report.ladder:
        return [found.statement for found in report.ladder]
    return switch_statements(report) if report.ablation else [found.statement for found in report.verdicts]


def digits_of_effects(report: StudyReport, task: str) -> int:
    """Returns the decimals of the effects of a task, which show two digits of its narrowest interval."""
    effects = [each.left_out for each in report.ablation if each.task == task]
    widths = [e.high - e.low for e in effects if e.low is not None and e.high is not None and e.high > e.low]
    return digits_for(min(widths)) if widths else 2


def switch_statements(report: StudyReport) -> list[str]:
    """Returns what the ablation says about each switch: over all tasks, or on the only one."""
    if not report.ablation:
        return []
    task = report.ablation[0].task
    unit = "%" if task == ALL_TASKS else unit_of(report.metrics[task])
    digits = digits_of_effects(report, task)
    return [statement(found, unit, digits) for found in report.ablation if found.task == task]


def spread_text(mean: float | None, deviation: float | None, digits: int) -> str:
    """Formats a mean with its deviation."""
    if mean is None:
        return "-"
    return f"{mean:.{digits}f}" if deviation is None else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def digits_of_metric(report: StudyReport, task: str) -> int:
    """Returns the decimals of a task's metric, which show two digits of its smallest deviation."""
    spreads = [row.deviation for row in report.systems if row.task == task and row.deviation]
    if spreads:
        return digits_for(min(spreads))
    means = [abs(row.mean) for row in report.systems if row.task == task and row.mean]
    return 2 if means and max(means) >= 10 else 4


def percent(alpha: float) -> str:
    """Formats the level of the intervals."""
    return f"{100 * (1 - alpha):g} %"
