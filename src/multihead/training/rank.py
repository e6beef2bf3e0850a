"""One rank of several, in a process of its own: ``python -m multihead.training.rank FOLDER/job.json``."""

from __future__ import annotations

import atexit
import ctypes
import gc
import os
import signal
import sys
from pathlib import Path

from multihead import capabilities
from multihead.errors import Stopped, as_user_error
from multihead.training.assignment import Assignment, Failure

atexit.register(gc.freeze)  # as in `multihead.cli`: without it, leaving takes seconds after a signal


def main(file: Path) -> int:
    """Reads the assignment and trains; an error goes to a file, from which the parent reports it.

    If a signal stops all ranks together, the status is 0: each has to end what it does, and after another status the
    launcher would end the others.
    """
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: the rank does not outlive a killed parent
    assignment = Assignment.read(file)
    rank = int(os.environ["RANK"])
    try:
        import torch

        from multihead.training.job import run_rank
        from multihead.training.signals import leaving_on_signals
        from multihead.training.watchdog import guard_rank

        if not any(os.environ.get(name) for name in capabilities.THREADS):
            torch.set_num_threads(assignment.threads)
        with leaving_on_signals():
            run_rank(assignment, guard_rank(file.parent, rank))
            return 0
    except (Exception, Stopped, KeyboardInterrupt) as caught:
        error = as_user_error(reason_of(caught))
        failure = Failure.of(error, rank)
        failure.write(file.parent)
        return 0 if isinstance(error, Stopped) and error.together else failure.status


def reason_of(caught: BaseException) -> BaseException:
    """The reason why a rank ends. If another rank has failed, this one often fails too, and then gets a signal."""
    together = isinstance(caught, Stopped) and caught.together
    if isinstance(caught, Stopped | KeyboardInterrupt) and isinstance(caught.__context__, Exception) and not together:
        return caught.__context__
    early = isinstance(caught, KeyboardInterrupt)
    return Stopped(signal.SIGINT, "stopped by SIGINT before the first step") if early else caught


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
