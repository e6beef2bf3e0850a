"""Computes again what the JSON of a comparison says, from the run directories that it names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from multihead.comparing.compare import compare_tasks
from multihead.comparing.report import Comparison


def compared_again(reports: Mapping[str, Any]) -> Comparison:
    """Compares the runs of a comparison again, with the same baseline, metric and smallest difference.

    Args:
        reports: The report of each task as ``compare`` has written it, by the task's name.

    Raises:
        ConfigError: If the runs cannot be compared.
    """
    entries, names, baseline = [], [], ""
    for report in reports.values():
        for system in report["systems"]:
            entries += system["runs"]
            names += [system["name"]] * len(system["runs"])
        baseline = _baseline(report) or baseline
    smallest = {task: report["smallest"] for task, report in reports.items() if report.get("smallest")}
    found = compare_tasks(entries, names=names, baseline=baseline, smallest=smallest)
    usual = {report.metric for report in found.reports.values()}
    for metric in {report["metric"] for report in reports.values()} - usual:  # the user asked for one at the most
        found = compare_tasks(entries, names=names, baseline=baseline, smallest=smallest, metric=metric)
    return found


def _baseline(report: Mapping[str, Any]) -> str:
    """The system with which all others were compared; "" if all pairs were."""
    count, pairs = len(report["systems"]), report["pairs"]
    return pairs[0]["second"] if len(pairs) == 1 or 0 < len(pairs) < count * (count - 1) // 2 else ""
