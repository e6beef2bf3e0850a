"""Checks a job of two ranks that is signalled, killed or stopped: python benchmarks/signals_to_ranks.py

Each time, a run of two CPU ranks trains until its first checkpoint. Then one of its processes gets a signal. These are
checked: the exit status, one line on standard error, seconds until the last process has ended, a checkpoint that can be
read, and no process left.

Settings: times=20 cases="SIGKILL to rank 0;SIGKILL to rank 1" out=FILE.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import exactness
from rounds import split_words

from multihead.runs.checkpoint import checkpoints, damage
from multihead.training.assignment import RANK_PROGRAM

SETTINGS = {"times": 20, "cases": "", "out": ""}
WATCHDOG = 5


@dataclass
class Case:
    """One way to disturb a job."""

    target: str
    """Which process gets the signal: parent, 0 or 1 (ranks)."""
    signals: tuple[int, ...]
    status: int
    """Exit status of the parent, as a shell sees it."""
    within: float
    """Most seconds until all processes have ended."""
    stopped: str = ""
    """A rank that is stopped (SIGSTOP) before."""
    saves: bool = False
    """Whether the last step is saved before the end."""
    ranks: int = 2
    """Number of ranks. One rank is a run without a parent."""


CASES = {
    "SIGTERM to rank 0": Case("0", (signal.SIGTERM,), 143, 5, saves=True),
    "SIGTERM to rank 1": Case("1", (signal.SIGTERM,), 143, 5, saves=True),
    "SIGTERM to the parent": Case("parent", (signal.SIGTERM,), 143, 5, saves=True),
    "SIGTERM to a run of one process": Case("parent", (signal.SIGTERM,), 143, 5, saves=True, ranks=1),
    "SIGINT to the parent": Case("parent", (signal.SIGINT,), 130, 5, saves=True),
    "SIGHUP to the parent": Case("parent", (signal.SIGHUP,), 129, 5, saves=True),
    "SIGUSR1 to the parent": Case("parent", (signal.SIGUSR1,), 138, 5, saves=True),
    "SIGTERM twice to the parent": Case("parent", (signal.SIGTERM, signal.SIGTERM), 143, 5),
    "SIGKILL to rank 0": Case("0", (signal.SIGKILL,), 6, 15),
    "SIGKILL to rank 1": Case("1", (signal.SIGKILL,), 6, 15),
    "SIGKILL to the parent": Case("parent", (signal.SIGKILL,), 137, 15),
    "SIGKILL to the parent, rank 1 stopped": Case("parent", (signal.SIGKILL,), 137, 15, stopped="1"),
    f"rank 1 stopped, watchdog {WATCHDOG} s": Case("1", (), 6, WATCHDOG + 10, stopped="1"),
}


def ranks(parent: int) -> dict[str, int]:
    """Maps each rank to the process of its worker."""
    found = {}
    for pid in exactness.family(parent):
        with contextlib.suppress(OSError):
            if RANK_PROGRAM.encode() in Path(f"/proc/{pid}/cmdline").read_bytes():
                environment = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                found |= {v.split(b"=")[1].decode(): pid for v in environment if v.startswith(b"RANK=")}
    return found


def disturb(case: Case, folder: Path) -> dict[str, Any]:
    """Runs one trial, and returns what was seen, and what of it was not as promised."""
    run = folder / "run"
    words = exactness.words_of("lm", f"run_dir={run}", "trainer.max_steps=100000")
    words += [f"devices={case.ranks}", "strategy=ddp"] if case.ranks > 1 else []
    words += ["trainer.val_every_n_steps=100000", "trainer.checkpoint_every_n_steps=50"]
    words += [f"trainer.watchdog_seconds={WATCHDOG if case.stopped and not case.signals else 600}"]
    running = exactness.start(words, folder)
    while '"saved"' not in _read(run / "events.jsonl"):
        if running.poll() is not None:
            raise SystemExit(running.stderr.read())
        time.sleep(0.02)
    everyone, pids = exactness.family(running.pid), {"parent": running.pid, **ranks(running.pid)}
    began = time.monotonic()
    if case.stopped:
        os.kill(pids[case.stopped], signal.SIGSTOP)
    for number, signum in enumerate(case.signals):
        time.sleep(0.05 * number)
        with contextlib.suppress(ProcessLookupError):
            os.kill(pids[case.target], signum)
    try:
        running.wait(60)
    except subprocess.TimeoutExpired:
        exactness.kill(running.pid)
        running.wait()
    while exactness.alive(everyone) and time.monotonic() < began + 60:
        time.sleep(0.02)
    seconds = time.monotonic() - began
    errors, left = running.stderr.read().splitlines(), exactness.alive(everyone)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    status = running.returncode if running.returncode >= 0 else 128 - running.returncode
    newest = checkpoints(run)[0]
    wrong = [f"status {status}"] if status != case.status else []
    wrong += [f"{seconds:.1f} s"] if seconds > case.within else []
    wrong += [f"{len(left)} processes left"] if left else []
    wrong += [f"{newest.name} {damage(newest)}"] if damage(newest) else []
    expected = 0 if status == 137 else 1
    wrong += [f"{len(errors)} lines: {errors[:3]}"] if len(errors) != expected else []
    if case.saves:
        last = json.loads(_read(run / "events.jsonl").splitlines()[-2])
        wrong += [] if last["event"] == "stopped" and newest.name == f"step_{last['step']}" else [f"last event {last}"]
    return {"seconds": seconds, "status": status, "line": errors[0] if errors else "", "wrong": wrong}


def _read(file: Path) -> str:
    return file.read_text() if file.exists() else ""


def main(words: list[str]) -> int:
    """Prints the table. The status is 1 if a promise was broken."""
    settings, rest = split_words(words, SETTINGS)
    chosen = settings["cases"].split(";") if settings["cases"] else list(CASES)
    if rest or not set(chosen) <= set(CASES):
        raise SystemExit(f"settings are {', '.join(SETTINGS)}; cases, divided by ';', are {'; '.join(CASES)}")
    results = {}
    for name in chosen:
        results[name] = []
        for number in range(settings["times"]):
            with tempfile.TemporaryDirectory(prefix="ranks-") as folder:
                results[name].append(disturb(CASES[name], Path(folder)))
            print(name, number, results[name][-1], flush=True)
    rows = []
    for name, trials in results.items():
        seconds = [trial["seconds"] for trial in trials]
        kept = sum(not trial["wrong"] for trial in trials)
        status = ", ".join(sorted({str(trial["status"]) for trial in trials}))
        median, most = f"{statistics.median(seconds):.1f}", f"{max(seconds):.1f}"
        rows.append([name, f"{kept} of {len(trials)}", status, median, most, f"{CASES[name].within:g}"])
    head = ["what happens", "as promised", "exit status", "seconds, median", "most", "promised"]
    exactness.save("signals_to_ranks", exactness.table(head, rows), {"cases": results}, settings["out"])
    return int(any(trial["wrong"] for trials in results.values() for trial in trials))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
