"""The program that starts ranks, one process for each device, and turns their failures into one error.

PyTorch's elastic launcher starts the ranks, and each reads its `Assignment` from a file. Under ``torchrun`` or ``srun``
this program starts nothing. It handles the signals of all its ranks, and its exit status is that of the run.
"""

from __future__ import annotations

import dataclasses
import logging
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead import capabilities
from multihead.config.training import Config
from multihead.config.words import typed_as
from multihead.errors import ConfigError, PeerError, Stopped
from multihead.ranks import by_others, by_srun, by_torchrun, local_size, world_size
from multihead.training.assignment import RANK_PROGRAM, Assignment, Failure
from multihead.training.signals import SIGNALS, handling

if TYPE_CHECKING:
    from lightning.fabric.plugins import ClusterEnvironment
    from torch.distributed.launcher.api import LaunchConfig

SHUTDOWN_SECONDS = 8
"""Time that the ranks have to leave once one of them has failed."""
LAUNCHER_SIGNAL = signal.SIGQUIT
"""The signal whose handler PyTorch's launcher replaces and does not put back. It ends the ranks without saving.

By default the launcher does so for the signals that end a run. Its ranks then have `SHUTDOWN_SECONDS` for their step.
"""


def cluster_environment() -> ClusterEnvironment:
    """Says to Lightning who started the ranks. Its own guess takes any SLURM allocation for srun.

    Raises:
        ConfigError: If srun was called in a way that Lightning does not accept.
    """
    from lightning.fabric.plugins.environments.lightning import LightningEnvironment
    from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
    from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment

    if by_srun():
        try:
            return SLURMEnvironment(auto_requeue=False)  # `requeue` does it, after our own checkpoint
        except RuntimeError as error:
            fix = "call srun as docs/examples/slurm.sh does"
            raise ConfigError("srun", " ".join(str(error).split()), fix) from error
    return TorchElasticEnvironment() if by_torchrun() else LightningEnvironment()


