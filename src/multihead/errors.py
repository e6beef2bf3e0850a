"""Errors that a user can fix, with their exit statuses; and how every error is reported on the screen.

Exit statuses of every command: 0 done and read back; 1 a bug in Multihead or in a plugin; 2 the user's configuration,
command line or data; 3 a checkpoint unusable or refused; 4 numerics; 5 the machine; 6 a peer process died; 7 a sweep
finished with failed trials; 129, 130, 143 hung up, interrupted, terminated.
"""

from __future__ import annotations

import contextlib
import errno
import importlib.metadata
import logging
import os
import re
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar


class MultiheadError(Exception):
    """An error that a user can fix: it says where it is, what is wrong, and what to do.

    Args:
        where: A configuration key (``optim.lr``), a file and line (``train.de:88``) or a path.
        what: What is wrong and what was expected.
        fix: What to type or do next; empty if ``what`` says it already.
    """

    code = "error"
    status = 1
    others: Sequence[str] = ()
    """What else is wrong, one line each, if the same look at the data has found more."""
    more = 0
    """Number of findings beyond `others`."""

    def __init__(self, where: str, what: str, fix: str = ""):
        self.where, self.what, self.fix = where, what, fix
        super().__init__(where, what, fix)

    def __str__(self) -> str:
        tail = f"; fix: {self.fix}" if self.fix else ""
        return in_one_line(f"error[{self.code}] {self.where}: {self.what}{tail}")

    def lines(self) -> list[str]:
        """Returns what a terminal shows: the error, and a line for each of the others."""
        shown = self.others[: MOST_FINDINGS - 1]
        hidden = len(self.others) - len(shown) + self.more
        return [str(self), *map(in_one_line, shown), *([f"and {hidden:,} more"] if hidden else [])]

    def _render_traceback_(self) -> list[str]:
        """Returns what IPython and Jupyter show, by the name under which they look for it: the same as a terminal."""
        if os.environ.get(SHOW_TRACEBACK) == "1":
            return "".join(traceback.format_exception(self)).splitlines()
        return self.lines()


def in_one_line(text: str) -> str:
    """Returns a text with each line break replaced by a blank."""
    return re.sub(r"\s*[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]\s*", " ", text).strip()


Found = TypeVar("Found", bound=MultiheadError)
MOST_FINDINGS = 10
"""So many findings are shown at once."""


def together(errors: Sequence[Found], more: int = 0) -> Found:
    """Returns the first of several errors, with the others in its attribute `others`.

    Args:
        errors: The errors.
        more: Number of errors beyond them.
    """
    first, *rest = errors
    lines = (line for each in rest for line in (f"{each.where}: {each.what}", *each.others))
    first.others = [*first.others, *lines]
    first.more = more + sum(each.more for each in errors)
    return first


class Findings:
    """Collects errors of one kind. Only the first ones are kept, so that a file may have any number of them."""

    def __init__(self):
        self.first: list[DataError] = []
        self.more = 0

    def add(self, error: DataError) -> None:
        """Keeps an error, or counts it."""
        if len(self.first) < MOST_FINDINGS:
            self.first.append(error)
        else:
            self.more += 1

    def end(self) -> None:
        """Raises the errors together if there are any."""
        if self.first:
            raise together(self.first, self.more)


class ConfigError(MultiheadError):
    """A key, a value or a combination of values that is not valid, in the configuration or on the command line."""

    code, status = "config", 2


class DataError(MultiheadError):
    """A data set that cannot be read as its configuration describes it."""

    code, status = "data", 2


class CheckpointError(MultiheadError):
    """A checkpoint, run directory or plugin that is damaged or missing, or that does not fit."""

    code, status = "checkpoint", 3


class NumericsError(MultiheadError):
    """A loss or gradient that is not finite."""

    code, status = "numerics", 4


class MachineError(MultiheadError):
    """An error of the disk, the memory or the permissions."""

    code, status = "machine", 5


class PeerError(MultiheadError):
    """Another rank died, or it no longer answers."""

    code, status = "peer", 6


class Stopped(BaseException):
    """A signal ended the run after its state was saved; ``status`` is 128 plus the signal's number.

    Args:
        signum: The signal's number.
        message: What is shown.
        together: Whether all ranks stop at the same place, so that none has to be ended by another.
    """

    def __init__(self, signum: int, message: str = "", together: bool = False):
        self.status, self.together = 128 + signum, together
        super().__init__(message)


MACHINE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOMEM, errno.EIO,
                  errno.EMFILE, errno.ENFILE, errno.EFBIG)  # fmt: skip


def as_user_error(error: BaseException) -> BaseException:
    """Returns the error as a `MachineError` if it is about disk, memory or permissions; otherwise unchanged."""
    if isinstance(error, OSError) and error.errno in MACHINE_ERRORS:
        return MachineError(str(error.filename or "disk"), str(error.strerror)).with_traceback(error.__traceback__)
    message = str(error)  # torch reports a lack of memory by its own class or by this sentence
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError)
        and (type(error).__name__ == "OutOfMemoryError" or "can't allocate memory" in message)
    ):
        fix = "use a smaller data.part_tokens, data.eval_tokens or model"
        what = f"not enough ({message.rpartition('Allocator: ')[2][:120]})" if message else "not enough"
        return MachineError("memory", what, fix).with_traceback(error.__traceback__)
    if isinstance(error, RuntimeError) and "DataLoader worker" in message:  # most often killed for lack of memory
        fix = "continue with resume=auto; data.num_workers=0 needs less memory"
        return MachineError("data.num_workers", message.strip()[:200], fix).with_traceback(error.__traceback__)
    return error


