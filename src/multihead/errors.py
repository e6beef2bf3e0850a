"""What a user can mend, with the exit status that goes with it.

Exit statuses of every command: 0 done and read back; 1 a defect of ours; 2 the user's configuration, command line or
data; 3 a checkpoint unusable or refused; 4 numerics; 5 the machine; 6 a peer process died; 7 a sweep finished with
failed trials; 129, 130, 143 hung up, interrupted, terminated.
"""

from __future__ import annotations


class MultiheadError(Exception):
    """An error that its reader can mend: where it is, what is wrong, what to do.

    Args:
        where: A configuration key (``optim.lr``), a file and line (``train.de:88``) or a path.
        what: What is wrong and what was expected.
        fix: What to do about it, or empty where ``what`` says it already.
    """

    code = "error"
    status = 1

    def __init__(self, where: str, what: str, fix: str = ""):
        self.where, self.what, self.fix = where, what, fix
        super().__init__(where, what, fix)

    def __str__(self) -> str:
        tail = f"; fix: {self.fix}" if self.fix else ""
        return f"error[{self.code}] {self.where}: {self.what}{tail}"


class ConfigError(MultiheadError):
    """A key, value or combination of the configuration or the command line that cannot be."""

    code, status = "config", 2


class DataError(MultiheadError):
    """A dataset that cannot be read as described."""

    code, status = "data", 2


class CheckpointError(MultiheadError):
    """A checkpoint, capsule or plugin that is damaged, missing or does not fit."""

    code, status = "checkpoint", 3


class NumericsError(MultiheadError):
    """A loss or gradient that is not finite."""

    code, status = "numerics", 4


class MachineError(MultiheadError):
    """Disk, memory or permissions."""

    code, status = "machine", 5


class PeerError(MultiheadError):
    """Another rank died or stopped answering."""

    code, status = "peer", 6


class Stopped(BaseException):
    """A signal ended the run after its state was saved; ``status`` is 128 plus the signal's number."""

    def __init__(self, signum: int, message: str = ""):
        self.status = 128 + signum
        super().__init__(message)
