"""A comparison of systems: which one is better, by how much, and whether that is more than chance."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from multihead.comparing.finished import FinishedRun, Reader
from multihead.comparing.of_study import study_warnings
from multihead.comparing.report import Comparison, Curve, Pair, Report, System, difference_digits, p_text, signed
from multihead.comparing.scores import Metric, Scores, choose_metric, disagreeing, read_scores
from multihead.comparing.significance import (
    Test,
    holm,
    mcnemar,
    over_folds,
    over_seeds,
    paired_bootstrap,
    permutation_p,
    spread,
)
from multihead.comparing.systems import (
    Systems,
    data_warnings,
    differing,
    find_systems,
    require_comparable,
    value_text,
)
from multihead.comparing.verdicts import (
    BETTER,
    POWER,
    UNDECIDED,
    UNDERPOWERED,
    WORSE,
    Overall,
    detectable,
    over_tasks,
)
from multihead.config.check import require_choice
from multihead.errors import ConfigError

ALPHA = 0.05
PARAMETERS_DIFFER = 0.01
"""A larger relative difference between the numbers of parameters causes a warning."""
RANDOMISATION = "paired approximate randomisation"
"""The name of the permutation test in machine translation (sacreBLEU's ``--paired-ar``)."""


@dataclass
class _Task:
    """The systems of one task, and the tests between them."""

    labels: list[str]
    systems: Systems
    metric: Metric
    scores: Scores
    notes: list[str]
    pairs: list[tuple[int, int]]
    tests: list[Test | None]


def compare_tasks(
    runs: Sequence[str],
    *,
    group: Sequence[str] = (),
    names: Sequence[str] = (),
    baseline: str = "",
    metric: str = "",
    smallest: Mapping[str, float] | None = None,
) -> Comparison:
    """Compares finished runs, task by task and over all tasks.

    Args:
        runs: Run directories, folders of them, or globs. A single run must be finished. Of several, a warning names
            those that are not, and they are left out.
        group: Folders. All finished runs below them are compared, and a warning names the others.
        names: Names of the systems, or one for each entry of ``runs``: then the entry is, or belongs to, that system.
        baseline: A system's name or one of its runs. All others are compared with it; otherwise all pairs are compared.
        metric: A key of result.json; if it is empty, the test metric that corresponds to the monitored one. Of several
            tasks, those that have no such metric are compared by their own.
        smallest: Task to the smallest difference that matters; "" stands for every task.

    Raises:
        ConfigError: If runs are not finished, or are not comparable.
    """
    reader = Reader()
    found = find_systems(runs, group, names, reader)
    base = _baseline(found, baseline) if baseline else ""
    for task in {*(smallest or {})} - {""}:
        require_choice("smallest", task, found)
    asked = {task: _own_metric(systems, metric) for task, (systems, _) in found.items()}
    if metric and not any(asked.values()):
        asked = dict.fromkeys(found, metric)  # choose_metric says what there is
    tasks = {task: _examine(systems, labels, base, asked[task]) for task, (systems, labels) in found.items()}
    p_values = holm([test.p for task in tasks.values() for test in task.tests if test is not None])
    corrected, limits = iter(p_values), smallest or {}
    reports = {
        name: _report(task, corrected, len(p_values), limits.get(name, limits.get(""))) for name, task in tasks.items()
    }
    warnings = [*study_warnings(list(reader.runs.values())), *reader.left_out]
    if len(reports) == 1:
        next(iter(reports.values())).warnings[:0] = warnings
        return Comparison(reports)
    return Comparison(reports, _over_all(reports), warnings)


def compare(runs: Sequence[str], **words: Any) -> Report:
    """Compares finished runs of one task; the arguments are those of `compare_tasks`.

    Raises:
        ConfigError: If runs are not finished or not comparable, or if they are of several tasks.
    """
    reports = compare_tasks(runs, **words).reports
    if len(reports) > 1:
        raise ConfigError("runs", f"they are of several tasks: {', '.join(reports)}", "compare runs of one task")
    return next(iter(reports.values()))


def _examine(systems: Systems, labels: list[str], baseline: str, metric: str) -> _Task:
    """Tests the pairs of the systems of one task."""
    members = list(itertools.chain.from_iterable(systems))
    require_comparable(members)
    chosen, notes = choose_metric(members, metric)
    scores, more = read_scores(members, chosen)
    pairs = list(itertools.combinations(range(len(systems)), 2))
    if baseline:
        pairs = [
            (i, labels.index(baseline)) for i in range(len(systems)) if baseline in labels and labels[i] != baseline
        ]
    tests = [_test(systems[i], systems[j], scores) for i, j in pairs]
    return _Task(labels, systems, chosen, scores, [*notes, *more], pairs, tests)


def _report(task: _Task, corrected: Iterator[float], count: int, smallest: float | None) -> Report:
    """The report of one task.

    Args:
        task: The task with its tests.
        corrected: The corrected p-values of the tests, in their order.
        count: Number of all tests of the comparison.
        smallest: The smallest difference that matters, if the user has said it.
    """
    metric, systems, labels = task.metric, task.systems, task.labels
    rows = [_row(label, system, metric, task.scores) for label, system in zip(labels, systems, strict=True)]
    return Report(
        task=metric.task,
        metric=metric.key,
        better=metric.better,
        systems=rows,
        pairs=[
            _untested(rows[i], rows[j], _why_untested(systems[i], systems[j]), metric)
            if test is None
            else _judged(rows[i], rows[j], test, next(corrected), metric, count, smallest)
            for (i, j), test in zip(task.pairs, task.tests, strict=True)
        ],
        differences={key: [value_text(v) for v in values] for key, values in differing(systems).items()},
        warnings=[*data_warnings(systems, labels), *_sizes(rows), *disagreeing(task.scores)],
        notes=[*task.notes, *_reservations(rows, task, count)],
        curves=_curves(systems, metric),
        test_looks=sum(run.test_looks for system in systems for run in system),
        smallest=smallest,
    )


def _over_all(reports: Mapping[str, Report]) -> list[Overall]:
    """What is said about each pair of systems over the tasks on which both were tested."""
    verdicts: dict[tuple[str, str], dict[str, str]] = {}
    for task, report in reports.items():
        for pair in report.pairs:
            turned = (pair.second, pair.first) in verdicts
            names = (pair.second, pair.first) if turned else (pair.first, pair.second)
            swapped = {BETTER: WORSE, WORSE: BETTER}.get(pair.verdict, pair.verdict)
            verdicts.setdefault(names, {})[task] = swapped if turned else pair.verdict
    return [over_tasks(*names, found) for names, found in verdicts.items()]


def _own_metric(systems: Systems, metric: str) -> str:
    """The metric that the user asked for, if the runs of a task have it; otherwise empty."""
    result = systems[0][0].result
    return metric if metric in result or f"test/{metric}" in result else ""


def _row(label: str, system: Sequence[FinishedRun], metric: Metric, scores: Scores) -> System:
    """The row of a system. Of several seeds of a fold, the mean counts, as in the tests."""
    values = [float(run.result[metric.key]) for run in system]
    parameters = sum(int(run.result.get("parameters", 0)) for run in system)
    return System(
        name=label,
        runs=[run.path for run in system],
        seeds=[run.seed for run in system],
        values=values,
        spread=spread(list(by_fold(system, scores).values()) if system[0].folds else values, fold_ratio(system)),
        parameters=round(parameters / len(system)),
    )


def _baseline(found: Mapping[str, tuple[Systems, list[str]]], baseline: str) -> str:
    """The name of the system that the user's ``baseline=`` names, or one of whose runs it is.

    Raises:
        ConfigError: If there is no such system, or several.
    """
    labels = list(dict.fromkeys(label for _, own in found.values() for label in own))
    if baseline in labels:
        return baseline
    place = Path(baseline).resolve()
    holding = {
        label: None
        for systems, own in found.values()
        for system, label in zip(systems, own, strict=True)
        if any(place in (path := Path(run.path).resolve(), *path.parents) for run in system)
    }
    if len(holding) != 1:
        what = f"{baseline} matches {'several' if holding else 'none'} of the systems: {'; '.join(labels)}"
        raise ConfigError("baseline", what, f"baseline='{labels[0]}' or a run of one")
    return next(iter(holding))


def _sizes(systems: Sequence[System]) -> list[str]:
    """A warning if the systems differ in size."""
    sizes = [system.parameters for system in systems]
    if not min(sizes) or max(sizes) / min(sizes) - 1 <= PARAMETERS_DIFFER:
        return []
    listed = ", ".join(f"{system.name} {system.parameters:,}" for system in systems)
    return [f"parameters differ by {max(sizes) / min(sizes) - 1:.1%}: {listed}"]


def _curves(systems: Sequence[Sequence[FinishedRun]], metric: Metric) -> dict[str, list[Curve]]:
    """The validation metric and the training loss of all runs, by step."""
    members = list(itertools.chain.from_iterable(systems))
    validated = metric.key.replace("test/", "val/", 1)
    if not any(run.column(validated) for run in members):
        validated = members[0].monitor
    found = {
        column: [
            Curve(i, run.path, points)
            for i, system in enumerate(systems)
            for run in system
            if (points := run.column(column))
        ]
        for column in (validated, "train/loss")
    }
    return {column: curves for column, curves in found.items() if curves}


# ---- the tests


def _test(first: Sequence[FinishedRun], second: Sequence[FinishedRun], scores: Scores) -> Test | None:
    """The test of two systems; `multihead.comparing.significance` says why it is this one."""
    if first[0].folds:
        return _test_folds(first, second, scores)
    if len(first) == len(second) == 1:
        return _test_single(first[0].path, second[0].path, scores)
    values, other_values = ([scores.values[run.path] for run in system] for system in (first, second))
    if not scores.statistics:
        return over_seeds(values, other_values)
    resampled, other = (np.stack([scores.resampled[run.path] for run in system]) for system in (first, second))
    return over_seeds(values, other_values, resampled, other)


def _test_folds(first: Sequence[FinishedRun], second: Sequence[FinishedRun], scores: Scores) -> Test | None:
    """The test over the folds that both systems have. Of several seeds of a fold, the mean counts."""
    both = [by_fold(system, scores) for system in (first, second)]
    common = sorted(both[0].keys() & both[1].keys())
    ratio = fold_ratio([run for run in (*first, *second) if run.fold in common])
    return over_folds([both[0][fold] for fold in common], [both[1][fold] for fold in common], ratio)


def fold_ratio(runs: Sequence[FinishedRun]) -> float:
    """Test rows by training rows, the mean of several folds; 0 without a cross-validation."""
    return float(np.mean([run.fold_ratio for run in runs])) if runs else 0.0


def by_fold(system: Sequence[FinishedRun], scores: Scores) -> dict[int, float]:
    """The mean score of each fold of a system."""
    folds = dict.fromkeys(run.fold or 0 for run in system)
    return {fold: float(np.mean([scores.values[run.path] for run in system if run.fold == fold])) for fold in folds}


def _test_single(first: str, second: str, scores: Scores) -> Test | None:
    """The usual test of the metric for one seed each, with the interval of the paired bootstrap."""
    if scores.kind is None:
        return None
    both = scores.statistics[first], scores.statistics[second]
    difference = scores.values[first] - scores.values[second]
    low, high, p = paired_bootstrap(difference, scores.resampled[first], scores.resampled[second])
    permuted = permutation_p(*both, scores.kind.score)
    if scores.kind.test == "bootstrap":
        return Test(difference, low, high, permuted, RANDOMISATION, (("sacreBLEU's paired bootstrap", p),))
    if scores.kind.test == "permutation":
        return Test(difference, low, high, permuted, "paired permutation")
    right = [statistics[:, 0] > 0 for statistics in both]
    p = mcnemar(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))
    return Test(difference, low, high, p, "McNemar", (("permutation", permuted),))


