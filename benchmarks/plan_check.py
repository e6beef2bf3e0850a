"""Checks the forecast of ``plan=true``: python benchmarks/plan_check.py

For five configurations it runs the forecast and then the run itself, each in a process of its own on one thread. It
puts the predicted memory and time beside the measured ones.

Settings: cases=... (names, divided by ';') threads=1 out=FILE.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import exactness
from rounds import split_words

SETTINGS = {"cases": "", "threads": 1, "out": ""}
OFTEN = ["trainer.max_steps=300", "trainer.val_every_n_steps=300", "trainer.checkpoint_every_n_steps=300"]
CASES = {
    "translation": ["task=translation", *OFTEN],
    "lm": ["task=lm", *OFTEN],
    "classification": ["task=classification", *OFTEN],
    "summarization": ["task=summarization", *OFTEN],
    "translation, bf16-mixed, averaged, in two parts, wider": [
        *["task=translation", *OFTEN, "trainer.max_steps=200", "precision=bf16-mixed", "trainer.ema_decay=0.99"],
        *["data.part_tokens=1024", "model.d_model=256", "model.d_ff=1024"],
    ],
}
PROGRAM = (
    "import json, sys, time, multihead, multihead.training.job; began = time.monotonic(); "
    "result = multihead.train(sys.argv[2:]); "
    "json.dump(result | {'whole': time.monotonic() - began}, open(sys.argv[1], 'w'))"
)


def result_of(words: list[str], threads: int, folder: Path) -> dict[str, Any]:
    """Returns what `multihead.train` returns in a process of its own, with the seconds it took as ``whole``."""
    file = folder / f"{time.monotonic_ns()}.json"
    environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
    words = [*words, "logger=none", "accelerator=cpu"]
    subprocess.run(
        [sys.executable, "-c", PROGRAM, str(file), *words], check=True, env=environment, stdout=subprocess.DEVNULL
    )
    return json.loads(file.read_text())


def main(words: list[str]) -> int:
    """Prints the table. The status is 1 if an error is over 15 %."""
    settings, rest = split_words(words, SETTINGS)
    chosen = settings["cases"].split(";") if settings["cases"] else list(CASES)
    if rest or not set(chosen) <= set(CASES):
        raise SystemExit(f"settings are {', '.join(SETTINGS)}; cases are {'; '.join(CASES)}")
    rows, found = [], {}
    with tempfile.TemporaryDirectory(prefix="plan-") as scratch:
        folder = Path(scratch)
        for name in chosen:
            result_of([*CASES[name], "plan=true"], settings["threads"], folder)  # this fills the caches
            planned = result_of([*CASES[name], "plan=true"], settings["threads"], folder)
            run = result_of([*CASES[name], f"run_dir={folder / str(len(rows))}"], settings["threads"], folder)
            pairs = {
                "memory": (planned["memory"], run["peak_memory"]),
                "training": (planned["seconds/training"], run["tokens"] / run["tokens_per_second"]),
                "all": (planned["seconds"], run["whole"]),
            }
            errors = {what: first / second - 1 for what, (first, second) in pairs.items()}
            found[name] = {"pairs": pairs, "errors": errors, "parameters": run["parameters"]}
            cells = [f"{planned['memory'] / 1e6:,.0f} / {run['peak_memory'] / 1e6:,.0f} MB"]
            cells += [f"{pairs[what][0]:.0f} / {pairs[what][1]:.0f} s" for what in ("training", "all")]
            rows.append([name, *(f"{cell} ({errors[w]:+.0%})" for cell, w in zip(cells, errors, strict=True))])
            print(rows[-1], flush=True)
    head = ["run", "peak memory, predicted / measured", "training", "from start to result"]
    exactness.save(
        "plan_check", exactness.table(head, rows), {"cases": found, "threads": settings["threads"]}, settings["out"]
    )
    return int(any(abs(error) > 0.15 for case in found.values() for error in case["errors"].values()))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
