"""Compares TPE with pruning and random search at the same compute: python benchmarks/tpe_against_random.py

The task is translation on the grammar with a small model and seven searched parameters. For each seed two sweeps run at
the same time, with one thread each: `method: bayes` with hyperband, and `method: random` without. Each gets the same
minutes of trials. At any moment, the best validation loss of a whole run counts. The results are a figure, a table and
a paired t-test.

Settings: seeds=5 minutes=6 folder=DIR out=FILE. Five seeds of six minutes take half an hour on two cores.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import exactness
from rounds import split_words

from multihead.config.sweep import read_sweep
from multihead.sweeping.ledger import Ledger

SETTINGS = {"seeds": 5, "minutes": 6.0, "folder": "", "out": ""}
METHODS = {"random": "random", "TPE, pruned": "bayes"}
FILE = """\
program: train.py
name: {name}
method: {method}
metric: {{name: val/loss, goal: minimize}}
{early}parameters:
  task: {{value: translation}}
  model.d_model: {{value: 64}}
  model.d_ff: {{value: 128}}
  data.grammar.train_size: {{value: 4000}}
  data.grammar.val_size: {{value: 100}}
  trainer.max_steps: {{value: 80}}
  trainer.val_every_n_steps: {{value: 20}}
  trainer.checkpoint_every_n_steps: {{value: 80}}
  trainer.limit_val_examples: {{value: 4}}
  decoding.max_new_tokens: {{value: 4}}
  task.monitor: {{value: val/loss}}
  task.monitor_mode: {{value: min}}
  optim: {{values: [adamw, muon]}}
  optim.lr: {{distribution: log_uniform_values, min: 1.0e-4, max: 1.0e-1}}
  optim.warmup_steps: {{min: 2, max: 60}}
  optim.schedule: {{values: [constant, cosine, wsd]}}
  model.dropout: {{values: [0.0, 0.1, 0.2]}}
  model.norm_placement: {{values: [pre, post]}}
  model.activation: {{values: [relu, gelu]}}
command: ["${{env}}", "python", "${{program}}", "debug=smoke", "${{args_no_hyphens}}"]
"""
EARLY = "early_terminate: {type: hyperband, min_iter: 1, eta: 3}\n"


def launch(folder: Path, method: str, seed: int, minutes: float) -> tuple[subprocess.Popen, Path]:
    """Starts a sweep, and returns it with its file. Its name decides which points are drawn."""
    file = folder / f"{method}_{seed}.yaml"
    file.write_text(FILE.format(name=f"{method}-{seed}", method=method, early=EARLY if method == "bayes" else ""))
    words = [f"file={file}", f"dir={folder / file.stem}", f"budget={round(minutes * 60)}s", "logger=none"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with open(file.with_suffix(".log"), "w") as log:
        command = [sys.executable, "-m", "multihead", "sweep", *words]
        return subprocess.Popen(command, stdout=log, stderr=log, env=environment, cwd=exactness.ROOT), file


def curve(file: Path) -> tuple[list[tuple[float, float]], dict[str, int]]:
    """Returns seconds of trials with the best loss of a whole run by then, and how many trials ended in which way."""
    sweep = read_sweep(str(file))
    rows = sorted(Ledger(sweep, file.with_suffix(""), create=False).rows(), key=lambda row: row.number)
    spent, best, points = 0.0, float("inf"), []
    for row in rows:
        spent += float(row.record.get("seconds", 0.0))
        if row.state == "complete" and row.value is not None and row.value < best:
            best = row.value
            points.append((spent, best))
    states = [row.state for row in rows]
    return points, {state: states.count(state) for state in sorted(set(states))}


def at(points: list[tuple[float, float]], seconds: float) -> float:
    """Returns the best loss after this many seconds. Before the first loss, it is the first loss."""
    return next((loss for when, loss in reversed(points) if when <= seconds), points[0][1])


def draw(found: dict[str, list[list[tuple[float, float]]]], minutes: float, path: Path) -> None:
    """Returns the mean over the seeds, and their range."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.subplots()
    first = max(points[0][0] for curves in found.values() for points in curves)
    grid = [first + (minutes * 60 - first) * place / 200 for place in range(201)]
    for name, curves in found.items():
        values = [[at(points, seconds) for points in curves] for seconds in grid]
        line = axes.plot([s / 60 for s in grid], [statistics.mean(v) for v in values], label=name)[0]
        low, high = [min(v) for v in values], [max(v) for v in values]
        axes.fill_between([s / 60 for s in grid], low, high, alpha=0.15, color=line.get_color())
    axes.set_xlabel("minutes of trials")
    axes.set_ylabel("best validation loss so far")
    axes.set_title(f"mean and range over {len(curves)} seeds", fontsize=10)
    axes.legend()
    figure.savefig(path, dpi=110)


def main(words: list[str]) -> int:
    """Runs the sweeps, and writes figure, table and JSON."""
    from scipy.stats import ttest_rel

    settings, rest = split_words(words, SETTINGS)
    if rest:
        raise SystemExit(f"settings are {', '.join(SETTINGS)}")
    folder = Path(settings["folder"] or tempfile.mkdtemp(prefix="multihead-tpe-")).resolve()
    folder.mkdir(parents=True, exist_ok=True)
    found: dict[str, list[Any]] = {name: [] for name in METHODS}
    counts: dict[str, list[dict[str, int]]] = {name: [] for name in METHODS}
    for seed in range(1, settings["seeds"] + 1):
        pair = {name: launch(folder, method, seed, settings["minutes"]) for name, method in METHODS.items()}
        for name, (process, file) in pair.items():
            if process.wait() not in (0, 7):
                raise SystemExit(f"{file.with_suffix('.log')} tells what went wrong")
            points, states = curve(file)
            found[name].append(points)
            counts[name].append(states)
            print(name, seed, f"{points[-1][1]:.4f}", states, flush=True)
    ends = {name: [points[-1][1] for points in curves] for name, curves in found.items()}
    halves = {name: [at(points, settings["minutes"] * 30) for points in curves] for name, curves in found.items()}
    first, second = METHODS
    test = ttest_rel(ends[first], ends[second])
    rows = []
    for name in METHODS:
        trials = {state: sum(each.get(state, 0) for each in counts[name]) for state in ("complete", "pruned", "failed")}
        cells = [f"{statistics.mean(v[name]):.3f} ± {statistics.stdev(v[name]):.3f}" for v in (halves, ends)]
        rows.append([name, *cells, f"{min(ends[name]):.3f}", *trials.values()])
    head = ["search", "best loss at half time", "at the end", "of all seeds", "complete", "pruned", "failed"]
    low, high = test.confidence_interval(0.95)
    finding = f"random - TPE, paired over seeds: {statistics.mean(ends[first]) - statistics.mean(ends[second]):+.3f} "
    finding += f"(95 % from {low:+.3f} to {high:+.3f}, p = {test.pvalue:.2g})"
    result = {"curves": found, "trials": counts, "p": float(test.pvalue), "minutes": settings["minutes"]}
    exactness.save("tpe_against_random", f"{exactness.table(head, rows)}\n\n{finding}", result, settings["out"])
    out = Path(settings["out"]) if settings["out"] else exactness.ROOT / "docs" / "tpe_against_random.png"
    draw(found, settings["minutes"], out.with_suffix(".png"))
    print(f"sweeps in {folder}")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
