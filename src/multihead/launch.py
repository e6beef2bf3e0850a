"""Ranks: when we start them, and what becomes of their exit statuses.

More than one local rank is started by torch's elastic launcher from inside the job, each rank a worker command with one
resolved configuration file; under ``torchrun`` or ``srun`` nothing is launched. The parent owns signals and the exit
status.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import logging
import os
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from multihead import errors
from multihead.config.training import Config
from multihead.errors import MultiheadError, PeerError, Stopped

SHUTDOWN_SECONDS = 8
ELASTIC_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT)


class RankError(RuntimeError):
    """A rank failed by a defect.

    Attributes:
        traceback: The rank's own.
    """

    def __init__(self, message: str, traceback: str):
        super().__init__(message)
        self.traceback = traceback


def world_size() -> int:
    """Number of ranks of this run, as its launcher (ours, torchrun or srun) says."""
    return int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", "1")))


def is_main_rank() -> bool:
    """Whether this process writes the capsule."""
    return int(os.environ.get("RANK", os.environ.get("SLURM_PROCID", "0"))) == 0


def local_ranks(config: Config) -> int:
    """How many ranks this process has to start: 1 means none beside itself."""
    if "LOCAL_RANK" in os.environ or "SLURM_PROCID" in os.environ:
        return 1
    if config.devices == "auto":
        if config.accelerator == "cpu":
            return 1
        import torch

        return max(1, torch.cuda.device_count()) if config.accelerator in ("auto", "gpu", "cuda") else 1
    if "," in config.devices:
        return len([part for part in config.devices.split(",") if part])
    return int(config.devices)


def launch(ranks: int, job: dict[str, Any]) -> None:
    """Runs ``job`` in ``ranks`` worker processes; what ends one of them ends all and is told here, once.

    Raises:
        MultiheadError: What a rank could not do.
        PeerError: If a rank was killed.
        RankError: If a rank failed by a defect.
        Stopped: If a signal ended them.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # their report is a page long
    job = {**job, "threads": max(1, (os.cpu_count() or 1) // ranks)}
    with tempfile.TemporaryDirectory(prefix="multihead-") as folder, _own_signals():
        file = Path(folder) / "job.json"
        file.write_text(json.dumps(job))
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
            run_id=Path(folder).name,
            nproc_per_node=ranks,
            rdzv_backend="c10d",
            rdzv_endpoint="localhost:0",
            max_restarts=0,
            monitor_interval=0.2,
            shutdown_timeout=SHUTDOWN_SECONDS,
        )
        try:
            elastic_launch(settings, sys.executable)("-m", "multihead.launch", str(file))
        except ChildFailedError as error:
            exits = {rank: failure.exitcode for rank, failure in error.failures.items()}
            raise _first_error(Path(folder), exits, job["run_dir"]) from None
        except SignalException as error:
            raise _first_error(Path(folder), {}, job["run_dir"], error.sigval) from None


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Puts signal handlers back, which torch's launcher replaces for good."""
    before = {signum: signal.getsignal(signum) for signum in ELASTIC_SIGNALS}
    try:
        yield
    finally:
        for signum, handler in before.items():
            if signal.getsignal(signum) is not handler:
                signal.signal(signum, handler or signal.SIG_DFL)


def _first_error(folder: Path, exits: dict[int, int], run_dir: str, signum: int = 0) -> BaseException:
    """The error that explains the failure: that of the rank which failed first.

    Args:
        folder: Where the ranks wrote what ended them.
        exits: Exit status of each rank that had failed before the others were ended.
        run_dir: The run's directory.
        signum: The signal that ended all, if one did.
    """
    resume = f"resume={run_dir} goes on from its newest checkpoint"
    told = [json.loads(file.read_text()) for file in folder.glob("rank_*.json")]
    own = [failure for failure in told if not failure["peer"]]
    first = min(own, key=lambda failure: failure["time"], default=None)
    if signum and (first is None or first["kind"] != "Stopped"):
        return Stopped(signum, f"stopped by {signal.Signals(signum).name}; {resume}")
    if first is None:
        rank = min(exits, key=lambda rank: (exits[rank] == -signal.SIGTERM, exits[rank]))  # SIGTERM ends the others
        status = exits[rank]
        what = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return PeerError(f"rank {rank}", what, resume)
    if first["kind"] == "Stopped":
        return Stopped(first["status"] - 128, first["message"])
    if first["kind"]:
        return getattr(errors, first["kind"])(*first["message"])
    return RankError(f"rank {first['rank']}: {first['message']}", first["traceback"])


def main(file: str) -> int:
    """One rank: reads its job and trains; what ends it goes to a file for the parent to tell."""
    from multihead.cli import mendable

    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: no orphans where the parent is killed
    job = json.loads(Path(file).read_text())
    rank = int(os.environ["RANK"])
    try:
        import torch

        from multihead.commands import train

        if "OMP_NUM_THREADS" not in os.environ:
            torch.set_num_threads(job["threads"])
        return train.run_rank(job)
    except (Exception, Stopped) as caught:
        error = mendable(caught)
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