def _judged(
    first: System,
    second: System,
    test: Test,
    p: float,
    metric: Metric,
    count: int,
    smallest: float | None,
) -> Pair:
    """A tested pair with its verdict and its statement. ``count`` is the number of all tests of the comparison."""
    said = statement(first.name, second.name, test, p, metric, count > 1)
    seen = detectable(count) * (test.high - test.low) / 2
    if p < ALPHA:
        verdict = BETTER if (test.difference > 0) == (metric.better == "max") else WORSE
    elif smallest is not None and seen > smallest and not -smallest < test.low <= test.high < smallest:
        verdict = UNDERPOWERED
        said += f"; a difference of {seen:.{difference_digits(test)}f} would have been found with probability {POWER:g}"
        said += f", but {smallest:g} matters"
    else:
        verdict = UNDECIDED
    return Pair(first.name, second.name, test, p, said, verdict, seen)


def _untested(first: System, second: System, why: str, metric: Metric) -> Pair:
    """A pair for which there is no test."""
    gap = f"{first.spread.mean - second.spread.mean:.4g} {metric.unit}"
    said = f"{first.name} and {second.name} differ by {gap}; {why} there is no test"
    return Pair(first.name, second.name, None, None, said, UNDERPOWERED)


def _why_untested(first: Sequence[FinishedRun], second: Sequence[FinishedRun]) -> str:
    """The condition under which two systems have no test, as the beginning of a clause."""
    if first[0].folds and len({run.fold for run in first} & {run.fold for run in second}) < 2:
        return "with fewer than two common folds"
    if len(first) == len(second) == 1:
        return "with one seed each"
    return f"without any spread between {'folds' if first[0].folds else 'seeds'}"


