"""``sweep``: runs a W&B sweep file without W&B; each trial a process of its own, the ledger an Optuna study."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from multihead.capabilities import cores
from multihead.config.compose import named, parse
from multihead.config.extras import install, installed, require_package
from multihead.config.folder import conf_dir
from multihead.config.merge import Composition
from multihead.config.settings import read_words
from multihead.config.sweep import Sweep, check, read_sweep
from multihead.config.verbs import SweepSettings
from multihead.config.words import write
from multihead.errors import CheckpointError, ConfigError, MachineError, Stopped
from multihead.runs.screen import report_console
from multihead.sweeping.importance import importances, no_importances
from multihead.sweeping.ledger import SETTLED, Ledger, Row
from multihead.sweeping.report import best_row, console_table, line_of, write_report
from multihead.sweeping.trial import GRACE_SECONDS
from multihead.sweeping.worker import STORAGE

PROGRAM = [sys.executable, "-m", "multihead", "train"]
POLL_SECONDS = 1.0
QUICK_SECONDS = 10.0
MAX_QUICK_DEATHS = 3
"""A worker that is killed is started again, unless it is killed at once so many times."""
REPORT = "report.html"
OWN = "own_conf"
"""Folder with the frozen copy of the user's own YAML files."""


def run(words: Sequence[str]) -> int:
    """Runs ``multihead sweep``; see `SweepSettings`."""
    settings, typed = read_words(SweepSettings, words)
    _check_packages(settings)
    sweep = read_sweep(settings.file)
    sweep.name = settings.name or sweep.name
    folder = Path(settings.dir or Path("outputs") / "sweeps" / sweep.name)
    with _frozen_conf(folder):
        first = check(sweep, typed)
        ledger_options = {"storage": settings.storage, "val_every": first.config.trainer.val_every_n_steps}
        if settings.status or settings.best or settings.to:
            return _look(settings, Ledger(sweep, folder, create=False, **ledger_options), folder)
        trials, seconds = _budget(sweep, settings)
        ledger = _launch(sweep, folder, typed, settings, first, ledger_options)
        return Runner(sweep, folder, settings, ledger, first).run(trials, seconds, _trial_words(typed, folder))


def _check_packages(settings: SweepSettings) -> None:
    """Refuses a sweep for which an optional package is missing, before anything is written.

    Raises:
        ConfigError: Names what to install.
    """
    require_package("optuna", "sweep", "a sweep")
    if settings.storage.startswith("postgresql"):
        require_package("psycopg", "storage", "PostgreSQL")


@contextlib.contextmanager
def _frozen_conf(folder: Path) -> Iterator[None]:
    """Inside, a sweep that was launched before is composed from the files as they were then."""
    before = os.environ.get("MULTIHEAD_CONF")
    if (folder / "conf").is_dir():
        os.environ["MULTIHEAD_CONF"] = str((folder / "conf").resolve())
    try:
        yield
    finally:
        os.environ.pop("MULTIHEAD_CONF", None)
        if before is not None:
            os.environ["MULTIHEAD_CONF"] = before


def _budget(sweep: Sweep, settings: SweepSettings) -> tuple[int, float]:
    """Most trials, and most seconds of trials; 0 for none.

    Raises:
        ConfigError: The sweep would never end.
    """
    trials, seconds, _ = settings.limits()
    if not settings.budget:
        trials = sweep.run_cap
    if sweep.method != "grid" and not trials and not seconds:
        what = f"method: {sweep.method} never ends by itself, and {sweep.path} has no run_cap"
        raise ConfigError("budget", what, "budget=20 (trials) or budget=8h (of trials)")
    return trials, seconds


# Launching


