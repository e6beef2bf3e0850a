"""Which process owns a trial, and whether it is still alive."""

from __future__ import annotations

import contextlib
import os
import socket
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

STALE_SECONDS = 120.0
"""An owner on another host counts as dead if its last heartbeat is older."""
BEAT_SECONDS = 20.0
"""Time between two heartbeats."""


def this_process() -> dict[str, Any]:
    """What other processes must know of this one to find out whether it is alive."""
    pid = os.getpid()
    return {"host": socket.gethostname(), "boot": _boot(), "pid": pid, "start": start_of(pid), "beat": time.time()}


def alive(owner: Mapping[str, Any] | None) -> bool:
    """Whether the process that owns a trial still runs: on this host by its number, elsewhere by its heartbeat."""
    if not owner:
        return False
    if owner["host"] == socket.gethostname():
        return owner["boot"] == _boot() and start_of(owner["pid"]) == owner["start"] != ""
    return time.time() - owner["beat"] < STALE_SECONDS


def start_of(pid: int) -> str:
    """When a process began, in ticks since boot; "" if it has ended. The system may give its number to another one."""
    with contextlib.suppress(OSError, IndexError):
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""


def _boot() -> str:
    with contextlib.suppress(OSError):
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    return ""