def _reservations(systems: Sequence[System], task: _Task, count: int) -> list[str]:
    """Notes that say what the tests of a task rest on. ``count`` is the number of all tests of the comparison."""
    notes = []
    counts = [(len(systems[i].runs), len(systems[j].runs)) for i, j in task.pairs]
    if not task.pairs and len(systems) == 1:
        notes.append("All runs are seeds of one system: there is nothing to compare.")
    elif not task.pairs:
        notes.append("The baseline has no run of this task: there is nothing to compare.")
    if (1, 1) in counts and task.scores.statistics:
        notes.append("One seed each: this is about these runs, on texts like the test set; other seeds may differ.")
    folds = task.systems[0][0].folds
    if folds:
        return [*notes, *_about_folds(task, folds), *_about_holm(task, count)]
    if any(min(pair) == 1 < max(pair) for pair in counts):
        alone = ", ".join(system.name for system in systems if len(system.runs) == 1)
        notes.append(f"{alone}: one seed, taken to vary from seed to seed as the other system does.")
    return [*notes, *_about_holm(task, count)]


def _about_holm(task: _Task, count: int) -> list[str]:
    if count > 1 and any(test is not None for test in task.tests):
        return [f"p (Holm) is corrected for {count} comparisons; the intervals are not."]
    return []


