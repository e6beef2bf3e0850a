"""Decides which run a command goes on with, from which checkpoint, and whether the configuration allows it."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead.config.changes import changes, decided, same_run
from multihead.config.compose import Composition, compose_from_run, load_yaml
from multihead.config.training import SEARCHES
from multihead.config.words import typed_as
from multihead.errors import CheckpointError, ConfigError, MultiheadError
from multihead.runs.directory import VOCABULARY, new_run_dir, run_directory
from multihead.runs.files import read_metrics
from multihead.runs.lock import in_use

if TYPE_CHECKING:
    from multihead.runs.checkpoint import Start

log = logging.getLogger("multihead")

KEYS = {"step", "position", "tokens_seen", "seconds", "best", "recorded", "targets", "not_finite", "ranks", "record"}
"""Entries that a run's checkpoint must have besides weights and optimizer."""
WRITTEN_AGAIN = ("metrics.csv", "events.jsonl", "samples.jsonl", "train.log", "crash.txt", "nan.json")
"""Files that a run writes from the beginning if it starts again in its directory."""


@dataclass
class Aim:
    """The run that a command starts or continues, its directory, and how it begins."""

    composition: Composition
    run_dir: Path
    how: str
    """How the run begins.

    ``new``: in a new directory; ``again``: from the first step, in a directory without a checkpoint; ``on``: from a
    checkpoint; ``done``: not at all, because it is finished.
    """

    @property
    def resumes(self) -> bool:
        """Whether the run begins from a checkpoint."""
        return self.how == "on"


def aim(composition: Composition) -> Aim:
    """Works out from ``resume=``, ``run_dir=`` and the files on the disk which run the command means.

    Raises:
        ConfigError: If ``run_dir`` is not empty or is not the directory of ``resume=RUN``, or if RUN is not a run
            directory.
        CheckpointError: If there is no checkpoint for ``resume=must``.
    """
    wish = composition.config.resume
    if not wish:
        return Aim(composition, new_run_dir(composition.config), "new")
    if wish not in SEARCHES:
        path = run_directory(wish, "resume")
        _check_typed_run_dir(composition, path)
        words = [word for word in composition.words if not word.lstrip("+").startswith("resume=")]
        composed = compose_from_run(load_yaml(path / "config.yaml"), words)
        typed = load_yaml(path / "overrides.yaml") if (path / "overrides.yaml").is_file() else []
        composed.words = [*typed, *words]
        return Aim(composed, path, "on")
    path = _search(composition)
    if path is None:
        if wish == "must":
            where = composition.config.run_dir or "outputs"
            what = "has no unfinished run of this configuration"
            raise CheckpointError(f"resume=must: {where}", what, "resume=auto starts a new run if there is none")
        return Aim(composition, new_run_dir(composition.config), "new")
    if (path / "result.json").is_file() and same_run(_configuration(path), composition.tree):
        return Aim(composition, path, "done")
    from multihead.runs.checkpoint import checkpoints

    if checkpoints(path) or (path / "result.json").is_file():
        for name, value in decided(_configuration(path), composition.tree).items():
            if value is not None:
                composition.put(name, value)
        return Aim(composition, path, "on")
    if wish == "must":
        what, fix = "has no checkpoint", "resume=auto starts the run again"
        raise CheckpointError(str(path / "checkpoints"), what, fix)
    return Aim(composition, path, "again")


def _check_typed_run_dir(composition: Composition, path: Path) -> None:
    """Refuses ``run_dir=OTHER`` beside ``resume=RUN``, because a run goes on in its own directory.

    Raises:
        ConfigError: If ``run_dir`` is typed and is not the directory of the run.
    """
    typed = any(word.lstrip("+").startswith("run_dir=") for word in composition.words)
    other = composition.config.run_dir
    if typed and Path(other).resolve() != path.resolve():
        what = f"is {other}, but resume={path} goes on in {path} itself"
        raise ConfigError("run_dir", what, typed_as("run_dir", str(path)))


