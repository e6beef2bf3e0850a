"""Starts tiny runs of the whole program, for the end-to-end tests."""

import csv
import json
import multiprocessing.context
import multiprocessing.forkserver
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import weakref
from pathlib import Path

import pytest
from safetensors.torch import load_file
from surroundings import draw_one_pixel

import multihead

ROOT = Path(__file__).parents[1]
SMOKE = ["task=translation", "debug=smoke"]


class Fork(multiprocessing.context.ForkServerProcess):
    """A process that is a fork of one server, which has imported everything, because the imports take seconds."""

    def start(self):
        start_server()
        super().start()


class Forks(multiprocessing.context.ForkServerContext):
    """Starts such processes, and makes their queues."""

    Process = Fork


FORKS = Forks()
FORKS.set_forkserver_preload(["fork_server"])


def start_server():
    """Starts the server of the forks, unless it runs."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # for `fork_server`
        multiprocessing.forkserver.ensure_running()


def train(run_dir, *words):
    """Trains in this process, and returns what result.json holds."""
    return multihead.train([*SMOKE, f"run_dir={run_dir}", *words])


def process(*arguments, **options):
    """Starts Python in a process and a process group of its own. train.py is a fork that has imported everything."""
    if arguments[0] == str(ROOT / "train.py") and "-m" not in arguments:
        return Training(*arguments[1:], **options)
    return subprocess.Popen(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | options,
    )


class Training:
    """``python train.py WORDS`` in a process and a process group of its own. It has the methods of `Popen` in use here.

    Args:
        words: Words of the command line.
        prepare: A function of a module that the process first calls with ``arguments``.
        environment: Variables that the process has beside ours.
    """

    def __init__(self, *words, prepare=None, arguments=(), **environment):
        self.folder = Path(tempfile.mkdtemp(prefix="training_"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        variables = os.environ | environment
        self.process = FORKS.Process(
            target=_trains, args=(self.folder, os.getcwd(), dict(variables), prepare, arguments, words)
        )
        self.process.start()
        self.pid = self.process.pid

    @property
    def returncode(self):
        return self.process.exitcode

    def poll(self):
        return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.process.exitcode is None:
            self.kill()
            raise TimeoutError(f"still running after {timeout} s")
        return self.process.exitcode

    def communicate(self, timeout=None):
        self.wait(timeout)
        return tuple((self.folder / name).read_text() for name in ("out", "err"))

    def send_signal(self, signum):
        os.kill(self.pid, signum)

    def kill(self):
        self.process.kill()


def _trains(folder, here, variables, prepare, arguments, words):
    os.setsid()
    for number, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / name, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), number)
    os.environ.clear()
    os.environ.update(variables)
    os.chdir(here)
    sys.argv = [str(ROOT / "train.py"), *words]
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    multiprocessing.set_start_method(None, force=True)  # else loader workers have a server too, which outlives a kill
    from multihead.cli import main
    from multihead.training import attention_maps

    attention_maps.draw = draw_one_pixel

    if prepare is not None:
        prepare(*arguments)
    sys.exit(main(["train", *words]))


def _strike(hook, step, micro_batch, signum):
    """Lets the process send itself a signal in the middle of a step, or of a validation."""
    from multihead.training.steps import Steps

    before = getattr(Steps, hook)

    def strike(self, trainer, *rest):
        if trainer.global_step == step and self.counters.micro_batches == micro_batch:
            os.kill(os.getpid(), signum)
        before(self, trainer, *rest)

    setattr(Steps, hook, strike)


def struck(signum, step, *words, micro_batch=0, hook="on_train_batch_start"):
    """Exit status and standard error of a training that gets ``signum`` after ``step`` steps."""
    running = Training(*words, prepare=_strike, arguments=(hook, step, micro_batch, int(signum)))
    _, errors = running.communicate(timeout=120)
    return running.returncode, errors


def weights(run_dir):
    """Reads every tensor of the model that the run exported."""
    return load_file(Path(run_dir) / "model" / "model.safetensors")


def rows(run_dir, column="train/loss"):
    """Pairs of a step and the text of a column of metrics.csv in that step."""
    with open(Path(run_dir) / "metrics.csv", newline="") as file:
        return [(int(row["step"]), row[column]) for row in csv.DictReader(file) if row[column]]


def events(run_dir):
    """Reads the lines of events.jsonl."""
    return [json.loads(line) for line in (Path(run_dir) / "events.jsonl").read_text().splitlines()]
