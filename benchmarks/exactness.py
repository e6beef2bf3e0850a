"""Gives the proofs of exact resume what they share: tiny runs, a ledger of what was trained on, and comparisons."""

from __future__ import annotations

import contextlib
import csv
import importlib.metadata
import json
import os
import platform
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

ROOT = Path(__file__).parents[1]
TASKS = ("translation", "lm", "summarization", "classification", "multitask")
TINY = ["debug=smoke", "logger=none", "accelerator=cpu", "optim.lr=3e-3", "optim.muon_dtype=bfloat16"]
"""Words of all runs. With `EPOCHS`, a few steps are an epoch. ``muon_dtype=auto`` measures the processor, and two runs
on a loaded machine can come to different answers."""
EPOCHS = {
    "translation": ["data.grammar.train_size=45", "data.batch_tokens=256", "data.part_tokens=256"],
    "lm": ["data.grammar.train_size=40", "data.batch_tokens=512", "data.part_tokens=512", "task.block_size=64"],
    "summarization": ["data.grammar.train_size=45", "data.batch_tokens=256", "data.part_tokens=256"],
    "classification": ["data.grammar.train_size=45", "data.batch_tokens=256", "data.part_tokens=256"],
    "multitask": ["data.grammar.train_size=40", "data.batch_tokens=512", "data.part_tokens=512"],
}
"""Words with which an epoch has 3 to 9 steps."""
LEDGER = '''
"""Writes down what each part of a step was, and its loss to the last bit."""
import json
import os
from pathlib import Path

import lightning as L

from multihead.plugin import Plugin


class Ledger(L.Callback):
    file = None
    place = 0

    def on_train_batch_end(self, trainer, module, outputs, batch, batch_idx):
        if self.file is None:
            self.file = open(Path(os.environ["LEDGER"]) / f"ledger_{trainer.global_rank}.jsonl", "a")
        at = [batch["epoch"], batch["step_in_epoch"], self.place % trainer.accumulate_grad_batches, trainer.global_rank]
        self.place += 1
        row = {"at": at, "task": batch["task"], "ids": batch["index"].tolist(), "loss": float(outputs["sum"]).hex()}
        self.file.write(json.dumps(row) + "\\n")
        self.file.flush()


PLUGIN = Plugin(callbacks={"ledger": Ledger})
'''


def words_of(task: str, *more: str) -> list[str]:
    """Returns the words of a tiny run."""
    return [f"task={task}", *TINY, *EPOCHS[task], *more]


def write_plugin(folder: Path) -> str:
    """Writes the ledger's plugin into ``folder``, and returns the word that names it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "ledger.py").write_text(LEDGER)
    return f"plugin={folder / 'ledger.py'}"


def start(words: Sequence[str], ledger: Path, before: Sequence[str] = ()) -> subprocess.Popen:
    """Starts ``python train.py WORDS`` in a session of its own with one thread. ``before`` is a program that starts it,
    such as a tracer."""
    ledger.mkdir(parents=True, exist_ok=True)
    environment = os.environ | {"OMP_NUM_THREADS": "1", "LEDGER": str(ledger)}
    return subprocess.Popen(
        [*before, sys.executable, str(ROOT / "train.py"), *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=environment,
    )


def ledger_rows(folder: Path) -> dict[tuple[int, ...], set[str]]:
    """Maps a place (epoch, step in it, micro-batch, rank) to everything that was written for it. A torn last line is
    left out."""
    rows: dict[tuple[int, ...], set[str]] = {}
    for file in sorted(folder.glob("ledger_*.jsonl")):
        for line in file.read_text().split("\n"):
            try:
                row = json.loads(line)
            except ValueError:  # a kill in the middle of a line; the step is repeated
                continue
            rows.setdefault(tuple(row["at"]), set()).add(f"{row['task']} {row['ids']} {row['loss']}")
    return rows


def column(run: Path, name: str) -> list[tuple[int, str]]:
    """Returns steps and values of a column of metrics.csv, as they are written."""
    with open(run / "metrics.csv", newline="") as file:
        return [(int(row["step"]), row[name]) for row in csv.DictReader(file) if row.get(name)]


def differences(run: Path, ledger: Path, whole: Path, whole_ledger: Path, partly: bool = False) -> list[str]:
    """Returns everything in which a broken run differs from one that was not broken. An exact resume gives nothing.

    Args:
        run: The run that was broken.
        ledger: Its ledger.
        whole: The uninterrupted run.
        whole_ledger: Its ledger.
        partly: Whether the ledger of the broken run starts in the middle.
    """
    found = []
    ours, theirs = ledger_rows(ledger), ledger_rows(whole_ledger)
    found += [f"{at}: {sorted(rows)}" for at, rows in ours.items() if len(rows) > 1]
    found += [f"{at}: {ours[at]} and not {theirs.get(at)}" for at in ours if ours[at] != theirs.get(at)]
    if not partly:
        found += [f"{at}: missing" for at in theirs if at not in ours]
    for name in ("train/loss", "val/loss", "optim/lr_adamw"):
        if column(run, name) != column(whole, name):
            found.append(f"metrics.csv: {name}")
    first, second = (load_file(folder / "model" / "model.safetensors") for folder in (run, whole))
    found += [f"weights: {name}" for name in second if not torch.equal(first[name], second[name])]
    results = [json.loads((folder / "result.json").read_text()) for folder in (run, whole)]
    changing = ("seconds", "tokens_per_second", "peak_memory", "git_commit")
    found += [f"result: {n}" for n in results[1] if n not in changing and results[0].get(n) != results[1][n]]
    return found


def family(pid: int) -> list[int]:
    """Returns a process and all its descendants, also ranks and loader workers."""
    children: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        if fields[0] != "Z":
            children.setdefault(int(fields[1]), []).append(int(stat.parent.name))
    found = [pid]
    for parent in found:
        found += children.get(parent, [])
    return found


def alive(pids: Iterable[int]) -> list[int]:
    """Returns those of the processes that still exist and are not zombies."""
    found = []
    for pid in pids:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            continue
        if state != "Z":
            found.append(pid)
    return found


def kill(pid: int) -> None:
    """Sends SIGKILL to a process and all its descendants, parents first, until none is left."""
    everyone = family(pid)
    for one in everyone:
        with contextlib.suppress(ProcessLookupError):
            os.kill(one, signal.SIGKILL)
    while alive(everyone):
        time.sleep(0.01)


def table(head: Sequence[str], rows: Iterable[Sequence[Any]]) -> str:
    """Returns a Markdown table."""
    lines = [" | ".join(map(str, row)) for row in [head, ["---"] * len(head), *rows]]
    return "\n".join(f"| {line} |" for line in lines)


def save(name: str, text: str, result: Mapping[str, Any], out: str = "") -> None:
    """Prints a table, and writes it and the JSON into benchmarks/results/, or beside ``out``."""
    about = {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "lightning": importlib.metadata.version("lightning"),
        "cores": os.cpu_count(),
    }
    path = Path(out) if out else ROOT / "benchmarks" / "results" / f"{name}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**result, **about}, indent=1) + "\n")
    path.with_suffix(".md").write_text(text + "\n")
    print(text)
