"""Collects what a study's report shows, from its ledger and its run directories."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from multihead.comparing.finished import FinishedRun
from multihead.comparing.verdicts import Overall
from multihead.errors import MultiheadError
from multihead.runs.files import read_metrics
from multihead.studying.ablation import Switch, ablation, is_ablation
from multihead.studying.ladder import Rung, Worth, climb
from multihead.studying.ledger import StudyLedger, key_of, results_of, run_dir
from multihead.studying.schedule import Key, Plan
from multihead.studying.verdicts import Verdict, judge, overall
from multihead.sweeping.ledger import SETTLED, Row, spent


@dataclass(frozen=True)
class SystemRow:
    """The baseline or a variant on a task, over its seeds."""

    task: str
    name: str
    seeds: int
    mean: float | None
    """Mean of the validation metric."""
    deviation: float | None
    test_mean: float | None
    """Mean of the same metric on the test split, which decides nothing."""
    test_deviation: float | None
    parameters: int
    flops: float
    """Floating-point operations of a step."""
    tokens_per_second: float
    minutes: float
    """Mean time of a run from the preparation of its data to its last validation, without its test."""


@dataclass(frozen=True)
class RunRow:
    """One run that was started."""

    task: str
    name: str
    seed: int
    state: str
    value: float | None
    seconds: float
    attempts: int
    reason: str
    folder: str


@dataclass(frozen=True)
class Point:
    """A validation of a run."""

    tokens: float
    minutes: float
    value: float


@dataclass
class StudyReport:
    """All that is said about a study."""

    name: str
    question: str
    equal: str
    baseline: str
    alpha: float
    power: float
    ended: bool
    verdicts: list[Verdict]
    overall: list[Overall]
    systems: list[SystemRow]
    runs: list[RunRow]
    metrics: dict[str, str]
    better: dict[str, str]
    seeds_run: int
    most_seeds: int
    minutes: float
    """Minutes of the processes of all runs together, with their start and test, and with the tuning."""
    test_looks: int
    """How often a run has read the test split: once for each run that ended, also for those of the tuning."""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    folds: int = 0
    """Folds of a cross-validation, whose test splits decide; 0 without one."""
    ablation: list[Switch] = field(default_factory=list)
    """The switches of an ablation, over all tasks and on each task; empty for other studies."""
    ladder: list[Worth] = field(default_factory=list)
    """What each variant of a ladder is worth on each task; empty for other studies."""
    rungs: dict[str, dict[str, list[Rung]]] = field(default_factory=dict)
    """The sizes of a ladder, by task and system."""
    compute: str = ""
    """What the compute of a ladder is: flops or minutes."""
    curves: dict[str, dict[str, list[list[Point]]]] = field(default_factory=dict)
    """Task to system to the validations of each of its runs."""


def collect(ledger: StudyLedger, plan: Plan, question: str, equal: str, power: float) -> StudyReport:
    """Reads everything; the verdicts are those of the results in the ledger."""
    rows = [row for row in ledger.rows() if row.record.get("run")]
    results, state = results_of(rows), ledger.progress(rows)
    verdicts = judge(plan, results, power, ended=state.ended)
    finished, warnings = _finished(ledger.folder, plan, rows)
    systems = _systems(plan, finished, results, ledger.facts)
    tuned: dict[str, Any] = ledger.facts.get("tuned", {})
    minutes = {(row.task, row.name): row.minutes for row in systems}
    worths, rungs = climb(plan, results, ledger.facts, minutes, state.ended) if "ladder" in ledger.facts else ([], {})
    return StudyReport(
        name=ledger.sweep.name,
        question=question,
        equal=equal,
        baseline=plan.baseline,
        alpha=plan.alpha,
        power=power,
        ended=state.ended,
        verdicts=verdicts,
        overall=overall(plan, verdicts),
        systems=systems,
        runs=[_run(plan, row) for row in sorted(rows, key=key_of)],
        metrics={task: plan.metrics[task] for task in plan.tasks},
        better={task: plan.better[task] for task in plan.tasks},
        seeds_run=state.round,
        most_seeds=len(plan.seeds),
        minutes=(plan.tuning + sum(spent(row) for row in rows)) / 60,
        test_looks=sum(row.state == "complete" for row in rows)
        + sum(found["trials"] - found["failed"] for found in tuned.values()),
        notes=_notes(plan, state.unaffordable, tuned),
        warnings=[*warnings, *_data_warnings(plan, finished), *unequal(systems, plan.baseline, equal)],
        folds=plan.folds,
        ablation=ablation(plan, results, ended=state.ended) if is_ablation(plan) else [],
        ladder=worths,
        rungs=rungs,
        compute=ledger.facts.get("ladder", {}).get("compute", ""),
        curves=_curves(plan, finished),
    )


def _finished(folder: Path, plan: Plan, rows: Sequence[Row]) -> tuple[dict[Key, FinishedRun], list[str]]:
    """The runs that have a result, and a warning if files of some can no longer be read.

    A study's folder may have been moved. So a run is looked for at its place in the folder first.
    """
    found, lost = {}, []
    for row in rows:
        if row.state != "complete":
            continue
        own = run_dir(folder, plan, key_of(row))
        place = own if own.is_dir() else Path(row.record["dir"])
        try:
            found[key_of(row)] = FinishedRun.read(str(place))
        except (MultiheadError, OSError):
            lost.append(str(place))
    if not lost:
        return found, []
    count = f"{len(lost)} run{'s' * (len(lost) > 1)}"
    return found, [f"the files of {count} cannot be read (first: {lost[0]}); the verdicts are those of the ledger"]


def _run(plan: Plan, row: Row) -> RunRow:
    key = key_of(row)
    return RunRow(
        task=key.task,
        name=key.arm,
        seed=plan.seeds[key.index],
        state=row.state if row.state in SETTLED else "running" if row.state == "running" else "interrupted",
        value=row.value,
        seconds=spent(row),
        attempts=int(row.record.get("attempt", 1)),
        reason=row.record.get("reason", ""),
        folder=row.record.get("dir", ""),
    )


def _systems(plan: Plan, finished: dict[Key, FinishedRun], results: Any, facts: dict[str, Any]) -> list[SystemRow]:
    rows = []
    for task in plan.tasks:
        for arm in plan.arms:
            values = [v for key, v in results.items() if key[:2] == (task, arm) and v is not None]
            runs = [run for key, run in finished.items() if key[:2] == (task, arm)]
            name = plan.metrics[task].replace("val/", "test/", 1)
            tested = [float(run.result[name]) for run in runs if isinstance(run.result.get(name), int | float)]
            size = facts.get("sizes", {}).get(f"{task}/{arm}", {})
            rows.append(
                SystemRow(
                    task=task,
                    name=arm,
                    seeds=len(values),
                    mean=_mean(values),
                    deviation=_deviation(values),
                    test_mean=_mean(tested),
                    test_deviation=_deviation(tested),
                    parameters=int(
                        _mean([run.result.get("parameters", 0) for run in runs]) or size.get("parameters", 0)
                    ),
                    flops=float(size.get("flops", 0.0)),
                    tokens_per_second=_mean([float(run.result.get("tokens_per_second", 0)) for run in runs]) or 0.0,
                    minutes=(_mean([float(run.result.get("seconds", 0)) for run in runs]) or 0.0) / 60,
                )
            )
    return rows


def unequal(systems: Sequence[SystemRow], baseline: str, equal: str) -> list[str]:
    """A warning for each variant whose runs did not have what they should have had as the baseline.

    Words that the tuning chose may change a size, and the time of a step may change while the study goes on.
    """
    measured = {"parameters": ("parameters", 0.01), "minutes": ("minutes", 0.05)}
    if equal not in measured:
        return []
    name, tolerance = measured[equal]
    base = {row.task: getattr(row, name) for row in systems if row.name == baseline}
    return [
        f"{row.task}: {row.name} has {getattr(row, name) / base[row.task] - 1:+.1%} {equal} relative to {baseline}"
        for row in systems
        if base[row.task] and getattr(row, name) and abs(getattr(row, name) / base[row.task] - 1) > tolerance
    ]


def _mean(values: Sequence[float]) -> float | None:
    return statistics.fmean(values) if values else None


def _deviation(values: Sequence[float]) -> float | None:
    return statistics.stdev(values) if len(values) > 1 else None


def _notes(plan: Plan, unaffordable: frozenset[str], tuned: dict[str, Any]) -> list[str]:
    notes = []
    if unaffordable:
        listed = ", ".join(task for task in plan.tasks if task in unaffordable)
        notes.append(f"The budget does not suffice for another seed of {listed}; the same command with a larger "
                     "budget= goes on.")  # fmt: skip
    for name, found in tuned.items():
        task, arm = name.split("/")
        failed = f", of which {found['failed']} failed" if found["failed"] else ""
        notes.append(f"tuned {arm} on {task}: {' '.join(found['words'])} ({found['trials']} trials{failed})")
    return notes


def _data_warnings(plan: Plan, finished: dict[Key, FinishedRun]) -> list[str]:
    """A warning for each task whose runs were validated on different data."""
    warnings = []
    for task in plan.tasks:
        for split in ("data_val", "data_train"):
            marks: dict[int, set[str]] = {}
            for key, run in finished.items():
                if key.task == task:  # each fold has data of its own
                    marks.setdefault(key.index if plan.folds else 0, set()).add(run.data.get(split, ""))
            if any(len(found) > 1 for found in marks.values()):
                what = "validation" if split == "data_val" else "training"
                warnings.append(f"{task}: the {what} data differ between the runs, so that they cannot be compared")
    return warnings


def _curves(plan: Plan, finished: dict[Key, FinishedRun]) -> dict[str, dict[str, list[list[Point]]]]:
    curves: dict[str, dict[str, list[list[Point]]]] = {task: {arm: [] for arm in plan.arms} for task in plan.tasks}
    for key, run in sorted(finished.items()):
        metric = plan.metrics[key.task].replace("test/", "val/", 1)
        points = [
            Point(float(row["tokens"]), float(row["seconds"]) / 60, float(row[metric]))
            for row in read_metrics(Path(run.path, "metrics.csv"))
            if row.get(metric) and row.get("tokens") and row.get("seconds")
        ]
        if points:
            curves[key.task][key.arm].append(points)
    return curves
