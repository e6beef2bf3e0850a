"""Starts the workers of a study on this machine, and shows what they finish."""

from __future__ import annotations

import signal
from collections.abc import Mapping
from pathlib import Path

from rich.console import Console

from multihead.config.many_runs import StudySettings
from multihead.config.merge import Composition
from multihead.errors import Stopped
from multihead.studying.ledger import StudyLedger, key_of
from multihead.studying.schedule import Progress
from multihead.sweeping.ledger import SETTLED, Row
from multihead.sweeping.report import time_of
from multihead.sweeping.runner import PROGRAM, Started, end_worker, follow, share_of, start_worker
from multihead.sweeping.worker import ENDING
from multihead.training.signals import handling


class StudyRunner:
    """Starts the workers, prints a line for each run that ends, and passes signals on.

    Args:
        ledger: The study's ledger, with its plan.
        folder: The study's folder.
        settings: The settings of the command.
        first: The configuration of one run, for the settings that all runs share.
        console: Where lines are shown.
    """

    def __init__(
        self, ledger: StudyLedger, folder: Path, settings: StudySettings, first: Composition, console: Console
    ):
        self.ledger, self.folder, self.settings, self.first, self.console = ledger, folder, settings, first, console
        self.signum = 0
        self._shown = {row.number for row in ledger.rows() if row.state in SETTLED}
        self._round = ledger.progress().round

    def run(self) -> int:
        """Runs the study to its end, and returns 0, or the status of a worker that failed.

        Raises:
            Stopped: If a signal ended it. The same command goes on.
        """
        if self.ledger.progress().ended:
            return 0
        with handling(dict.fromkeys(ENDING, self._stop)):
            workers = [self._start(index) for index in range(self.settings.workers)]
            try:
                status = follow(workers, self._tick, self._start, self._say)
            finally:
                for _, process in workers:
                    end_worker(process)
        self._tick()
        if self.signum:
            done = sum(row.state in SETTLED for row in self.ledger.rows())
            name = signal.Signals(self.signum).name
            raise Stopped(self.signum, f"stopped by {name}; {done} runs are done, the same command goes on")
        return status

    def _stop(self, signum: int, frame: object) -> None:
        self.signum = signum

    def _start(self, index: int) -> Started:
        environment = {
            "WANDB_RUN_GROUP": self.ledger.sweep.name,
            "MULTIHEAD_CONF": str((self.folder / "conf").resolve()),
        }
        job = {
            "words": [],
            "seeds": [-1],
            "trials": 0,
            "seconds": 0.0,
            "trial_seconds": self.settings.limits()[1],
            "program": PROGRAM,
            "environment": environment | share_of(index, self.settings.workers, self.first),
        }
        given = {"name": self.ledger.sweep.name, "folder": str(self.folder), "job": job}
        return start_worker("multihead.studying.worker", given, self.settings.storage)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def _tick(self) -> bool:
        """Shows the runs that have ended and the rounds that are over. Returns whether a signal came."""
        rows = self.ledger.rows()
        for row in rows:
            if row.state in SETTLED and row.number not in self._shown:
                self._shown.add(row.number)
                self._say(line_of(row, self.ledger.plan.seeds if self.ledger.plan else ()))
        state = self.ledger.progress(rows)
        if state.round > self._round:
            self._round = state.round
            self._say(self._of_round(state))
        return bool(self.signum)

    def _of_round(self, state: Progress) -> str:
        """A line about the rounds that are over: what is decided, and what the next one takes."""
        plan, costs = self.ledger.plan, self.ledger.costs or {}
        assert plan is not None
        total = plan.design.comparisons
        decided = f"{len(state.decided)} of {total} comparison{'s' * (total > 1)} decided"
        if state.ended:
            return f"after {state.round} seed{'s' * (state.round > 1)}: {decided}"
        minutes = price(costs, state) / 60
        left = len(plan.seeds) - state.round
        return (
            f"after {state.round} seed{'s' * (state.round > 1)}: {decided}; the next seed takes {minutes:.1f} minutes "
            f"of runs, and all {left} that are left at most {left * minutes:.0f}"
        )


def price(costs: Mapping[tuple[str, str], float], state: Progress) -> float:
    """Returns the seconds of the runs that are missing in this round."""
    return sum(costs.get((key.task, key.arm), 0.0) for key in state.missing)


def line_of(row: Row, seeds: tuple[int, ...]) -> str:
    """A line about a run that has ended."""
    key = key_of(row)
    name = f"{key.task} {key.arm} seed {seeds[key.index]}"
    if row.state == "failed":
        return f"{name} failed: {row.record.get('reason', '')}  ({row.record.get('log', '')})"
    return f"{name}: {row.record.get('metric')} {row.value:.6g}  {time_of(row)}"
