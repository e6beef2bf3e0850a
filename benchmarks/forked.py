"""Runs tests in forks of one process that has already imported PyTorch and Lightning, each in a copy of the tree.

A fork costs milliseconds, and the imports cost 5 to 10 seconds. What a test breaks is lost with its fork. No module of
the package is imported before the fork, so each fork imports it from its own copy of the tree.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import json
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
import traceback
import types
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

PRELOADED = (
    "torch",
    "lightning",
    "torchmetrics",
    "torchmetrics.text",
    "sacrebleu",
    "tokenizers",
    "hydra",
    "rich.table",
)
PRELOADED += ("safetensors.torch", "scipy.special", "wandb", "coverage", "_pytest.assertion.rewrite")
ARGUMENTS = ("-x", "-q", "-o", "addopts=", "-m", "not slow", "-p", "no:cacheprovider", "--no-header")

MEMORY = 8 * 2**30
"""Bytes of memory that a fork may take."""


def preload() -> None:
    """Imports what the tests import, but not the package and the tests. It leaves out what is not installed."""
    for name in PRELOADED:
        with contextlib.suppress(ImportError):
            importlib.import_module(name)
    gc.collect()
    gc.freeze()  # these objects are no garbage of a fork, and a search through them takes a second


def copy_tree(root: Path, to: Path) -> Path:
    """Copies what git knows of a working tree, and what it would add."""
    words = ["git", "-C", str(root), "ls-files", "-co", "--exclude-standard", "-z"]
    for name in filter(None, subprocess.run(words, check=True, capture_output=True, text=True).stdout.split("\0")):
        if (root / name).is_file():
            (to / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(root / name, to / name)
    return to


# ---- in the fork


@dataclass(eq=False)
class Chosen:
    """A pytest plugin that runs these tests in this order, and remembers the first that fails."""

    tests: Sequence[str]
    failed: str = ""

    def pytest_collection_modifyitems(self, items: list[pytest.Item]) -> None:
        """Leaves out all other tests."""
        order = {name: place for place, name in enumerate(self.tests)}
        items[:] = sorted((item for item in items if item.nodeid in order), key=lambda item: order[item.nodeid])

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Pytest calls this after set-up, call and tear-down of each test."""
        if report.failed and not self.failed:
            self.failed = report.nodeid


def run_tests(tests: Sequence[str], package: Path) -> dict[str, Any]:
    """Runs tests, named by pytest's ids, until one fails."""
    chosen = Chosen(tests)
    files = list(dict.fromkeys(name.partition("::")[0] for name in tests))
    code = int(pytest.main([*ARGUMENTS, *files], plugins=[chosen]))
    return {"code": code, "failed": chosen.failed}


