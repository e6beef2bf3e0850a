"""Sections F and G: numbers that are not finite, memory that is not there, ranks and workers that die."""

from __future__ import annotations

import json
import os
import signal
import time
from pathlib import Path

import torch
from safetensors.torch import load_file

from faults.harness import PRLIMIT, Bench, Running, Section, children
from multihead.runs.checkpoint import newest_valid

ROWS = Section("F")
RANKS = ("devices=2", "accelerator=cpu", "strategy=ddp")
OVERFLOW = """
import os, torch
from multihead.tasks.lightning_module import TaskModule
step = TaskModule.training_step
def poisoned(self, batch, index):
    if self.trainer.global_step in {steps} and self.training and self.trainer.global_rank == {rank}:
        with torch.no_grad():
            self.task.model.transformer.decoder.layers[0].feed_forward.up.weight.fill_(float("inf"))
    return step(self, batch, index)
TaskModule.training_step = poisoned
"""
UNSEEN = (
    'patch("multihead.training.steps.Steps.on_gradient", lambda self, *rest: None)\n'
    'patch("multihead.training.not_finite.NotFinite.check_loss", lambda self, trainer, task: 0.0)'
)


def overflow(steps: str, rank: int = 0) -> str:
    """Code that makes weights of a feed-forward layer infinite where so many steps are done."""
    return OVERFLOW.replace("{steps}", steps).replace("{rank}", str(rank))


def training(bench: Bench, *words: str, **options) -> Running:
    words = ("task=lm", "debug=smoke", f"run_dir={bench.folder / 'run'}", *words)
    return bench.start(*words, **options)


def finite(run) -> bool:
    """Whether every checkpoint holds finite numbers alone."""
    files = list((run / "checkpoints").glob("step_*/tensors.safetensors"))
    return bool(files) and all(
        bool(tensor.isfinite().all())
        for file in files
        for tensor in load_file(file).values()
        if tensor.is_floating_point()
    )


@ROWS.row(
    "49",
    "a loss that is not finite",
    "step, examples and the first module, before the update; status 4; in no checkpoint; nan.json",
    UNSEEN,
    defect_slow=True,
)
def not_finite(bench):
    told = (
        training(bench, code=overflow("{7}"))
        .ended()
        .expect(4, "step 8", "feed_forward.up", "newest checkpoint: step_5")
    )
    run = bench.folder / "run"
    known = json.loads((run / "nan.json").read_text())
    assert known["step"] == 8 and known["examples"] and newest_valid(run)[0].name == "step_5" and finite(run)
    assert not (run / "result.json").exists()
    return told


@ROWS.row(
    "49b",
    "a loss that is not finite once, with trainer.on_nan=skip, and at every step",
    "one step is left out and counted, the run ends well; twenty in a row end it with status 4",
    'patch("multihead.training.not_finite.MOST_IN_A_ROW", 10**6)\n' + UNSEEN,
    slow=True,
)
def left_out(bench):
    once = (
        "from multihead.tasks.lightning_module import TaskModule\nstep = TaskModule.training_step\n"
        "def poisoned(self, batch, index):\n"
        "    out = step(self, batch, index)\n"
        "    if self.trainer.global_step >= {first} and self.trainer.global_step < {last}:\n"
        "        out['loss'] = out['loss'] * float('nan')\n"
        "    return out\n"
        "TaskModule.training_step = poisoned"
    )
    code = once.replace("{first}", "7").replace("{last}", "8")
    training(bench, "trainer.on_nan=skip", code=code).ended().expect(0)
    run = bench.folder / "run"
    assert "skipped" in (run / "events.jsonl").read_text() and finite(run)
    run.rename(bench.folder / "once")
    words = ("trainer.on_nan=skip", "trainer.max_steps=60", "trainer.val_every_n_steps=60")
    code = once.replace("{first}", "7").replace("{last}", "999")
    done = training(bench, *words, code=code).ended()
    assert finite(run)
    return done.expect(4, "not finite")


@ROWS.row(
    "50",
    "a gradient that overflows in 16 bits",
    "left out, the scale of the loss halved, the run ends well; all checkpoints finite",
    'import torch\npatch("torch.amp.GradScaler.update", '
    "lambda self, new_scale=None: self._per_optimizer_states.clear())",
    slow=True,
    needs=lambda: "" if torch.cuda.is_available() else "needs a GPU",
)
def overflow_of_16_bits(bench):
    training(bench, "precision=16-mixed").ended().expect(0)
    run = bench.folder / "run"
    state = json.loads((run / "checkpoints" / "step_10" / "state.json").read_text())
    (scaler,) = [value for key, value in state.items() if "Precision" in key]
    assert scaler["scale"] < 65536.0 and finite(run), scaler
    return f"scale {scaler['scale']:g} after 10 steps"


