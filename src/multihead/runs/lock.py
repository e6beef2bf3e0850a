"""One writer for each run directory."""

from __future__ import annotations

import contextlib
import datetime
import errno
import os
from collections.abc import Iterator
from pathlib import Path

from filelock import FileLock, Timeout

from multihead.errors import MachineError

FILE = ".lock"
WAIT_SECONDS = 5.0
"""Longest wait for a run that was just killed and has not ended yet."""
NO_LOCKS = (errno.ENOLCK, errno.ENOTSUP, errno.ENOSYS)
"""Errors of a file system that has no locks, as of some network mounts."""


def kernel_lock(file: Path, wait_seconds: float = -1) -> FileLock:
    """A lock that the kernel holds for a process, and that is free as soon as the process ends, however it ends.

    Args:
        file: An empty file, which stays after the lock is released.
        wait_seconds: Longest wait for the process that holds the lock; -1 for no limit.
    """
    return FileLock(file, timeout=wait_seconds, fallback_to_soft=False)


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Inside, no other process writes this run.

    Raises:
        MachineError: Another process writes it, or the directory cannot be written.
    """
    file = run_dir / FILE
    held = contextlib.nullcontext()
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        held = kernel_lock(file, WAIT_SECONDS).acquire()
        file.write_text(f"{os.getpid()} since {datetime.datetime.now():%Y-%m-%d %H:%M:%S}")
    except Timeout:
        holder = file.read_text(errors="replace") or "another one"
        what = f"in use by process {holder}"
        raise MachineError(str(run_dir), what, "wait for it, or choose another run_dir") from None
    except OSError as error:
        if error.errno not in NO_LOCKS:
            what = f"cannot be written ({error.strerror})"
            raise MachineError(str(run_dir), what, "choose another run_dir") from error
    with held:
        yield


def in_use(run_dir: Path) -> bool:
    """Whether a process writes this run now."""
    file = run_dir / FILE
    try:
        if file.is_file():
            with kernel_lock(file, 0):
                pass
    except Timeout:
        return True
    except OSError:  # it is not ours to write, or the file system has no locks
        return False
    return False
