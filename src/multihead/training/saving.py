"""Checkpoints of a run on the disk: a trial before the first one, saving, and deleting old ones."""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L

from multihead.errors import MachineError
from multihead.runs.checkpoint import Start, checkpoints, damage, free_space, megabytes, probe
from multihead.runs.files import replace_synced
from multihead.training.averaging import averages_of

log = logging.getLogger("multihead")


class Saving:
    """Saves checkpoints and keeps the newest ones and the best one.

    Args:
        run_dir: The run directory.
        keep: Number of newest checkpoints that are kept.
        events: Called with an event's name and fields, for events.jsonl.
        start: The checkpoint that the run resumes from, if there is one.

    Attributes:
        step: The step that was saved last; -1 if there is none.
    """

    def __init__(self, run_dir: Path, keep: int, events: Callable[..., None], start: Start | None):
        self._run_dir, self._keep, self._events = run_dir, keep, events
        self.folder = run_dir / "checkpoints"
        self.step: int = start.own["step"] if start else -1
        self._has_warned = False

    def probe(self, trainer: L.Trainer) -> None:
        """Warns if the disk does not hold as many checkpoints as are kept.

        Raises:
            MachineError: If it does not even hold one.
        """
        groups = trainer.optimizers[0].param_groups
        states = sum(p.nbytes * (1 if group.get("kind") == "muon" else 2) for group in groups for p in group["params"])
        weights = sum(p.nbytes for p in trainer.lightning_module.parameters())
        averages = sum(tensor.nbytes for callback in averages_of(trainer) for tensor in callback.averages)
        size = weights + averages + states
        probe(self.folder, size)
        most = self._keep + 2  # with the best one, and one that is being written
        needed = size * (most - len(checkpoints(self._run_dir)))
        if free_space(self.folder) < needed:
            have, want = megabytes(free_space(self.folder)), megabytes(needed)
            log.warning("the disk has %s for checkpoints and %s may be needed: trainer.keep_checkpoints=1", have, want)

    def save(self, trainer: L.Trainer, best: Mapping[str, Any]) -> None:
        """Saves the current step, then deletes old checkpoints.

        Args:
            trainer: The trainer, which asks the callbacks for their state.
            best: The best validation so far.

        Raises:
            MachineError: If the checkpoint cannot be written, or does not read back.
        """
        step = trainer.global_step
        path = self.folder / f"step_{step}"
        if trainer.is_global_zero:
            self.folder.mkdir(parents=True, exist_ok=True)
        self._events("saving", step=step)
        trainer.save_checkpoint(path)
        self.step = step
        if not trainer.is_global_zero:
            return
        if problem := damage(path):
            raise MachineError(str(path), f"was just written, but {problem}", "check the disk")
        replace_synced(self.folder / "latest.json", json.dumps({"step": step, "name": path.name}).encode())
        if best.get("step") == step:
            replace_synced(self.folder / "best.json", json.dumps(best).encode())
        self._events("saved", step=step)
        self._delete_old(best)

    def _delete_old(self, best: Mapping[str, Any]) -> None:
        """Deletes all but the newest checkpoints and the best one. If that fails, training goes on."""
        for old in checkpoints(self._run_dir)[self._keep :]:
            if old.name == f"step_{best.get('step')}":
                continue
            try:
                shutil.rmtree(old)
            except OSError as error:
                if not self._has_warned:
                    log.warning("old checkpoints cannot be deleted: %s (%s)", old, error.strerror)
                self._has_warned = True
