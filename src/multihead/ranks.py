"""Which rank this process is: the environment variables that torchrun, srun or our own launcher set."""

from __future__ import annotations

import os

from multihead.errors import ConfigError

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
"""Variables that torchrun and our own launcher set together."""
SRUN = ("SLURM_PROCID", "SLURM_NTASKS")
"""Variables that srun sets."""
NO_STEP = 2**32 - 16
"""SLURM's step numbers from here on stand for batch scripts and interactive shells, not for steps of srun."""


def check_numbers() -> None:
    """Checks the variables that Lightning reads as soon as it is imported.

    Raises:
        ConfigError: If one of them is empty or not a number.
    """
    for name in (*TORCHRUN, "LOCAL_WORLD_SIZE", *(SRUN if _in_step() else ("SLURM_PROCID",)), "JSM_NAMESPACE_RANK"):
        value = os.environ.get(name)
        if value is not None and not (value.isascii() and value.isdigit()):
            what = f"the environment variable must be a number of at least 0, got {value!r}"
            raise ConfigError(name, what, f"unset {name}")


def check_ranks() -> None:
    """Checks that a launcher has set all its variables. Otherwise each rank would start a run of its own.

    Raises:
        ConfigError: If variables are missing, are not numbers, or contradict each other.
    """
    check_numbers()
    there = [name for name in TORCHRUN if name in os.environ]
    missing = [name for name in TORCHRUN if name not in os.environ]
    if there and missing:
        verb = "is" if len(there) == 1 else "are"
        what = f"{verb} set, but not {' and '.join(missing)}; torchrun sets all three"
        raise ConfigError(" and ".join(there), what, f"unset {' '.join(there)}, or start the command by torchrun")
    if _in_step() and not by_torchrun() and (lost := [name for name in SRUN if name not in os.environ]):
        what = "is not set, although SLURM_STEP_ID says that srun started this process"
        raise ConfigError(" and ".join(lost), what, "unset SLURM_STEP_ID, or start the command by srun")
    if there:
        rank, local, world = (int(os.environ[name]) for name in TORCHRUN)
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        fix = "unset RANK LOCAL_RANK WORLD_SIZE, or start the command by torchrun"
        if rank >= world:
            raise ConfigError("RANK", f"must be below WORLD_SIZE={world}, got {rank}", fix)
        if "LOCAL_WORLD_SIZE" in os.environ and not local < here <= world:
            what = f"must be above LOCAL_RANK={local} and at most WORLD_SIZE={world}, got {here}"
            raise ConfigError("LOCAL_WORLD_SIZE", what, fix)


def by_torchrun() -> bool:
    """Whether this process is a rank that PyTorch's launcher started, for us or for ``torchrun``."""
    return all(os.environ.get(name) for name in TORCHRUN)


def by_srun() -> bool:
    """Whether ``srun`` started this process. A process in an allocation or a batch script alone does not count."""
    return not by_torchrun() and _in_step() and all(os.environ.get(name) for name in SRUN)


def _in_step() -> bool:
    step = os.environ.get("SLURM_STEP_ID", "")
    in_step = step.isascii() and step.isdigit() and int(step) < NO_STEP
    return in_step and any(name in os.environ for name in SRUN)


def by_others() -> bool:
    """Whether a launcher started this process as one of its ranks."""
    return by_torchrun() or by_srun()


def world_size() -> int:
    """The number of ranks, as the launcher of this process says; 1 in a process that no launcher started."""
    return int(os.environ["WORLD_SIZE"] if by_torchrun() else os.environ["SLURM_NTASKS"] if by_srun() else 1)


def is_main_rank() -> bool:
    """Whether this process writes the run directory."""
    return int(os.environ["RANK"] if by_torchrun() else os.environ["SLURM_PROCID"] if by_srun() else 0) == 0


def local_size() -> int:
    """The number of ranks that a launcher started on this machine; 0 if it does not say."""
    if by_torchrun():
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    tasks = os.environ.get("SLURM_NTASKS_PER_NODE", "") if by_srun() else ""
    return int(tasks) if tasks.isdigit() else 0
