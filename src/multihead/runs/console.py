"""The messages of a run: on the screen, and in `train.log`.

Everything goes through the ``multihead`` logger. A record may have ``renderable``, which rich draws instead of the
text, ``quiet``, if a terminal or notebook does not show it, or ``once``, if only the first record with that value is
shown.
"""

from __future__ import annotations

import contextlib
import io
import logging
import os
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from multihead.errors import MachineError, reason
from multihead.runs import notebook
from multihead.runs.screen import PIPE_WIDTH, without_trailing_blanks

log = logging.getLogger("multihead")

LIBRARIES = ("lightning.pytorch", "lightning.fabric", "py.warnings")
"""Loggers that write to our console and file while a log is open."""
COMMAND = re.compile(r"(multihead|python train\.py|wandb sync|pip install) ")
"""How a command begins. The terminal wraps a line with a command, so that it can be copied whole."""


class Log:
    """The open console and ``train.log``. Closing it restores the state of the logging module.

    Args:
        console: The console.
        handlers: The handlers that write the messages.
        in_notebook: Whether the console is the output of a notebook's cell.
    """

    def __init__(self, console: Console, handlers: Sequence[logging.Handler], in_notebook: bool = False):
        self.console, self.handlers, self.in_notebook = console, handlers, in_notebook
        self._before = {name: _state(logging.getLogger(name)) for name in ("multihead", *LIBRARIES)}
        for name in self._before:
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = list(handlers), False
        log.setLevel(logging.INFO)
        logging.captureWarnings(True)
        for handler in handlers:
            handler.addFilter(_Once())

    def close(self) -> None:
        """Detaches and closes the handlers."""
        global _open
        logging.captureWarnings(False)
        for name, (handlers, propagate, level) in self._before.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate = handlers, propagate
            logger.setLevel(level)
        for handler in self.handlers:
            handler.close()
        _open = None


_open: Log | None = None


def open_terminal() -> Console | None:
    """The console of the open log if it is a terminal."""
    return _open.console if _open is not None and _open.console.is_terminal else None


def open_notebook() -> bool:
    """Whether the open log writes to a notebook."""
    return _open is not None and _open.in_notebook


def _state(logger: logging.Logger) -> tuple[list[logging.Handler], bool, int]:
    return logger.handlers, logger.propagate, logger.level


def open_log(run_dir: Path | None, console: Console | None = None, quiet: bool = False) -> Log:
    """Sends the run's messages to the console (standard output) and to ``train.log``.

    Args:
        run_dir: The directory of ``train.log``, or None to write to the console alone.
        console: A console that is used instead of standard output.
        quiet: Shows nothing. ``train.log`` has the messages.

    Raises:
        MachineError: If ``train.log`` cannot be opened.
    """
    global _open
    if _open is not None:
        _open.close()
    in_notebook = console is None and not quiet and notebook.in_notebook()
    if quiet:
        console = Console(file=io.StringIO())
    elif console is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a translation may not fit the terminal's encoding
        if sys.stdout.isatty():
            console = Screen(highlight=False)
        else:  # Jupyter sets FORCE_COLOR, also for ranks; rich takes it for a terminal
            width = notebook.WIDTH if in_notebook else PIPE_WIDTH
            console = Screen(highlight=False, width=width, force_terminal=False, force_jupyter=False)
    handlers: list[logging.Handler] = [logging.NullHandler() if quiet else _ConsoleHandler(console, in_notebook)]
    if run_dir is not None:
        try:
            file = _FileHandler(run_dir / "train.log", encoding="utf-8", errors="replace")
        except OSError as error:
            raise MachineError(str(run_dir / "train.log"), f"cannot be opened ({error.strerror})") from error
        file.setFormatter(_FileFormatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        handlers.append(file)
    _open = Log(console, handlers, in_notebook)
    return _open


class Screen(Console):
    """A console for a pipe that may close (``| head``). The run then goes on; rich's own console ends the process."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        with contextlib.suppress(OSError):  # the console has no file descriptor
            os.dup2(os.open(os.devnull, os.O_WRONLY), self.file.fileno())


class _Once(logging.Filter):
    """Drops a record if this log already had one with the same ``once``."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is shown."""
        once = getattr(record, "once", None)
        new = once is None or once not in self.seen
        self.seen.add(once or "")
        return new


class _NeverEndsTheRun(logging.Handler):
    """A handler that reports its first error in one line on stderr; the logging module prints a traceback each time."""

    what: str
    """What the handler writes, as the beginning of a sentence."""
    _reported = False

    def handleError(self, record: logging.LogRecord) -> None:
        error = sys.exc_info()[1]
        if not self._reported and sys.stderr is not None and error is not None:
            self._reported = True
            what = f"{self.what} cannot be written, and the run goes on without it: {reason(error)}"
            with contextlib.suppress(OSError, ValueError):
                sys.stderr.write(what.encode("ascii", "backslashreplace").decode() + "\n")


class _ConsoleHandler(_NeverEndsTheRun):
    what = "the screen"

    def __init__(self, console: Console, in_notebook: bool):
        super().__init__()
        self.console, self.has_bar = console, console.is_terminal or in_notebook

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._show(record)
        except Exception:
            self.handleError(record)

    def _show(self, record: logging.LogRecord) -> None:
        if getattr(record, "quiet", False) and self.has_bar:
            return
        drawn = getattr(record, "renderable", None)
        if drawn is None:
            style = "yellow" if record.levelno >= logging.WARNING else ""
            text = record.getMessage()
            parts = getattr(record, "parts", None)
            if parts and self.console.is_terminal:
                text = in_lines(parts, self.console.width)
            whole = not self.console.is_terminal or COMMAND.search(text) is not None
            self.console.print(Text(text, style=style), soft_wrap=whole)
        elif self.console.is_terminal:
            self.console.print(drawn)
        else:
            self.console.print(Text(_as_text(drawn, self.console.width)), soft_wrap=True)


def _as_text(renderable: Any, width: int) -> str:
    """A table as plain lines, without the blanks that fill its last column."""
    text = io.StringIO()
    Console(file=text, width=width, highlight=False, force_jupyter=False).print(renderable)
    return without_trailing_blanks(text.getvalue().rstrip("\n"))


class _FileHandler(_NeverEndsTheRun, logging.FileHandler):
    what = "train.log"


class _FileFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        drawn = getattr(record, "renderable", None)
        if drawn is None:
            return super().format(record)
        return _as_text(drawn, PIPE_WIDTH)


def in_lines(parts: Sequence[str], width: int) -> str:
    """Joins parts by two spaces, or by one if they then fit in a line. Otherwise they go on in further lines."""
    if len("  ".join(parts)) > width >= len(" ".join(parts)):
        return " ".join(parts)
    lines = [parts[0]]
    for part in parts[1:]:
        if len(lines[-1]) + 2 + len(part) <= width:
            lines[-1] += f"  {part}"
        else:
            lines.append(f"    {part}")
    return "\n".join(lines)
