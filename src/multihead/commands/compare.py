"""``compare``: which system is better, by how much, and whether that is more than chance."""

from __future__ import annotations

import itertools
import re
import sys
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead.comparing.systems import (
    Capsule,
    data_warnings,
    differing,
    find_runs,
    group_by_recipe,
    name_systems,
    recipe,
    require_different_seeds,
    require_one,
    require_same_data,
    value_text,
)
from multihead.config.keys import nearest_name
from multihead.config.task import BLEU_TOKENIZERS, TASKS
from multihead.config.words import entries_of, path_of
from multihead.errors import ConfigError

if TYPE_CHECKING:
    import numpy as np

    from multihead.comparing.per_example import Statistics
    from multihead.comparing.report import Report, System
    from multihead.comparing.significance import Test
    from multihead.runs.screen import Fitted

WORDS = ("runs", "group", "names", "baseline", "metric", "format", "out")
LISTS = ("runs", "group", "names", "format")
ALPHA = 0.05
PARAMETERS_DIFFER = 0.01
"""Share from which a difference in parameters is warned of."""
MIN_EXAMPLES = 10
"""Fewer test examples (or documents) are not resampled."""
RANDOMISATION = "paired approximate randomisation"
"""The permutation test, by the name that it has in machine translation (sacreBLEU's ``--paired-ar``)."""
LOWER_IS_BETTER = ("ter", "loss", "perplexity", "bits_per_byte", "ece", "loss_random_windows")
PER_TOKEN = ("loss", "perplexity", "token_accuracy", "loss_random_windows")
"""Metrics that mean something between equal tokenizers only (other than of classification)."""
UNITS = {
    "bleu": "BLEU",
    "bleu_lowercase": "BLEU (lower-cased)",
    "chrf": "chrF",
    "rouge1": "ROUGE-1",
    "rouge2": "ROUGE-2",
    "rougeL": "ROUGE-L",
    "rougeLsum": "ROUGE-Lsum",
    "ter": "TER",
    "exact_match": "exact match",
    "macro_f1": "macro-F1",
    "mcc": "MCC",
    "auroc": "AUROC",
    "ece": "calibration error",
    "bits_per_byte": "bits per byte",
}


@dataclass
class Metric:
    """What is compared."""

    key: str
    """In result.json: test/bleu, test/classification/accuracy."""
    task: str
    """The single task that it belongs to, or multitask."""
    part: str
    """That task where the runs learned several, or nothing."""
    name: str
    """Without split and task: bleu, f1/spam."""
    better: str
    """max or min."""

    @property
    def unit(self) -> str:
        """As it stands behind a number."""
        if self.name.startswith("f1/"):
            return f"F1 of {self.name[3:]}"
        if self.name == "loss":
            return "nats" if self.task in ("classification", "multitask") else "nats per token"
        return UNITS.get(self.name, self.name.replace("_", " "))


@dataclass
class Scores:
    """All that the tests need of each run, by its path."""

    values: dict[str, float]
    statistics: dict[str, np.ndarray] = field(default_factory=dict)
    """Sufficient statistics of the test examples; empty where there are none."""
    resampled: dict[str, np.ndarray] = field(default_factory=dict)
    """Scores on bootstrap samples of them."""
    kind: Statistics | None = None


def run(words: Sequence[str]) -> int:
    """``multihead compare runs=[A,B] [names=[x,y]] [baseline=A] [metric=KEY] [format=html] [out=FILE]``."""
    from rich.console import Console

    from multihead.comparing.report import render

    options = parse(words)
    targets = outputs(options["format"], options["out"])
    report = compare(
        options["runs"],
        group=options["group"],
        names=options["names"],
        baseline=options["baseline"],
        metric=options["metric"],
    )
    tell = Console(stderr=True, highlight=False, soft_wrap=True)
    for text in report.warnings:
        tell.print(f"warning: {text}", style="yellow", markup=False)
    for kind, file in targets:
        text = render(report, kind)
        if file is None:
            sys.stdout.write(text)
            return 0
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
    show(report)
    for _, file in targets:
        tell.print(f"wrote {file}", markup=False)
    return 0


