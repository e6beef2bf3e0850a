"""Measures memory while a language model trains on a small and on a large text file.

    python benchmarks/corpus_memory.py [sizes=MB,MB]

It writes two text files (20 MB and 2 GB) into a scratch folder, and trains on each for a few steps in a process of its
own. It prints the largest resident memory during the steps, their ratio, and how fast the text was encoded. JSON goes
to benchmarks/results/corpus_memory.json.
"""

from __future__ import annotations

import json
import os
import random
import re
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
WORDS = ["task=lm", "data=text", "tokenizer.kind=byte", "model.max_len=256", "data.batch_tokens=4096", "logger=none",
         "trainer.max_steps=60", "trainer.val_every_n_steps=1000", "trainer.log_every_n_steps=5", "accelerator=cpu",
         "data.splits={val: 2000, test: 0}"]  # fmt: skip


def write_text(path: Path, megabytes: int) -> None:
    """Writes random words of a fixed list, one paragraph a line."""
    rng = random.Random(0)
    words = ["".join(rng.choices("abcdefghijklmnopqrstuvwxyz", k=rng.randint(2, 9))) for _ in range(5000)]
    block = "".join(" ".join(rng.choices(words, k=200)) + "\n" for _ in range(1000)).encode()
    with open(path, "wb") as file:
        written = 0
        while written < megabytes * 10**6:
            part = block[: megabytes * 10**6 - written]
            file.write(part)
            written += len(part)


def resident(pid: int) -> tuple[float, float]:
    """Returns the resident memory of a process in MB: all of it, and without pages of files."""
    status = Path(f"/proc/{pid}/status").read_text()
    found = {name: int(re.search(rf"{name}:\s+(\d+)", status)[1]) / 1024 for name in ("VmRSS", "RssFile")}
    return found["VmRSS"], found["VmRSS"] - found["RssFile"]


def measure(text: Path, folder: Path) -> dict[str, float]:
    """Trains on a file, and returns the largest memory between the first step and the last."""
    run = folder / f"run_{text.stem}"
    command = [sys.executable, str(ROOT / "train.py"), *WORDS, f"data.train={text}", f"run_dir={run}"]
    environment = os.environ | {"MULTIHEAD_CACHE": str(folder / "cache")}
    started = time.perf_counter()
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, cwd=folder)
    metrics, peak, prepared = run / "metrics.csv", (0.0, 0.0), 0.0
    while process.poll() is None:
        if metrics.exists():
            prepared = prepared or time.perf_counter() - started
            try:
                now = resident(process.pid)
            except (OSError, TypeError):
                break
            peak = max(peak[0], now[0]), max(peak[1], now[1])
        time.sleep(0.05)
    if process.wait() != 0:
        raise SystemExit(f"training on {text} failed")
    megabytes = text.stat().st_size / 1e6
    return {
        "text_MB": round(megabytes, 1),
        "resident_MB": round(peak[0], 1),
        "resident_without_files_MB": round(peak[1], 1),
        "preparation_s": round(prepared, 1),
        "tokens": json.loads((run / "result.json").read_text())["tokens"],
    }


def main() -> None:
    sizes = [20, 2000]
    for word in sys.argv[1:]:
        if word.startswith("sizes="):
            sizes = [int(size) for size in word.removeprefix("sizes=").split(",")]
    with tempfile.TemporaryDirectory() as scratch:
        rows = []
        for size in sizes:
            text = Path(scratch) / f"text_{size}.txt"
            write_text(text, size)
            rows.append(measure(text, Path(scratch)))
            print(json.dumps(rows[-1]))
            text.unlink()
    result = {"rows": rows, "ratio": round(rows[-1]["resident_MB"] / rows[0]["resident_MB"], 3)}
    print(json.dumps(result["ratio"]))
    target = ROOT / "benchmarks" / "results" / "corpus_memory.json"
    target.parent.mkdir(exist_ok=True)
    target.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
