"""The checks that a study and a folder of runs share: equal configurations, equal circumstances, one run again."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multihead.comparing.finished import FinishedRun
from multihead.comparing.systems import differing, recipe
from multihead.comparing.verdicts import Overall
from multihead.config.words import write
from multihead.errors import MultiheadError
from multihead.studying.again import ALIKE, SAME, changed_circumstances, environment_of, final_metrics, listed
from multihead.sweeping import runner
from multihead.sweeping.trial import Watch, run_once

MOST_DEVIATIONS = 3.0
"""On another machine or version, a rerun may differ by so many deviations between seeds."""


@dataclass(frozen=True)
class Finding:
    """What a check has found."""

    check: str
    ok: bool
    text: str


def read_run(place: Path) -> FinishedRun | None:
    """Returns a run, or None if it has no result or cannot be read."""
    try:
        return FinishedRun.read(str(place))
    except (MultiheadError, OSError):
        return None


def other_overall(found: Sequence[Overall], claim: Mapping[str, Any]) -> list[str]:
    """Returns which verdicts over all tasks the claim says differently."""
    said = {(each["variant"], each["baseline"]): each["verdict"] for each in claim.get("overall", [])}
    return [
        f"{own.variant} over all tasks is {own.verdict}, not {said.get((own.variant, own.baseline))}"
        for own in found
        if said.get((own.variant, own.baseline)) != own.verdict
    ]


def same_configurations(systems: Mapping[str, Sequence[FinishedRun]]) -> list[Finding]:
    """Says whether the runs of each system differ in the seed only."""
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
    """Says whether the runs of a task had the same data, code and versions."""
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