def parse(words: Sequence[str]) -> dict[str, Any]:
    """The words of the command line: texts, and lists where `LISTS` says so.

    Raises:
        ConfigError: If a word is not one of `WORDS`, or no run is named.
    """
    options: dict[str, Any] = {name: [] if name in LISTS else "" for name in WORDS}
    for word in words:
        name, equals, value = word.partition("=")
        if name not in WORDS or not equals:
            near = nearest_name(name, WORDS)
            fix = f"{near}={value}" if near else ""
            raise ConfigError(name, f"compare takes {', '.join(f'{known}=' for known in WORDS)}", fix)
        if name in LISTS:
            options[name] += entries_of(name, value)
        else:
            options[name] = path_of(name, value) if name == "out" else value
    if not options["runs"] and not options["group"]:
        raise ConfigError("runs", "is missing: which runs to compare?", "runs=[outputs/A,outputs/B] or group=FOLDER")
    return options


def outputs(formats: Sequence[str], out: str) -> list[tuple[str, Path | None]]:
    """Formats to write, each with its file (None is standard output).

    Raises:
        ConfigError: If a format is not known, or files for several have no name.
    """
    from multihead.comparing.report import FORMATS

    for kind in formats:
        if kind not in FORMATS:
            near = nearest_name(kind, FORMATS)
            raise ConfigError("format", f"must be one of {', '.join(FORMATS)}, got {kind}", near and f"format={near}")
    if not out:
        if len(formats) > 1:
            raise ConfigError("out", "is missing: several formats need files", "out=comparison")
        return [(kind, None) for kind in formats]
    file = Path(out)
    if file.is_dir():
        raise ConfigError("out", f"{out} is a directory", f"out={file / 'comparison.html'}")
    if not formats:
        formats = [kind for kind, suffix in FORMATS.items() if suffix == file.suffix.lower()]
        if not formats:
            raise ConfigError("out", f"{out}: no format ends in {file.suffix or 'nothing'}", "format=markdown")
    if len(formats) == 1:
        return [(formats[0], file)]
    stem = file.with_suffix("") if file.suffix in FORMATS.values() else file
    return [(kind, stem.with_name(stem.name + FORMATS[kind])) for kind in formats]


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
        runs: Run directories, folders of them, or globs.
        group: The same; all the runs below.
        names: Of the systems, or of the entries of ``runs`` (then each entry is, or belongs to, the system named).
        baseline: A system's name or a run of it: all are compared with it, instead of all pairs.
        metric: A key of result.json; empty takes the test metric that the runs were monitored by.

    Raises:
        ConfigError: If runs are not finished, or are not comparable.
    """
    from multihead.comparing.report import Curve, Report

    systems, labels = _systems(runs, group, names)
    capsules = [capsule for members in systems for capsule in members]
    require_one(capsules, "tasks", lambda capsule: capsule.task, "compare runs of one task")
    if capsules[0].task == "lm":
        objective = lambda capsule: capsule.settings.get("task.objective")  # noqa: E731
        require_one(capsules, "objectives", objective, "compare runs of one task.objective")
    require_same_data(capsules)
    chosen, notes = _metric(capsules, metric)
    scores, found = _scores(capsules, chosen)
    notes += found
    rows = [_system(label, members, chosen) for label, members in zip(labels, systems, strict=True)]
    report = Report(chosen.task, chosen.key, chosen.better, rows, [], {})
    report.warnings = [*data_warnings(systems, labels), *_parameters(rows), *_disagreeing(scores)]
    report.differences = {key: [value_text(v) for v in values] for key, values in differing(systems).items()}
    _compare_pairs(report, systems, _which(labels, systems, baseline), scores, chosen)
    report.notes = notes + report.notes
    validated = chosen.key.replace("test/", "val/", 1)
    if not any(capsule.column(validated) for capsule in capsules):
        validated = str(capsules[0].settings.get("task.monitor", "val/loss"))
    for column in (validated, "train/loss"):
        curves = [
            Curve(i, capsule.path, points)
            for i, members in enumerate(systems)
            for capsule in members
            if (points := capsule.column(column))
        ]
        if curves:
            report.curves[column] = curves
    return report


# ---- systems


def _systems(runs: Sequence[str], group: Sequence[str], names: Sequence[str]) -> tuple[list[list[Capsule]], list[str]]:
    """Runs in systems, and the systems' names."""
    entries = [find_runs(entry) for entry in runs] + [find_runs(entry, "group") for entry in group]
    seen: dict[Path, Capsule] = {}
    read = [[_once(path, seen) for path in entry] for entry in entries]
    if names and len(names) == len(entries) and (len(entries) > 1 or not group):
        return _named(read, names)
    systems = group_by_recipe(list(seen.values()))
    if not names:
        return systems, name_systems(systems)
    if len(names) != len(systems) or len(set(names)) < len(names):
        found = "; ".join(name_systems(systems))
        raise ConfigError("names", f"needs {len(systems)} different names, one for each system: {found}")
    return systems, list(names)


