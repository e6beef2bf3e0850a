"""Ending ranks that hang: each rank counts its progress, and the parent ends a job in which no rank makes any.

Each rank keeps a file of 16 bytes in the job's folder, with its process and its count. Writing it takes microseconds.
A rank that is stopped, or waits for another one for ever, cannot end itself; the parent does it. If the parent was
killed, the ranks end each other.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import shutil
import signal
import struct
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L

from multihead.training.assignment import RANK_PROGRAM

FORMAT = "<qq"
STACKS = signal.SIGUSR2
"""The signal that makes a rank write the stacks of its threads."""
START_SECONDS = 120
"""Least time until every rank has begun, because imports may be slow."""
GRACE_SECONDS = 10.0
"""Time for ranks whose parent is gone to save and to leave by themselves."""


class Heartbeat(L.Callback):
    """Counts the hooks that a rank has reached, in a file that the parent reads."""

    def __init__(self, folder: Path, rank: int):
        self.handle = os.open(folder / f"beat_{rank}", os.O_RDWR | os.O_CREAT, 0o600)
        self.count = 0
        self.beat()

    def beat(self, *arguments: Any, **options: Any) -> None:
        """Reports progress to the parent."""
        os.pwrite(self.handle, struct.pack(FORMAT, os.getpid(), self.count), 0)
        self.count += 1

    on_fit_start = on_train_start = on_train_batch_start = on_train_batch_end = on_save_checkpoint = beat
    on_validation_batch_start = on_validation_batch_end = on_test_batch_start = on_test_batch_end = beat
    on_before_optimizer_step = on_test_end = beat


def read_beats(folder: Path) -> dict[int, tuple[int, int]]:
    """The process and the count of each rank that has begun."""
    beats = {}
    for file in folder.glob("beat_*"):
        content = file.read_bytes()
        if len(content) == struct.calcsize(FORMAT):
            beats[int(file.name.removeprefix("beat_"))] = struct.unpack(FORMAT, content)
    return beats


def guard_rank(folder: Path, rank: int) -> Heartbeat:
    """Begins, in a rank, to report its progress, to write stacks on a signal, and to leave once its parent is gone."""
    stacks = folder / f"stacks_{rank}"
    faulthandler.register(STACKS, file=open(stacks, "w"), all_threads=True)  # noqa: SIM115  open as long as the rank is
    threading.Thread(target=_leave_with_parent, args=(folder, os.getppid()), daemon=True).start()
    return Heartbeat(folder, rank)


def _leave_with_parent(folder: Path, parent: int) -> None:
    """Waits until the parent is gone, gives all ranks time to leave, and then ends those that are still there."""
    while os.getppid() == parent:
        time.sleep(1)
    time.sleep(GRACE_SECONDS)
    for pid in processes(folder):
        if pid != os.getpid():
            _send(pid, signal.SIGKILL)
    shutil.rmtree(folder, ignore_errors=True)
    os._exit(128 + signal.SIGTERM)


def processes(folder: Path) -> list[int]:
    """The processes of a job's ranks, found by their command lines; also of ranks that have not begun to count."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            if RANK_PROGRAM.encode() + b"\0" + bytes(folder) in file.read_bytes():
                found.append(int(file.parent.name))
    return found


class Watchdog:
    """A thread of the parent that passes signals on to the ranks and ends a job that hangs.

    Args:
        folder: The folder of the job, with the ranks' files.
        ranks: The number of ranks.
        seconds: Longest time without progress of any rank; 0 waits for ever.
        run_dir: The run directory, in which the stacks of a hanging rank are kept.
    """

    def __init__(self, folder: Path, ranks: int, seconds: int, run_dir: Path):
        self.folder, self.ranks, self.seconds, self.run_dir = folder, ranks, seconds, run_dir
        self.verdict: tuple[str, str] | None = None
        """Which rank hung, and how; None as long as none did."""
        self.signum = 0
        """The signal that is passed on; 0 as long as there is none."""
        self._received = 0
        self._sent: Counter[int] = Counter()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Watchdog:
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._over.set()
        self._thread.join()

    def pass_on(self, signum: int, frame: Any = None) -> None:
        """Handles a signal: every rank gets it as often as it comes."""
        self.signum = signum
        self._received += 1

    def _watch(self) -> None:
        last, since = {}, time.monotonic()
        while not self._over.wait(0.2):
            beats = read_beats(self.folder)
            if self.signum:
                self._signal(beats)
            patience = self.seconds if len(beats) == self.ranks else max(self.seconds, START_SECONDS)
            if beats != last:
                last, since = beats, time.monotonic()
            elif self.seconds and time.monotonic() - since > patience:
                return self._end(beats, patience)

    def _signal(self, beats: dict[int, tuple[int, int]]) -> None:
        """Sends the signal to each rank that lacks it. A rank that has not begun has nothing to save and is ended."""
        for rank, (pid, _) in beats.items():
            if self._sent[rank] < self._received:
                self._sent[rank] += 1
                _send(pid, self.signum)
        if len(beats) < self.ranks:
            begun = {pid for pid, _ in read_beats(self.folder).values()}
            for pid in set(processes(self.folder)) - begun:
                _send(pid, signal.SIGTERM)

    def _end(self, beats: dict[int, tuple[int, int]], seconds: int) -> None:
        """Finds the rank that hangs, keeps the stacks, and ends all ranks."""
        stopped = [rank for rank, (pid, _) in beats.items() if _state(pid) in ("T", "t")]
        least = min((count for _, count in beats.values()), default=0)
        behind = [rank for rank, (_, count) in beats.items() if count == least]
        missing = [rank for rank in range(self.ranks) if rank not in beats]
        guilty = stopped or missing or behind
        how = "is stopped and " if stopped else ""
        name = f"rank {guilty[0]}" if len(guilty) == 1 else f"ranks {', '.join(map(str, sorted(guilty)))}"
        for pid, _ in beats.values():
            _send(pid, STACKS)
        time.sleep(0.5)
        self.verdict = name, f"{how}made no progress for {seconds} s{self._keep_stacks()}"
        for pid in processes(self.folder):
            _send(pid, signal.SIGKILL)

    def _keep_stacks(self) -> str:
        """Copies the stacks that the ranks could write into the run directory; returns a clause that says where."""
        kept = [file for file in sorted(self.folder.glob("stacks_*")) if file.stat().st_size]
        if not kept or not self.run_dir.is_dir():
            return ""
        text = "\n".join(f"rank {file.name.removeprefix('stacks_')}:\n{file.read_text()}" for file in kept)
        (self.run_dir / "stacks.txt").write_text(text)
        return f" (stacks of all threads in {self.run_dir / 'stacks.txt'})"


def _send(pid: int, signum: int) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signum)


def _state(pid: int) -> str:
    """The state of a process as ``ps`` shows it; T is stopped."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""
