"""Ranks: when we start them, and what becomes of their exit statuses.

More than one local rank is started by torch's elastic launcher from inside the job, each rank a worker command with one
resolved configuration file; under ``torchrun`` or ``srun`` nothing is launched. The parent owns signals and the exit
status.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead import capabilities, errors
from multihead.config.training import Config
from multihead.config.words import typed_as
from multihead.errors import ConfigError, PeerError, Stopped
from multihead.ranks import by_others, by_srun, by_torchrun, local_size, world_size

if TYPE_CHECKING:
    from lightning.pytorch.plugins.environments import ClusterEnvironment

SHUTDOWN_SECONDS = 8
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1)


class RankError(RuntimeError):
    """A rank failed by a defect.

    Attributes:
        traceback: The rank's own.
    """

    def __init__(self, message: str, traceback: str):
        super().__init__(message)
        self.traceback = traceback


def cluster_environment() -> ClusterEnvironment:
    """Lightning's word for who started the ranks; its own guess takes any SLURM allocation for srun.

    Raises:
        ConfigError: srun was told of the tasks in a way that Lightning does not take.
    """
    from lightning.pytorch.plugins.environments import LightningEnvironment, SLURMEnvironment, TorchElasticEnvironment

    if by_srun():
        try:
            return SLURMEnvironment(auto_requeue=False)  # `requeue` does it, after our own checkpoint
        except RuntimeError as error:
            fix = "docs/examples/slurm.sh shows how it is asked for"
            raise ConfigError("srun", " ".join(str(error).split()), fix) from error
    return TorchElasticEnvironment() if by_torchrun() else LightningEnvironment()


def placed(config: Config) -> tuple[str, int]:
    """Devices of this node and number of nodes: as whoever started the ranks has placed them, else as configured."""
    if here := local_size():
        return (config.devices if "," in config.devices else str(here)), max(1, world_size() // here)
    return config.devices, config.num_nodes


def devices(config: Config) -> dict[str, Any]:
    """Lightning's arguments for where and in what precision to compute, and what we do ourselves."""
    from multihead.runs.checkpoint import FolderCheckpointIO

    wanted, num_nodes = placed(config)
    listed = [int(part) for part in wanted.split(",") if part] if "," in wanted else None
    return {
        "accelerator": capabilities.device_of(config.accelerator),
        "devices": listed or (wanted if wanted == "auto" else int(wanted)),
        "strategy": _strategy(config),
        "num_nodes": num_nodes,
        "precision": config.precision,
        "plugins": [FolderCheckpointIO(), cluster_environment()],
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
        "use_distributed_sampler": False,
    }


def _strategy(config: Config) -> Any:
    """Of several tasks a step uses one, so that some parameters have no gradient, which DDP has to be told."""
    if config.strategy == "fsdp":
        from multihead.training.sharding import Sharded

        return Sharded(world_size()) if world_size() > 1 else "auto"  # one rank has nobody to share with
    several = len(config.task.members()) > 1 and world_size() > 1
    return "ddp_find_unused_parameters_true" if several and config.strategy in ("auto", "ddp") else config.strategy


def local_ranks(config: Config) -> int:
    """How many ranks this process has to start: 1 means none beside itself.

    Raises:
        ConfigError: Several nodes, which torchrun or srun have to start; or devices that are not there.
    """
    kind = capabilities.device_of(config.accelerator)
    found = capabilities.device_counts()[kind]
    listed = _listed(config, kind, found)
    if kind != "cpu" and (here := local_size()) > found:
        raise ConfigError("devices", f"{here} ranks on this machine, and {_found(kind, found)}", f"{found} ranks")
    if by_others():
        return 1
    if config.num_nodes > 1:
        what = f"{config.num_nodes} nodes need torchrun or srun, which start the same command on each"
        raise ConfigError("num_nodes", what, "see docs/cluster.md, or num_nodes=1")
    if listed:
        return len(listed)
    if config.devices == "auto":
        return found
    if kind != "cpu" and int(config.devices) > found:
        fix = f"devices={found}, or accelerator=cpu"
        raise ConfigError("devices", f"{config.devices} wanted, and {_found(kind, found)}", fix)
    return int(config.devices)


