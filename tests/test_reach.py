"""The marker ``quick``: what trains or starts a process does not get it, however far away it does so."""

import subprocess

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
