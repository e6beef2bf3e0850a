"""Runs of a study, as a comparison sees them: their names there, and what a comparison of them cannot know."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from multihead.comparing.finished import FinishedRun

MARKS = ("report.json", "ledger.db")
"""Files of a study's folder, beside `RUNS`; the first is written at the end, and the second may be elsewhere."""
RUNS = "runs"
"""Folder of the run directories, in the study's folder."""


@dataclass(frozen=True)
class Place:
    """Where a run stands in a study."""

    folder: Path
    task: str
    variant: str


def study_of(folder: Path) -> Path | None:
    """Returns the folder of the study that a path names, which may also be its folder of runs; otherwise None."""
    places = [folder, folder.resolve().parent] if folder.resolve().name == RUNS else [folder]
    return next((p for p in places if (p / RUNS).is_dir() and any((p / mark).is_file() for mark in MARKS)), None)


def place_of(run: str) -> Place | None:
    """Returns where a run stands in a study; None if it is in none.

    Args:
        run: The run directory. In a study it is ``FOLDER/runs/TASK/VARIANT/seed_N``.
    """
    path = Path(run).resolve()
    if not path.name.startswith("seed_") or len(path.parents) < 4 or path.parents[2].name != RUNS:
        return None
    folder = study_of(path.parents[3])
    return folder and Place(folder, path.parents[1].name, path.parents[0].name)


def names_in_study(tasks: Sequence[Sequence[Sequence[FinishedRun]]]) -> list[list[str]]:
    """Returns the study's names of the systems of each task; [] if they are not all of one study.

    A name is that of the variant. If this is not enough, the study's name of the task stands before it.

    Args:
        tasks: The runs of each system, for each task.
    """
    places = [[{place_of(run.path) for run in members} for members in systems] for systems in tasks]
    each = [place for systems in places for found in systems for place in found]
    if None in each or len({place.folder for place in each if place}) != 1:
        return []
    if any(len(found) > 1 for systems in places for found in systems):
        return []
    own = [[place for found in systems for place in found if place] for systems in places]
    for name in (lambda place: place.variant, lambda place: f"{place.task} {place.variant}"):
        names = [[name(place) for place in systems] for systems in own]
        if all(len(set(systems)) == len(systems) for systems in names):
            return names
    return []


def study_warnings(runs: Sequence[FinishedRun]) -> list[str]:
    """Returns a warning for each study that has some of the runs."""
    folders = dict.fromkeys(place.folder for run in runs if (place := place_of(run.path)))
    here = Path.cwd()
    return [
        f"{folder.relative_to(here) if folder.is_relative_to(here) else folder} is a study. It may have stopped at a "
        "clear difference, and the p-values and intervals here do not know that. Its verdicts are in its report.html"
        for folder in folders
    ]
