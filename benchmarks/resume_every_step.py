"""Checks that a run continues exactly from each of its checkpoints: python benchmarks/resume_every_step.py

For each task and variant, one run saves after every step, over several ends of epochs. From each of its checkpoints, a
copy of the run continues to the end. Ids of the examples, losses as hexadecimal numbers, metrics, results and final
weights have to equal those of the uninterrupted run.

Settings: tasks=lm,translation variants=plain steps=12 folder=DIR out=FILE.
"""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import exactness
from rounds import split_words

import multihead
from multihead.runs.checkpoint import checkpoints

VARIANTS = {
    "plain": [],
    "accumulation": ["trainer.accumulate_grad_batches=3", "model.dropout=0.2"],
    "validation in mid-epoch": ["trainer.val_every_n_steps=4", "trainer.ema_decay=0.9", "model.dropout=0.1"],
    "two workers": ["data.num_workers=2", "optim=muon", "trainer.log_every_n_steps=3"],
}
SETTINGS = {"tasks": ",".join(exactness.TASKS), "variants": ",".join(VARIANTS), "steps": 12, "folder": "", "out": ""}


def train(words: list[str], ledger: Path) -> None:
    """Trains a run in this process, without its output."""
    ledger.mkdir(parents=True)
    os.environ["LEDGER"] = str(ledger)
    with contextlib.redirect_stdout(io.StringIO()):
        multihead.train(words)


def copy_until(whole: Path, checkpoint: Path, run: Path) -> None:
    """Copies the run as it was when a checkpoint was its newest."""
    step = int(checkpoint.name.removeprefix("step_"))
    later = [path.name for path in checkpoints(whole) if int(path.name.removeprefix("step_")) > step]
    shutil.copytree(whole, run, ignore=shutil.ignore_patterns("result.json", "model", "latest.json", *later))


def prove(task: str, variant: str, steps: int, folder: Path) -> dict[str, Any]:
    """Runs one task in one variant, and returns how many checkpoints there were and what differed."""
    plugin = exactness.write_plugin(folder)
    here = folder / f"{task}_{variant.replace(' ', '_')}"
    words = exactness.words_of(task, *VARIANTS[variant], f"trainer.max_steps={steps}", plugin)
    words += ["trainer.checkpoint_every_n_steps=1", f"trainer.keep_checkpoints={steps + 1}"]
    began = time.monotonic()
    train([*words, f"run_dir={here / 'whole'}"], here / "whole_ledger")
    places = exactness.ledger_rows(here / "whole_ledger")
    found: dict[str, list[str]] = {}
    for checkpoint in checkpoints(here / "whole"):
        run = here / checkpoint.name
        copy_until(here / "whole", checkpoint, run)
        train([f"resume={run}", plugin], here / f"{checkpoint.name}_ledger")
        args = (run, here / f"{checkpoint.name}_ledger", here / "whole", here / "whole_ledger")
        found[checkpoint.name] = exactness.differences(*args, partly=True)
        shutil.rmtree(run)
    return {
        "task": task,
        "variant": variant,
        "checkpoints": len(found),
        "epoch_ends": max(at[0] for at in places),
        "identical": sum(not each for each in found.values()),
        "differences": {name: each for name, each in found.items() if each},
        "seconds": time.monotonic() - began,
    }


def main(words: list[str]) -> int:
    """Prints the table. The status is 1 if a checkpoint was not continued exactly."""
    settings, rest = split_words(words, SETTINGS)
    if rest:
        raise SystemExit(f"{rest[0]}: settings are {', '.join(SETTINGS)}")
    rows = []
    with tempfile.TemporaryDirectory(prefix="resume-") as scratch:
        for task in settings["tasks"].split(","):
            for variant in settings["variants"].split(","):
                rows.append(prove(task, variant, settings["steps"], Path(settings["folder"] or scratch)))
                row = rows[-1]
                print(f"{task}, {variant}: {row['identical']} of {row['checkpoints']}", row["differences"], flush=True)
    total, identical = (sum(row[name] for row in rows) for name in ("checkpoints", "identical"))
    head = ["task", "variant", "checkpoints", "ends of epochs among them", "identical", "seconds"]
    listed = [
        [r["task"], r["variant"], r["checkpoints"], r["epoch_ends"], r["identical"], f"{r['seconds']:.0f}"]
        for r in rows
    ]
    text = exactness.table(head, [*listed, ["all", "", total, "", identical, ""]])
    exactness.save("resume_every_step", text, {"rows": rows, "total": total, "identical": identical}, settings["out"])
    return int(identical < total)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
