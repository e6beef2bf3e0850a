"""Tiny runs of the whole program, for the end-to-end tests."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

from safetensors.torch import load_file

import multihead

ROOT = Path(__file__).parents[1]
SMOKE = ["task=translation", "debug=smoke"]
STRIKE = """
import os, sys
from multihead.steps import Steps
from multihead.cli import main
hook, step, micro_batch, signum = sys.argv[1], *map(int, sys.argv[2:5])
before = getattr(Steps, hook)
def strike(self, trainer, *rest):
    if trainer.global_step == step and self.micro_batches == micro_batch:
        os.kill(os.getpid(), signum)
    before(self, trainer, *rest)
setattr(Steps, hook, strike)
sys.exit(main(["train", *sys.argv[5:]]))
"""
"""Trains, and gets a signal in the middle of a step, or of a validation."""


def train(run_dir, *words):
    """Trains in this process; returns what result.json holds."""
    return multihead.train([*SMOKE, f"run_dir={run_dir}", *words])


def process(*arguments, **options):
    """Starts Python in a process and a process group of its own."""
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | options,
    )


def struck(signum, step, *words, micro_batch=0, hook="on_train_batch_start"):
    """Exit status and stderr of a training that gets ``signum`` where its ``step`` steps are done."""
    running = process("-c", STRIKE, hook, str(step), str(micro_batch), str(int(signum)), *words)
    _, errors = running.communicate(timeout=120)
    return running.returncode, errors


def weights(run_dir):
    """Every tensor of the model that the run exported."""
    return load_file(Path(run_dir) / "model" / "model.safetensors")


def rows(run_dir, column="train/loss"):
    """Step to a column of metrics.csv, as it is written."""
    with open(Path(run_dir) / "metrics.csv", newline="") as file:
        return [(int(row["step"]), row[column]) for row in csv.DictReader(file) if row[column]]


def events(run_dir):
    """Names and fields of events.jsonl."""
    return [json.loads(line) for line in (Path(run_dir) / "events.jsonl").read_text().splitlines()]
