"""Starts the workers of a sweep on this machine, and shows what they finish."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from multihead.capabilities import cores
from multihead.config.many_runs import SweepSettings
from multihead.config.merge import Composition
from multihead.config.sweep import Sweep
from multihead.errors import MachineError, Stopped
from multihead.runs.screen import report_console
from multihead.sweeping.ledger import SETTLED, Ledger, Row
from multihead.sweeping.report import REPORT, best_row, line_of, show, write_report
from multihead.sweeping.trial import GRACE_SECONDS, signal_name
from multihead.sweeping.worker import ENDING, STORAGE
from multihead.training.signals import handling

PROGRAM = [sys.executable, "-m", "multihead", "train"]
POLL_SECONDS = 1.0
QUICK_SECONDS = 10.0
MAX_QUICK_DEATHS = 3
"""A killed worker is started again. The sweep ends if workers are killed this often within `QUICK_SECONDS`."""

Started = tuple[float, subprocess.Popen]
"""When a worker was started, and its process."""


class Runner:
    """Starts the workers, prints a line for each trial that ends, and passes signals on.

    Args:
        sweep: The sweep.
        folder: The sweep's folder.
        settings: The settings of the command.
        ledger: The sweep's ledger.
        first: The configuration of one trial, for the settings that all trials share.
        console: Where lines and the table are shown; by default standard output.
    """

    def __init__(
        self,
        sweep: Sweep,
        folder: Path,
        settings: SweepSettings,
        ledger: Ledger,
        first: Composition,
        console: Console | None = None,
    ):
        self.sweep, self.folder, self.settings, self.ledger, self.first = sweep, folder, settings, ledger, first
        self.console = console or report_console()
        self.signum = 0

    def run(self, trials: int, seconds: float, words: Sequence[str]) -> int:
        """Runs the sweep to its end, and returns 0, or 7 if trials failed.

        Raises:
            Stopped: If a signal ended it. The same command goes on.
        """
        rows = self.ledger.rows()
        shown = {row.number for row in rows if row.state in SETTLED}
        self._announce(rows, trials, seconds)
        with handling(dict.fromkeys(ENDING, self._stop)):
            workers = [self._start(index, trials, seconds, words) for index in range(self.settings.workers)]
            try:
                status = follow(
                    workers,
                    lambda: self._show_ended(shown) or bool(self.signum),
                    lambda index: self._start(index, trials, seconds, words),
                    lambda text: self.console.print(text, highlight=False),
                )
            finally:
                for _, process in workers:
                    end_worker(process)
        return self._finish(shown, status)

    def _stop(self, signum: int, frame: Any) -> None:
        self.signum = signum

    def _announce(self, rows: Sequence[Row], trials: int, seconds: float) -> None:
        grid = self.sweep.grid_size() if self.sweep.method == "grid" else 0
        most = min(trials or grid, grid) if grid else trials
        size = f"{most} trials" if most else f"{seconds / 3600:g} h of trials"
        known = f"; {sum(row.state in SETTLED for row in rows)} of them done" if rows else ""
        workers = f"{self.settings.workers} worker{'s' if self.settings.workers > 1 else ''}"
        where = self.settings.storage.rpartition("@")[2] or self.ledger.folder / "ledger.db"
        self.console.print(f"sweep {self.sweep.name}: {size}{known}; {workers}; ledger {where}", highlight=False)

    def _start(self, index: int, trials: int, seconds: float, words: Sequence[str]) -> Started:
        base = int(self.first.config.seed)
        seeds = list(range(base, base + self.settings.seeds)) if self.settings.seeds > 1 else [-1]
        environment = {"WANDB_RUN_GROUP": self.sweep.name, "MULTIHEAD_CONF": str((self.folder / "conf").resolve())}
        job = {
            "words": list(words),
            "seeds": seeds,
            "trials": trials,
            "seconds": seconds,
            "trial_seconds": self.settings.limits()[2],
            "program": PROGRAM,
            "environment": environment | share_of(index, self.settings.workers, self.first),
        }
        given = {"file": str(self.sweep.path), "name": self.sweep.name, "folder": str(self.folder), "job": job}
        given["val_every"] = self.first.config.trainer.val_every_n_steps
        return start_worker("multihead.sweeping.worker", given, self.settings.storage)

    def _show_ended(self, shown: set[int]) -> None:
        rows = self.ledger.rows()
        best = best_row(rows, self.sweep.goal)
        for row in rows:
            if row.state in SETTLED and row.number not in shown:
                shown.add(row.number)
                self.console.print(line_of(row, self.sweep, best), highlight=False, markup=False)

    def _finish(self, shown: set[int], status: int) -> int:
        self._show_ended(shown)
        rows = self.ledger.rows()
        write_report(self.folder / REPORT, self.sweep, rows, self.ledger.study)
        if self.signum:
            done = sum(row.state in SETTLED for row in rows)
            raise Stopped(
                self.signum,
                f"stopped by {signal.Signals(self.signum).name}; {done} trials are done, the same command goes on",
            )
        show(self.console, self.sweep, rows, self.folder, self.ledger.study)
        if status:
            return status
        return 7 if any(row.state == "failed" for row in rows) else 0


def start_worker(module: str, given: Mapping[str, Any], storage: str) -> Started:
    """Starts a worker process. Its job is JSON on its command line, and the storage's URL is in its environment."""
    command = [sys.executable, "-m", module, json.dumps(given)]
    own = {**os.environ, STORAGE: storage}
    process = subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, start_new_session=True)
    return time.monotonic(), process


def follow(
    workers: list[Started],
    tick: Callable[[], bool],
    start: Callable[[int], Started],
    say: Callable[[str], None],
) -> int:
    """Waits for workers and restarts killed ones.

    Args:
        workers: The workers, which are replaced in place.
        tick: Called often, to show what has ended. If it returns True, a signal has ended the work.
        start: Starts the worker of a number again.
        say: Shows a line.

    Returns:
        The highest exit status of the workers that were not ended by a signal.

    Raises:
        MachineError: If workers are killed as soon as they start.
    """
    status, quick = 0, 0
    while any(process.poll() is None for _, process in workers):
        time.sleep(POLL_SECONDS)
        if tick():
            break
        for index, (began, process) in enumerate(workers):
            if process.poll() is None or process.returncode >= 0:
                continue
            quick = quick + 1 if time.monotonic() - began < QUICK_SECONDS else 0
            name = signal_name(-process.returncode)
            if quick >= MAX_QUICK_DEATHS:
                raise MachineError("workers", f"they are killed by {name} as soon as they start")
            say(f"worker {index} was killed by {name}; a new one goes on")
            workers[index] = start(index)
    for _, process in workers:
        if process.poll() is not None and 0 < process.returncode < 128:
            status = max(status, process.returncode)
    return status


def end_worker(process: subprocess.Popen) -> None:
    """Sends SIGTERM to a worker, which then ends its trial. If it does not end, it is killed."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE_SECONDS + 10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def share_of(index: int, workers: int, first: Composition) -> dict[str, str]:
    """Returns variables that give a worker its share of cores and GPUs. A variable that the user has set stays."""
    variables = {}
    devices = int(first.config.devices) if first.config.devices.isdigit() else 1
    if "OMP_NUM_THREADS" not in os.environ and workers > 1:
        variables["OMP_NUM_THREADS"] = str(max(1, cores() // (workers * devices)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
    if gpus and workers > 1 and first.config.accelerator in ("auto", "gpu", "cuda"):
        first_gpu = index * devices % len(gpus)
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[first_gpu : first_gpu + devices])
    return variables
