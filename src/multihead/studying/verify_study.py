"""Checks the claim of a study: that its runs are what it says, that all runs are shown, that it follows from them, and
that one of them gives the same again.

The claim is the study's ``report.json``. Nothing of it is believed: results are read from the run directories, and the
verdicts are computed from them and the study file again.
"""

from __future__ import annotations

import math
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multihead.comparing.finished import FinishedRun
from multihead.config.study import Study, read_study
from multihead.errors import ConfigError
from multihead.runs.files import read_json
from multihead.studying.ablation import ablation, is_ablation
from multihead.studying.again import listed
from multihead.studying.checks import (
    Finding,
    other_overall,
    read_run,
    rerun_of,
    same_configurations,
    same_environment,
)
from multihead.studying.ladder import Worth, climb
from multihead.studying.ledger import RUNS, StudyLedger, key_of, name_in, results_of, run_dir
from multihead.studying.report import FILES
from multihead.studying.schedule import Key, Plan, progress
from multihead.studying.verdicts import Verdict, judge, overall
from multihead.sweeping.ledger import Row
from multihead.sweeping.trial import LOG

ROUNDING = 1e-9
"""Relative difference of numbers that are called the same."""
SIMULATED = 0.02
"""The same for numbers from a simulation, whose random numbers another version of NumPy may draw otherwise."""


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
    runs = {key_of(row): found for row in rows if (found := read_run(run_dir(folder, plan, key_of(row))))}
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
    wrong += [*other_overall(overall(plan, again), claim), *other_answers(plan, ledger, results, runs, claim, ended)]
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
