"""Ranks: when we start them, and what becomes of their exit statuses.

More than one local rank is started by torch's elastic launcher from inside the job, each rank a worker command with one
resolved configuration file; under ``torchrun`` or ``srun`` nothing is launched. The parent owns signals and the exit
status.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from multihead.config.training import Config
from multihead.errors import PeerError, Stopped

SHUTDOWN_SECONDS = 8


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


def launch(ranks: int, job: dict[str, Any]) -> int:
    """Runs ``job`` in ``ranks`` worker processes and returns their exit status.

    Raises:
        PeerError: If a rank died of something else than an error that it told itself.
        Stopped: If a signal ended them.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    threads = str(max(1, (os.cpu_count() or 1) // ranks))
    os.environ.setdefault("OMP_NUM_THREADS", threads)
    with tempfile.TemporaryDirectory(prefix="multihead-") as folder:
        file = Path(folder) / "job.json"
        file.write_text(json.dumps(job))
        settings = LaunchConfig(
            min_nodes=1,
            max_nodes=1,
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
            return _status(error)
        except SignalException as error:
            raise Stopped(int(error.sigval), f"stopped by {error.sigval.name}; every rank saved its state") from error
    return 0


def _status(error: Any) -> int:
    """The exit status that explains the failure: that of the rank which failed first."""
    rank, failure = error.get_first_failure()
    if failure.exitcode > 0:
        return failure.exitcode
    raise PeerError(
        f"rank {rank}", f"was killed by signal {-failure.exitcode}", "resume=RUN goes on from its checkpoint"
    )


def main(file: str) -> int:
    """One rank: reads its job and trains."""
    from multihead.cli import guarded
    from multihead.commands import train

    job = json.loads(Path(file).read_text())
    return guarded(lambda: train.run_rank(job))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