def _launch(
    sweep: Sweep,
    folder: Path,
    typed: Sequence[str],
    settings: SweepSettings,
    first: Composition,
    ledger_options: Mapping[str, Any],
) -> Ledger:
    """Freezes what the trials are made of, or checks that it is what the sweep was launched with."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        _freeze_files(sweep, folder, first)
    except OSError as error:
        raise MachineError(str(folder), f"cannot be written ({error.strerror})", "choose another dir=") from error
    ledger = Ledger(sweep, folder, **ledger_options)
    known = ledger.launch.get("file")
    if known is not None and known != sweep.text:
        raise _changed(sweep, known)
    ledger.freeze(
        {
            "file": sweep.text,
            "words": list(typed),
            "seeds": settings.seeds,
            "conf": _checksum(folder / "conf"),
            **({"own_conf": _checksum(folder / OWN)} if first.config.config_dir else {}),
            "plugin": first.plugin.sha256 if first.plugin else "",
        }
    )
    return ledger


def _freeze_files(sweep: Sweep, folder: Path, first: Composition) -> None:
    """Copies the configuration's files and the plugin beside the ledger, whole or not at all."""
    if not (folder / "conf").is_dir():
        beside = folder / f"conf.{os.getpid()}.tmp"
        shutil.copytree(conf_dir(), beside)
        with contextlib.suppress(OSError):  # another process of the same sweep was faster
            beside.rename(folder / "conf")
        shutil.rmtree(beside, ignore_errors=True)
        (folder / sweep.path.name).write_text(sweep.text)
    if first.config.config_dir and not (folder / OWN).is_dir():
        beside = folder / f"{OWN}.{os.getpid()}.tmp"
        shutil.copytree(first.config.config_dir, beside, ignore=_all_but_yaml)
        with contextlib.suppress(OSError):
            beside.rename(folder / OWN)
        shutil.rmtree(beside, ignore_errors=True)
    if first.plugin and first.plugin.path and not (target := _plugin_copy(folder, first.plugin.path)).is_file():
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(first.plugin.path, target)


def _all_but_yaml(folder: str, names: list[str]) -> list[str]:
    """What of a folder is not copied."""
    return [name for name in names if not (name.endswith(".yaml") or Path(folder, name).is_dir())]


def _plugin_copy(folder: Path, path: Path) -> Path:
    return folder.resolve() / "plugin" / path.name


def _trial_words(typed: Sequence[str], folder: Path) -> list[str]:
    """The typed words, with the frozen copies in the place of the plugin and of the user's folder of files."""
    words = []
    for word, override in zip(typed, parse(typed), strict=True):
        if override.key == "plugin" and (copy := _plugin_copy(folder, Path(named([override], "plugin")))).is_file():
            word = write("plugin", str(copy))
        if override.key == "config_dir":
            word = write("config_dir", str(folder.resolve() / OWN))
        words.append(word)
    return words


def _checksum(folder: Path) -> str:
    """Of all YAML files below a folder, by their names and contents."""
    digest = hashlib.sha256()
    for file in sorted(folder.rglob("*.yaml")):
        digest.update(f"{file.relative_to(folder).as_posix()}\0".encode() + file.read_bytes() + b"\0")
    return digest.hexdigest()[:16]


def _changed(sweep: Sweep, known: str) -> CheckpointError:
    lines = [known.splitlines(), sweep.text.splitlines()]
    longest = max(len(part) for part in lines)
    before, now = ([*part, *[""] * (longest - len(part))] for part in lines)
    number = next((i for i in range(longest) if before[i] != now[i]), 0)
    what = f"has changed since the sweep was launched: {before[number].strip()!r} is now {now[number].strip()!r}"
    fix = "put it back, or give the new sweep another name="
    return CheckpointError(f"{sweep.path}:{number + 1}", what, fix)


# Running


