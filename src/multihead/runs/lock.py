"""One writer for each run directory."""

from __future__ import annotations

import contextlib
import datetime
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from multihead.errors import MachineError

FILE = ".lock"
WAIT_SECONDS = 5.0
"""A run that was just killed may still be on its way out."""


@contextlib.contextmanager
def locked(run_dir: Path) -> Iterator[None]:
    """Inside, no other process writes this run. The lock goes with the process, however it ends.

    Raises:
        MachineError: Another process holds it, or the directory cannot be written.
    """
    try:
        run_dir.mkdir(parents=True, exist_ok=True)
        handle = os.open(run_dir / FILE, os.O_RDWR | os.O_CREAT, 0o644)
    except OSError as error:
        raise MachineError(str(run_dir), f"cannot be written ({error.strerror})", "choose another run_dir") from error
    try:
        _take(handle, run_dir)
        os.ftruncate(handle, 0)
        os.pwrite(handle, f"{os.getpid()} since {datetime.datetime.now():%Y-%m-%d %H:%M:%S}".encode(), 0)
        yield
    finally:
        os.close(handle)


def _take(handle: int, run_dir: Path) -> None:
    deadline = time.monotonic() + WAIT_SECONDS
    while True:
        try:
            return fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                holder = os.pread(handle, 100, 0).decode(errors="replace") or "another one"
                what = f"in use by process {holder}"
                raise MachineError(str(run_dir), what, "wait for it, or choose another run_dir") from None
            time.sleep(0.1)
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOTSUP):  # a file system without locks
                return None
            raise


def in_use(run_dir: Path) -> bool:
    """Whether a process writes this run now."""
    try:
        handle = os.open(run_dir / FILE, os.O_RDWR)
    except OSError:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return False
    except OSError:
        return True
    finally:
        os.close(handle)
