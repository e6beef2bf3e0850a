"""The fault matrix: what a row is, how a command is started, watched and struck, and what must hold however it ended.

A row's check injects its fault into real files and real processes and asserts what the user sees. Its `defect` is a
line or two of Python that put a defect back (often what the stock framework does); with it the check has to fail.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
CODE = "MULTIHEAD_FAULT_CODE"  # environment variable that holds code which every Python child runs first
PATIENCE = 110.0  # seconds that one command may take
STARTUP = """
import builtins, importlib, os
def patch(target, value):
    parts = target.split(".")
    for length in range(len(parts) - 1, 0, -1):
        try:
            owner = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for name in parts[length:-1]:
            owner = getattr(owner, name)
        if not hasattr(owner, parts[-1]) and not hasattr(builtins, parts[-1]):
            break
        before = owner.__dict__.get(parts[-1])  # None: of a built-in, which the module's own name then hides
        setattr(owner, parts[-1], value)
        return owner, parts[-1], before
    raise LookupError(target)
"""
RUN_CODE = 'exec(os.environ["MULTIHEAD_FAULT_CODE"], {"patch": patch})\n'
VERB = "import sys; from multihead.cli import main; sys.exit(main(sys.argv[1:]))"


@dataclass
class Row:
    """One fault, what was promised for it, and how to see whether that is so."""

    number: str
    section: str
    title: str
    promise: str
    check: Callable[[Bench], str | None]
    """Injects the fault and asserts; may return what was seen, for the table."""
    defect: str
    """Python that runs first, with ``patch("module.name", value)``; the check has to fail with it."""
    slow: bool = False
    """Both of its tests take long."""
    defect_slow: bool = False
    """The test that the check sees its defect takes long."""
    needs: Callable[[], str] = field(default=lambda: "")
    """Why the row cannot run here; empty where it can."""


class Section(list):
    """Rows in the order in which their checks are defined."""

    def __init__(self, letter: str):
        super().__init__()
        self.letter = letter

    def row(self, number: str, title: str, promise: str, defect: str, **more: Any) -> Callable:
        """Makes a row of the check that is defined below."""

        def add(check: Callable[[Bench], str | None]) -> Callable[[Bench], str | None]:
            self.append(Row(number, self.letter, title, promise, check, defect, **more))
            return check

        return add


@dataclass
class Ended:
    """A command that has ended."""

    status: int
    out: str
    err: str
    seconds: float = 0.0

    @property
    def line(self) -> str:
        """The error's line."""
        return next((line for line in self.err.splitlines() if line.startswith("error[")), self.err.strip()[-300:])

    def expect(self, status: int, *parts: str) -> str:
        """Asserts status and form: one ``error[...]`` line that holds ``parts``, at most five lines, no traceback."""
        assert self.status == status, f"status {self.status}, expected {status}: {self.err[-1500:]}"
        assert "Traceback" not in self.err and "Traceback" not in self.out, self.err[-1500:]
        lines = [line for line in self.err.splitlines() if line.strip()]
        assert len(lines) <= 5, lines
        if 1 < status < 128:
            assert sum(line.startswith("error[") for line in lines) == 1, lines
        for part in parts:
            assert part in self.err, f"{part!r} is not in {self.err!r}"
        return self.line


