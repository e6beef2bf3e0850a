"""What crosses the processes of a run: what a rank has to do, and why it failed."""

from __future__ import annotations

import json
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from multihead import errors
from multihead.errors import MultiheadError, Stopped

RANK_PROGRAM = "multihead.training.rank"
"""The module that a rank runs. The command line of a rank is found by it."""


@dataclass(frozen=True, kw_only=True)
class Assignment:
    """A run that is about to start, as plain data."""

    tree: dict[str, Any]
    """The whole configuration."""
    words: list[str]
    """What the user typed."""
    run_dir: str
    """The run directory."""
    how: str
    """How the run begins: new, again (from the beginning, in a directory without a checkpoint) or on (a resume)."""
    force: list[str]
    """Names of settings whose difference from the checkpoint the user accepts."""
    plugin: str
    """The plugin's file or name; empty if there is none."""
    notes: list[str]
    """Lines for the log about what the device has decided."""
    quiet: bool = False
    """Whether nothing is shown."""
    threads: int = 0
    """Number of threads of each rank; 0 leaves it to PyTorch."""

    @property
    def resumes(self) -> bool:
        """Whether the run begins from a checkpoint."""
        return self.how == "on"

    def write(self, file: Path) -> None:
        """Writes it for the ranks."""
        file.write_text(json.dumps(asdict(self)))

    @classmethod
    def read(cls, file: Path) -> Assignment:
        """Reads what `write` wrote."""
        return cls(**json.loads(file.read_text()))


class RankError(RuntimeError):
    """A rank failed by a defect.

    Attributes:
        traceback: The rank's own traceback.
    """

    def __init__(self, message: str, traceback: str):
        super().__init__(message)
        self.traceback = traceback


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a rank ended, as plain data for the process that started it."""

    rank: int
    """The number of the rank."""
    seconds: float
    """When it failed, by ``time.time``."""
    kind: str
    """The name of the class of errors, or empty if it was a defect."""
    message: list[str]
    """Where, what and fix of an error that the user can fix; else one sentence."""
    status: int
    """The exit status."""
    traceback: str = ""
    """The traceback of a defect."""
    by_peer: bool = False
    """Whether it failed because another rank did."""

    @classmethod
    def of(cls, error: BaseException, rank: int) -> Failure:
        """Describes the error with which a rank ends."""
        kind, message, trace = "", [f"{type(error).__name__}: {error}"], ""
        if isinstance(error, Stopped):
            kind, message = "Stopped", [str(error)]
        elif isinstance(error, MultiheadError):
            kind, message = type(error).__name__, [error.where, error.what, error.fix]
        else:
            trace = "".join(traceback.format_exception(error))
        return cls(
            rank=rank,
            seconds=time.time(),
            kind=kind,
            message=message,
            status=getattr(error, "status", 1),
            traceback=trace,
            by_peer=isinstance(error, RuntimeError) and ("gloo" in str(error) or "NCCL" in str(error)),
        )

    def error(self) -> BaseException:
        """The same error in the process that started the rank."""
        if self.kind == "Stopped":
            return Stopped(self.status - 128, self.message[0])
        if self.kind:
            return getattr(errors, self.kind)(*self.message)
        return RankError(f"rank {self.rank}: {self.message[0]}", self.traceback)

    def write(self, folder: Path) -> None:
        """Writes it beside the rank's assignment; a reader sees all of it or nothing."""
        beside = folder / f"rank_{self.rank}.tmp"
        beside.write_text(json.dumps(asdict(self)))
        beside.rename(beside.with_suffix(".json"))

    @classmethod
    def read_all(cls, folder: Path) -> list[Failure]:
        """The failures that ranks wrote."""
        return [cls(**json.loads(file.read_text())) for file in folder.glob("rank_*.json")]