def _once(path: str, seen: dict[Path, Capsule]) -> Capsule:
    """A run that stands in two entries is one run."""
    place = Path(path).resolve()
    if place not in seen:
        seen[place] = Capsule.read(path)
    return seen[place]


def _named(entries: Sequence[Sequence[Capsule]], names: Sequence[str]) -> tuple[list[list[Capsule]], list[str]]:
    """Systems as the user named them, entry by entry."""
    found: dict[str, dict[str, Capsule]] = {}
    for name, entry in zip(names, entries, strict=True):
        found.setdefault(name, {}).update({capsule.path: capsule for capsule in entry})
    for name, members in found.items():
        first, *others = members.values()
        for other in others:
            if recipe(other.config, other.settings) != recipe(first.config, first.settings):
                keys = ", ".join(list(differing([[first], [other]]))[:3])
                what = f"{name} would hold {first.path} and {other.path}, which differ in {keys}"
                raise ConfigError("names", what, "give each configuration a name of its own")
        require_different_seeds([first, *others])
    return [list(members.values()) for members in found.values()], list(found)


def _system(label: str, members: Sequence[Capsule], metric: Metric) -> System:
    from multihead.comparing.report import System
    from multihead.comparing.significance import spread

    values = [float(capsule.result[metric.key]) for capsule in members]
    parameters = [int(capsule.result.get("parameters", 0)) for capsule in members]
    mean = round(sum(parameters) / len(parameters))
    return System(label, [c.path for c in members], [c.seed for c in members], values, spread(values), mean)


