"""The marker ``quick``: what trains or starts a process does not get it, however far away it does so."""

import subprocess
from pathlib import Path

import trial
from reach import reaches

import multihead


def plain():
    return [number + 1 for number in range(3)]


def trains():
    return multihead.train(["task=lm"])


def by_a_helper():
    return trains()


def starts():
    return subprocess.run(["true"])


def inside():
    def later():
        return trial.train("run")

    return later


class Holder:
    def __init__(self):
        self.run = trains()


def by_a_class():
    return Holder()


def test_what_reaches_a_training_or_a_process():
    assert not reaches(plain)
    for function in (trains, by_a_helper, starts, inside, by_a_class, trial.train, trial.struck):
        assert reaches(function), function.__name__


def test_every_file_of_the_tests_has_a_name_of_its_own():
    """Pytest imports them by name: of two that are named alike, one is not collected, or helps the wrong tests."""
    names = [path.name for path in Path(__file__).parent.rglob("[!_]*.py") if path.name != "conftest.py"]
    assert sorted(names) == sorted(set(names))