@dataclass(eq=False)
class Lines:
    """A pytest plugin that finds which lines of the package each test of a file runs, and how long it takes.

    What a shared fixture runs (of a module, or a run of tests/shared_runs.py) counts for every test that asks for it.
    """

    coverage: Any
    tests: dict[str, dict[str, Any]] = field(default_factory=dict)
    fixtures: dict[str, float] = field(default_factory=dict)
    """Maps the name of a shared fixture to the seconds that it took."""
    uses: defaultdict[str, set[str]] = field(default_factory=lambda: defaultdict(set))
    """Maps the name of a test or a fixture to the fixtures that it asks for."""
    running: list[str] = field(default_factory=list)
    inside: float = 0.0
    """Seconds that shared fixtures took within the test that is running."""

    @contextlib.contextmanager
    def shared(self, name: str) -> Iterator[None]:
        """Pytest calls this around the set-up of a shared fixture."""
        before, began = self.inside, time.perf_counter()
        self.running.append(name)
        self.coverage.switch_context(name)
        try:
            yield
        finally:
            took = time.perf_counter() - began
            self.fixtures[name] = took - (self.inside - before)
            self.inside = before + took
            self.running.pop()
            self.coverage.switch_context(self.running[-1])

    def pytest_collection_finish(self) -> None:
        """Notes which test asks for a shared run."""
        if (module := sys.modules.get("shared_runs")) is None:
            return
        plugin, finished, train = self, module.Runs.finished, module.Runs._train

        def watched(runs: Any, *words: str) -> Path:
            plugin.uses[plugin.running[-1]].add(f"run {words}")
            return finished(runs, *words)

        def trained(runs: Any, run: Path, words: tuple[str, ...]) -> None:
            with plugin.shared(f"run {words}"):
                train(runs, run, words)

        module.Runs.finished, module.Runs._train = watched, trained

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        """Pytest calls this around everything of one test."""
        self.running, self.inside = [item.nodeid], 0.0
        self.uses[item.nodeid] |= {f"fixture {name}" for name in getattr(item, "fixturenames", ())}
        self.coverage.switch_context(item.nodeid)
        self.tests[item.nodeid] = {"passed": True, "seconds": 0.0}
        result = yield
        self.tests[item.nodeid]["seconds"] = max(0.0, self.tests[item.nodeid]["seconds"] - self.inside)
        return result

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Iterator[Any]:
        """Pytest calls this around the set-up of a fixture."""
        if fixturedef.scope == "function":
            return (yield)
        with self.shared(f"fixture {fixturedef.argname}"):
            return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Pytest calls this after set-up, call and tear-down of each test."""
        test = self.tests[report.nodeid]
        test["seconds"] += report.duration
        test["passed"] &= report.passed

    def found(self) -> dict[str, Any]:
        """Returns the tests with the shared fixtures that they need, directly or not, and their cost."""
        for test, about in self.tests.items():
            needed, waiting = set(), [test]
            while waiting:
                new = (self.uses[waiting.pop()] & self.fixtures.keys()) - needed
                needed |= new
                waiting += new
            about["fixtures"] = sorted(needed)
        return {"tests": self.tests, "fixtures": self.fixtures}


def map_tests(file: str, package: Path) -> dict[str, Any]:
    """Finds with `Lines`, of one test file: {"tests": ..., "fixtures": ..., "lines": {module: {line: names}}}."""
    import coverage

    measured = coverage.Coverage(data_file=None, include=[f"{package}/*"], config_file=False)
    measured.start()
    plugin = Lines(measured)
    pytest.main([*ARGUMENTS[1:], file], plugins=[plugin])
    measured.stop()
    data, lines = measured.get_data(), {}
    for path in data.measured_files():
        contexts = {str(line): [c for c in names if c] for line, names in data.contexts_by_lineno(path).items()}
        lines[str(Path(path).relative_to(package))] = {line: names for line, names in contexts.items() if names}
    return {**plugin.found(), "lines": lines}


# ---- the parent


@dataclass
class Child:
    """A fork at work."""

    pid: int
    scratch: Path
    deadline: float
    began: float = field(default_factory=time.monotonic)

    @classmethod
    def start(cls, work: Callable[..., dict[str, Any]], what: Any, tree: Path, scratch: Path, limit: float) -> Child:
        """Forks. The fork writes what ``work(what, package)`` returns into ``scratch``."""
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir(parents=True)
        sys.stdout.flush()
        pid = os.fork()
        if not pid:
            status = 1
            try:
                _enter(tree, scratch)
                result = work(what, tree / "src" / "multihead")
                (scratch / "result.tmp").write_text(json.dumps(result))
                os.replace(scratch / "result.tmp", scratch / "result.json")
                status = 0
            except BaseException:
                traceback.print_exc()
            finally:
                os._exit(status)
        return cls(pid, scratch, time.monotonic() + limit)

    def kill(self) -> None:
        """Ends the fork, and the processes that its tests have started."""
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)

    def finished(self) -> dict[str, Any] | None:
        """Returns None while the fork runs, and then its result, ``{"died": ...}`` or ``{"timed_out": True}``.

        ``seconds`` and ``processor_seconds`` say how long it took.
        """
        pid, status, usage = os.wait4(self.pid, os.WNOHANG)
        if not pid and time.monotonic() < self.deadline:
            return None
        self.kill()
        if not pid:
            usage = os.wait4(self.pid, 0)[2]
            result = {"timed_out": True}
        elif (self.scratch / "result.json").is_file():
            result = json.loads((self.scratch / "result.json").read_text())
        else:
            result = {"died": os.waitstatus_to_exitcode(status)}
        seconds, worked = time.monotonic() - self.began, usage.ru_utime + usage.ru_stime
        return result | {"seconds": round(seconds, 2), "processor_seconds": round(worked, 2)}

    def wait(self) -> dict[str, Any]:
        """Returns the result."""
        try:
            while (result := self.finished()) is None:
                time.sleep(0.05)
        except KeyboardInterrupt:
            self.kill()
            raise
        return result


def _enter(tree: Path, scratch: Path) -> None:
    """Prepares the fork for the tree: signals, folders, paths, and where it writes."""
    os.setsid()
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))  # an endless loop may fill it
    for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(signum, signal.default_int_handler if signum == signal.SIGINT else signal.SIG_DFL)
    output = os.open(scratch / "output.txt", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    for stream in (1, 2):
        os.dup2(output, stream)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.chdir(tree)
    here = str(Path(__file__).parent)
    sys.path[:] = [str(tree / "src"), *(path for path in sys.path if path != here)]
    for name in [name for name in sys.modules if name.partition(".")[0] in ("multihead", "shared_runs")]:
        del sys.modules[name]  # it is here only if a test of this module has imported it
    sys.modules["__main__"] = types.ModuleType("__main__")  # processes that tests spawn import this first
    sys.argv = ["pytest"]
    (scratch / "temporary").mkdir()
    os.environ |= {"PYTHONPATH": str(tree / "src"), "TMPDIR": str(scratch / "temporary"), "OMP_NUM_THREADS": "1"}
    os.environ["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # ours is the only plugin, which saves another second
    os.environ["PYTHONDONTWRITEBYTECODE"] = "1"  # a mutant may have the date and length of the file that it replaces
    sys.dont_write_bytecode = True
    import tempfile

    tempfile.tempdir = None
