"""A worker claims trials one after the other and runs them, until the budget is spent or a signal ends it."""

from __future__ import annotations

import json
import os
import signal
import statistics
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from multihead.config.sweep import Sweep
from multihead.config.words import write
from multihead.errors import MachineError
from multihead.runs.lock import in_use
from multihead.sweeping.ledger import Claim, Ledger
from multihead.sweeping.owner import BEAT_SECONDS, start_of
from multihead.sweeping.trial import GRACE_SECONDS, Outcome, Watch, end_with_parent, run_once
from multihead.training.signals import handling

TRIALS = "trials"
ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a sweep."""
FORMER_SECONDS = GRACE_SECONDS + 20


@dataclass(kw_only=True)
class Job:
    """What a worker needs besides the ledger."""

    words: list[str]
    """Typed words, which every trial gets."""
    seeds: list[int]
    """Seeds of the runs of each trial. A single seed of -1 leaves the seed to the configuration."""
    trials: int
    seconds: float
    trial_seconds: float
    program: list[str]
    """The command that trains, without its words."""
    environment: dict[str, str]


class Worker:
    """One of a sweep's processes.

    Args:
        ledger: The sweep's ledger.
        job: How the worker runs trials.
    """

    def __init__(self, ledger: Ledger, job: Job):
        self.ledger, self.job = ledger, job
        self.signum = 0
        self._beat = 0.0

    def work(self) -> int:
        """Claims and runs trials until none is left. Returns 0, or 128 plus the number of a signal that ended it."""
        with handling(dict.fromkeys(ENDING, self._stop)):
            while not self.signum:
                claim = self.ledger.claim(self.job.trials, self.job.seconds)
                if claim is None:
                    if not any(row.state == "running" for row in self.ledger.rows()):
                        return 0
                    time.sleep(1.0)  # if another worker is killed, this one takes its trial over
                    continue
                self._run(claim)
        return 128 + self.signum

    def _stop(self, signum: int, frame: Any) -> None:
        self.signum = signum

    def _run(self, claim: Claim) -> None:
        """Runs all seeds of one trial and records how it ended."""
        folder = Path(claim.record.get("dir") or self.ledger.folder.resolve() / TRIALS / f"{claim.number:04d}")
        self._end_former(claim, folder)
        words = claim.record.get("words") or [*self.ledger.sweep.point(claim.values), *self.job.words]
        self.ledger.note(claim.number, words=words, dir=str(folder))
        began, values = time.time() - claim.record.get("elapsed", 0.0), []
        for seed in self.job.seeds:
            run_dir = folder if len(self.job.seeds) == 1 else folder / f"seed_{seed}"
            given = [] if seed < 0 else [f"seed={seed}"]
            command = [*self.job.program, *words, *given, write("run_dir", str(run_dir)), "resume=auto"]
            outcome = run_once(command, run_dir, self.job.environment, self._watch(claim, not values, began))
            if claim.lost:
                return None
            if outcome.state == "stopped":
                self.ledger.note(claim.number, elapsed=time.time() - began)
                return self.ledger.release(claim)
            if outcome.state != "complete":
                return self._settle(claim, outcome, began, run_dir, values)
            values.append(outcome.value)
        self._settle(claim, Outcome("complete", statistics.fmean(values)), began, folder, values)

    def _settle(self, claim: Claim, outcome: Outcome, began: float, run_dir: Path, values: Sequence[float]) -> None:
        record = {
            "seconds": time.time() - began,
            "ended": time.time(),
            "status": outcome.status,
            "reason": outcome.reason,
            "log": f"{run_dir}.console.log",
            "by_seed": list(values),
        }
        self.ledger.settle(claim.number, outcome.state, outcome.value, **record)

    def _watch(self, claim: Claim, first: bool, began: float) -> Watch:
        """Returns what to watch. Only the first seed's curve decides whether a trial is pruned."""

        def value(step: int, found: float) -> bool:
            return first and self.ledger.report(claim.number, step, found)

        def tick() -> bool:
            if time.monotonic() - self._beat > BEAT_SECONDS:
                self._beat = time.monotonic()
                claim.lost = not self.ledger.beat(claim, time.time() - began)
            return bool(self.signum) or claim.lost

        metric = claim.record.get("metric") or self.ledger.sweep.metric  # the runs of a study have several tasks
        return Watch(metric, self.job.trial_seconds, value, tick)

    def _end_former(self, claim: Claim, folder: Path) -> None:
        """Waits until a killed worker's run has ended, to which the kernel has sent SIGTERM."""
        deadline = time.monotonic() + FORMER_SECONDS
        while claim.attempt > 1 and any(in_use(path.parent) for path in folder.glob("**/.lock")):
            if time.monotonic() > deadline:
                for lock in folder.glob("**/.lock"):
                    _kill_holder(lock)
            time.sleep(0.1)


def _kill_holder(lock: Path) -> None:
    """Kills a run that hangs and that no worker watches. Its lock file has its process number."""
    holder = lock.read_text(errors="replace").split(" ")[0]
    if holder.isdigit() and start_of(int(holder)):
        try:
            os.kill(int(holder), signal.SIGKILL)
        except (ProcessLookupError, PermissionError) as error:
            raise MachineError(str(lock.parent), f"process {holder} cannot be ended ({error.strerror})") from error


def main(text: str) -> int:
    """Runs a worker process. ``text`` is the job as JSON, without the storage's URL, which may hold a password."""
    from multihead.config.sweep import read_sweep
    from multihead.errors import guarded

    end_with_parent()
    given: Mapping[str, Any] = json.loads(text)

    def work() -> int:
        sweep: Sweep = read_sweep(given["file"])
        sweep.name = given["name"]
        ledger = Ledger(sweep, Path(given["folder"]), os.environ.get(STORAGE, ""), val_every=given["val_every"])
        return Worker(ledger, Job(**given["job"])).work()

    return guarded(work)


STORAGE = "MULTIHEAD_SWEEP_STORAGE"

if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