def placed(config: Config) -> tuple[str, int]:
    """Devices of this node and number of nodes: those of the started ranks, else those of the configuration."""
    if here := local_size():
        return (config.devices if "," in config.devices else str(here)), max(1, world_size() // here)
    return config.devices, config.num_nodes


def devices(config: Config) -> dict[str, Any]:
    """Lightning's arguments for devices and precision, and for what Multihead does in Lightning's place."""
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
    """Lightning's strategy. Of several tasks a step uses one, and DDP has to expect parameters without gradient."""
    if config.strategy == "fsdp":
        from multihead.training.sharding import Sharded

        return Sharded(world_size()) if world_size() > 1 else "auto"  # one rank has all parameters
    several = len(config.task.members()) > 1 and world_size() > 1
    return "ddp_find_unused_parameters_true" if several and config.strategy in ("auto", "ddp") else config.strategy


def local_ranks(config: Config) -> int:
    """The number of ranks that this process has to start; 1 means none beside itself.

    Raises:
        ConfigError: If the machine lacks a device, or if torchrun or srun has to start the ranks of several nodes.
    """
    kind = capabilities.device_of(config.accelerator)
    found = capabilities.device_counts()[kind]
    listed = _listed(config, kind, found)
    if kind != "cpu" and (here := local_size()) > found:
        what = f"{here} ranks were started on this machine, but {_found(kind, found)}"
        raise ConfigError("devices", what, f"start {found} rank{'s' * (found > 1)}")
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
        what = f"must be at most {found}, got {config.devices}; {_found(kind, found)}"
        raise ConfigError("devices", what, fix)
    return int(config.devices)


def _listed(config: Config, kind: str, found: int) -> list[int]:
    """The devices that ``devices=0,1`` names; empty if it is a number or auto.

    Raises:
        ConfigError: If the machine lacks one, if one is named twice, or if the run is on the CPU.
    """
    if "," not in config.devices:
        return []
    listed = [int(part) for part in config.devices.split(",") if part]
    if kind == "cpu":
        what = f"the list {config.devices!r} is for GPUs, but this run is on the CPU"
        raise ConfigError("devices", what, f"devices={len(listed)}")
    if len(set(listed)) < len(listed):
        raise ConfigError("devices", f"{config.devices!r} names a device twice", f"devices={len(set(listed))}")
    if max(listed) >= found:
        what = f"no {kind} device {max(listed)}: {_found(kind, found)}, and the first is 0"
        raise ConfigError("devices", what, f"devices={min(len(listed), found)}")
    if by_others() and local_size() > len(listed):
        named = f"{config.devices!r} names {len(listed)} device{'s' * (len(listed) > 1)}"
        what = f"{named}, but {local_size()} ranks were started on this machine"
        raise ConfigError("devices", what, f"devices={local_size()}")
    return listed


def _found(kind: str, count: int) -> str:
    return f"this machine has {count} {kind} device{'s' * (count > 1)}"


def launch(ranks: int, assignment: Assignment) -> None:
    """Trains in ``ranks`` worker processes. If one of them fails, all are ended, and this process raises its error.

    Raises:
        MultiheadError: If a rank failed in a way that the user can fix.
        PeerError: If a rank was killed.
        RankError: If a rank failed by a defect.
        Stopped: If a signal ended them.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import elastic_launch

    from multihead.training.watchdog import Watchdog

    for name in [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed")]:
        logging.getLogger(name).setLevel(logging.CRITICAL)  # their report is a page long
    assignment = dataclasses.replace(assignment, threads=capabilities.threads_per_rank(ranks))
    run_dir, patience = Path(assignment.run_dir), assignment.tree["trainer"]["watchdog_seconds"]
    with (
        tempfile.TemporaryDirectory(prefix="multihead-", ignore_cleanup_errors=True) as folder,
        Watchdog(Path(folder), ranks, patience, run_dir) as watchdog,
        handling({LAUNCHER_SIGNAL: None, **dict.fromkeys(SIGNALS, watchdog.pass_on)}),
    ):
        file = Path(folder) / "job.json"
        assignment.write(file)
        try:
            elastic_launch(_settings(Path(folder), ranks, assignment.quiet), sys.executable)(
                "-m", RANK_PROGRAM, str(file)
            )
        except ChildFailedError as error:
            exits = {rank: failure.exitcode for rank, failure in error.failures.items()}
            if watchdog.verdict:
                raise PeerError(*watchdog.verdict, _resume(assignment.run_dir)) from None
            raise _first_error(Path(folder), exits, assignment.run_dir, watchdog.signum) from None
        except SignalException as error:
            raise _first_error(Path(folder), {}, assignment.run_dir, error.sigval) from None
        stopped = next((failure for failure in Failure.read_all(Path(folder)) if failure.kind == "Stopped"), None)
        if stopped is not None:
            raise stopped.error()


def _settings(folder: Path, ranks: int, quiet: bool) -> LaunchConfig:
    """How PyTorch's launcher starts and ends the ranks."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig

    return LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        run_id=folder.name,
        nproc_per_node=ranks,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        max_restarts=0,
        monitor_interval=0.2,
        shutdown_timeout=SHUTDOWN_SECONDS,
        signals_to_handle=LAUNCHER_SIGNAL.name,
        logs_specs=DefaultLogsSpecs(log_dir=str(folder), redirects=Std.ALL if quiet else Std.NONE),
    )


def _first_error(folder: Path, exits: dict[int, int], run_dir: str, signum: int = 0) -> BaseException:
    """The error that explains the failure: that of the rank which failed first.

    Args:
        folder: The folder in which the ranks wrote their failures.
        exits: The exit status of each rank that had failed before the others were ended.
        run_dir: The run directory.
        signum: The signal that ended all, if one did.
    """
    resume = _resume(run_dir)
    own = [failure for failure in Failure.read_all(folder) if not failure.by_peer]
    first = min(own, key=lambda failure: failure.seconds, default=None)
    if signum and (first is None or not first.kind):  # what ranks meet that end in the middle of something
        return Stopped(signum, f"stopped by {signal.Signals(signum).name}; {resume}")
    if first is None:
        rank = min(exits, key=lambda rank: (exits[rank] == -signal.SIGTERM, exits[rank]))  # SIGTERM ends the others
        status = exits[rank]
        what = f"was killed by {signal.Signals(-status).name}" if status < 0 else f"ended with status {status}"
        return PeerError(f"rank {rank}", what, resume)
    return first.error()


def _resume(run_dir: str) -> str:
    return f"{typed_as('resume', run_dir)} goes on from its newest checkpoint"


def requeue() -> str:
    """Puts this job back into SLURM's queue, after SIGUSR1; returns a clause that says so, or why it failed."""
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
