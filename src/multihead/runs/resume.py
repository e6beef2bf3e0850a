"""Which run a command goes on with, from which checkpoint, and whether it may."""

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
from multihead.errors import CheckpointError, MultiheadError
from multihead.runs.directory import VOCABULARY, new_run_dir, run_directory
from multihead.runs.lock import in_use

if TYPE_CHECKING:
    from multihead.runs.checkpoint import Start

log = logging.getLogger("multihead")

KEYS = {"step", "position", "tokens_seen", "seconds", "best", "recorded", "targets", "not_finite", "ranks", "record"}
"""What a checkpoint must hold of a run, beside weights and optimizer."""
MADE_AGAIN = ("metrics.csv", "events.jsonl", "samples.jsonl", "train.log", "crash.txt", "nan.json")
"""Files that a run which starts again in its directory writes from the beginning."""


@dataclass
class Aim:
    """What a command comes to: a run, where it is written, and how it begins."""

    composition: Composition
    run_dir: Path
    how: str
    """new; again (from the beginning, in a directory that has no checkpoint yet); on; done."""

    @property
    def resumes(self) -> bool:
        """Whether it begins with a checkpoint."""
        return self.how == "on"


def aim(composition: Composition) -> Aim:
    """What ``resume=`` and ``run_dir=`` mean, with what is on the disk.

    Raises:
        ConfigError: ``run_dir`` is not empty, or ``resume=RUN`` is not a run.
        CheckpointError: ``resume=must``, and there is no checkpoint.
    """
    wish = composition.config.resume
    if not wish:
        return Aim(composition, new_run_dir(composition.config), "new")
    if wish not in SEARCHES:
        path = run_directory(wish, "resume")
        words = [word for word in composition.words if not word.lstrip("+").startswith("resume=")]
        composed = compose_from_run(load_yaml(path / "config.yaml"), words)
        typed = load_yaml(path / "overrides.yaml") if (path / "overrides.yaml").is_file() else []
        composed.words = [*typed, *words]
        return Aim(composed, path, "on")
    path = _search(composition)
    if path is None:
        if wish == "must":
            where = composition.config.run_dir or "outputs"
            what = "no unfinished run of this configuration"
            raise CheckpointError(f"resume=must: {where}", what, "resume=auto starts one where there is none")
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
        what, fix = "no checkpoint in it", "resume=auto starts the run again"
        raise CheckpointError(str(path / "checkpoints"), what, fix)
    return Aim(composition, path, "again")


def _search(composition: Composition) -> Path | None:
    """The run in ``run_dir``, or without one the newest unfinished run of the same configuration."""
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
        except MultiheadError:  # a file that cannot be read is no run to go on with
            continue
    return None


def _configuration(path: Path) -> Mapping[str, Any]:
    tree = load_yaml(path / "config.yaml")
    return tree if isinstance(tree, Mapping) else {}


def start_again(run_dir: Path) -> None:
    """Takes away what a run left that ended before its first checkpoint."""
    for path in (*(run_dir / name for name in MADE_AGAIN), *run_dir.glob("*.tmp")):
        path.unlink(missing_ok=True)
    for folder in ("checkpoints", VOCABULARY):
        shutil.rmtree(run_dir / folder, ignore_errors=True)


def open_checkpoint(run_dir: Path, record: Mapping[str, Any], force: Sequence[str], main: bool) -> Start:
    """The newest checkpoint whose hashes match, if this configuration may go on from it.

    Args:
        run_dir: The run.
        record: What this run would store of itself: leaves of its configuration, fingerprints of data and tokenizers.
        force: Names whose difference is accepted.
        main: Whether this process may tidy the directory up, and speaks.

    Raises:
        CheckpointError: No checkpoint is whole, or it was made with what may not change.
    """
    from multihead.runs.checkpoint import FolderCheckpointIO, Start, clean, newest_valid

    path, passed = newest_valid(run_dir)
    told = [f"resume: {line}; using {path.name}" for line in passed]
    state = FolderCheckpointIO().load_checkpoint(path)
    own = state.get("multihead")
    if not isinstance(own, dict) or not own.keys() >= KEYS or not isinstance(own["record"], dict):
        raise CheckpointError(str(path), "is not the checkpoint of a run", "resume from another checkpoint")
    refused, taken = changes(own["record"], record, force)
    if refused:
        what = f"made with what may not change ({'; '.join(refused)})"
        names = ",".join(line.partition(":")[0] for line in refused)
        fix = f"leave it as it was, start a new run, or accept it by resume_force=[{names}]"
        raise CheckpointError(str(path), what, fix)
    if main:
        told += [f"resume: {line}" for line in clean(run_dir, path)]
        for line in told:
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
    """The last step that metrics.csv tells of; 0 where it tells of none."""
    try:
        return int((run_dir / "metrics.csv").read_text().splitlines()[-1].partition(",")[0])
    except (OSError, ValueError, IndexError):
        return 0


def set_aside_result(run_dir: Path) -> None:
    """A finished run that goes on has no result until it is finished again."""
    if (run_dir / "result.json").is_file():
        (run_dir / "result.json").replace(run_dir / "result_before.json")


def finished_result(run_dir: Path) -> dict[str, Any]:
    """What result.json of a finished run holds.

    Raises:
        CheckpointError: It is damaged.
    """
    try:
        return json.loads((run_dir / "result.json").read_text())
    except (OSError, ValueError) as error:
        fix = typed_as("resume", str(run_dir))
        raise CheckpointError(str(run_dir / "result.json"), f"is damaged ({error})", fix) from error
