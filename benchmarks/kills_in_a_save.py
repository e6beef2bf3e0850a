"""Checks that there is a whole checkpoint at every moment of a save: python benchmarks/kills_in_a_save.py

A process saves checkpoints with the code of a run. Most saves stand beside an earlier checkpoint that is then deleted;
one replaces a checkpoint of the same name. strace kills the process at each system call of a save, one after another.
Each time, the newest valid checkpoint must load and hold what one of the saves wrote. The order of the calls shows that
files are synced before they are renamed, and the folder after that. Then whole runs are killed at calls of their saves
and started again by the same command. They are compared with a run that nobody disturbed.

Settings: most=400 runs=5 seed=0 out=FILE. It needs strace, and the right to trace.
"""

from __future__ import annotations

import collections
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import exactness
import torch
from rounds import split_words

from multihead.runs.checkpoint import FolderCheckpointIO, newest_valid

SETTINGS = {"most": 400, "runs": 5, "seed": 0, "out": ""}
CALLS = (
    *("openat", "write", "ftruncate", "fsync", "rename", "renameat", "renameat2"),
    *("unlink", "unlinkat", "mkdir", "rmdir", "close"),
)
SAVES = (2, 3, 3, 4)
"""Steps that are saved under strace, beside step 1. Step 3 is written again, as by a run that returned to step 2."""
RUN_CALLS = ("fsync", "rename")
"""System calls at which whole runs are killed."""


def state(step: int) -> dict[str, object]:
    """Returns what a checkpoint of the step holds."""
    weights = {f"layer_{i}": torch.full((40, 50), float(step)) for i in range(4)}
    return {"global_step": step, "state_dict": weights, "multihead": {"step": step}}


def save(run: Path, step: int) -> None:
    """Saves as a training does, with one checkpoint kept beside the best."""
    from multihead.training.saving import Saving

    class Trainer:
        global_step, is_global_zero = step, True

        def save_checkpoint(self, path: Path) -> None:
            FolderCheckpointIO().save_checkpoint(state(step), path)

    Saving(run, 1, lambda name, **fields: None, None).save(Trainer(), {"step": step})


def traced(run: Path, calls: Sequence[str] = CALLS, *injected: str) -> tuple[int, list[str]]:
    """Starts a child that saves `SAVES` under strace, and returns its status and its system calls.

    Raises:
        SystemExit: strace may not trace here.
    """
    ready, go = os.pipe()
    child = os.fork()
    if not child:
        os.close(go)
        os.read(ready, 1)
        for step in SAVES:
            save(run, step)
        os._exit(0)
    with tempfile.NamedTemporaryFile("r") as log:
        command = ["strace", "-y", "-s", "200", "-o", log.name, "-e", f"trace={','.join(calls)}", *injected]
        tracer = subprocess.Popen([*command, "-p", str(child)], stderr=subprocess.PIPE)
        while "TracerPid:\t0\n" in Path(f"/proc/{child}/status").read_text() and tracer.poll() is None:
            time.sleep(0.002)
        os.write(go, b"1")
        os.close(go)
        os.close(ready)
        _, status = os.waitpid(child, 0)
        errors = tracer.communicate()[1].decode()
        lines = log.read().splitlines()
    if not lines:
        raise SystemExit(f"strace: {errors}")
    return os.waitstatus_to_exitcode(status), lines


def counted(lines: list[str]) -> collections.Counter[str]:
    """Counts how often each call was used."""
    return collections.Counter(line.partition("(")[0] for line in lines if "(" in line)


def order_is_safe(lines: list[str]) -> bool:
    """Says whether the files of step 2 were synced, then renamed, and then the folder was synced."""
    at: dict[str, int] = {}
    for number, line in enumerate(lines):
        for name, pattern in {
            "file": r"fsync\(.*step_2\.tmp/manifest\.json",
            "tensors": r"fsync\(.*step_2\.tmp/tensors",
            "renamed": r"rename\(.*step_2\.tmp\".*step_2\"",
            "folder": r"fsync\(\d+<[^>]*/checkpoints>",
        }.items():
            if re.search(pattern, line) and (name != "folder" or "renamed" in at):
                at.setdefault(name, number)
    return at["tensors"] < at["file"] < at["renamed"] < at["folder"]


