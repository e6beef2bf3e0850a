"""Signals that end a run at the end of a step, after its state was saved."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)  # the last is SLURM's, before the time is up


class Signals:
    """The signal that this process has received, if any; the second one does not wait for the end of a step.

    Attributes:
        received: Its number, 0 if none has come.
    """

    def __init__(self) -> None:
        self.received = 0
        self.taken: list[signal.Signals] = []

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Inside, `SIGNALS` are only noted. A signal that is ignored stays ignored, as under nohup."""
        taken = [signum for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
        if threading.current_thread() is not threading.main_thread():
            taken = []
        before = {signum: signal.signal(signum, self._receive) for signum in taken}
        self.taken = taken
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler or signal.SIG_DFL)

    def take_back(self) -> None:
        """Takes back the signals that Lightning has put its own handlers on; it restores ours when it ends."""
        for signum in self.taken:
            signal.signal(signum, self._receive)

    def _receive(self, signum: int, frame: Any) -> None:
        if self.received:
            os._exit(128 + signum)
        self.received = signum