def _search(composition: Composition) -> Path | None:
    """Returns the run in ``run_dir``. Without ``run_dir``, returns the newest unfinished run of this configuration."""
    config = composition.config
    if config.run_dir:
        path = Path(config.run_dir)
        return path if (path / "config.yaml").is_file() else None
    for file in sorted(Path("outputs").glob(f"{config.task.name}/{config.data.name}/*/config.yaml"), reverse=True):
        path = file.parent
        if (path / "result.json").is_file() or in_use(path):
            continue
        try:
            if same_run(_configuration(path), composition.tree):
                return path
        except MultiheadError:  # a run whose files cannot be read cannot go on
            continue
    return None


def _configuration(path: Path) -> Mapping[str, Any]:
    tree = load_yaml(path / "config.yaml")
    return tree if isinstance(tree, Mapping) else {}


def start_again(run_dir: Path) -> None:
    """Removes the files of a run that ended before its first checkpoint."""
    for path in (*(run_dir / name for name in WRITTEN_AGAIN), *run_dir.glob("*.tmp")):
        path.unlink(missing_ok=True)
    for folder in ("checkpoints", VOCABULARY):
        shutil.rmtree(run_dir / folder, ignore_errors=True)


def open_checkpoint(run_dir: Path, record: Mapping[str, Any], force: Sequence[str], main: bool) -> Start:
    """Opens the newest checkpoint whose hashes match, if this configuration may go on from it.

    Args:
        run_dir: The run directory.
        record: What this run stores about itself: its configuration, fingerprints of data and tokenizers.
        force: Names of entries of ``record`` that may differ from the checkpoint's.
        main: Whether this process removes leftovers from the directory and writes to the log.

    Raises:
        CheckpointError: If no checkpoint is complete, or if its record differs in an entry that may not change.
    """
    from multihead.runs.checkpoint import FolderCheckpointIO, Start, clean, newest_valid

    path, passed = newest_valid(run_dir)
    lines = [f"resume: {line}; using {path.name}" for line in passed]
    state = FolderCheckpointIO().load_checkpoint(path)
    own = state.get("multihead")
    if not isinstance(own, dict) or not own.keys() >= KEYS or not isinstance(own["record"], dict):
        raise CheckpointError(str(path), "is not the checkpoint of a run", "resume from another checkpoint")
    refused, taken = changes(own["record"], record, force)
    if refused:
        what = f"was written with settings that may not change ({'; '.join(refused)})"
        names = ",".join(line.partition(":")[0] for line in refused)
        fix = f"use the old settings, start a new run, or accept the change by resume_force=[{names}]"
        raise CheckpointError(str(path), what, fix)
    if main:
        lines += [f"resume: {line}" for line in clean(run_dir, path)]
        for line in lines:
            log.warning("%s", line)
        epoch, step_in_epoch = own["position"]
        lost = max(0, _last_step(run_dir) - own["step"])
        again = f"; {lost} steps after it are done again" if lost else ""
        where = f"step {own['step']} (epoch {epoch}, step {step_in_epoch} of it)"
        log.info("resume: going on in %s from %s%s", run_dir, where, again)
        if taken:
            log.info("resume: changed: %s", "; ".join(taken))
    return Start(name=path.name, state=state)


def _last_step(run_dir: Path) -> int:
    """Returns the last step in metrics.csv, or 0 if it has none."""
    try:
        return int(read_metrics(run_dir / "metrics.csv")[-1]["step"])
    except (OSError, ValueError, LookupError):
        return 0


def set_aside_result(run_dir: Path) -> None:
    """Renames result.json, because a finished run that goes on has no result until it is finished again."""
    if (run_dir / "result.json").is_file():
        (run_dir / "result.json").replace(run_dir / "result_before.json")


def finished_result(run_dir: Path) -> dict[str, Any]:
    """Returns the content of a finished run's result.json.

    Raises:
        CheckpointError: If the file is damaged.
    """
    try:
        return json.loads((run_dir / "result.json").read_text())
    except (OSError, ValueError) as error:
        fix = typed_as("resume", str(run_dir))
        raise CheckpointError(str(run_dir / "result.json"), f"is damaged ({error})", fix) from error
