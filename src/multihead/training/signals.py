"""Signals that end a run: at the end of a step, after its state was saved, or at once before the first step."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from types import FrameType
from typing import TYPE_CHECKING

from multihead.errors import Stopped

if TYPE_CHECKING:
    import lightning as L

    from multihead.training.agreement import Agreement

Handler = Callable[[int, FrameType | None], None]
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
"""The signals that end a run. SLURM sends the last one before the time of a job is up."""


@contextlib.contextmanager
def handling(handlers: Mapping[signal.Signals, Handler | None]) -> Iterator[list[signal.Signals]]:
    """Inside, signals have these handlers. Afterwards they have those of before again, whatever others have set.

    A signal that is ignored stays ignored, as under nohup. Only the main thread of a process can handle signals, so
    nothing changes in another one.

    Args:
        handlers: The handler of each signal. None keeps the handler that the signal has.

    Yields:
        The signals that got a handler.
    """
    if threading.current_thread() is not threading.main_thread():
        handlers = {}
    before = {signum: signal.getsignal(signum) for signum in handlers}
    new = {signum: handler for signum, handler in handlers.items() if handler and before[signum] is not signal.SIG_IGN}
    try:
        for signum, handler in new.items():
            signal.signal(signum, handler)
        yield list(new)
    finally:
        for signum, handler in before.items():
            signal.signal(signum, handler or signal.SIG_DFL)


class Signals:
    """The signal that a run has received. A second signal does not wait for the end of a step.

    Args:
        agreement: Lets all ranks learn of a signal that only some have received.

    Attributes:
        received: The signal's number in this process; 0 if none has come.
        agreed: The signal's number that all ranks know of; 0 if there is none.
        taken: The signals that this process handles.
    """

    def __init__(self, agreement: Agreement) -> None:
        self._agreement = agreement
        self.received = self.agreed = 0
        self.taken: list[signal.Signals] = []

    def reached_any_rank(self, trainer: L.Trainer) -> bool:
        """Whether a rank has received a signal; every rank has to ask, and all get the same answer."""
        self.agreed = self._agreement.largest(trainer, self.received)
        return bool(self.agreed)

    @contextlib.contextmanager
    def caught(self) -> Iterator[None]:
        """Inside, `SIGNALS` are only noted."""
        with handling(dict.fromkeys(SIGNALS, self._receive)) as self.taken:
            yield

    def take_back(self) -> None:
        """Takes back the signals that Lightning has put its own handlers on; it restores ours when it ends."""
        for signum in self.taken:
            signal.signal(signum, self._receive)

    def _receive(self, signum: int, frame: FrameType | None) -> None:
        if self.received:
            os._exit(128 + signum)
        self.received = signum


@contextlib.contextmanager
def leaving_on_signals() -> Iterator[None]:
    """Inside this context, a signal ends the command at once, with the signal's status: no step has to be finished."""

    def leave(signum: int, frame: FrameType | None) -> None:
        raise Stopped(signum, f"stopped by {signal.Signals(signum).name} before the first step")

    ending = (signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
    with handling({signum: leave for signum in ending if signal.getsignal(signum) is signal.SIG_DFL}):
        yield