def _which(labels: Sequence[str], systems: Sequence[Sequence[Capsule]], baseline: str) -> list[tuple[int, int]]:
    """Pairs of systems to compare.

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
            for i, members in enumerate(systems)
            if any(place in (path := Path(c.path).resolve(), *path.parents) for c in members)
        ]
        if len(holding) != 1:
            what = f"{baseline} is {'several' if holding else 'none'} of the systems: {'; '.join(labels)}"
            raise ConfigError("baseline", what, f"baseline='{labels[0]}' or a run of one")
        base = holding[0]
    return [(i, base) for i in range(len(systems)) if i != base]


def _parameters(systems: Sequence[System]) -> list[str]:
    """Says so where systems differ in size."""
    sizes = [system.parameters for system in systems]
    if not min(sizes) or max(sizes) / min(sizes) - 1 <= PARAMETERS_DIFFER:
        return []
    listed = ", ".join(f"{system.name} {system.parameters:,}" for system in systems)
    return [f"parameters differ by {max(sizes) / min(sizes) - 1:.1%}: {listed}"]


# ---- the metric and the examples


def _metric(capsules: Sequence[Capsule], asked: str) -> tuple[Metric, list[str]]:
    """The metric, and what there is to say about its choice.

    Raises:
        ConfigError: If a run has no such metric, or tokenizers differ where it is per token.
    """
    first, notes = capsules[0], []
    monitor = str(first.settings.get("task.monitor", "val/loss"))
    key = asked or monitor.replace("val/", "test/", 1)
    if asked and asked not in first.result and f"test/{asked}" in first.result:
        key = f"test/{asked}"
    metric = _described(first, key)
    if metric.name in PER_TOKEN and metric.task != "classification" and not _same_tokenizers(capsules):
        bits = key[: len(key) - len(metric.name)] + "bits_per_byte"
        if asked or not all(bits in capsule.result for capsule in capsules):
            fix = f"metric={bits}" if bits in first.result else "compare runs with the same tokenizer"
            raise ConfigError("metric", f"{key} is per token, and the runs have different tokenizers", fix)
        notes.append(f"{key} is per token and the runs have different tokenizers: {bits} is compared instead.")
        metric = _described(first, bits)
    for capsule in capsules:
        if not isinstance(capsule.result.get(metric.key), int | float):
            there = sorted(name for name in capsule.result if name.startswith("test/"))
            near = nearest_name(metric.key, there)
            what = f"{capsule.path} has no {metric.key}; it has {', '.join(there) or 'no test metrics'}"
            raise ConfigError("metric", what, f"metric={near}" if near else "")
    return metric, notes


def _described(capsule: Capsule, key: str) -> Metric:
    """Task, name and direction of a key of result.json."""
    _, _, name = key.partition("/")
    task = capsule.task
    part, _, rest = name.partition("/")
    parts = capsule.settings.get("task.parts") or []
    part = part if rest and task == "multitask" and part in parts else ""
    task, name = part or task, rest if part else name
    known = TASKS[task].METRICS if task in TASKS else {}
    better = known.get(f"val/{name}")
    if better is None and key.partition("/")[2] == str(capsule.settings.get("task.monitor")).partition("/")[2]:
        better = str(capsule.settings.get("task.monitor_mode"))
    return Metric(key, task, part, name, better or ("min" if name in LOWER_IS_BETTER else "max"))


def _same_tokenizers(capsules: Sequence[Capsule]) -> bool:
    """Whether tokens are the same thing in all runs; those of a source are only read."""
    marks = {
        frozenset(
            value for name, value in c.data.items() if name.startswith("tokenizer_") and name != "tokenizer_source"
        )
        for c in capsules
    }
    return len(marks) == 1


def _scores(capsules: Sequence[Capsule], metric: Metric) -> tuple[Scores, list[str]]:
    """Scores of all runs, with sufficient statistics and resamples where samples.jsonl has what they need."""
    from multihead.comparing.per_example import statistics_of
    from multihead.comparing.significance import resampled

    scores = Scores({capsule.path: float(capsule.result[metric.key]) for capsule in capsules})
    if not metric.key.startswith("test/"):
        return scores, [f"{metric.key} is not of the test split: chance in the choice of examples is not looked at."]
    if metric.task == "multitask":
        return scores, [f"{metric.key} is of several tasks: chance in the choice of examples is not looked at."]
    samples = [capsule.samples(metric.part) for capsule in capsules]
    if metric.task == "lm":
        samples = [[sample for sample in run if "nats" in sample] for run in samples]
    without = f"samples.jsonl has nothing for each example about {metric.key}"
    if min(map(len, samples)) == 0:
        return scores, [f"{without}: chance in the choice of examples is not looked at."]
    for capsule, run in zip(capsules, samples, strict=True):
        if list(map(_truth, run)) != list(map(_truth, samples[0])):
            what = f"{capsules[0].path} and {capsule.path} have other test examples in samples.jsonl"
            if metric.task == "lm":  # documents that another block size cuts otherwise
                return scores, [f"{what}: chance in the choice of documents is not looked at."]
            raise ConfigError("runs", f"{what} ({len(samples[0])} and {len(run)})", "copy them again")
    if len(samples[0]) < MIN_EXAMPLES:
        few = f"only {len(samples[0])} test examples (documents): chance in their choice is not looked at."
        return scores, [few]
    tokenizer = partial(_bleu_tokenizer, metric)
    require_one(capsules, "tokenizers of BLEU", tokenizer, "metric=test/chrf")
    kind = statistics_of(metric.name, samples, tokenizer(capsules[0]))
    if kind is None:
        return scores, [f"{without}: chance in the choice of examples is not looked at."]
    scores.kind = kind
    for capsule, statistics in zip(capsules, kind.runs, strict=True):
        scores.statistics[capsule.path] = statistics
        scores.resampled[capsule.path] = resampled(statistics, kind.score)
    return scores, []


def _bleu_tokenizer(metric: Metric, capsule: Capsule) -> str:
    """sacreBLEU's tokenizer that a run was scored with, as its signature names it; 13a of metrics without one."""
    signature = str(capsule.result.get(f"{metric.part}/signature" if metric.part else "signature", ""))
    named = re.search(r"\|tok:([^|]+)", signature) if metric.name in ("bleu", "bleu_lowercase") else None
    return next((name for name in BLEU_TOKENIZERS if named and named[1].startswith(name)), "13a")


def _truth(sample: dict[str, Any]) -> tuple[Any, ...]:
    """What is the same of an example in every run."""
    names = ("index", "source", "reference", "text", "text_b", "label", "bytes")
    return tuple(unicodedata.normalize("NFKC", str(sample.get(name))) for name in names)  # data.normalize may differ


def _disagreeing(scores: Scores) -> list[str]:
    """Says so where the examples do not give the score that the run recorded."""
    warnings = []
    for path, statistics in scores.statistics.items():
        again, recorded = float(scores.kind.score(statistics.sum(0))), scores.values[path]
        if not abs(again - recorded) <= 5e-4 * max(1.0, abs(recorded)):
            warnings.append(f"{path}: samples.jsonl gives {again:.6g} where result.json has {recorded:.6g}")
    return warnings


# ---- the tests


