"""Checks a claim: that its runs are what it says, that all runs are shown, that it follows from them, and that one of
them gives the same again.

A claim is the ``report.json`` of a study, or the JSON that ``compare`` has written about a folder of runs. Nothing of
the claim is believed: results are read from the run directories, and the verdicts are computed from them again.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multihead.comparing.claim import compared_again
from multihead.comparing.finished import FinishedRun, why_unfinished
from multihead.comparing.systems import differing, recipe
from multihead.comparing.verdicts import Overall
from multihead.config.study import Study, read_study
from multihead.config.words import write
from multihead.config.yaml_file import load_yaml
from multihead.errors import ConfigError, MultiheadError
from multihead.runs.files import read_json
from multihead.runs.listing import run_dirs
from multihead.studying.ablation import ablation, is_ablation
from multihead.studying.again import (
    ALIKE,
    SAME,
    changed_circumstances,
    environment_of,
    final_metrics,
    listed,
)
from multihead.studying.ladder import Worth, climb
from multihead.studying.ledger import RUNS, StudyLedger, key_of, name_in, results_of, run_dir
from multihead.studying.report import FILES
from multihead.studying.schedule import Key, Plan, progress
from multihead.studying.verdicts import Verdict, judge, overall
from multihead.sweeping import runner
from multihead.sweeping.ledger import Row
from multihead.sweeping.trial import LOG, Watch, run_once

MOST_DEVIATIONS = 3.0
"""On another machine or version, a rerun may differ by so many deviations between seeds."""

ROUNDING = 1e-9
"""Relative difference of numbers that are called the same."""
SIMULATED = 0.02
"""The same for numbers from a simulation, whose random numbers another version of NumPy may draw otherwise."""


@dataclass(frozen=True)
class Finding:
    """What a check has found."""

    check: str
    ok: bool
    text: str


# ---- a study


def verify_study(folder: Path, name: str, storage: str, rerun: bool) -> list[Finding]:
    """Checks a study.

    Args:
        folder: Its folder.
        name: Its name; "" takes that of its report or of its ledger.
        storage: The address of its ledger; "" is the file in the folder.
        rerun: Whether one of its runs is trained again.

    Raises:
        ConfigError: If there is no study in the folder.
        CheckpointError: If its report cannot be read.
    """
    report = folder / FILES["json"]
    claim = read_json(report, dict) if report.is_file() else {}
    ledger = StudyLedger(name or claim.get("name") or name_in(folder) or folder.name, folder, storage, create=False)
    plan = ledger.plan
    if plan is None:
        raise ConfigError("group", f"the study in {folder} has no plan yet", "start it by multihead study")
    rows = [row for row in ledger.rows() if row.record.get("run")]
    runs = {key_of(row): found for row in rows if (found := _read(run_dir(folder, plan, key_of(row))))}
    systems: dict[str, list[FinishedRun]] = {}
    for key, run in sorted(runs.items()):
        systems.setdefault(f"{key.task} {key.arm}", []).append(run)
    found = [
        *same_configurations(systems),
        *_same_per_task(systems, {task: [n for n in systems if n.startswith(f"{task} ")] for task in plan.tasks}),
    ]
    if unfinished := _unfinished(plan, ledger, rows, claim):
        return [*found, unfinished]
    found += [
        _all_shown(folder, plan, rows, claim),
        _study_holds(plan, ledger, runs, rows, claim),
    ]
    if rerun and runs:
        key = min(runs, key=lambda key: float(runs[key].result.get("seconds", math.inf)))
        others = [float(run.result[plan.metrics[key.task]]) for k, run in runs.items() if k[:2] == key[:2]]
        environment = {"MULTIHEAD_CONF": str((folder / "conf").resolve())}
        found.append(rerun_of(runs[key], plan.run_words(key), plan.metrics[key.task], others, environment))
    return found


def _unfinished(plan: Plan, ledger: StudyLedger, rows: Sequence[Row], claim: Mapping[str, Any]) -> Finding | None:
    """What is to do before a study has a claim; None if it has ended and its report says so."""
    left = progress(plan, results_of(rows), ledger.costs).missing
    if left:
        missing = listed([f"{key.task} {key.arm} seed {plan.seeds[key.index]}" for key in left])
        text = f"not yet: the study is not finished ({missing}); the same multihead study command goes on"
        return Finding("the study has ended", False, text)
    if not claim.get("ended"):
        text = "all runs have ended, but the report has no answer yet; the same multihead study command writes it"
        return Finding("the study has ended", False, text)
    return None


def _read(place: Path) -> FinishedRun | None:
    try:
        return FinishedRun.read(str(place))
    except (MultiheadError, OSError):
        return None


def _same_per_task(systems: Mapping[str, Sequence[FinishedRun]], tasks: Mapping[str, Sequence[str]]) -> list[Finding]:
    """The environment and the data, task by task, since tasks may have different data."""
    found = []
    for task, names in tasks.items():
        members = [run for name in names for run in systems[name]]
        found += same_environment(task, members) if members else []
    return found


def _all_shown(folder: Path, plan: Plan, rows: Sequence[Row], claim: Mapping[str, Any]) -> Finding:
    """Whether the report shows each run of the ledger and of the disk, and no seed was left out in between."""
    shown = {(run["task"], run["name"], run["seed"]) for run in claim.get("runs", [])}
    started = {(key.task, key.arm, plan.seeds[key.index]) for key in map(key_of, rows)}
    for place in (folder / RUNS).glob("*/*/seed_*"):
        seed = place.name.removesuffix(f".{LOG}").removeprefix("seed_")
        if seed.isdigit():
            started.add((place.parent.parent.name, place.parent.name, int(seed)))
    hidden = sorted(" ".join(map(str, run)) for run in started - shown)
    skipped = []
    for task, arm in dict.fromkeys((task, arm) for task, arm, _ in started):
        own = [seed in {s for t, a, s in started if (t, a) == (task, arm)} for seed in plan.seeds]
        if False in own and True in own[own.index(False) :]:
            skipped.append(f"{task} {arm} seed {plan.seeds[own.index(False)]}")
    if hidden or skipped:
        parts = [f"not in the report: {listed(hidden)}"] * bool(hidden)
        parts += [f"never started, though later seeds were: {listed(skipped)}"] * bool(skipped)
        return Finding("all runs shown", False, "; ".join(parts))
    failed = sum(run.get("state") != "complete" for run in claim.get("runs", []))
    return Finding("all runs shown", True, f"{len(shown)} runs were started, and all are shown ({failed} not complete)")


def _study_holds(
    plan: Plan,
    ledger: StudyLedger,
    runs: Mapping[Key, FinishedRun],
    rows: Sequence[Row],
    claim: Mapping[str, Any],
) -> Finding:
    """Whether the verdicts of the report follow from the results in the run directories."""
    name = "the claim holds"
    lost = [str(key) for row in rows if row.state == "complete" and (key := key_of(row)) not in runs]
    if lost:
        return Finding(name, False, f"these runs have no result in their directories: {listed(lost)}")
    results: dict[Key, float | None] = {key_of(row): None for row in rows if row.state == "failed"}
    changed = []
    for row in rows:
        if row.state == "complete":
            key = key_of(row)
            results[key] = float(runs[key].result[plan.metrics[key.task]])
            if results[key] != row.value:
                changed.append(f"{runs[key].path} has {results[key]:g}, and the ledger {row.value:g}")
    if changed:
        return Finding(name, False, listed(changed))
    study, ended = _study_file(ledger), progress(plan, results, ledger.costs).ended
    stated = {name: getattr(study, name) for name in ("question", "equal", "alpha", "power")}
    wrong = [
        f"the report says {name}: {claim.get(name)}, and the study file {own}"
        for name, own in stated.items()
        if claim.get(name) != own
    ]
    again = judge(plan, results, study.power, ended=ended)
    said = {(v["task"], v["variant"]): v for v in claim.get("verdicts", [])}
    for found in again:
        before = said.get((found.task, found.variant))
        if before and before["verdict"] == found.verdict:
            if not _equal(before, found, ("difference", "low", "high")):
                wrong.append(f"{found.task} {found.variant}: the difference or its interval is another one")
            elif not _equal(before, found, ("detectable",), SIMULATED):
                wrong.append(f"{found.task} {found.variant}: the detectable difference is another one")
        else:
            claimed = before["verdict"] if before else "nothing"
            wrong.append(f"{found.task} {found.variant}: the report says {claimed}, and the runs {found.verdict}")
    wrong += [*_other_overall(overall(plan, again), claim), *other_answers(plan, ledger, results, runs, claim, ended)]
    if wrong:
        return Finding(name, False, listed(wrong))
    count = len(again)
    return Finding(name, True, f"{count} verdict{'s' * (count != 1)} computed again from {len(runs)} runs: the same")


def _study_file(ledger: StudyLedger) -> Study:
    """The file of a study, as it was when the study began."""
    with tempfile.TemporaryDirectory(prefix="multihead-verify-") as folder:
        file = Path(folder, "study.yaml")
        file.write_text(ledger.launch["file"], encoding="utf-8")
        return read_study(str(file))


def _other_overall(found: Sequence[Overall], claim: Mapping[str, Any]) -> list[str]:
    """Which verdicts over all tasks the claim says differently."""
    said = {(each["variant"], each["baseline"]): each["verdict"] for each in claim.get("overall", [])}
    return [
        f"{own.variant} over all tasks is {own.verdict}, not {said.get((own.variant, own.baseline))}"
        for own in found
        if said.get((own.variant, own.baseline)) != own.verdict
    ]


def other_answers(
    plan: Plan,
    ledger: StudyLedger,
    results: Mapping[Key, float | None],
    runs: Mapping[Key, FinishedRun],
    claim: Mapping[str, Any],
    ended: bool,
) -> list[str]:
    """What of an ablation or of a ladder the report says differently."""
    wrong = []
    if is_ablation(plan):
        said = {(each["task"], each["name"]): each for each in claim.get("ablation", [])}
        for each in ablation(plan, results, ended=ended):
            if not _same(said.get((each.task, each.name)), asdict(each)):
                wrong.append(f"the effect of {each.name} on {each.task} is another one")
    if "ladder" in ledger.facts:
        seconds: dict[tuple[str, str], list[float]] = {}
        for key, run in runs.items():
            seconds.setdefault((key.task, key.arm), []).append(float(run.result.get("seconds", 0)))
        minutes = {cell: statistics.fmean(own) / 60 for cell, own in seconds.items()}
        worths, _ = climb(plan, results, ledger.facts, minutes, ended)
        said = {(each["task"], each["variant"]): each for each in claim.get("ladder", [])}
        wrong += [
            f"{each.task}: {each.variant} is worth another factor"
            for each in worths
            if not _equal(said.get((each.task, each.variant)), each, ("factor", "low", "high"))
        ]
    return wrong


def _equal(
    said: Mapping[str, Any] | None, found: Verdict | Worth, names: Sequence[str], tolerance: float = ROUNDING
) -> bool:
    """Whether a verdict and its numbers are the same, but for a relative difference."""
    if said is None or said["verdict"] != found.verdict:
        return False
    return all(_same(said[name], getattr(found, name), tolerance) for name in names)


def _same(said: Any, found: Any, tolerance: float = ROUNDING) -> bool:
    """Whether what a claim says is what was found, but for a relative difference of its numbers."""
    if isinstance(found, dict):
        return isinstance(said, dict) and all(_same(said.get(key), own, tolerance) for key, own in found.items())
    if isinstance(found, float) and isinstance(said, int | float):
        return math.isclose(said, found, rel_tol=tolerance, abs_tol=1e-12)
    return said == found


# ---- a folder of runs


def verify_runs(group: str, claim_file: str, rerun: bool) -> list[Finding]:
    """Checks the runs below a folder, and what ``compare`` has said about them.

    Args:
        group: The folder.
        claim_file: The JSON that ``compare out=FILE.json`` has written; "" checks the runs alone.
        rerun: Whether one of the runs is trained again.

    Raises:
        ConfigError: If the folder has no finished run.
        CheckpointError: If the claim cannot be read.
    """
    places = list(run_dirs(Path(group)))
    runs = {place.resolve(): run for place in places if (run := _read(place))}
    if not runs:
        raise ConfigError("group", f"{group} holds no finished run", "group=outputs/...")
    systems: dict[str, list[FinishedRun]] = {}
    if claim_file:
        claim = read_json(Path(claim_file), dict)
        reports: dict[str, Any] = claim.get("tasks") or {str(claim.get("task")): claim}
        for task, report in reports.items():
            for system in report.get("systems", []):
                members = [run for path in system["runs"] if (run := runs.get(Path(path).resolve()))]
                systems[f"{task} {system['name']}"] = members
    else:
        reports = {}
        for run in runs.values():
            systems.setdefault(recipe(run.config, run.settings), []).append(run)
        systems = {f"{members[0].task} {number}": members for number, members in enumerate(systems.values(), start=1)}
    found = [*same_configurations(systems)]
    tasks = dict.fromkeys((run.task, run.data_name) for run in runs.values())
    for task, data in tasks:
        members = [run for run in runs.values() if (run.task, run.data_name) == (task, data)]
        found += same_environment(f"{task} on {data}" if len(tasks) > 1 else task, members)
    found.append(_folder_shown(places, runs, systems, bool(claim_file)))
    if claim_file:
        found.append(_comparison_holds(reports, claim, claim_file))
    if rerun:
        shortest = min(runs.values(), key=lambda run: float(run.result.get("seconds", math.inf)))
        own = next((members for members in systems.values() if shortest in members), [shortest])
        others = [float(run.result[run.monitor]) for run in own if run.monitor in run.result]
        words = load_yaml(Path(shortest.path, "overrides.yaml"))
        found.append(rerun_of(shortest, list(map(str, words)), shortest.monitor, others, {}))
    return found


def _folder_shown(
    places: Sequence[Path],
    runs: Mapping[Path, FinishedRun],
    systems: Mapping[str, Sequence[FinishedRun]],
    claimed: bool,
) -> Finding:
    """Whether each run that was started is finished and in the claim, and the systems of a task have the same seeds."""
    shown = {run.path for members in systems.values() for run in members}
    hidden = [f"{place} ({why_unfinished(place)})" for place in places if place.resolve() not in runs]
    hidden += [run.path for run in runs.values() if claimed and run.path not in shown]
    seeds = {name: tuple(sorted(run.seed for run in members)) for name, members in systems.items()}
    if hidden:
        return Finding("all runs shown", False, f"started, but not shown: {listed(hidden)}")
    by_task: dict[str, set[tuple[int, ...]]] = {}
    for name, own in seeds.items():
        by_task.setdefault(" ".join(sorted({f"{run.task} on {run.data_name}" for run in systems[name]})), set()).add(
            own
        )
    uneven = [task for task, kinds in by_task.items() if len(kinds) > 1]
    if uneven:
        seeds_text = "; ".join(f"{name}: {', '.join(map(str, own))}" for name, own in seeds.items())
        return Finding(
            "all runs shown", False, f"the systems have different seeds ({seeds_text}), so some may be left out"
        )
    return Finding("all runs shown", True, f"{len(runs)} runs, all finished, with the same seeds in each system")


def _comparison_holds(reports: Mapping[str, Any], claim: Mapping[str, Any], claim_file: str) -> Finding:
    """Whether ``compare`` gives the same verdicts for the runs that the claim names."""
    name = "the claim holds"
    try:
        again = compared_again(reports)
    except MultiheadError as error:
        return Finding(name, False, str(error))
    wrong, count = _other_overall(again.overall, claim), 0
    for task, report in reports.items():
        own = again.reports.get(task) or next(iter(again.reports.values()))
        verdicts = {frozenset((p.first, p.second)): p for p in own.pairs}
        for pair in report["pairs"]:
            count += 1
            other = verdicts.get(frozenset((pair["first"], pair["second"])))
            verdict = other.verdict if other else "missing"
            if other and other.first != pair["first"]:
                verdict = {"better": "worse", "worse": "better"}.get(verdict, verdict)
            if verdict != pair.get("verdict"):
                wrong.append(f"{task}: {pair['first']} beside {pair['second']} is {verdict}, not {pair.get('verdict')}")
    if wrong:
        return Finding(name, False, listed(wrong))
    return Finding(name, True, f"{count} verdict{'s' * (count != 1)} of {claim_file} computed again: the same")


# ---- what both have in common


def same_configurations(systems: Mapping[str, Sequence[FinishedRun]]) -> list[Finding]:
    """Whether the runs of each system differ in the seed only."""
    wrong = []
    for name, members in systems.items():
        odd = [
            run for run in members if recipe(run.config, run.settings) != recipe(members[0].config, members[0].settings)
        ]
        if odd:
            keys = ", ".join(list(differing([[members[0]], [odd[0]]]))[:3])
            wrong.append(f"{name}: {members[0].path} and {odd[0].path} differ in {keys}")
        seeds = [(run.seed, run.fold or 0) for run in members]
        if len(set(seeds)) < len(seeds):
            wrong.append(f"{name}: a seed stands twice ({', '.join(str(seed) for seed, _ in sorted(seeds))})")
    if wrong:
        return [Finding("equal configurations", False, listed(wrong))]
    count = sum(map(len, systems.values()))
    text = f"{count} runs of {len(systems)} systems; the runs of each differ in the seed only"
    return [Finding("equal configurations", True, text)]


def same_environment(task: str, members: Sequence[FinishedRun]) -> list[Finding]:
    """Whether the runs of a task had the same data, code and versions."""
    environments = [environment_of(run.path) for run in members]
    wrong = [
        f"the {split.removeprefix('data_')} data"
        for split in ("data_train", "data_val", "data_test")
        if len({(run.fold, run.data.get(split, "")) for run in members}) > len({run.fold for run in members})
    ]
    wrong += [key for key in SAME if len({repr(e.get(key)) for e in environments}) > 1]
    notes = [
        f"{key} differ{'s' * (key != 'threads')}" for key in ALIKE if len({repr(e.get(key)) for e in environments}) > 1
    ]
    notes += ["the code had changes that are in no commit"] * any(e.get("git_dirty") for e in environments)
    if wrong:
        return [Finding("equal data and code", False, f"{task}: the runs differ in {', '.join(wrong)}")]
    more = "".join(f"; {note}" for note in notes)
    return [Finding("equal data and code", True, f"{task}: one state of data, code and versions{more}")]


def rerun_of(
    run: FinishedRun, words: Sequence[str], metric: str, others: Sequence[float], environment: Mapping[str, str]
) -> Finding:
    """Trains a run again in a folder that is deleted afterwards, and compares its results.

    Args:
        run: The run.
        words: Its words, without the run directory.
        metric: The metric that is compared.
        others: Its values of all seeds of the system.
        environment: Variables for the process.
    """
    name = "one run again"
    kept = [w for w in words if w.partition("=")[0] not in ("run_dir", "resume", "plan")]
    with tempfile.TemporaryDirectory(prefix="multihead-verify-") as folder:
        place = Path(folder, "run")
        command = [*runner.PROGRAM, *kept, write("run_dir", str(place)), "resume=auto"]
        outcome = run_once(command, place, environment, Watch(metric, 0.0, lambda *_: False, lambda: False))
        if outcome.value is None:
            return Finding(name, False, f"{run.path}: the rerun failed: {outcome.reason}")
        again = FinishedRun.read(str(place))
        own, other = final_metrics(run), final_metrics(again)
        alike = recipe(run.config, run.settings) == recipe(again.config, again.settings)
        keys = list(differing([[run], [again]]))
        changed = changed_circumstances(environment_of(run.path), environment_of(again.path))
        changed.pop("git_dirty", None)  # `same_environment` says so, and it excuses no other result
    if not alike:
        return Finding(name, False, f"{run.path}: its words give another configuration now: {listed(keys)}")
    if own == other:
        return Finding(name, True, f"{run.path}: all {len(own)} metrics are the same to the last digit")
    gap, spread = outcome.value - float(run.result[metric]), statistics.stdev(others) if len(others) > 1 else 0.0
    text = f"{run.path}: {metric} is {outcome.value:.6g} instead of {float(run.result[metric]):.6g}"
    if changed:
        ok = spread > 0 and abs(gap) <= MOST_DEVIATIONS * spread
        text += f" ({', '.join(changed)} differ now; the deviation between seeds is {spread:.2g})"
        return Finding(name, ok, text)
    return Finding(name, False, f"{text}, though data, code, versions and machine are the same")
