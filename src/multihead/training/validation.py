"""Validation between two steps: which one was the best, and how many in a row were not."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import lightning as L

from multihead.config.task import TaskConfig
from multihead.metrics.selection import judge, say_unmoved
from multihead.model.sharded import whole
from multihead.runs.checkpoint import Start, damage, random_state, set_random_state
from multihead.tasks.base import Task
from multihead.training import lightning_private

log = logging.getLogger("multihead")


class Validation:
    """Validates a run and judges each validation by the monitored metric.

    Args:
        config: The node of the task, which names the monitored metric and whether less or more is better.
        events: Called with an event's name and fields, for events.jsonl.
        start: The checkpoint that the run resumes from, if there is one.
        folder: The folder of checkpoints.

    Attributes:
        best: Step, metric, value and all metrics of the best validation; empty before the first one.
        num_bad: Number of validations in a row that were not the best.
        monitored: Step and monitored value of each validation.
        pending: Whether a validation is due that has not ended; a checkpoint that holds it lets a resume begin with it.
    """

    def __init__(self, config: TaskConfig, events: Callable[..., None], start: Start | None, folder: Path):
        self._monitor, self._mode, self._events = config.monitor, config.monitor_mode, events
        own: Mapping[str, Any] = start.own if start else {}
        self.best = _still_best(own.get("best", {}), folder)
        self.num_bad: int = own.get("bad_validations", 0)
        self.monitored: list[tuple[int, float]] = [(step, value) for step, value in own.get("monitored", ())]
        if self.best and self.best["monitor"] != self._monitor:  # the words of the resume name another metric
            value = self.best["metrics"].get(self._monitor, math.nan)
            self.best |= {"monitor": self._monitor, "value": value}
            self.num_bad, self.monitored = 0, []
        self.pending: bool = own.get("pending_validation", False)

    def require(self, step: int) -> None:
        """Makes a validation due if this step has none, or if there is no best checkpoint that can still be read."""
        validated = bool(self.monitored) and self.monitored[-1][0] >= step
        self.pending |= not self.best or not validated

    def run(self, trainer: L.Trainer, task: Task) -> bool:
        """Validates, and leaves the random streams as they were; returns whether this is the best validation so far."""
        before = random_state()
        self._events("validating", step=trainer.global_step)
        with whole(task):
            lightning_private.run_validation(trainer)
        self.pending = False
        set_random_state(before)
        metrics = {name: number for name, number in task.recorded.items() if name.startswith("val/")}
        value, better = judge(self._monitor, self._mode, metrics, self.best)
        self.monitored.append((trainer.global_step, value))
        say_unmoved(self._monitor, [value for _, value in self.monitored])
        self.num_bad = 0 if better else self.num_bad + 1
        self._events("validated", step=trainer.global_step, **{self._monitor: value}, best=better)
        if better:
            self.best = {"step": trainer.global_step, "monitor": self._monitor, "value": value, "metrics": metrics}
        return better

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of the validations."""
        return {
            "best": self.best,
            "bad_validations": self.num_bad,
            "monitored": self.monitored,
            "pending_validation": self.pending,
        }


def _still_best(best: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """The best checkpoint so far, if it can still be read at the end of the run."""
    path = folder / f"step_{best.get('step')}"
    if best and (problem := damage(path)):
        log.warning(
            "resume: the best checkpoint so far, %s, %s; the best of the later ones replaces it", path.name, problem
        )
        return {}
    return dict(best)
