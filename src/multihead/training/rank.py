"""One rank of several, in a process of its own: ``python -m multihead.training.rank JOB.json``."""

from __future__ import annotations

import ctypes
import json
import os
import signal
import sys
import time
import traceback
from pathlib import Path

from multihead import capabilities
from multihead.errors import MultiheadError, Stopped, as_user_error


def main(file: str) -> int:
    """One rank: reads its job and trains; what ends it goes to a file for the parent to tell."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: no orphans where the parent is killed
    job = json.loads(Path(file).read_text())
    rank = int(os.environ["RANK"])
    try:
        import torch

        from multihead.training import job as training
        from multihead.training.signals import leaving_on_signals
        from multihead.training.watchdog import guard_rank

        if not any(os.environ.get(name) for name in capabilities.THREADS):
            torch.set_num_threads(job["threads"])
        with leaving_on_signals():
            return training.run_rank(job, guard_rank(Path(file).parent, rank))
    except (Exception, Stopped) as caught:
        error = as_user_error(caught)
        failure = {"time": time.time(), "rank": rank, "kind": "", "status": getattr(error, "status", 1)}
        if isinstance(error, Stopped):
            failure |= {"kind": "Stopped", "message": str(error)}
        elif isinstance(error, MultiheadError):
            failure |= {"kind": type(error).__name__, "message": [error.where, error.what, error.fix]}
        else:
            failure |= {"message": f"{type(error).__name__}: {error}", "traceback": traceback.format_exc()}
        failure["peer"] = isinstance(error, RuntimeError) and ("gloo" in str(error) or "NCCL" in str(error))
        beside = Path(file).with_name(f"rank_{rank}.tmp")
        beside.write_text(json.dumps(failure))
        beside.rename(beside.with_suffix(".json"))
        return failure["status"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