class Running:
    """A command in a session of its own.

    Args:
        command: Its words.
        folder: Where its output goes.
        environment: Variables beside ours.
        run_dir: Where its events are, if it trains.
    """

    def __init__(self, command: Sequence[str], folder: Path, environment: dict[str, str], run_dir: Path | None, **more):
        self.folder, self.run_dir, self.began = folder, run_dir, time.monotonic()
        folder.mkdir(parents=True)
        with open(folder / "out", "wb") as out, open(folder / "err", "wb") as err:
            options = {"stdin": subprocess.DEVNULL, "cwd": ROOT} | more
            self.process = subprocess.Popen(
                command, stdout=out, stderr=err, start_new_session=True, env=os.environ | environment, **options
            )
        self.pid = self.process.pid

    def events(self) -> list[dict[str, Any]]:
        """What events.jsonl holds by now."""
        try:
            lines = (self.run_dir / "events.jsonl").read_text().splitlines()
        except OSError:
            return []
        found = []
        for line in lines:
            with contextlib.suppress(ValueError):
                found.append(json.loads(line))
        return found

    def wait_for(self, event: str, **fields: Any) -> Running:
        """Returns when the run has told of an event."""
        while True:
            for told in self.events():
                if told["event"] == event and all(told.get(name) == value for name, value in fields.items()):
                    return self
            assert self.process.poll() is None, f"ended before {event}: {(self.folder / 'err').read_text()[-1500:]}"
            assert time.monotonic() - self.began < PATIENCE, f"no {event}"
            time.sleep(0.01)

    def kill(self, signum: int = signal.SIGKILL) -> Running:
        """A signal to every process of the session's group, as a machine that goes away or a terminal sends it."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signum)
        return self

    def signal(self, signum: int) -> Running:
        """A signal to the first process alone."""
        self.process.send_signal(signum)
        return self

    def ended(self, orphans_after: float = 10.0) -> Ended:
        """Waits for the end; asserts that nothing is left running and that a status of 0 is true."""
        try:
            status = self.process.wait(timeout=PATIENCE)
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(
                f"still running after {PATIENCE} s: {(self.folder / 'err').read_text()[-500:]}"
            ) from None
        seconds = time.monotonic() - self.began
        deadline = time.monotonic() + orphans_after
        while (left := in_session(self.pid)) and time.monotonic() < deadline:
            time.sleep(0.05)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        assert not left, f"orphans: {left}"
        out, err = ((self.folder / name).read_text(errors="replace") for name in ("out", "err"))
        if status == 0 and self.run_dir is not None:  # no false zero
            assert "test/loss" in json.loads((self.run_dir / "result.json").read_text())
        return Ended(status, out, err, seconds)


def in_session(session: int) -> list[int]:
    """Processes of a session that live."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, *fields = path.read_text().rpartition(")")[2].split()
            if int(fields[2]) == session and state not in "ZX":
                found.append(int(path.parent.name))
    return found


def children(pid: int) -> list[int]:
    """Processes that ``pid`` has started, and theirs."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(path.read_text().rpartition(")")[2].split()[1]) == pid:
                found += [int(path.parent.name), *children(int(path.parent.name))]
    return found


class Bench:
    """A folder to work in, and commands with a cache of their own; the finished runs that rows damage are trained once.

    Args:
        folder: Empty, for one row.
        shared: For what rows share.
        defect: Of a row that has to fail.
    """

    def __init__(self, folder: Path, shared: Path, defect: str = ""):
        self.folder, self.shared, self.defect = folder, shared, defect
        self.started: list[Running] = []
        folder.mkdir(parents=True, exist_ok=True)
        self.startup = shared / "startup"
        self.startup.mkdir(parents=True, exist_ok=True)
        beside = self.startup / f"{os.getpid()}.tmp"
        beside.write_text(f'{STARTUP}\nif os.environ.get("{CODE}"):\n    {RUN_CODE}')
        beside.rename(self.startup / "sitecustomize.py")

    def file(self, name: str, content: str | bytes) -> Path:
        """A file with this content."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        return path

    def environment(self, code: str = "") -> dict[str, str]:
        """Of every command."""
        code = "\n".join(part for part in (self.defect, code) if part)
        known = {"MULTIHEAD_CACHE": str(self.shared / "cache"), "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline"}
        path = os.pathsep.join(filter(None, (str(self.startup), os.environ.get("PYTHONPATH"))))
        return known | ({CODE: code, "PYTHONPATH": path} if code else {})

    def start(
        self, *words: str, verb: str = "train", wrap: Sequence[str] = (), code: str = "", run_dir: Path | None = None,
        environment: dict[str, str] | None = None, **more: Any,
    ) -> Running:  # fmt: skip
        """Starts ``python train.py words``, or another verb.

        Args:
            words: ``key=value``.
            verb: The command.
            wrap: A program that runs it, such as ``prlimit --as=...``.
            code: Python that its processes run first.
            run_dir: Where it writes; taken from ``run_dir=`` or ``resume=`` if they are among the words.
            environment: Variables beside ours.
            **more: For `subprocess.Popen`.
        """
        named = [Path(word.partition("=")[2]) for word in words if word.startswith(("run_dir=", "resume=/"))]
        program = [str(ROOT / "train.py")] if verb == "train" else ["-c", VERB, verb]
        running = Running(
            [*wrap, sys.executable, *program, *words],
            self.folder / f"process_{len(self.started)}",
            self.environment(code) | (environment or {}),
            run_dir or (named[0] if named and verb == "train" else None),
            **more,
        )
        self.started.append(running)
        return running

    def run(self, *words: str, **options: Any) -> Ended:
        """Starts a command and waits for its end."""
        return self.start(*words, **options).ended()

    def main(self, *words: str) -> Ended:
        """The door in this process: what a command would have printed, without its start-up."""
        from multihead.cli import main

        out, err = io.StringIO(), io.StringIO()
        began = time.monotonic()
        with self.inside(), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            status = main(list(words))
        return Ended(status, out.getvalue(), err.getvalue(), time.monotonic() - began)

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """Inside, this process has the environment of a command."""
        known = {k: v for k, v in self.environment().items() if k not in (CODE, "PYTHONPATH")}
        before = {name: os.environ.get(name) for name in known}
        os.environ.update(known)
        try:
            yield
        finally:
            for name, value in before.items():
                os.environ.pop(name, None) if value is None else os.environ.__setitem__(name, value)

    def finished(self, task: str = "lm", *words: str) -> Path:
        """A copy of a finished tiny run."""
        key = "_".join(["".join(c if c.isalnum() else "-" for c in word) for word in (task, *words)])
        kept = self.shared / "finished" / key
        if not kept.is_dir():
            beside = kept.with_name(f"{key}.{os.getpid()}.part")  # another worker may be at it
            shutil.rmtree(beside, ignore_errors=True)
            defect, self.defect = self.defect, ""
            arguments = (f"task={task}", "debug=smoke", f"run_dir={beside}", *words)
            done = self.run(*arguments) if defect else self.main("train", *arguments)  # a defect is in this process
            self.defect = defect
            assert done.status == 0, done.err
            with contextlib.suppress(OSError):
                beside.rename(kept)
        copy = self.folder / f"run_{len(list(self.folder.glob('run_*')))}"
        shutil.copytree(kept, copy)
        return copy

    def unfinished(self, task: str = "lm", *words: str) -> Path:
        """A copy of a tiny run that was killed behind its checkpoint of step 5."""
        run = self.finished(task, *words)
        shutil.rmtree(run / "model")
        shutil.rmtree(run / "checkpoints" / "step_10")
        (run / "result.json").unlink()
        return run

    def end(self) -> None:
        """Leaves nothing running."""
        for running in self.started:
            for pid in in_session(running.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)