@ROWS.row(
    "51",
    "a loss that is not finite on one of two ranks",
    "both stop at the same step, the rank is named, status 4",
    UNSEEN,
    slow=True,
)
def one_rank_not_finite(bench):
    return training(bench, *RANKS, code=overflow("{7}", 1)).ended().expect(4, "step 8", "on rank 1")


@ROWS.row(
    "53",
    "memory: a model or a batch that does not fit the address space",
    "error[machine] with what to lower, status 5; the checkpoint before it stays",
    'patch("multihead.errors.as_user_error", lambda error: error)\n'
    'patch("multihead.training.rank.as_user_error", lambda error: error)',
    needs=PRLIMIT,
    slow=True,
)
def out_of_memory(bench):
    words = ("model.d_model=16384", "model.d_ff=65536", "model.num_decoder_layers=12", "model.num_heads=16")
    done = training(bench, *words, wrap=["prlimit", f"--as={8 << 30}"]).ended()
    return done.expect(5, "error[machine] memory", "fix:")


@ROWS.row(
    "54",
    "a worker of the data loader is killed",
    "named, status 5 or 1 in one line, never a hang; the same command goes on",
    'patch("multihead.data.module.DataModule.train_dataloader", lambda self: (_ for _ in ()).throw(SystemExit(0)))',
    slow=True,
)
def worker_killed(bench):
    words = (
        "data.num_workers=2",
        "trainer.max_steps=400",
        "trainer.val_every_n_steps=400",
        "data.grammar.train_size=4000",
    )
    running = training(bench, *words).wait_for("saved", step=5)
    workers = [pid for pid in children(running.pid) if b"train.py" in Path(f"/proc/{pid}/cmdline").read_bytes()]
    assert workers, "no worker"
    began = time.monotonic()
    os.kill(workers[0], signal.SIGKILL)
    done = running.ended()
    assert done.status == 5 and time.monotonic() - began < 15, (done.status, done.err)
    done.expect(5, "worker")
    assert newest_valid(bench.folder / "run")
    return done.line


@ROWS.row(
    "55",
    "one of two ranks raises",
    "one line that names the rank, status 1 with its traceback in crash.txt, within 15 s",
    'patch("multihead.training.launch._first_error", lambda *rest: SystemExit(0))',
    slow=True,
)
def rank_raises(bench):
    code = (
        "from multihead.tasks.lightning_module import TaskModule\nstep = TaskModule.training_step\n"
        "def fails(self, batch, index):\n"
        "    if self.trainer.global_step == 7 and self.trainer.global_rank == 1:\n"
        "        raise ValueError('no more')\n"
        "    return step(self, batch, index)\n"
        "TaskModule.training_step = fails"
    )
    running = training(bench, *RANKS, code=code).wait_for("saved", step=5)
    began = time.monotonic()
    done = running.ended()
    assert time.monotonic() - began < 15
    done.expect(1, "rank 1", "ValueError: no more")
    assert "no more" in (bench.folder / "run" / "crash.txt").read_text()
    return done.err.strip()


def rank(running: Running, number: int) -> int:
    """Process of a rank."""
    for pid in children(running.pid):
        with open(f"/proc/{pid}/environ", "rb") as file:
            if f"RANK={number}".encode() in file.read().split(b"\0"):
                return pid
    raise AssertionError(f"no rank {number}")


@ROWS.row(
    "56",
    "SIGKILL to one of two ranks: each in turn",
    "status 6 and the rank's number within 15 s, nothing left running, a checkpoint that loads",
    'patch("multihead.training.launch._first_error", lambda *rest: SystemExit(0))',
    slow=True,
)
def rank_killed(bench):
    for number in (0, 1):
        running = bench.start(
            "task=lm", "debug=smoke", f"run_dir={bench.folder / f'run{number}'}", *RANKS, "trainer.max_steps=2000",
            "trainer.val_every_n_steps=2000",
        ).wait_for("saved", step=5)  # fmt: skip
        began = time.monotonic()
        os.kill(rank(running, number), signal.SIGKILL)
        done = running.ended()
        assert time.monotonic() - began < 15
        told = done.expect(6, f"rank {number}", "SIGKILL")
        assert newest_valid(bench.folder / f"run{number}")
    return told


