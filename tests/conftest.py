"""Shared set-up of the tests: one thread, a cache of their own, nothing from the user's environment."""

import os
import signal
import threading

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

import pytest


def let_children_hear_signals():
    """Processes that the tests start hear every signal, also where these tests were started to ignore some.

    A background job ignores SIGINT and one under nohup SIGHUP, and so would its children. A handler that does nothing
    is the same for this process, and is not inherited.
    """
    for signum in (signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1):
        if signal.getsignal(signum) is signal.SIG_IGN:
            signal.signal(signum, lambda number, frame: None)


if threading.current_thread() is threading.main_thread():
    let_children_hear_signals()


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    """Tokenizers and encoded rows of the tests are cached for the session, away from the user's own cache."""
    monkeypatch.setenv("MULTIHEAD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    monkeypatch.delenv("MULTIHEAD_DATA", raising=False)
