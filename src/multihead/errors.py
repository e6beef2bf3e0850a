"""Errors that a user can fix, with their exit statuses; and how every error is reported on the screen.

Exit statuses of every command: 0 done and read back; 1 a defect of ours; 2 the user's configuration, command line or
data; 3 a checkpoint unusable or refused; 4 numerics; 5 the machine; 6 a peer process died; 7 a sweep finished with
failed trials; 129, 130, 143 hung up, interrupted, terminated.
"""

from __future__ import annotations

import contextlib
import errno
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator


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


MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOMEM, errno.EIO,
                  errno.EMFILE, errno.ENFILE, errno.EFBIG)  # fmt: skip


def mendable(error: BaseException) -> BaseException:
    """The error as a `MachineError` where it is about disk, memory or permissions."""
    if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
        return MachineError(str(error.filename or "disk"), str(error.strerror)).with_traceback(error.__traceback__)
    told = str(error)  # torch tells of memory by a class or a sentence of its own
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in told)
    ):
        fix = "smaller data.part_tokens, data.eval_tokens or model"
        what = f"not enough ({told.rpartition('Allocator: ')[2][:120]})" if told else "not enough"
        return MachineError("memory", what, fix).with_traceback(error.__traceback__)
    if isinstance(error, RuntimeError) and told.startswith("DataLoader worker"):  # mostly by the kernel, for memory
        fix = "the same command with resume=auto goes on; data.num_workers=0 takes less memory"
        return MachineError("data.num_workers", told.strip(), fix).with_traceback(error.__traceback__)
    if isinstance(error, RuntimeError) and "DataLoader worker" in told:
        fix = "resume; fewer data.num_workers where memory is short"
        return MachineError("data.num_workers", told[:200], fix).with_traceback(error.__traceback__)
    return error


SHOW_TRACEBACK = "MULTIHEAD_TRACEBACK"


def guarded(action: Callable[[], int]) -> int:
    """The status that ``action`` returns, or the one of the error it ends with, which is told on stderr."""
    try:
        status = action()
        sys.stdout.flush()
        return status
    except (Exception, KeyboardInterrupt, Stopped) as error:
        return report(error)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)


def report(error: BaseException) -> int:
    """Tells an error in one line on stderr and returns its exit status."""
    if isinstance(error, BrokenPipeError):  # the reader of our output had enough, as in `multihead predict ... | head`
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, KeyboardInterrupt):
        _tell("interrupted")
        return 130
    if isinstance(error, Stopped):
        if str(error):
            _tell(str(error))
        return error.status
    error = mendable(error)
    text = "".join(traceback.format_exception(error))
    if os.environ.get(SHOW_TRACEBACK) == "1":
        sys.stderr.write(text)
    if isinstance(error, MultiheadError):
        _tell(str(error))
        return error.status
    _tell(f"error[internal] {type(error).__name__}: {error}; a defect of ours; {_where_traceback(error, text)}")
    return 1


def _where_traceback(error: BaseException, text: str) -> str:
    """Says where the traceback is, after writing it where a run has not done so."""
    if os.environ.get(SHOW_TRACEBACK) == "1":
        return "traceback above"
    if written := getattr(error, "crash_file", None):
        return f"traceback in {written}"
    try:
        with tempfile.NamedTemporaryFile("w", prefix="multihead-crash-", suffix=".txt", delete=False) as file:
            file.write(text)
        return f"traceback in {file.name}"
    except OSError:
        return f"{SHOW_TRACEBACK}=1 shows the traceback"


def _tell(line: str) -> None:
    """One line on stderr, whatever the text holds."""
    line = re.sub(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", line).strip()
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stderr.flush()


log = logging.getLogger("multihead")


MOST_LETTERS = 300
"""Letters of a reason that are shown."""


@contextlib.contextmanager
def side_output(what: str) -> Iterator[None]:
    """Inside, or in a function that it decorates, an error costs neither the run nor its result.

    One warning names what failed and why; while a log is open (`open_log`) it is not said again.
    A signal, which is no ``Exception``, still ends the run. Not for code in which ranks wait for each other.

    Args:
        what: The output, as the beginning of a sentence: "the table of samples".
    """
    try:
        yield
    except Exception as error:
        if os.environ.get(SHOW_TRACEBACK) == "1":
            sys.stderr.write("".join(traceback.format_exception(error)))
        log.warning("%s failed, and the run goes on without: %s", what, reason(error), extra={"once": what})


def reason(error: BaseException) -> str:
    """What happened, in one line: the error's class and its words."""
    words = " ".join(str(error).split())[:MOST_LETTERS]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
