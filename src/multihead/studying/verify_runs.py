"""Checks the runs below a folder, and the JSON that ``compare`` has written about them.

Nothing of that claim is believed: the runs that it names are read from their directories and compared again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from multihead.comparing.claim import compared_again
from multihead.comparing.finished import FinishedRun, why_unfinished
from multihead.comparing.systems import recipe
from multihead.config.yaml_file import load_yaml
from multihead.errors import ConfigError, MultiheadError
from multihead.runs.files import read_json
from multihead.runs.listing import run_dirs
from multihead.studying.again import listed
from multihead.studying.checks import (
    Finding,
    other_overall,
    read_run,
    rerun_of,
    same_configurations,
    same_environment,
)


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
    runs = {place.resolve(): run for place in places if (run := read_run(place))}
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
    wrong, count = other_overall(again.overall, claim), 0
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
