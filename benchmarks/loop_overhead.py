"""Measures what a run's loop costs: ours, on Lightning, against a bare loop with the same model and data.

    python benchmarks/loop_overhead.py [rounds=10] [steps=200] [ms=20] [threads=2] [save_every=200] [out=FILE]

Ours is the loop of ``train``: Lightning's Trainer with all callbacks, a progress bar as in a terminal, and metrics.csv.
It writes a row every 20 steps and a checkpoint every ``save_every`` steps. The bare loop is batch, forward, backward,
clipping and the same optimizer. Both train in one process on the same batches and in turn. At the end of a step, a
callback holds our loop for a round of the bare loop. A step takes about ``ms``: a few tries choose data.batch_tokens,
unless it is given. Other keys of the configuration may be given too. It runs on a CPU only.
"""

import itertools
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lightning as L
import torch
from rich.console import Console
from rounds import report, split_words
from torch import nn

from multihead.config.compose import Composition, compose
from multihead.config.data import SPLITS
from multihead.data.prepare import prepare
from multihead.runs.console import open_log
from multihead.runs.loggers import build_loggers
from multihead.runs.noise import quiet_lightning
from multihead.tasks.lightning_module import TaskModule
from multihead.training.build import build_trainer, join
from multihead.training.precision import settle
from multihead.training.steps import Steps

OWN = {"rounds": 10, "steps": 200, "ms": 20.0, "threads": 2, "save_every": 200, "out": ""}
OURS, BARE = "multihead's loop", "bare loop"
NEVER = 10**9
TRIES, LEAST_TOKENS = 4, 64


def bare_loop(task: Any, data: Any, steps: int) -> Callable[[], int]:
    """Returns a function that takes this many steps."""
    optimizer = task.configure_optimizers()["optimizer"]
    parameters, clip = list(task.model.parameters()), task.config.trainer.gradient_clip_val
    task.train()
    loader = data.train_dataloader()
    count = data.accumulation(1)
    batches = itertools.chain.from_iterable(iter(loader) for _ in itertools.count())

    def work() -> int:
        tokens = 0
        for _ in range(steps):
            optimizer.zero_grad()
            for batch in itertools.islice(batches, count):
                with autocast(task.config.precision):
                    loss = task.training_step(batch, 0)["loss"]
                (loss / count).backward()
            if clip:
                nn.utils.clip_grad_norm_(parameters, clip)
            optimizer.step()
            tokens += batch["tokens_of_step"]
        return tokens

    return work


def autocast(precision: str) -> Any:
    """Returns what Lightning does for ``precision``."""
    return torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16-mixed")


class Turns(L.Callback):
    """Gives the bare loop its turn after every round of ours, and times both. The first round does not count.

    Args:
        bare: A round of the bare loop.
        rounds: Number of rounds that count.
        steps: Number of steps of each round.
    """

    def __init__(self, bare: Any, rounds: int, steps: int):
        self.bare, self.rounds, self.steps = bare, rounds, steps
        self.seconds: dict[str, list[float]] = {OURS: [], BARE: []}
        self._mark = 0.0

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self._mark = time.perf_counter()

    def on_train_batch_end(self, trainer: L.Trainer, *arguments: Any) -> None:
        if trainer.global_step % self.steps or trainer.fit_loop._should_accumulate():
            return
        now = time.perf_counter()
        self.seconds[OURS].append(now - self._mark)
        self.bare()
        self._mark = time.perf_counter()
        self.seconds[BARE].append(self._mark - now)
        trainer.should_stop = len(self.seconds[BARE]) > self.rounds


def composed(settings: dict[str, Any], words: list[str], batch_tokens: int) -> Composition:
    """Returns the configuration of both loops."""
    steps = (settings["rounds"] + 2) * settings["steps"]
    default = [] if any(word.startswith("optim=") for word in words) else ["optim=adamw"]
    tokens = [f"data.batch_tokens={batch_tokens}"] if batch_tokens else []
    own = [f"trainer.max_steps={steps}", f"trainer.checkpoint_every_n_steps={settings['save_every']}"]
    own += [f"trainer.val_every_n_steps={NEVER}", "logger=none", "accelerator=cpu"]
    composition = compose(["task=translation", *default, *own, *tokens, *words])
    settle(composition)
    return composition


def calibrated(settings: dict[str, Any], words: list[str]) -> int:
    """Returns a ``data.batch_tokens`` with which a step of the bare loop takes about as long as wanted."""
    tokens, wanted = 256, settings["ms"] / 1e3
    for _ in range(TRIES):
        composition = composed(settings, words, tokens)
        task, data = join(composition, prepare(composition, SPLITS), 1)
        one = bare_loop(task, data, 1)
        times = []
        for _ in range(15):
            start = time.perf_counter()
            one()
            times.append(time.perf_counter() - start)
        seconds = statistics.median(times[5:])
        print(f"{tokens} target tokens: {1e3 * seconds:.1f} ms a step", flush=True)
        if abs(seconds / wanted - 1) < 0.1:
            break
        tokens = max(LEAST_TOKENS, round(tokens * min(4.0, max(0.25, wanted / seconds))))
    return tokens


def measured(settings: dict[str, Any], composition: Composition, run_dir: Path) -> dict[str, list[float]]:
    """Returns the seconds of the rounds of both loops."""
    prepared = prepare(composition, SPLITS)
    bare = bare_loop(*join(composition, prepared, 1), settings["steps"])
    task, data = join(composition, prepared, 1)
    config = composition.config
    turns = Turns(bare, settings["rounds"], settings["steps"])
    steps = Steps(run_dir, data, config)
    with open(run_dir / "screen.txt", "w") as screen:
        console = Console(file=screen, force_terminal=True, width=120, highlight=False)
        opened = open_log(run_dir, console)
        trainer = build_trainer(composition, steps, build_loggers(config, run_dir, composition.tree), [turns])
        trainer.fit(TaskModule(task), datamodule=data)
        opened.close()
    assert (run_dir / "metrics.csv").stat().st_size and "train" in (run_dir / "screen.txt").read_text()
    return {name: seconds[1:] for name, seconds in turns.seconds.items()}


def main(words: list[str]) -> dict[str, Any]:
    """Measures and reports. ``about.overhead`` is by how much ours takes longer over all rounds, with checkpoints."""
    settings, words = split_words(words, OWN)
    torch.set_num_threads(settings["threads"])
    quiet_lightning()
    given = any(word.startswith("data.batch_tokens=") for word in words)
    tokens = 0 if given else calibrated(settings, words)
    composition = composed(settings, words, tokens)
    with tempfile.TemporaryDirectory(prefix="loop-overhead-") as folder:
        seconds = measured(settings, composition, Path(folder))
    sums = {name: sum(values) for name, values in seconds.items()}
    steps = settings["rounds"] * settings["steps"]
    about = {
        **{name: value for name, value in settings.items() if name != "out"},
        "words": words,
        "batch_tokens": composition.config.data.batch_tokens,
        "ms_per_step": {name: 1e3 * value / steps for name, value in sums.items()},
        "overhead": sums[OURS] / sums[BARE] - 1,
    }
    speeds = {name: [settings["steps"] / value for value in values] for name, values in seconds.items()}
    result = report("steps", speeds, about, settings["out"])
    of_each = ", ".join(f"{name} {value:.2f}" for name, value in about["ms_per_step"].items())
    print(f"ms a step over all rounds: {of_each}; ours takes {about['overhead']:+.1%}")
    return result


if __name__ == "__main__":
    main(sys.argv[1:])