SHOW_TRACEBACK = "MULTIHEAD_TRACEBACK"
OUR_BUG = "a bug in Multihead"
"""How a message says that the user cannot fix the error."""
PLUGIN_FILES: set[str] = set()
"""The files of the plugins that this process has loaded; an error that comes from one of them is not our bug."""
PACKAGE_NAME = __name__.partition(".")[0]
PACKAGE = os.path.dirname(os.path.abspath(__file__)) + os.sep


def guarded(action: Callable[[], int]) -> int:
    """Returns the status of ``action``, or that of the error that ended it. `report` writes the error to stderr."""
    try:
        status = action()
        sys.stdout.flush()
        return status
    except (Exception, KeyboardInterrupt, Stopped) as error:
        return report(error)
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else int(left.code is not None)


def report(error: BaseException) -> int:
    """Writes an error as one line to stderr and returns its exit status."""
    if isinstance(error, BrokenPipeError):  # our output was closed, as in `multihead predict ... | head`
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, KeyboardInterrupt):
        write_line("interrupted")
        return 130
    if isinstance(error, Stopped):
        if str(error):
            write_line(str(error))
        return error.status
    error = as_user_error(error)
    text = "".join(traceback.format_exception(error))
    if os.environ.get(SHOW_TRACEBACK) == "1":
        sys.stderr.write(text)
    if isinstance(error, MultiheadError):
        for line in error.lines():
            write_line(line)
        return error.status
    where, said = _where_traceback(error, text), f"{type(error).__name__}: {error}"
    if place := _place_in_plugin(getattr(error, "traceback", "") or text):
        write_line(f"error[plugin] in your plugin {place}: {said}; {where}")
    elif isinstance(error, ModuleNotFoundError) and not (error.name or PACKAGE_NAME).startswith(PACKAGE_NAME):
        missing = str(error.name).partition(".")[0]
        what, words = f"has no package {missing}, which an option of this command needs", missing
        if _comes_with_set_up(missing):
            what = f"has no package {missing}; activate the environment of the set-up, or install it here"
            words = '-e ".[dev]" -c constraints.txt'
        found = MachineError(sys.executable, what, f"{sys.executable} -m pip install {words}")
        write_line(str(found))
        return found.status
    else:
        write_line(f"error[internal] {said}; {OUR_BUG}; {where}")
    return 1


def _comes_with_set_up(name: str) -> bool:
    """Whether the set-up installs what brings the module ``name``, such as hydra-core for hydra."""
    try:
        needs = importlib.metadata.requires(PACKAGE_NAME) or []
    except importlib.metadata.PackageNotFoundError:  # nothing was set up in this Python
        return True
    needs = [need for need in needs if "extra ==" not in need or "extra == 'dev'" in need]
    return name == "yaml" or any(need.startswith(name) for need in needs)  # omegaconf brings yaml


def _place_in_plugin(text: str) -> str:
    """The plugin's file and line if the innermost frame of a traceback is there; empty if it is in our code.

    Frames of other libraries do not count: a plugin that calls one with wrong arguments is wrong itself. The text is
    read, because it is all that is left of the error of another rank or of a loader worker.
    """
    frames = re.findall(r'^ *File "(.+)", line (\d+)', text, flags=re.MULTILINE)
    known = [(file, line) for file, line in frames if file in PLUGIN_FILES or file.startswith(PACKAGE)]
    file, line = known[-1] if known else ("", "")
    return f"{os.path.basename(file)}:{line}" if file in PLUGIN_FILES else ""


def _where_traceback(error: BaseException, text: str) -> str:
    """Says where the traceback is; writes it to a file unless the run has done so."""
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


def write_line(line: str) -> None:
    """Writes a text to stderr as one line, whatever characters it holds."""
    line = in_one_line(line)
    encoding = sys.stderr.encoding or "utf-8"
    sys.stderr.write(line.encode(encoding, "backslashreplace").decode(encoding) + "\n")
    sys.stderr.flush()


log = logging.getLogger("multihead")

REASON_CHARACTERS = 300
"""A longer reason is cut to this length."""


@contextlib.contextmanager
def side_output(what: str) -> Iterator[None]:
    """Turns an error inside the block, or in the function that it decorates, into a warning.

    The warning names what failed and why, and is not repeated while a log is open (`open_log`). A signal is no
    ``Exception`` and still ends the run. Do not use it around code in which ranks wait for each other.

    Args:
        what: The output, as the beginning of a sentence: "the table of samples".
    """
    try:
        yield
    except Exception as error:
        if os.environ.get(SHOW_TRACEBACK) == "1":
            sys.stderr.write("".join(traceback.format_exception(error)))
        log.warning("%s failed, and the run goes on without it: %s", what, reason(error), extra={"once": what})


def reason(error: BaseException) -> str:
    """Returns the error's class and message in one line."""
    words = " ".join(str(error).split())[:REASON_CHARACTERS]
    return f"{type(error).__name__}: {words}" if words else type(error).__name__