def _listed(config: Config, kind: str, found: int) -> list[int]:
    """The devices that ``devices=0,1`` names; empty where it is a number or auto.

    Raises:
        ConfigError: One of them is not there or is named twice, or the CPU cannot be divided so.
    """
    if "," not in config.devices:
        return []
    listed = [int(part) for part in config.devices.split(",") if part]
    if kind == "cpu":
        what = f"the list {config.devices!r} chooses among GPUs, and this run is on the CPU"
        raise ConfigError("devices", what, f"devices={len(listed)} for as many processes")
    if len(set(listed)) < len(listed):
        raise ConfigError("devices", f"{config.devices!r} names a device twice", f"devices={len(set(listed))}")
    if max(listed) >= found:
        what = f"no {kind} device {max(listed)}: {_found(kind, found)}, and the first is 0"
        raise ConfigError("devices", what, f"devices={min(len(listed), found)}")
    if by_others() and local_size() > len(listed):
        what = f"{config.devices!r} names {len(listed)}, and {local_size()} ranks were started on this machine"
        raise ConfigError("devices", what, f"devices={local_size()}")
    return listed


def _found(kind: str, count: int) -> str:
    return f"this machine has {count} {kind} device{'s' * (count > 1)}"


def launch(ranks: int, job: dict[str, Any]) -> None:
    """Runs ``job`` in ``ranks`` worker processes; what ends one of them ends all and is told here, once.

    Raises:
        MultiheadError: What a rank could not do.
        PeerError: If a rank was killed.
        RankError: If a rank failed by a defect.
        Stopped: If a signal ended them.
    """
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    from multihead.training.watchdog import Watchdog

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # their report is a page long
    job = {**job, "threads": capabilities.threads_per_rank(ranks)}
    run_dir, patience = Path(job["run_dir"]), job["tree"]["trainer"]["watchdog_seconds"]
    with (
        tempfile.TemporaryDirectory(prefix="multihead-", ignore_cleanup_errors=True) as folder,
        _own_signals(),
        Watchdog(Path(folder), ranks, patience, run_dir) as watchdog,
    ):
        signal.signal(signal.SIGUSR1, watchdog.pass_on)  # torch's launcher leaves it alone
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
            logs_specs=DefaultLogsSpecs(log_dir=folder),
        )
        try:
            elastic_launch(settings, sys.executable)("-m", "multihead.training.rank", str(file))
        except ChildFailedError as error:
            exits = {rank: failure.exitcode for rank, failure in error.failures.items()}
            if watchdog.verdict:
                raise PeerError(*watchdog.verdict, _resume(job["run_dir"])) from None
            raise _first_error(Path(folder), exits, job["run_dir"]) from None
        except SignalException as error:
            raise _first_error(Path(folder), {}, job["run_dir"], error.sigval) from None


@contextlib.contextmanager
def _own_signals() -> Iterator[None]:
    """Puts signal handlers back, which torch's launcher replaces for good."""
    before = {signum: signal.getsignal(signum) for signum in SIGNALS}
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
    resume = _resume(run_dir)
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


def _resume(run_dir: str) -> str:
    return f"{typed_as('resume', run_dir)} goes on from its newest checkpoint"


def requeue() -> str:
    """Under SLURM, after SIGUSR1: puts this job back into the queue; says so, or why not."""
    job = os.environ.get("SLURM_JOB_ID")
    if not job:
        return ""
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True, capture_output=True, timeout=60)
    except (OSError, subprocess.SubprocessError) as error:
        return f"; job {job} could not be requeued ({error})"
    return f"; job {job} is requeued"