class Runner:
    """The process that starts the workers, tells of what they settle, and passes signals on.

    Args:
        sweep: What is swept.
        folder: Of the sweep.
        settings: Of the command.
        ledger: Of the sweep.
        first: One trial's configuration, for what all have in common.
    """

    def __init__(self, sweep: Sweep, folder: Path, settings: SweepSettings, ledger: Ledger, first: Composition):
        self.sweep, self.folder, self.settings, self.ledger, self.first = sweep, folder, settings, ledger, first
        self.console = report_console()
        self.signum = 0

    def run(self, trials: int, seconds: float, words: Sequence[str]) -> int:
        """Runs the sweep to its end; returns 0, or 7 where trials failed.

        Raises:
            Stopped: A signal ended it; the same command goes on.
        """
        rows = self.ledger.rows()
        told = {row.number for row in rows if row.state in SETTLED}
        self._announce(rows, trials, seconds)
        caught = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
        before = {signum: signal.signal(signum, self._stop) for signum in caught}
        workers = [self._start(index, trials, seconds, words) for index in range(self.settings.workers)]
        try:
            status = self._follow(workers, told, lambda index: self._start(index, trials, seconds, words))
        finally:
            for _, process in workers:
                _end(process)
            for signum, handler in before.items():
                signal.signal(signum, handler)
        return self._finish(told, status)

    def _stop(self, signum: int, frame: Any) -> None:
        self.signum = signum

    def _announce(self, rows: Sequence[Row], trials: int, seconds: float) -> None:
        grid = self.sweep.grid_size() if self.sweep.method == "grid" else 0
        most = min(trials or grid, grid) if grid else trials
        size = f"{most} trials" if most else f"{seconds / 3600:g} h of trials"
        known = f"; {sum(row.state in SETTLED for row in rows)} of them done" if rows else ""
        workers = f"{self.settings.workers} worker{'s' if self.settings.workers > 1 else ''}"
        where = self.settings.storage.rpartition("@")[2] or self.ledger.folder / "ledger.db"
        self.console.print(f"sweep {self.sweep.name}: {size}{known}; {workers}; ledger {where}", highlight=False)

    def _start(self, index: int, trials: int, seconds: float, words: Sequence[str]) -> tuple[float, subprocess.Popen]:
        base = int(self.first.config.seed)
        seeds = list(range(base, base + self.settings.seeds)) if self.settings.seeds > 1 else [-1]
        environment = {"WANDB_RUN_GROUP": self.sweep.name, "MULTIHEAD_CONF": str((self.folder / "conf").resolve())}
        job = {
            "words": list(words),
            "seeds": seeds,
            "trials": trials,
            "seconds": seconds,
            "trial_seconds": self.settings.limits()[2],
            "program": PROGRAM,
            "environment": environment | share_of(index, self.settings.workers, self.first),
        }
        given = {"file": str(self.sweep.path), "name": self.sweep.name, "folder": str(self.folder), "job": job}
        given["val_every"] = self.first.config.trainer.val_every_n_steps
        command = [sys.executable, "-m", "multihead.sweeping.worker", json.dumps(given)]
        own = {**os.environ, STORAGE: self.settings.storage}
        process = subprocess.Popen(command, env=own, stdin=subprocess.DEVNULL, start_new_session=True)
        return time.monotonic(), process

    def _follow(self, workers: list[tuple[float, subprocess.Popen]], told: set[int], start: Any) -> int:
        """Waits for the workers, and starts those again that were killed; returns the worst status of the others."""
        status, quick = 0, 0
        while not self.signum and any(process.poll() is None for _, process in workers):
            time.sleep(POLL_SECONDS)
            self._tell(told)
            for index, (began, process) in enumerate(workers):
                if process.poll() is None or process.returncode >= 0:
                    continue
                quick = quick + 1 if time.monotonic() - began < QUICK_SECONDS else 0
                name = signal.Signals(-process.returncode).name
                if quick >= MAX_QUICK_DEATHS:
                    raise MachineError("sweep", f"workers are killed by {name} as soon as they start")
                self.console.print(f"worker {index} was killed by {name}; another one goes on", highlight=False)
                workers[index] = start(index)
        for _, process in workers:
            if process.poll() is not None and 0 < process.returncode < 128:
                status = max(status, process.returncode)
        return status

    def _tell(self, told: set[int]) -> None:
        rows = self.ledger.rows()
        best = best_row(rows, self.sweep.goal)
        for row in rows:
            if row.state in SETTLED and row.number not in told:
                told.add(row.number)
                self.console.print(line_of(row, self.sweep, best), highlight=False, markup=False)

    def _finish(self, told: set[int], status: int) -> int:
        self._tell(told)
        rows = self.ledger.rows()
        write_report(self.folder / REPORT, self.sweep, rows, self.ledger.study)
        if self.signum:
            done = sum(row.state in SETTLED for row in rows)
            raise Stopped(
                self.signum,
                f"stopped by {signal.Signals(self.signum).name}; {done} trials are done, the same command goes on",
            )
        show(self.console, self.sweep, rows, self.folder, self.ledger.study)
        if status:
            return status
        return 7 if any(row.state == "failed" for row in rows) else 0


