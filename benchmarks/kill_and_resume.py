"""Checks that a run survives many kills: python benchmarks/kill_and_resume.py

The variants are one process and two ranks (``variants=sharded`` has two ranks of FSDP2). For each task, the same
command (``resume=auto run_dir=...``) is started, killed with SIGKILL and started again, until it was killed often
enough. Then it runs to its end. The random moments of the kills are in the start, the training, a validation or a save.
Everything is compared with the same command that nobody disturbed: every example of every step, losses as hexadecimal
numbers, metrics, results and final weights.

Settings: tasks=lm kills=20 steps=100 variants=one,ranks seed=0 folder=DIR out=FILE.
"""

from __future__ import annotations

import collections
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import exactness
from rounds import split_words

VARIANTS = {
    "one": [
        "trainer.val_every_n_steps=7",
        "trainer.checkpoint_every_n_steps=5",
        "trainer.accumulate_grad_batches=2",
        "trainer.ema_decay=0.9",
        "data.num_workers=2",
    ],
    "ranks": [
        "trainer.val_every_n_steps=4",
        "trainer.checkpoint_every_n_steps=3",
        "devices=2",
        "strategy=ddp",
        "model.dropout=0.2",
    ],
    "sharded": [
        "trainer.val_every_n_steps=4",
        "trainer.checkpoint_every_n_steps=3",
        "trainer.ema_decay=0.9",
        "devices=2",
        "strategy=fsdp",
        "model.dropout=0.2",
    ],
}
SETTINGS = {"tasks": ",".join(exactness.TASKS), "variants": "one,ranks", "kills": 20, "steps": 100, "seed": 0,
            "folder": "", "out": ""}  # fmt: skip


def last_event(run: Path) -> tuple[int, str]:
    """Returns the number of events so far, and the name of the last one."""
    try:
        lines = (run / "events.jsonl").read_text().split("\n")[:-1]
        return len(lines), json.loads(lines[-1])["event"]
    except (OSError, ValueError, IndexError):
        return 0, "start-up"


def kill_one(words: list[str], here: Path, many: int, delay: float) -> str:
    """Starts the command and kills all its processes, ``delay`` seconds after it wrote ``many`` events.

    Returns:
        The last event before the kill, or ``ended`` if the run was faster.
    """
    before, _ = last_event(here / "run")
    running = exactness.start(words, here / "ledger")
    while running.poll() is None:
        count, _ = last_event(here / "run")
        before = min(before, count)  # a run without a checkpoint starts its files again
        if count >= before + many:
            break
        time.sleep(0.005)
    try:
        running.wait(delay)
    except subprocess.TimeoutExpired:
        exactness.kill(running.pid)
        running.wait()
        running.stderr.close()
        return last_event(here / "run")[1]
    errors = running.stderr.read()
    if running.returncode:
        raise SystemExit(f"status {running.returncode}: {errors}")
    return "ended"


def prove(task: str, variant: str, settings: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Runs one task in one variant, and returns where it was killed and what differed at the end."""
    here, rng = folder / f"{task}_{variant}", random.Random(f"{settings['seed']} {task} {variant}")
    plugin = exactness.write_plugin(folder)
    words = exactness.words_of(
        task, *VARIANTS[variant], f"trainer.max_steps={settings['steps']}", plugin, "resume=auto"
    )
    began = time.monotonic()
    whole = exactness.start([*words, f"run_dir={here / 'whole'}"], here / "whole_ledger")
    _, errors = whole.communicate()
    if whole.returncode:
        raise SystemExit(f"status {whole.returncode}: {errors}")
    alone = time.monotonic() - began
    events, _ = last_event(here / "whole")
    words = [*words, f"run_dir={here / 'run'}"]
    where: collections.Counter[str] = collections.Counter()
    while where.total() < settings["kills"]:
        early = rng.random() < 0.15  # somewhere in the start-up
        many = 0 if early else rng.randint(1, max(1, 3 * events // (2 * settings["kills"])))
        event = kill_one(words, here, many, rng.uniform(0.0, alone / 2 if early else 0.1))
        if event == "ended":
            break
        where[event] += 1
    last = exactness.start(words, here / "ledger")
    _, errors = last.communicate()
    if last.returncode:
        raise SystemExit(f"status {last.returncode}: {errors}")
    args = (here / "run", here / "ledger", here / "whole", here / "whole_ledger")
    resumed = sum(json.loads(line)["event"] == "resumed" for line in (here / "run" / "events.jsonl").open())
    result = {
        "task": task,
        "variant": variant,
        "kills": where.total(),
        "resumed": resumed,
        "where": dict(where),
        "steps_done": sum(map(len, _attempts(here / "ledger").values())),
        "steps": len(exactness.ledger_rows(here / "whole_ledger")),
        "differences": exactness.differences(*args),
        "seconds": time.monotonic() - began,
    }
    shutil.rmtree(here)
    return result


def _attempts(ledger: Path) -> dict[str, list[str]]:
    """Counts the lines of each ledger: micro-batches of the steps that were done, also those that were repeated."""
    return {file.name: file.read_text().splitlines() for file in ledger.glob("ledger_*.jsonl")}


def main(words: list[str]) -> int:
    """Prints the table. The status is 1 if anything differed."""
    settings, rest = split_words(words, SETTINGS)
    if rest:
        raise SystemExit(f"{rest[0]}: settings are {', '.join(SETTINGS)}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="kills-") as scratch:
        for task in settings["tasks"].split(","):
            for variant in settings["variants"].split(","):
                rows.append(prove(task, variant, settings, Path(settings["folder"] or scratch)))
                print(json.dumps(rows[-1]), flush=True)
    head = [
        "task",
        "processes",
        "kills",
        "last event before",
        "parts of steps: needed",
        "done",
        "differences",
        "seconds",
    ]
    listed = [
        [
            row["task"],
            {"one": "1, with 2 loader workers", "ranks": "2 ranks", "sharded": "2 ranks, FSDP2"}[row["variant"]],
            row["kills"],
            ", ".join(f"{name} {count}" for name, count in row["where"].items()),
            row["steps"],
            row["steps_done"],
            len(row["differences"]),
            round(row["seconds"]),
        ]
        for row in rows
    ]
    exactness.save("kill_and_resume", exactness.table(head, listed), {"rows": rows}, settings["out"])
    return int(any(row["differences"] for row in rows))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
