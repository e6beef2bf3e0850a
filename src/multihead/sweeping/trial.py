"""Runs one run of a trial in a process of its own, and watches it until it ends."""

from __future__ import annotations

import contextlib
import ctypes
import json
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from multihead.errors import OUR_BUG
from multihead.runs.files import read_metrics

LOG = "console.log"
RESULT = "result.json"
GRACE_SECONDS = 20.0
"""Time that a run has after SIGTERM to save its state, before it is killed."""
POLL_SECONDS = 0.1
TAIL_BYTES = 20_000
OLD_BUG = "a defect of ours"
"""What the logs of earlier versions say in place of `OUR_BUG`."""
REASONS = {1: "crashed", 2: "refused", 3: "checkpoint", 4: "diverged", 5: "out of memory or disk", 6: "a rank died"}
"""What each exit status means, in a word for the table."""


@dataclass
class Outcome:
    """How a run ended."""

    state: str
    """complete, pruned, failed or stopped. A run is stopped if the sweep ends; it saves its state first."""
    value: float | None = None
    """The value of the metric, if the run is complete."""
    status: int = 0
    """The exit status. A signal that killed the run gives its number below 0."""
    reason: str = ""
    """Why the run failed, in one line."""


@dataclass
class Watch:
    """What `run_once` watches while a run goes on."""

    metric: str
    limit: float
    """Longest time in seconds, or 0 for no limit."""
    on_value: Callable[[int, float], bool]
    """Called with step and value of each validation. If it returns True, the run ends as pruned."""
    on_tick: Callable[[], bool]
    """Called often. If it returns True, the run ends because the sweep ends."""


def run_once(command: Sequence[str], run_dir: Path, environment: Mapping[str, str], watch: Watch) -> Outcome:
    """Runs one command until it ends, and returns how it ended.

    Args:
        command: The command line of a single run, with ``run_dir=`` and ``resume=auto``.
        run_dir: The run directory. The file ``NAME.console.log`` beside it gets what the run prints.
        environment: Variables that are added to those of this process.
        watch: What may end the run.
    """
    if (run_dir / RESULT).is_file():  # it finished, but its worker was killed before it recorded that
        return _finished(run_dir, watch.metric)
    run_dir.parent.mkdir(parents=True, exist_ok=True)
    log = run_dir.with_name(f"{run_dir.name}.{LOG}")
    with open(log, "ab") as output:
        output.write(f"$ {' '.join(command)}\n".encode())
        output.flush()
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env={**os.environ, **environment},
            start_new_session=True,
            preexec_fn=end_with_parent,
        )
        ended = _follow(process, run_dir, watch)
        _kill_group(process.pid)
    if ended is not None:
        ended.status = process.returncode
        return ended
    if process.returncode == 0:
        return _finished(run_dir, watch.metric)
    return Outcome("failed", status=process.returncode, reason=_reason(process.returncode, log))


def end_with_parent() -> None:
    """Called in a new process. If its parent is killed, the kernel sends it SIGTERM, so that it saves its state."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _follow(process: subprocess.Popen, run_dir: Path, watch: Watch) -> Outcome | None:
    """Waits until the run ends. Returns the outcome if this function ended it, and None if it ended by itself."""
    began = time.monotonic()
    curve = Curve(run_dir / "metrics.csv", watch.metric)
    while process.poll() is None:
        if watch.on_tick():
            end(process)
            return Outcome("stopped")
        if True in [
            watch.on_value(step, value) for step, value in curve.news()
        ]:  # the list calls on_value for all of them
            end(process)
            return Outcome("pruned")
        if watch.limit and time.monotonic() - began > watch.limit:
            end(process)
            return Outcome("failed", reason=f"took longer than trial_time={watch.limit:g}s")
        time.sleep(POLL_SECONDS)
    for step, value in curve.news():
        watch.on_value(step, value)
    return None


def end(process: subprocess.Popen) -> None:
    """Sends SIGTERM, so that the run saves its state. If it does not end, all of its session gets SIGKILL."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _kill_group(process.pid)
            process.wait()


def _kill_group(group: int) -> None:
    """Kills the processes that a run may have left in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


class Curve:
    """Reads the values of one metric from a metrics.csv that is still being written.

    Args:
        path: The file, which may not exist yet.
        metric: Name of the column.
    """

    def __init__(self, path: Path, metric: str):
        self.path, self.metric = path, metric
        self._stamp: tuple[int, int] = (0, 0)
        self._last = -1

    def news(self) -> list[tuple[int, float]]:
        """Returns the step and value of each complete row that was not returned before."""
        try:
            found = self.path.stat()
        except OSError:
            return []
        if (stamp := (found.st_size, found.st_mtime_ns)) == self._stamp:
            return []
        self._stamp = stamp
        rows = [(int(row["step"]), row[self.metric]) for row in read_metrics(self.path) if row.get(self.metric)]
        new = [(step, float(text)) for step, text in rows if step > self._last]
        self._last = max((step for step, _ in rows), default=self._last)
        return new


def _finished(run_dir: Path, metric: str) -> Outcome:
    """Returns the outcome of a run that has a result."""
    try:
        result = json.loads((run_dir / RESULT).read_text())
        value = result[metric]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Outcome("failed", reason=f"{RESULT} has no {metric} ({type(error).__name__})")
    if not isinstance(value, int | float) or not math.isfinite(value):
        return Outcome("failed", reason=f"diverged: {metric} is {value}")
    return Outcome("complete", float(value))


def signal_name(number: int) -> str:
    """Returns ``SIGKILL`` for 9; some real-time signals have no name."""
    return signal.Signals(number).name if number in set(signal.Signals) else f"signal {number}"


def _reason(status: int, log: Path) -> str:
    """Returns why a run failed, in one line: its last message."""
    if status < 0:
        return f"killed by {signal_name(-status)}"
    if status - 128 in signal.valid_signals():
        return f"ended by {signal_name(status - 128)}"
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").split("\n") if line.strip()]
    errors = [line for line in lines if re.match(r"error\[\w+\]", line)]
    rest = rf"; (fix|{OUR_BUG}|{OLD_BUG}|traceback|newest checkpoint)\b.*"
    message = re.sub(rf"^error\[\w+\] |{rest}", "", (errors or lines or [""])[-1])[:200]
    return f"{REASONS[status]}: {message}" if status in REASONS else message or f"exit status {status}"