def _about_folds(task: _Task, folds: int) -> list[str]:
    """Notes about a cross-validation, and about folds that some systems lack."""
    own = [{run.fold for run in system} for system in task.systems]
    all_folds, common = set[int | None]().union(*own), set.intersection(*own)
    partitions = -(-(1 + max(fold or 0 for fold in all_folds)) // folds)
    often = "once" if partitions == 1 else f"once in each of {partitions} partitions"
    notes = [f"{folds}-fold cross-validation over {len(common)} folds; each text is tested {often}."]
    if lacking := sorted(fold or 0 for fold in all_folds - common):
        notes.append(f"Not all systems have fold {', '.join(map(str, lacking))}; a pair is tested on what it shares.")
    if len(all_folds) < folds * partitions:
        notes.append(f"{len(all_folds)} of {folds * partitions} folds have runs, so some texts are not tested.")
    return notes


def statement(first: str, second: str, test: Test, p: float, metric: Metric, many: bool) -> str:
    """The result of a test in words.

    Args:
        first: A system's name.
        second: The other's.
        test: The test of the first score minus the second.
        p: Its corrected p-value.
        metric: The metric that was compared.
        many: Whether p was corrected for more than one comparison.
    """
    digits, tail = difference_digits(test), f"{p_text(p)}{' corrected' if many else ''}"
    if p >= ALPHA:
        between = f"95 % CI {signed(test.low, digits)} to {signed(test.high, digits)}"
        gap = f"difference {signed(test.difference, digits)} {metric.unit}"
        return f"{first} and {second} are not distinguishable ({gap}, {between}, {tail})"
    names, ends = (first, second), (test.low, test.high)
    if (test.difference < 0) == (metric.better == "max"):
        names = (second, first)
    if test.difference < 0:
        ends = (-test.high, -test.low)
    between = f"95 % CI {signed(ends[0], digits)} to {signed(ends[1], digits)}"
    gap = f"{abs(test.difference):.{digits}f} {metric.unit}"
    return f"{names[0]} is better than {names[1]} by {gap} ({between}, {tail})"
