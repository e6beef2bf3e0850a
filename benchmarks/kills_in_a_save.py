"""Is there a whole checkpoint at every moment of a save? python benchmarks/kills_in_a_save.py

A process saves a checkpoint beside an earlier one, deletes the earlier one and then writes the new one again, by the
code that a run saves with. It is killed at each system call that this takes, one after another (strace), and each time
the newest valid checkpoint must load and hold what one of the saves wrote. The order of the calls shows that files are
synced before they are renamed and the folder after.
Settings: most=200 out=FILE. Needs strace, and the right to trace.
"""

from __future__ import annotations

import collections
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import exactness
import torch
from rounds import split_words

from multihead.checkpoint import FolderCheckpointIO, newest_valid

SETTINGS = {"most": 200, "out": ""}
CALLS = ("openat", "write", "fsync", "rename", "unlink", "unlinkat", "mkdir", "rmdir", "ftruncate", "close")
SAVE = """
import sys
from pathlib import Path
from kills_in_a_save import save
save(Path(sys.argv[1]), 2)
save(Path(sys.argv[1]), 3)
save(Path(sys.argv[1]), 3)
"""


def state(step: int) -> dict[str, object]:
    """What a checkpoint of the step holds."""
    weights = {f"layer_{i}": torch.full((40, 50), float(step)) for i in range(4)}
    return {"global_step": step, "state_dict": weights, "multihead": {"step": step}}


def save(run: Path, step: int) -> None:
    """As `multihead.steps.Steps` saves and forgets, with one checkpoint kept."""
    from multihead.steps import Steps

    class Trainer:
        global_step, is_global_zero = step, True

        def save_checkpoint(self, path: Path) -> None:
            FolderCheckpointIO().save_checkpoint(state(step), path)

    steps = object.__new__(Steps)
    steps.run_dir, steps.best, steps.events = run, {}, lambda name, **fields: None
    steps.config = type("Kept", (), {"keep_checkpoints": 1})
    steps._save(Trainer())


def traced(run: Path, *injected: str) -> tuple[int, list[str]]:
    """Runs the saves under strace; the status, and the calls on the checkpoints."""
    folder = run / "checkpoints"
    names = [f"step_{step}{end}" for step in (1, 2, 3) for end in ("", ".tmp", ".old")]
    files = ("", "/tensors.safetensors", "/state.json", "/manifest.json")
    paths = [folder, *(Path(f"{folder / name}{file}") for name in names for file in files)]
    paths += [folder / f"{name}{end}" for name in ("latest.json", "best.json") for end in ("", ".tmp")]
    chosen = [word for path in paths for word in ("-P", str(path))]
    with tempfile.NamedTemporaryFile("r") as log:
        command = ["strace", "-f", "-y", "-o", log.name, *chosen, "-e", f"trace={','.join(CALLS)}", *injected]
        done = subprocess.run(
            [*command, sys.executable, "-c", SAVE, str(run)], cwd=Path(__file__).parent, capture_output=True
        )
        if not injected and done.returncode:
            raise SystemExit(done.stderr.decode())
        return done.returncode, log.read().splitlines()


def order_is_safe(lines: list[str]) -> bool:
    """Whether the files of step 2 were synced, then renamed, then the folder synced."""
    at = {}
    for number, line in enumerate(lines):
        for name, pattern in {
            "file": r"fsync\(.*step_2\.tmp/manifest\.json",
            "tensors": r"fsync\(.*step_2\.tmp/tensors",
            "renamed": r"rename\(.*step_2\.tmp.*step_2\"",
            "folder": r"fsync\(\d+<[^>]*/checkpoints>",
        }.items():
            if re.search(pattern, line) and (name != "folder" or "renamed" in at):
                at.setdefault(name, number)
    return at["tensors"] < at["file"] < at["renamed"] < at["folder"]


def main(words: list[str]) -> int:
    """Prints the table; status 1 where no valid checkpoint was left."""
    settings, rest = split_words(words, SETTINGS)
    if rest or shutil.which("strace") is None:
        raise SystemExit(f"settings are {', '.join(SETTINGS)}; strace must be installed")
    began, failed = time.monotonic(), []
    killed, found = collections.Counter(), collections.Counter()
    with tempfile.TemporaryDirectory(prefix="saves-") as scratch:
        before, run = Path(scratch) / "before", Path(scratch) / "run"
        save(before, 1)
        shutil.copytree(before, run)
        _, lines = traced(run)
        safe = order_is_safe(lines)
        counts = collections.Counter(match[1] for line in lines if (match := re.match(r"\d+ +(\w+)\(", line)))
        moments = [(call, k) for call in CALLS for k in range(1, counts[call] + 1)]
        stride = max(1, -(-len(moments) // settings["most"]))
        for call, k in moments[::stride]:
            shutil.rmtree(run)
            shutil.copytree(before, run)
            status, _ = traced(run, "-e", f"inject={call}:signal=KILL:when={k}")
            killed[call] += status not in (0, None)
            try:
                path, _ = newest_valid(run)
                step = int(path.name[5:].removesuffix(".old"))
                loaded = FolderCheckpointIO().load_checkpoint(path)
                whole = all(torch.equal(loaded["state_dict"][n], t) for n, t in state(step)["state_dict"].items())
                found[f"step {step}"] += whole
                failed += [] if whole else [f"{call} {k}: step {step} holds something else"]
            except Exception as error:
                failed.append(f"{call} {k}: {error}")
    rows = [[call, counts[call], killed[call]] for call in CALLS if counts[call]]
    rows.append(["all", sum(counts.values()), killed.total()])
    text = exactness.table(["system call", "of three saves", "killed there"], rows)
    text += (
        f"\n\nThe newest valid checkpoint after {killed.total()} kills: {dict(found)}; failures: {failed or 'none'}.\n"
    )
    text += f"Synced before renamed, and the folder after: {safe}."
    result = {"counts": counts, "killed": killed, "found": found, "failed": failed, "order": safe}
    exactness.save("kills_in_a_save", text, {**result, "seconds": time.monotonic() - began}, settings["out"])
    return int(bool(failed) or not safe)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