def _compare_pairs(
    report: Report,
    systems: Sequence[Sequence[Capsule]],
    pairs: Sequence[tuple[int, int]],
    scores: Scores,
    metric: Metric,
) -> None:
    """Adds tests, corrected p-values, statements and what they rest on to the report."""
    from multihead.comparing.report import Pair
    from multihead.comparing.significance import holm

    paths = [[capsule.path for capsule in members] for members in systems]
    tests = [_test(paths[i], paths[j], scores) for i, j in pairs]
    made = [test for test in tests if test is not None]
    corrected = iter(holm([test.p for test in made]))
    for (i, j), test in zip(pairs, tests, strict=True):
        names = report.systems[i].name, report.systems[j].name
        p = next(corrected) if test is not None else None
        said = statement(*names, test, p, metric, len(made) > 1)
        if test is None:
            gap = report.systems[i].spread.mean - report.systems[j].spread.mean
            said = f"{names[0]} and {names[1]} differ by {gap:.4g} {metric.unit}; with one seed each there is no test"
        report.pairs.append(Pair(*names, test, p, said))
    counts = [(len(paths[i]), len(paths[j])) for i, j in pairs]
    if not pairs:
        report.notes.append("All runs are seeds of one system: there is nothing to compare.")
    if (1, 1) in counts and scores.statistics:
        report.notes.append(
            "One seed each: this is about these runs, on texts like the test set; other seeds may differ."
        )
    alone = [report.systems[i].name for i in range(len(paths)) if len(paths[i]) == 1]
    if any(min(pair) == 1 < max(pair) for pair in counts):
        report.notes.append(f"{', '.join(alone)}: one seed, taken to vary from seed to seed as the other system does.")
    if len(made) > 1:
        report.notes.append(f"p (Holm) is corrected for {len(made)} comparisons; the intervals are not.")


def _test(first: Sequence[str], second: Sequence[str], scores: Scores) -> Test | None:
    """The test of two systems, given the paths of their runs; `multihead.comparing.significance` says why."""
    from multihead.comparing.significance import over_seeds

    values = [[scores.values[path] for path in paths] for paths in (first, second)]
    if len(first) == len(second) == 1:
        return _single(first[0], second[0], scores) if scores.statistics else None
    if not scores.statistics:
        return over_seeds(*values)
    import numpy as np

    samples = [np.stack([scores.resampled[path] for path in paths]) for paths in (first, second)]
    return over_seeds(*values, *samples)


def _single(first: str, second: str, scores: Scores) -> Test:
    """One seed each: the test that is usual for the metric, with the interval of the paired bootstrap."""
    from multihead.comparing.significance import Test, mcnemar, paired_bootstrap, permutation_p

    kind, both = scores.kind, (scores.statistics[first], scores.statistics[second])
    difference = scores.values[first] - scores.values[second]
    low, high, p = paired_bootstrap(difference, scores.resampled[first], scores.resampled[second])
    permuted = permutation_p(*both, kind.score)
    if kind.test == "bootstrap":
        return Test(difference, low, high, permuted, RANDOMISATION, (("sacreBLEU's paired bootstrap", p),))
    if kind.test == "permutation":
        return Test(difference, low, high, permuted, "paired permutation")
    right = [statistics[:, 0] > 0 for statistics in both]
    p = mcnemar(int((right[0] & ~right[1]).sum()), int((right[1] & ~right[0]).sum()))
    return Test(difference, low, high, p, "McNemar", (("permutation", permuted),))


def statement(first: str, second: str, test: Test | None, p: float | None, metric: Metric, many: bool) -> str:
    """What a test found, in words.

    Args:
        first: A system's name.
        second: The other's.
        test: Of first minus second.
        p: Its p-value, corrected.
        metric: What was compared.
        many: Whether it was corrected for more than one comparison.
    """
    from multihead.comparing.report import difference_digits, p_text, signed

    if test is None or p is None:
        return ""
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


# ---- the terminal


def show(report: Report) -> None:
    """Prints tables and findings on standard output."""
    from multihead.comparing.report import pairs_rows, systems_rows
    from multihead.runs.screen import report_console

    console = report_console()
    better = "higher" if report.better == "max" else "lower"
    console.print(f"{report.metric} ({better} is better)", style="bold", markup=False)
    console.print(_table(systems_rows(report)))
    if report.pairs:
        console.print()
        console.print(_table(pairs_rows(report)))
        console.print()
    for pair in report.pairs:
        console.print(pair.statement, markup=False, soft_wrap=True)
    for text in report.notes:
        console.print(text, style="dim", markup=False, soft_wrap=True)


def _table(rows: list[list[str]]) -> Fitted:
    from multihead.runs.screen import Fitted

    head, *body = rows
    return Fitted(head, body, fold=(head[0], "test"))