@ROWS.row(
    "57",
    "one of two ranks is stopped (SIGSTOP)",
    "the watchdog names it, status 6 within watchdog + 10 s, nothing left running",
    'patch("multihead.errors.PeerError.status", 0)',
    slow=True,
)
def rank_stopped(bench):
    words = (*RANKS, "trainer.max_steps=5000", "trainer.val_every_n_steps=5000", "trainer.watchdog_seconds=8")
    running = training(bench, *words).wait_for("saved", step=5)
    began = time.monotonic()
    os.kill(rank(running, 1), signal.SIGSTOP)
    done = running.ended()
    assert time.monotonic() - began < 8 + 12, time.monotonic() - began
    return done.expect(6, "rank 1", "stopped")


@ROWS.row(
    "56b",
    "SIGKILL to the parent of two ranks",
    "no rank outlives it by 15 s; the same command goes on",
    'patch("multihead.training.rank.sys.platform", "other")\n'
    'patch("multihead.training.watchdog._leave_with_parent", lambda *rest: None)',
    slow=True,
)
def parent_killed(bench):
    words = (*RANKS, "trainer.max_steps=5000", "trainer.val_every_n_steps=5000")
    running = training(bench, *words).wait_for("saved", step=5)
    ranks = [rank(running, 0), rank(running, 1)]
    running.signal(signal.SIGKILL)
    running.process.wait()
    deadline = time.monotonic() + 15
    while any(alive(pid) for pid in ranks) and time.monotonic() < deadline:
        time.sleep(0.05)
    left = [pid for pid in ranks if alive(pid)]
    for pid in left:
        os.kill(pid, signal.SIGKILL)
    assert not left, left
    assert newest_valid(bench.folder / "run")


def alive(pid: int) -> bool:
    """Whether a process runs."""
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


@ROWS.row(
    "59",
    "two ranks and then one, one and then two, of the same run",
    "goes on at the same example: in 64 bits, losses within 1e-6 of the run that one rank did alone",
    "import multihead.training.counters as c\nend_step = c.Counters.end_step\n"
    "def skipping(self, *rest, **more):\n"
    "    end_step(self, *rest, **more)\n"
    "    self.step_in_epoch += self.step_in_epoch == 8\n"
    'patch("multihead.training.counters.Counters.end_step", skipping)',
    slow=True,
)
def other_ranks(bench):
    from faults.storage import losses

    exact = (
        "precision=64-true",
        "model.dropout=0",
        "trainer.max_steps=20",
        "trainer.val_every_n_steps=20",
        "data.num_workers=0",
    )
    alone = {step: float(loss) for step, loss in losses(bench.finished("lm", *exact)).items()}
    for first, second in ((RANKS, ()), ((), RANKS)):
        run = bench.folder / f"run{len(first)}"
        words = ("task=lm", "debug=smoke", f"run_dir={run}", *exact)
        bench.start(*words, *first).wait_for("saved", step=10).signal(signal.SIGTERM).ended()
        bench.run(*words, *second, "resume=auto").expect(0)
        found = {step: float(loss) for step, loss in losses(run).items()}
        assert found.keys() == alone.keys()
        worst = max(abs(found[step] - alone[step]) for step in alone)
        assert worst < 1e-6, worst
    return f"largest difference {worst:.1e}"


@ROWS.row(
    "60",
    "41 test sentences and two ranks",
    "no hang; none is lost or counted twice: the same metrics as one rank's",
    'import multihead.data.plan\npatch("multihead.data.module.DataModule.test_dataloader", '
    "lambda self: (_ for _ in ()).throw(SystemExit(0)))",
    slow=True,
)
def uneven(bench):
    words = (
        "task=lm",
        "debug=smoke",
        "data.grammar.test_size=41",
        "data.eval_tokens=64",
        "model.dropout=0",
        "model.max_len=32",
    )
    results = []
    for number, ranks in enumerate((RANKS, ())):
        bench.run(*words, *ranks, f"run_dir={bench.folder / str(number)}").expect(0)
        results.append(json.loads((bench.folder / str(number) / "result.json").read_text()))
    two, one = results
    assert abs(two["test/loss"] - one["test/loss"]) < 1e-5, (two["test/loss"], one["test/loss"])
    return f"{two['test/loss']:.6f} and {one['test/loss']:.6f}"


for _row in ROWS:
    _row.section = "F" if int(_row.number[:2]) <= 52 else "G"
