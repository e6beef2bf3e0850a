"""Sets up all tests: a clean environment, one thread, and runs that many tests share.

Fixtures for every test file:

- ``runs``: tiny runs that are trained once a session, by the worker that asks first (`shared_runs.py`).
  ``runs.finished("task=lm")`` is the run directory of ``task=lm debug=smoke``. Only read it.
  ``runs.copy(tmp_path / "run", "task=lm")`` is a copy that you may change.
  ``runs.unfinished(tmp_path / "run", "task=lm")`` is a copy that looks as if the run was killed after its checkpoint
  of step 5. ``runs.result("task=lm")`` is what ``multihead.train`` returned. More words give another run:
  ``runs.finished("task=lm", "model.norm=rms_norm")``. Ask for a run before the test patches anything.
- ``shared_folder``: a folder that all workers of the session see. Take `shared_runs.locked` before you write into it.

To run a command in this process, call ``multihead.cli.main(["predict", f"run={run}"])`` and use ``capsys``. A process
of its own takes seconds of imports. Start one only if the test is about it: signals, kills, ranks, what is imported.

Markers:

- ``slow``: the default run leaves the test out. ``pytest -m "slow or not slow"`` runs everything.
- ``quick``: this file sets it on every test that reaches neither a training nor a process (`reach.py`) and has no
  marker ``slow`` or ``unhurried``. Use ``pytest -m quick`` between two edits.
- ``unhurried``: the test takes more than a second although it trains nothing. The summary names quick tests that need
  this marker.
- ``pictures``: the test draws the real pictures of attention. In other tests one pixel stands for each picture,
  because drawing takes half of a tiny training.
"""

import os
import time
from pathlib import Path

import pytest
import surroundings
from reach import is_quick
from shared_runs import Runs

surroundings.clean_environment()
surroundings.hear_signals()

SECOND = 1.0  # the most processor time that a quick test should take

late: list[tuple[float, str]] = []
"""Processor seconds and names of quick tests that took too long."""
workers: list[float] = []
"""Processor seconds of each worker, together with the processes that it started."""


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    for item in items:
        if is_quick(item):
            item.add_marker("quick")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item):
    began = time.process_time()
    try:
        return (yield)
    finally:
        item.user_properties.append(("processor_seconds", time.process_time() - began))


def pytest_runtest_logreport(report):
    took = dict(report.user_properties).get("processor_seconds", 0.0)
    if report.when == "call" and "quick" in report.keywords and took > SECOND:
        late.append((took, report.nodeid))


def processor_seconds() -> float:
    """Processor seconds of this process, of its children, and of their children that have ended."""
    took = os.times()
    seconds = took.user + took.system + took.children_user + took.children_system
    for child in Path("/proc/self/task").glob("*/children"):  # for example the server that forks trainings
        for pid in child.read_text().split():
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")
    return seconds


def pytest_sessionfinish(session):
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["processor_seconds"] = processor_seconds()


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node, error):
    workers.append(getattr(node, "workeroutput", {}).get("processor_seconds", 0.0))


def pytest_terminal_summary(terminalreporter):
    total = sum(workers) if workers else processor_seconds()
    terminalreporter.write_line(f"processor time: {total:.0f} s")
    for took, name in sorted(late, reverse=True):
        terminalreporter.write_line(f"quick, but took {took:.1f} s of processor time; mark it unhurried: {name}")


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory):
    """A folder of this session that all its workers see."""
    own = tmp_path_factory.getbasetemp()
    folder = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session", autouse=True)
def own_home(shared_folder):
    """Gives the tests an empty home: they read nothing from the user's, such as a login, and write nothing there."""
    (shared_folder / "home").mkdir(exist_ok=True)
    os.environ["HOME"] = str(shared_folder / "home")


@pytest.fixture(autouse=True)
def own_cache(shared_folder, monkeypatch):
    """Caches tokenizers and encoded rows for the session, not in the user's own cache."""
    monkeypatch.setenv("MULTIHEAD_CACHE", str(shared_folder / "cache"))
    monkeypatch.delenv("MULTIHEAD_DATA", raising=False)


@pytest.fixture(autouse=True)
def no_pictures(request, monkeypatch):
    """Replaces each picture of attention by one pixel, because drawing takes half of a tiny training."""
    if not any(request.node.get_closest_marker(name) for name in ("pictures", "quick")):
        monkeypatch.setattr("multihead.training.attention_maps.draw", surroundings.draw_one_pixel)


@pytest.fixture(autouse=True)
def known_grammar(request, monkeypatch):
    """Generates the rows of the built-in grammar once a process."""
    if "quick" not in request.keywords and request.path.name not in ("test_grammar.py", "test_docs.py"):
        import grammar_once

        monkeypatch.setattr(grammar_once.grammar, "columns", grammar_once.columns)


@pytest.fixture(scope="session")
def runs(shared_folder, own_home):
    """Gives tiny finished runs: see the top of this file."""
    return Runs(shared_folder / "runs", shared_folder / "cache")
