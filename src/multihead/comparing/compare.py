"""A comparison of systems: which one is better, by how much, and whether that is more than chance."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from multihead.comparing.finished import FinishedRun, Reader
from multihead.comparing.report import Curve, Pair, Report, System, difference_digits, p_text, signed
from multihead.comparing.scores import Metric, Scores, choose_metric, disagreeing, read_scores
from multihead.comparing.significance import Test, holm, mcnemar, over_seeds, paired_bootstrap, permutation_p, spread
from multihead.comparing.systems import data_warnings, differing, find_systems, require_comparable, value_text
from multihead.errors import ConfigError

ALPHA = 0.05
PARAMETERS_DIFFER = 0.01
"""A larger relative difference between the numbers of parameters causes a warning."""
RANDOMISATION = "paired approximate randomisation"
"""The name of the permutation test in machine translation (sacreBLEU's ``--paired-ar``)."""


def compare(
    runs: Sequence[str],
    *,
    group: Sequence[str] = (),
    names: Sequence[str] = (),
    baseline: str = "",
    metric: str = "",
) -> Report:
    """Compares finished runs.

    Args:
        runs: Run directories, folders of them, or globs. All of their runs must be finished.
        group: Folders. All finished runs below them are compared, and a warning names the others.
        names: Names of the systems, or one for each entry of ``runs``: then the entry is, or belongs to, that system.
        baseline: A system's name or one of its runs. All others are compared with it; otherwise all pairs are compared.
        metric: A key of result.json; if it is empty, the test metric that corresponds to the monitored one.

    Raises:
        ConfigError: If runs are not finished, or are not comparable.
    """
    reader = Reader()
    systems, labels = find_systems(runs, group, names, reader)
    members = list(itertools.chain.from_iterable(systems))
    require_comparable(members)
    chosen, notes = choose_metric(members, metric)
    scores, more = read_scores(members, chosen)
    rows = [_row(label, system, chosen) for label, system in zip(labels, systems, strict=True)]
    pairs = _pairs(labels, systems, baseline)
    tests = [_test(systems[i], systems[j], scores) for i, j in pairs]
    return Report(
        task=chosen.task,
        metric=chosen.key,
        better=chosen.better,
        systems=rows,
        pairs=_judged(rows, pairs, tests, chosen),
        differences={key: [value_text(v) for v in values] for key, values in differing(systems).items()},
        warnings=[*reader.left_out, *data_warnings(systems, labels), *_sizes(rows), *disagreeing(scores)],
        notes=[*notes, *more, *_reservations(rows, pairs, tests, scores)],
        curves=_curves(systems, chosen),
    )


def _row(label: str, system: Sequence[FinishedRun], metric: Metric) -> System:
    values = [float(run.result[metric.key]) for run in system]
    parameters = sum(int(run.result.get("parameters", 0)) for run in system)
    return System(
        name=label,
        runs=[run.path for run in system],
        seeds=[run.seed for run in system],
        values=values,
        spread=spread(values),
        parameters=round(parameters / len(system)),
    )


def _pairs(labels: Sequence[str], systems: Sequence[Sequence[FinishedRun]], baseline: str) -> list[tuple[int, int]]:
    """The pairs of systems that are compared.

    Raises:
        ConfigError: If there is no such baseline.
    """
    if not baseline:
        return list(itertools.combinations(range(len(systems)), 2))
    if baseline in labels:
        base = labels.index(baseline)
    else:
        place = Path(baseline).resolve()
        holding = [
            i
            for i, system in enumerate(systems)
            if any(place in (path := Path(run.path).resolve(), *path.parents) for run in system)
        ]
        if len(holding) != 1:
            what = f"{baseline} matches {'several' if holding else 'none'} of the systems: {'; '.join(labels)}"
            raise ConfigError("baseline", what, f"baseline='{labels[0]}' or a run of one")
        base = holding[0]
    return [(i, base) for i in range(len(systems)) if i != base]


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
    if len(first) == len(second) == 1:
        return _test_single(first[0].path, second[0].path, scores)
    values, other_values = ([scores.values[run.path] for run in system] for system in (first, second))
    if not scores.statistics:
        return over_seeds(values, other_values)
    resampled, other = (np.stack([scores.resampled[run.path] for run in system]) for system in (first, second))
    return over_seeds(values, other_values, resampled, other)


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
    systems: Sequence[System], pairs: Sequence[tuple[int, int]], tests: Sequence[Test | None], metric: Metric
) -> list[Pair]:
    """The pairs with their tests, corrected p-values and statements."""
    corrected = iter(p_values := holm([test.p for test in tests if test is not None]))
    found = []
    for (i, j), test in zip(pairs, tests, strict=True):
        first, second = systems[i], systems[j]
        if test is None:
            gap = f"{first.spread.mean - second.spread.mean:.4g} {metric.unit}"
            said = f"{first.name} and {second.name} differ by {gap}; with one seed each there is no test"
            found.append(Pair(first.name, second.name, None, None, said))
            continue
        p = next(corrected)
        said = statement(first.name, second.name, test, p, metric, len(p_values) > 1)
        found.append(Pair(first.name, second.name, test, p, said))
    return found


def _reservations(
    systems: Sequence[System], pairs: Sequence[tuple[int, int]], tests: Sequence[Test | None], scores: Scores
) -> list[str]:
    """Notes that say what the tests rest on."""
    notes = []
    counts = [(len(systems[i].runs), len(systems[j].runs)) for i, j in pairs]
    if not pairs:
        notes.append("All runs are seeds of one system: there is nothing to compare.")
    if (1, 1) in counts and scores.statistics:
        notes.append("One seed each: this is about these runs, on texts like the test set; other seeds may differ.")
    if any(min(pair) == 1 < max(pair) for pair in counts):
        alone = ", ".join(system.name for system in systems if len(system.runs) == 1)
        notes.append(f"{alone}: one seed, taken to vary from seed to seed as the other system does.")
    if (tested := sum(test is not None for test in tests)) > 1:
        notes.append(f"p (Holm) is corrected for {tested} comparisons; the intervals are not.")
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
