"""Who am I among the ranks: what torchrun, srun or our own launcher say by environment variables."""

from __future__ import annotations

import os

from multihead.errors import ConfigError

TORCHRUN = ("RANK", "LOCAL_RANK", "WORLD_SIZE")
"""Variables that torchrun and our own launcher set together."""
SRUN = ("SLURM_PROCID", "SLURM_NTASKS")
NO_STEP = 2**32 - 16
"""From here on, step numbers of SLURM stand for batch scripts and the like."""


def check_numbers() -> None:
    """Lightning reads these variables as soon as it is imported, and fails where one is no number.

    Raises:
        ConfigError: A variable that says the rank is empty or no number.
    """
    for name in (*TORCHRUN, "LOCAL_WORLD_SIZE", *(SRUN if _in_step() else ("SLURM_PROCID",)), "JSM_NAMESPACE_RANK"):
        value = os.environ.get(name)
        if value is not None and not (value.isascii() and value.isdigit()):
            what = f"the environment variable is {value!r}, and not a number of at least 0"
            raise ConfigError(name, what, f"unset {name}")


def check_ranks() -> None:
    """Refuses a part of what a launcher sets, which would start a run of one process in place of several.

    Raises:
        ConfigError: Variables are missing, are no numbers, or contradict each other.
    """
    check_numbers()
    there = [name for name in TORCHRUN if name in os.environ]
    missing = [name for name in TORCHRUN if name not in os.environ]
    if there and missing:
        verb = "is" if len(there) == 1 else "are"
        what = f"{verb} in the environment without {' and '.join(missing)}; torchrun sets all three"
        raise ConfigError(" and ".join(there), what, f"unset {' '.join(there)}, or start the command by torchrun")
    if _in_step() and not by_torchrun() and (lost := [name for name in SRUN if name not in os.environ]):
        what = "is not in the environment, although SLURM_STEP_ID says that srun started this process"
        raise ConfigError(" and ".join(lost), what, "unset SLURM_STEP_ID, or start the command by srun")
    if there:
        rank, local, world = (int(os.environ[name]) for name in TORCHRUN)
        here = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
        fix = "unset RANK LOCAL_RANK WORLD_SIZE, or start the command by torchrun"
        if rank >= world:
            raise ConfigError("RANK", f"is {rank}, and must be below WORLD_SIZE={world}", fix)
        if "LOCAL_WORLD_SIZE" in os.environ and not local < here <= world:
            what = f"is {here}, and must be above LOCAL_RANK={local} and at most WORLD_SIZE={world}"
            raise ConfigError("LOCAL_WORLD_SIZE", what, fix)


def by_torchrun() -> bool:
    """Whether this process is a rank that torch's launcher started: ours, or ``torchrun``."""
    return all(os.environ.get(name) for name in TORCHRUN)


def by_srun() -> bool:
    """Whether ``srun`` started this process, and not just a SLURM allocation or batch script that it runs in."""
    return not by_torchrun() and _in_step() and all(os.environ.get(name) for name in SRUN)


def _in_step() -> bool:
    step = os.environ.get("SLURM_STEP_ID", "")
    in_step = step.isascii() and step.isdigit() and int(step) < NO_STEP
    return in_step and any(name in os.environ for name in SRUN)


def by_others() -> bool:
    """Whether a launcher started this process as one of its ranks."""
    return by_torchrun() or by_srun()


def world_size() -> int:
    """Number of ranks of this run, as its launcher (ours, torchrun or srun) says."""
    return int(os.environ["WORLD_SIZE"] if by_torchrun() else os.environ["SLURM_NTASKS"] if by_srun() else 1)


def is_main_rank() -> bool:
    """Whether this process writes the run directory."""
    return int(os.environ["RANK"] if by_torchrun() else os.environ["SLURM_PROCID"] if by_srun() else 0) == 0


def local_size() -> int:
    """Ranks on this machine that a launcher started; 0 where it does not say."""
    if by_torchrun():
        return int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    tasks = os.environ.get("SLURM_NTASKS_PER_NODE", "") if by_srun() else ""
    return int(tasks) if tasks.isdigit() else 0
