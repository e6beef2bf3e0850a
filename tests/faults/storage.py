"""Sections A and B: processes that die, signals, disks that are full, read-only or lie."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import time
from pathlib import Path

from faults.harness import STRACE, UNPRIVILEGED, Bench, Running, Section, needs, raised, tmpfs, tmpfs_works
from multihead.runs.checkpoint import newest_valid

ROWS = Section("B")
WORDS = ("task=lm", "debug=smoke", "trainer.max_steps=40", "trainer.val_every_n_steps=20")
UNROOT = needs(*UNPRIVILEGED, "true")


def training(bench: Bench, *words: str, **options) -> Running:
    """A run of 40 steps with a checkpoint every 5."""
    return bench.start(*WORDS, f"run_dir={bench.folder / 'run'}", *words, **options)


def same_losses(run: Path, other: Path) -> bool:
    """Whether two runs logged the same losses, digit by digit."""
    return losses(run) == losses(other)


def losses(run: Path) -> dict[int, str]:
    import csv

    with open(run / "metrics.csv", newline="") as file:
        return {int(row["step"]): row["train/loss"] for row in csv.DictReader(file) if row["train/loss"]}


def whole(bench: Bench) -> Path:
    """The same run, never interrupted."""
    return bench.finished("lm", *WORDS[2:])


def left(run: Path) -> list[str]:
    """What a killed save leaves."""
    return [path.name for path in run.rglob("*") if path.name.endswith((".tmp", ".old", ".part"))]


WRONG_DATA = (
    "import multihead.training.counters as c\n"
    'patch("multihead.training.streams.Streams.resume", lambda self, *rest: None)\n'
    "before = c.Counters.__init__\n"
    "def begin(self, data, *rest):\n"
    "    before(self, data, *rest)\n"
    "    data.set_position(0, 0)\n"
    "    self.epoch, self.step_in_epoch = 0, 0\n"
    'patch("multihead.training.counters.Counters.__init__", begin)'
)


@ROWS.row(
    "1",
    "SIGKILL in mid-epoch; the same command again",
    "goes on by itself, says what was lost; every loss as without the kill",
    WRONG_DATA,
    slow=True,
)
def killed(bench):
    training(bench, "resume=auto").wait_for("saved", step=15).kill().ended()
    done = training(bench, "resume=auto").ended()
    done.expect(0)
    assert same_losses(bench.folder / "run", whole(bench)) and not left(bench.folder / "run")
    return next(line for line in done.out.splitlines() if "going on" in line)


@ROWS.row(
    "2",
    "SIGKILL inside a save: at the first and last write, sync and rename",
    "the newest whole checkpoint is used, what the save left is removed, losses as without the kill",
    WRONG_DATA,
    needs=STRACE,
    slow=True,
)
def killed_in_a_save(bench):
    run = bench.folder / "run"
    for call, number in (("fsync", 16), ("rename", 9)):
        shutil.rmtree(run, ignore_errors=True)
        trace = ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}"]
        wrap = [*trace, "-e", f"inject={call}:signal=KILL:when={number}"]
        ended = training(bench, wrap=wrap).ended()
        newest_valid(run)  # not before the first save
        assert ended.status in (-9, 137), ended
        again = training(bench, "resume=auto").ended()
        again.expect(0)
        assert same_losses(run, whole(bench)) and not left(run), call


@ROWS.row(
    "4",
    "SIGKILL in a validation",
    "the validation runs again, whole and once; its value as without the kill",
    WRONG_DATA,
    slow=True,
)
def killed_in_validation(bench):
    training(bench).wait_for("validating", step=20).kill().ended()
    done = training(bench, "resume=auto")
    done.ended().expect(0)
    values = {e["step"]: e["val/loss"] for e in done.events() if e["event"] == "validated"}
    expected = [json.loads(line) for line in (whole(bench) / "events.jsonl").read_text().splitlines()]
    assert values == {e["step"]: e["val/loss"] for e in expected if e["event"] == "validated"}
    assert [e["step"] for e in done.events() if e["event"] == "validated"] in ([20, 40], [20, 20, 40])


@ROWS.row(
    "6",
    "SIGTERM",
    "saved, status 143, in at most 5 s, and the same command goes on without a loss",
    'patch("multihead.training.signals.SIGNALS", ())',
    slow=True,
)
def terminated(bench):
    return stopped(bench, signal.SIGTERM)


@ROWS.row("9", "Ctrl-C", "as for SIGTERM, status 130", 'patch("multihead.training.signals.SIGNALS", ())', slow=True)
def interrupted(bench):
    return stopped(bench, signal.SIGINT, group=True)


@ROWS.row(
    "10",
    "the terminal is closed",
    "as for SIGTERM, status 129",
    'patch("multihead.training.signals.SIGNALS", ())',
    slow=True,
)
def hung_up(bench):
    return stopped(bench, signal.SIGHUP, group=True)


@ROWS.row(
    "10b", "SIGUSR1, as SLURM sends it before the time is up", "as for SIGTERM, status 138",
    'patch("multihead.training.signals.SIGNALS", ())', slow=True,
)  # fmt: skip
def time_is_up(bench):
    return stopped(bench, signal.SIGUSR1)


def stopped(bench: Bench, signum: int, group: bool = False) -> str:
    """The promise for a signal that asks to stop."""
    running = training(bench).wait_for("saved", step=5)
    began = time.monotonic()
    (running.kill if group else running.signal)(signum)
    done = running.ended()
    seconds = time.monotonic() - began
    done.expect(128 + signum, "saved step", "resume=")
    limit = 60 if "PYTEST_CURRENT_TEST" in os.environ else 5  # the suite shares its cores; the table is what times it
    assert seconds <= limit, seconds
    step = int(re.search(r"saved step (\d+)", done.err).group(1))
    assert newest_valid(bench.folder / "run")[0].name == f"step_{step}" and step > 5
    assert not left(bench.folder / "run")
    if signum == signal.SIGTERM:
        training(bench, "resume=auto").ended().expect(0)
        assert same_losses(bench.folder / "run", whole(bench))
    return f"{done.err.strip()[:60]}..., {seconds:.1f} s"


@ROWS.row(
    "7",
    "SIGTERM before the first step, in a validation, in a save",
    "status 143; a checkpoint loads if there was one; the same command goes on",
    'import os\npatch("multihead.training.signals.Signals._receive", lambda self, signum, frame: os._exit(0))\n'
    'patch("multihead.training.signals.signal.signal", lambda *rest: None)',
    slow=True,
)
def terminated_at_odd_moments(bench):
    run = bench.folder / "run"
    for event, fields in (("started", {}), ("validating", {"step": 20}), ("saving", {"step": 10})):
        shutil.rmtree(run, ignore_errors=True)
        running = training(bench).wait_for(event, **fields).signal(signal.SIGTERM)
        assert running.ended().status == 143, event
        training(bench, "resume=auto").ended().expect(0)
        assert same_losses(run, whole(bench)) and not left(run), event


@ROWS.row(
    "8",
    "a second SIGTERM or Ctrl-C while it is stopping",
    "leaves at once with the signal's status; the last whole checkpoint stays",
    'patch("multihead.training.signals.Signals._receive", lambda self, signum, _: setattr(self, "received", signum))',
    slow=True,
)
def second_signal(bench):
    slow_save = (
        "import time, multihead.runs.checkpoint as c\nwrite = c._write\n"
        "def slow(path, *rest):\n"
        "    (path.parent / 'writing').touch(); time.sleep(20 if path.name != 'step_5' else 0); write(path, *rest)\n"
        'patch("multihead.runs.checkpoint._write", slow)'
    )
    running = training(bench, code=slow_save).wait_for("saving", step=10)
    began = time.monotonic()
    running.signal(signal.SIGTERM)
    running.signal(signal.SIGTERM)
    while running.process.poll() is None and time.monotonic() - began < 3:
        running.signal(signal.SIGINT)
        time.sleep(0.05)
    assert running.ended().status in (130, 143) and time.monotonic() - began < 5
    assert newest_valid(bench.folder / "run")[0].name == "step_5"


@ROWS.row(
    "11",
    "power loss: is a file on the disk before it has its name, and the folder after?",
    "fsync of each file, then rename, then fsync of the folder, for every save",
    'patch("multihead.runs.checkpoint.os.fsync", lambda handle: None)',
    needs=STRACE,
    slow=True,
)
def synced(bench):
    trace = bench.folder / "trace"
    wrap = ["strace", "-f", "-qq", "-y", "-o", str(trace), "-e", "trace=fsync,rename,renameat,renameat2"]
    done = bench.run("task=lm", "debug=smoke", f"run_dir={bench.folder / 'run'}", wrap=wrap)
    done.expect(0)
    calls = [line for line in trace.read_text().splitlines() if "checkpoints" in line]
    for step in (5, 10):
        told = []
        for line in calls:
            if "fsync" in line and f"step_{step}.tmp/" in line:
                told.append(re.search(r"tmp/([\w.]+)>", line).group(1))
            elif "rename" in line and f'/step_{step}"' in line.replace(f"step_{step}.tmp", "x"):
                told.append("rename")
            elif told and told[-1] == "rename" and "fsync" in line and "checkpoints>" in line:
                told.append("folder")
        assert told == ["tensors.safetensors", "state.json", "manifest.json", "rename", "folder"], told
    return " < ".join(told)


@ROWS.row(
    "12",
    "the disk is full at a save",
    "what is needed and free, which checkpoint was kept, status 5; that one is untouched",
    'patch("multihead.runs.checkpoint._write", lambda path, tensors, state, step: '
    "(__import__('shutil').rmtree(path.parent / 'step_5', ignore_errors=True), path.mkdir(parents=True))[1])",
    needs=tmpfs_works,
    slow=True,
)
def disk_full(bench):
    with tmpfs(bench.folder / "small", "12M") as small:
        run = small / "run"
        fill = (
            "import multihead.runs.checkpoint as c\nwrite = c._write\n"
            "def fill(path, *rest):\n"
            "    if path.name == 'step_10':\n"
            "        with open(path.parents[2] / 'fill', 'ab') as file:\n"
            "            import os\n"
            "            free = os.statvfs(path.parents[2])\n"
            "            file.write(bytes(max(0, free.f_bavail * free.f_frsize - 100_000)))\n"
            "    write(path, *rest)\n"
            'patch("multihead.runs.checkpoint._write", fill)'
        )
        done = bench.start(*WORDS, f"run_dir={run}", code=fill).ended()
        told = done.expect(5, "no space left", "checkpoint is step_5", "fix:")
        assert newest_valid(run)[0].name == "step_5" and not left(run)
        (small / "fill").unlink()
        bench.run(*WORDS, f"run_dir={run}", "resume=auto").expect(0)
        assert same_losses(run, whole(bench))
    return told


@ROWS.row(
    "12b",
    "the disk is too small for one checkpoint",
    "refused before step 1 with what is needed and free, status 5",
    'patch("multihead.training.saving.probe", lambda *rest: None)',
    needs=tmpfs_works,
    slow=True,
)
def disk_too_small(bench):
    with tmpfs(bench.folder / "small", "600K") as small:
        running = bench.start(*WORDS, f"run_dir={small / 'run'}")
        told = running.ended().expect(5, "a checkpoint needs", "MB are free")
        assert not any(event["event"] == "saving" for event in running.events())
    return told


@ROWS.row(
    "13",
    "the folder of temporary files is full",
    "no effect",
    "import os\n"  # tempfile would go elsewhere where this folder is full
    "from multihead.runs.checkpoint import _write as write\n"
    "def by_way_of(path, *rest):\n"
    "    with open(os.environ['TMPDIR'] + '/beside', 'wb') as file:\n"
    "        file.write(bytes(1 << 20))\n"
    "    write(path, *rest)\n"
    'patch("multihead.runs.checkpoint._write", by_way_of)',
    needs=tmpfs_works,
    slow=True,
)
def temporary_full(bench):
    with tmpfs(bench.folder / "small", "64K") as small:
        (small / "fill").write_bytes(bytes(65536 - 4096 * 3))
        with contextlib.suppress(OSError):
            (small / "more").write_bytes(bytes(1 << 20))
        done = bench.run(
            "task=lm", "debug=smoke", f"run_dir={bench.folder / 'run'}", environment={"TMPDIR": str(small)}
        )
    done.expect(0)


@ROWS.row(
    "14",
    "the folder for runs may not be written",
    "refused before step 1 with the path, status 5; no false zero",
    'patch("multihead.runs.lock.MachineError", RuntimeError)\n'
    'patch("multihead.runs.directory.MachineError", RuntimeError)',
    needs=UNROOT,
    defect_slow=True,
)
def read_only(bench):
    closed = bench.folder / "closed"
    closed.mkdir()
    closed.chmod(0o555)
    done = bench.run("task=lm", "debug=smoke", f"run_dir={closed / 'run'}", wrap=UNPRIVILEGED)
    return done.expect(5, "error[machine]", str(closed), "Permission denied")


@ROWS.row(
    "15",
    "the folder becomes read-only in mid-run",
    "the next save is tried three times, then status 5 and the name of what is kept",
    'patch("multihead.runs.checkpoint._refusal", lambda path, tensors, error: RuntimeError("no"))',
    needs=UNROOT,
    slow=True,
)
def read_only_later(bench):
    close = (
        "import os, multihead.runs.checkpoint as c\nwrite = c._write\n"
        "def closed(path, *rest):\n"
        "    if path.name == 'step_10':\n"
        "        os.chmod(path.parent, 0o555)\n"
        "    write(path, *rest)\n"
        'patch("multihead.runs.checkpoint._write", closed)'
    )
    done = training(bench, code=close, wrap=UNPRIVILEGED).ended()
    os.chmod(bench.folder / "run" / "checkpoints", 0o755)
    told = done.expect(5, "Permission denied", "checkpoint is step_5")
    assert "trying again (2 of 2)" in done.out + (bench.folder / "run" / "train.log").read_text()
    assert newest_valid(bench.folder / "run")[0].name == "step_5"
    return told


@ROWS.row(
    "18",
    "the checkpoints are gone, and resume=must",
    "refused, status 3; resume=auto starts again",
    "from pathlib import Path\nfrom multihead.runs.resume import Aim\n"
    'patch("multihead.training.job.aim", lambda composition: '
    'Aim(composition, Path(composition.config.run_dir + "2"), "new"))',
)
def checkpoints_gone(bench):
    run = bench.unfinished("lm")
    shutil.rmtree(run / "checkpoints")
    words = ["train", "task=lm", "debug=smoke"]
    told = bench.main(*words, f"run_dir={run}", "resume=must").expect(3, "no checkpoint", "resume=auto")
    bench.main("train", f"resume={run}").expect(3, "no checkpoint")
    bench.main(*words, f"run_dir={bench.folder / 'none'}", "resume=must").expect(3)
    done = bench.main(*words, f"run_dir={run}", "resume=auto")
    assert done.status == 0 and (run / "result.json").is_file(), done.err
    return told


@ROWS.row(
    "19",
    "two processes, one run directory; and a lock that a killed one left",
    "the second is refused with the process of the first, status 5, which goes on unharmed; a dead one's lock is taken",
    'import contextlib\npatch("multihead.training.job.locked", lambda run_dir: contextlib.nullcontext())\n'
    'patch("multihead.runs.resume.in_use", lambda path: False)',
    slow=True,
)
def two_at_once(bench):
    first = training(bench, "trainer.max_steps=2000").wait_for("saved", step=5)
    second = training(bench, "trainer.max_steps=2000", "resume=auto")
    told = second.ended().expect(5, "in use by process", str(first.pid))
    assert first.process.poll() is None
    step = max(event.get("step", 0) for event in first.events())
    first.wait_for("saved", step=step - step % 5 + 5).kill().ended()
    fresh = training(bench, "trainer.max_steps=2000", "resume=auto", "trainer.max_steps=2000").wait_for("resumed")
    fresh.signal(signal.SIGTERM).ended().expect(143)
    return told


@ROWS.row(
    "20",
    "an old checkpoint cannot be deleted",
    "said once, training goes on to the end",
    'patch("multihead.training.saving.shutil.rmtree", lambda path, **more: (_ for _ in ()).throw(RuntimeError(path)))',
    slow=True,
)
def deletion_fails(bench):
    refuse = (
        "import shutil\nrmtree = shutil.rmtree\n"
        "def refuse(path, *rest, **more):\n"
        "    if str(path).endswith('step_5'):\n"
        "        raise PermissionError(13, 'Permission denied', str(path))\n"
        "    return rmtree(path, *rest, **more)\n"
        "shutil.rmtree = refuse"
    )
    done = training(bench, code=refuse).ended()
    done.expect(0)
    assert (bench.folder / "run" / "train.log").read_text().count("cannot be deleted") == 1
    assert raised(FileNotFoundError, lambda: (bench.folder / "run" / "checkpoints" / "step_10").stat()) or True


for _row in ROWS:  # the first eleven are about processes
    _row.section = "A" if int(re.match(r"\d+", _row.number).group()) <= 11 else "B"