@contextlib.contextmanager
def seeded(code: str) -> Iterator[None]:
    """Inside, this process has a defect."""
    space: dict[str, Any] = {}
    exec(STARTUP, space)
    undo = []
    try:
        exec(code, {"patch": lambda *arguments: undo.append(space["patch"](*arguments))})
        yield
    finally:
        for owner, name, before in reversed(undo):
            delattr(owner, name) if before is None else setattr(owner, name, before)


def raised(kind: type[BaseException], action: Callable[[], Any], *parts: str) -> str:
    """Asserts that an action is refused by an error whose text holds ``parts``; returns the text."""
    try:
        result = action()
    except kind as error:
        text = str(error)
        for part in parts:
            assert part in text, f"{part!r} is not in {text!r}"
        return text
    raise AssertionError(f"not refused: {result!r:.200}")


@functools.cache
def works(*command: str) -> bool:
    """Whether a command succeeds here."""
    try:
        return subprocess.run(command, capture_output=True, timeout=20).returncode == 0
    except (OSError, subprocess.SubprocessError):
        return False


def needs(*command: str) -> Callable[[], str]:
    """A row's `needs`: this command has to succeed here."""
    return lambda: "" if works(*command) else f"{command[0]} is missing or not allowed here"


STRACE = needs("strace", "-o", "/dev/null", "true")
PRLIMIT = needs("prlimit", "--as=4000000000", "true")
UNPRIVILEGED = ("setpriv", "--bounding-set=-dac_override,-dac_read_search", "--inh-caps=-dac_override,-dac_read_search")


def tmpfs_works() -> str:
    """Why a small file system cannot be mounted; empty where it can."""
    return "" if works("unshare", "-m", "mount", "-t", "tmpfs", "none", "/mnt") else "mounting is not allowed here"


@contextlib.contextmanager
def tmpfs(folder: Path, size: str) -> Iterator[Path]:
    """A file system of this size."""
    folder.mkdir(parents=True, exist_ok=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def all_rows() -> list[Row]:
    """The whole matrix, section by section."""
    sections = ("storage", "data", "configuration", "foreign", "numerics", "promises")
    return [row for name in sections for row in importlib.import_module(f"{__package__}.{name}").ROWS]
