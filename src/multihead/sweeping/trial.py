"""One run of a trial: a fresh process with the command line of a single run, watched until it ends or is ended."""

from __future__ import annotations

import contextlib
import csv
import ctypes
import io
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

LOG = "console.log"
RESULT = "result.json"
GRACE_SECONDS = 20.0
"""For a run to save and leave after SIGTERM, before it is killed."""
POLL_SECONDS = 0.1
TAIL_BYTES = 20_000
REASONS = {1: "crashed", 2: "refused", 3: "checkpoint", 4: "diverged", 5: "out of memory or disk", 6: "a rank died"}
"""What an exit status means, in a word for the table."""


@dataclass
class Outcome:
    """How a run ended."""

    state: str
    """complete, pruned, failed, or stopped: the sweep itself was told to end, and the run saved its state."""
    value: float | None = None
    """The metric of a complete run."""
    status: int = 0
    """The exit status; below 0 the signal that killed it."""
    reason: str = ""
    """Of a failed run, one line."""


@dataclass
class Watch:
    """What is looked at while a run goes on."""

    metric: str
    limit: float
    """Longest time in seconds; 0 for none."""
    on_value: Callable[[int, float], bool]
    """Called with step and value of each validation; True ends the run as hopeless."""
    on_tick: Callable[[], bool]
    """Called often; True ends the run because the sweep ends."""


def run_once(command: Sequence[str], run_dir: Path, environment: Mapping[str, str], watch: Watch) -> Outcome:
    """Runs one command until it ends, and says how.

    Args:
        command: The words of a single run, ``run_dir=`` and ``resume=auto`` among them.
        run_dir: Its directory; what it prints goes to ``console.log`` there.
        environment: Variables beside those of this process.
        watch: What may end it.
    """
    if (run_dir / RESULT).is_file():  # finished before somebody was killed who should have written it down
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
        _sweep_up(process.pid)
    if ended is not None:
        ended.status = process.returncode
        return ended
    if process.returncode == 0:
        return _finished(run_dir, watch.metric)
    return Outcome("failed", status=process.returncode, reason=_reason(process.returncode, log))


def end_with_parent() -> None:
    """In a process, as it begins: the kernel tells it to save and leave where its parent is killed."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def _follow(process: subprocess.Popen, run_dir: Path, watch: Watch) -> Outcome | None:
    """Waits for the end, and brings it about where it has to be; returns why it did, None where it did not."""
    began = time.monotonic()
    curve = Curve(run_dir / "metrics.csv", watch.metric)
    while process.poll() is None:
        if watch.on_tick():
            end(process)
            return Outcome("stopped")
        if True in [watch.on_value(step, value) for step, value in curve.news()]:  # all of them are written down
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
    """SIGTERM, so that it saves; SIGKILL to all of its session where it does not leave."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
        try:
            process.wait(GRACE_SECONDS)
        except subprocess.TimeoutExpired:
            _sweep_up(process.pid)
            process.wait()


def _sweep_up(group: int) -> None:
    """Kills what a run may have left in its session."""
    with contextlib.suppress(ProcessLookupError, PermissionError):
        os.killpg(group, signal.SIGKILL)


class Curve:
    """The values of one metric in a metrics.csv that is still being written.

    Args:
        path: The file; it need not exist yet.
        metric: The column.
    """

    def __init__(self, path: Path, metric: str):
        self.path, self.metric = path, metric
        self._stamp: tuple[int, int] = (0, 0)
        self._last = -1

    def news(self) -> list[tuple[int, float]]:
        """Step and value of the whole rows after the last ones that were given."""
        try:
            found = self.path.stat()
        except OSError:
            return []
        if (stamp := (found.st_size, found.st_mtime_ns)) == self._stamp:
            return []
        self._stamp = stamp
        text = self.path.read_text(encoding="utf-8", errors="replace")
        whole = csv.DictReader(io.StringIO(text[: text.rfind("\n") + 1], newline=""))
        rows = [(int(row["step"]), row[self.metric]) for row in whole if row.get(self.metric)]
        new = [(step, float(text)) for step, text in rows if step > self._last]
        self._last = max((step for step, _ in rows), default=self._last)
        return new


def _finished(run_dir: Path, metric: str) -> Outcome:
    """The outcome of a run that says it is done."""
    try:
        result = json.loads((run_dir / RESULT).read_text())
        value = result[metric]
    except (OSError, ValueError, KeyError, TypeError) as error:
        return Outcome("failed", reason=f"{RESULT} has no {metric} ({type(error).__name__})")
    if not isinstance(value, int | float) or not math.isfinite(value):
        return Outcome("failed", reason=f"diverged: {metric} is {value}")
    return Outcome("complete", float(value))


def _reason(status: int, log: Path) -> str:
    """Why a run failed: what it said last, in one line."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    if status > 128:
        return f"ended by {signal.Signals(status - 128).name}"
    with open(log, "rb") as file:
        file.seek(max(0, log.stat().st_size - TAIL_BYTES))
        lines = [line.strip() for line in file.read().decode(errors="replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"error\[\w+\]", line)]
    said = re.sub(r"^error\[\w+\] |; (fix|a defect of ours|newest checkpoint)\b.*", "", (errors or lines or [""])[-1])[
        :200
    ]
    return f"{REASONS[status]}: {said}" if status in REASONS else said or f"exit status {status}"
