"""What the tests of several tasks share."""

import io
import sys
from types import SimpleNamespace

import pytest

from multihead.cli import main


@pytest.fixture
def predicted(monkeypatch, capsys):
    """Returns a function that gives `predict` a text on standard input, and returns the lines of its answer."""

    def ask(run, text, *words):
        monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=io.BytesIO(text), isatty=lambda: False))
        capsys.readouterr()
        assert main(["predict", f"run={run}", *words]) == 0
        return capsys.readouterr().out.splitlines()

    return ask