def _end(process: subprocess.Popen) -> None:
    """Tells a worker to stop, which ends its trial; it is killed where it does not."""
    if process.poll() is not None:
        return
    process.terminate()
    try:
        process.wait(GRACE_SECONDS + 10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def share_of(index: int, workers: int, first: Composition) -> dict[str, str]:
    """The cores and GPUs of one of several workers on this machine, as variables; what the user set stays."""
    variables = {}
    devices = int(first.config.devices) if first.config.devices.isdigit() else 1
    if "OMP_NUM_THREADS" not in os.environ and workers > 1:
        variables["OMP_NUM_THREADS"] = str(max(1, cores() // (workers * devices)))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    gpus = visible.split(",") if visible else [str(i) for i in range(len(list(Path("/dev").glob("nvidia[0-9]*"))))]
    if gpus and workers > 1 and first.config.accelerator in ("auto", "gpu", "cuda"):
        first_gpu = index * devices % len(gpus)
        variables["CUDA_VISIBLE_DEVICES"] = ",".join(gpus[first_gpu : first_gpu + devices])
    return variables


# Looking


def _look(settings: SweepSettings, ledger: Ledger, folder: Path) -> int:
    """``status=true``, ``best=true`` and ``to=wandb``."""
    rows, sweep = ledger.rows(), ledger.sweep
    if settings.best:
        sys.stdout.write(best_command(rows, sweep, folder) + "\n")
        return 0
    if settings.to:
        from multihead.sweeping.upload import send

        return send(rows, sweep)
    write_report(folder / REPORT, sweep, rows, ledger.study)
    show(report_console(), sweep, rows, folder, ledger.study)
    return 0


def best_command(rows: Sequence[Row], sweep: Sweep, folder: Path) -> str:
    """What to type to train the best configuration.

    Raises:
        ConfigError: No trial is complete.
    """
    row = best_row(rows, sweep.goal)
    if row is None:
        raise ConfigError("best", f"no trial of {sweep.name} is complete yet", "status=true shows where it is")
    return "python train.py " + shlex.join(row.record.get("words", sweep.point(row.values)))


def show(console: Console, sweep: Sweep, rows: Sequence[Row], folder: Path, study: Any) -> None:
    """The table of trials, what failed and why, the best one's command, and where the pictures are."""
    console.print(console_table(sweep, rows))
    counts = {state: sum(row.state == state for row in rows) for state in (*SETTLED, "running", "orphaned")}
    console.print(", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no trials yet")
    if found := importances(study, rows):
        shares = ", ".join(f"{name} {share:.0%}" for name, share in found.items())
        console.print(f"importance of parameters: {shares}", highlight=False, soft_wrap=True)
    elif best_row(rows, sweep.goal):
        console.print(f"importance of parameters: not known ({no_importances(rows)})", highlight=False, soft_wrap=True)
    if best_row(rows, sweep.goal):
        console.print("best: " + best_command(rows, sweep, folder), highlight=False, markup=False, soft_wrap=True)
    lacks = "" if installed("matplotlib") else f" (a table only; for pictures {install('matplotlib')})"
    console.print(f"pictures: {folder / REPORT}{lacks}", highlight=False, soft_wrap=True, markup=False)