def kill_saves(most: int, folder: Path) -> dict[str, Any]:
    """Kills `SAVES` at each of their calls, or at ``most`` of them, and returns what was left each time."""
    before, run = folder / "before", folder / "run"
    save(before, 1)
    shutil.copytree(before, run)
    _, lines = traced(run)
    counts, killed, found = counted(lines), collections.Counter(), collections.Counter()
    failed = []
    moments = [(call, k) for call in CALLS for k in range(1, counts[call] + 1)]
    for call, k in moments[:: max(1, -(-len(moments) // most))]:
        shutil.rmtree(run)
        shutil.copytree(before, run)
        status, _ = traced(run, [call], "-e", f"inject={call}:signal=KILL:when={k}")
        killed[call] += status == -signal.SIGKILL
        try:
            path, _ = newest_valid(run)
            step = int(path.name[5:].removesuffix(".old"))
            loaded = FolderCheckpointIO().load_checkpoint(path)
            whole = all(torch.equal(loaded["state_dict"][n], t) for n, t in state(step)["state_dict"].items())
            found[f"step {step}"] += whole
            failed += [] if whole else [f"{call} {k}: step {step} holds something else"]
        except Exception as error:
            failed.append(f"{call} {k}: {error}")
    return {"counts": counts, "killed": killed, "found": found, "failed": failed, "order": order_is_safe(lines)}


def run_traced(words: list[str], ledger: Path, *options: str) -> subprocess.Popen:
    """Starts ``python train.py WORDS`` under strace. Its main thread saves. (``--seccomp-bpf`` loses injections.)"""
    return exactness.start(words, ledger, before=["strace", "-y", "-s", "200", *options])


def kill_runs(runs: int, seed: int, folder: Path) -> dict[str, Any]:
    """Kills whole runs at calls of their saves, and starts each again. Returns where, and what differed at the end."""
    plugin = exactness.write_plugin(folder)
    words = exactness.words_of("translation", plugin, "trainer.max_steps=12", "trainer.checkpoint_every_n_steps=2")
    words += ["trainer.val_every_n_steps=5", "trainer.ema_decay=0.9", "resume=auto"]
    whole, log = folder / "whole", folder / "trace"
    running = run_traced([*words, f"run_dir={whole}"], folder / "whole_ledger", "-o", str(log), "-e",
                         f"trace={','.join(RUN_CALLS)}")  # fmt: skip
    if running.wait():
        raise SystemExit(running.stderr.read())
    moments, seen = [], collections.Counter()
    for line in log.read_text().splitlines():
        call = line.partition("(")[0]
        seen[call] += 1
        if "/whole/checkpoints" in line:
            moments.append((call, seen[call]))
    killed, differences = [], []
    for number, (call, k) in enumerate(random.Random(seed).sample(moments, min(runs, len(moments)))):
        run, ledger = folder / f"run_{number}", folder / f"ledger_{number}"
        command = [*words, f"run_dir={run}"]
        injected = ["-e", f"trace={call}", "-e", f"inject={call}:signal=KILL:when={k}", "-o", str(log)]
        status = run_traced(command, ledger, *injected).wait()
        if status not in (-signal.SIGKILL, 128 + signal.SIGKILL):
            raise SystemExit(f"{call} {k}: was not killed but ended with {status}")
        killed.append(f"{call} {k}")
        again = exactness.start(command, ledger)
        if again.wait():
            differences.append(f"{call} {k}: {again.stderr.read()}")
            continue
        found = exactness.differences(run, ledger, whole, folder / "whole_ledger")
        differences += [f"{call} {k}: {line}" for line in found]
    return {"runs_killed": killed, "of": len(moments), "differences": differences}


def main(words: list[str]) -> int:
    """Prints the table. The status is 1 if a kill left no valid checkpoint, or if a run that was started again
    differed."""
    settings, rest = split_words(words, SETTINGS)
    if rest or shutil.which("strace") is None:
        raise SystemExit(f"settings are {', '.join(SETTINGS)}; strace must be installed")
    torch.set_num_threads(1)  # a fork has only the thread that forked
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="saves-") as scratch:
        result = kill_saves(settings["most"], Path(scratch))
        result |= kill_runs(settings["runs"], settings["seed"], Path(scratch)) if settings["runs"] else {}
    counts, killed = result["counts"], result["killed"]
    rows = [[call, counts[call], killed[call]] for call in CALLS if counts[call]]
    total, found = killed.total(), ", ".join(f"{name} {count}" for name, count in sorted(result["found"].items()))
    rows.append(["all", counts.total(), total])
    text = exactness.table(["system call", f"of {len(SAVES)} saves", "killed there"], rows)
    text += f"\n\nThe newest valid checkpoint after {total} kills: {found}; failures: {result['failed'] or 'none'}.\n"
    text += f"Synced before renamed, and the folder after: {result['order']}."
    if settings["runs"]:
        text += f"\nWhole runs killed within a save ({', '.join(result['runs_killed'])}; of {result['of']} such calls)"
        text += f" and started again: differences {result['differences'] or 'none'}."
    exactness.save("kills_in_a_save", text, {**result, "seconds": time.monotonic() - began}, settings["out"])
    return int(bool(result["failed"] or result.get("differences")) or not result["order"])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
