"""Which tests are quick: those whose code reaches neither a training nor a process.

A test reaches what its own code names, what the functions and classes of the tests that it names reach, and what its
fixtures reach.
"""

import functools
import types
from pathlib import Path

TESTS = str(Path(__file__).parent)
PROCESSES = {"subprocess", "Popen", "multiprocessing", "FORKS", "fork", "start_processes", "wandb"}
PROCESSES |= {"multihead.training.job"}


def is_quick(item) -> bool:
    """Whether a collected test gets the marker ``quick``."""
    if "benchmarks" in item.path.parts:  # scripts, which are imported by name
        return False
    if item.get_closest_marker("slow") or item.get_closest_marker("unhurried") or not hasattr(item, "function"):
        return False
    fixtures = [known[-1].func for known in item._fixtureinfo.name2fixturedefs.values()]
    return not any(reaches(function) for function in (item.function, *fixtures))


@functools.cache
def reaches(function) -> bool:
    """Whether a function of the tests, or what it calls, trains or starts a process."""
    return _search(function, set())


def _search(thing, seen: set[int]) -> bool:
    if isinstance(thing, functools.partial):
        thing = thing.func
    if id(thing) in seen:
        return False
    seen.add(id(thing))
    if isinstance(thing, type):
        return any(_search(getattr(part, "fget", part), seen) for part in vars(thing).values())
    thing = getattr(thing, "__wrapped__", thing)
    code = getattr(thing, "__code__", None)
    if code is None or not code.co_filename.startswith(TESTS):
        return False
    names = set(_names(code))
    if names & PROCESSES or {"multihead", "train"} <= names:
        return True
    found = [thing.__globals__.get(name) for name in names]
    for module in [part for part in found if isinstance(part, types.ModuleType)]:
        if str(getattr(module, "__file__", "")).startswith(TESTS):
            found += [vars(module).get(name) for name in names]
    return any(_search(part, seen) for part in found if isinstance(part, types.FunctionType | type | functools.partial))


def _names(code: types.CodeType):
    """Global names, attributes and imports of a function and of the functions inside it."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names(constant)
