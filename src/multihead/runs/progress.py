"""What a run shows while it goes and at its end: a bar in a terminal, plain lines elsewhere, and always `train.log`.

Everything goes through the ``multihead`` logger. A record may have ``renderable``, which rich draws instead of the
text, ``quiet``, if a terminal does not show it, or ``once``, if only the first record with that value is shown.
"""

from __future__ import annotations

import contextlib
import io
import logging
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
from rich.console import Console, Group, RenderableType
from rich.padding import Padding
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar
from rich.table import Table
from rich.text import Text

from multihead.config.training import Config
from multihead.errors import MachineError, reason, side_output
from multihead.metrics.selection import is_better, loss_beside
from multihead.runs.screen import PIPE_WIDTH, Fitted

if TYPE_CHECKING:
    from multihead.tasks.base import Task

log = logging.getLogger("multihead")

LIBRARIES = ("lightning.pytorch", "lightning.fabric", "py.warnings")
"""Loggers that write to our console and file while a log is open."""
SELDOM = ("exact_match", "cut_outputs", "unknown_tokens", "rougeLsum")
"""Metrics that a validation's line leaves out, unless they are monitored."""
MANY_CLASSES = 8
"""If there are more classes, a validation's line leaves out the F1 of each class."""


class Log:
    """The open console and ``train.log``. Closing it restores the state of the logging module."""

    def __init__(self, console: Console, handlers: Sequence[logging.Handler]):
        self.console, self.handlers = console, handlers
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


def _state(logger: logging.Logger) -> tuple[list[logging.Handler], bool, int]:
    return logger.handlers, logger.propagate, logger.level


def open_log(run_dir: Path | None, console: Console | None = None) -> Log:
    """Sends the run's messages to the console (standard output) and to ``train.log``.

    Args:
        run_dir: The directory of ``train.log``, or None to write to the console alone.
        console: A console that is used instead of standard output.

    Raises:
        MachineError: If ``train.log`` cannot be opened.
    """
    global _open
    if _open is not None:
        _open.close()
    if console is None:
        if isinstance(sys.stdout, io.TextIOWrapper):
            sys.stdout.reconfigure(errors="replace")  # a translation may not fit the terminal's encoding
        console = Screen(highlight=False, width=None if sys.stdout.isatty() else PIPE_WIDTH)
    handlers: list[logging.Handler] = [_ConsoleHandler(console)]
    if run_dir is not None:
        try:
            file = _FileHandler(run_dir / "train.log", encoding="utf-8", errors="replace")
        except OSError as error:
            raise MachineError(str(run_dir / "train.log"), f"cannot be opened ({error.strerror})") from error
        file.setFormatter(_FileFormatter("%(asctime)s %(message)s", "%Y-%m-%d %H:%M:%S"))
        handlers.append(file)
    _open = Log(console, handlers)
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

    def __init__(self, console: Console):
        super().__init__()
        self.console = console

    def emit(self, record: logging.LogRecord) -> None:
        try:
            self._show(record)
        except Exception:
            self.handleError(record)

    def _show(self, record: logging.LogRecord) -> None:
        if getattr(record, "quiet", False) and self.console.is_terminal:
            return
        drawn = getattr(record, "renderable", None)
        if drawn is None:
            style = "yellow" if record.levelno >= logging.WARNING else ""
            text = record.getMessage()
            parts = getattr(record, "parts", None)
            if parts and self.console.is_terminal:
                text = in_lines(parts, self.console.width)
            self.console.print(Text(text, style=style), soft_wrap=True)
        elif self.console.is_terminal:
            self.console.print(drawn)
        else:
            self.console.print(Text(_as_text(drawn, self.console.width)), soft_wrap=True)


def _as_text(renderable: Any, width: int) -> str:
    """A table as plain lines, without the blanks that fill its last column."""
    text = io.StringIO()
    Console(file=text, width=width, highlight=False).print(renderable)
    return "\n".join(line.rstrip() for line in text.getvalue().rstrip("\n").split("\n"))


class _FileHandler(_NeverEndsTheRun, logging.FileHandler):
    what = "train.log"


class _FileFormatter(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        drawn = getattr(record, "renderable", None)
        if drawn is None:
            return super().format(record)
        return _as_text(drawn, PIPE_WIDTH)


BAR = side_output("the progress bar")


class Progress(L.Callback):
    """Shows steps done, loss, the monitored metric, tokens per second and time left.

    In a terminal this is a bar, with a line above it for each validation. Elsewhere, and in ``train.log``, there is a
    line for each log interval and each validation. Metrics are read only when they are shown. The time left includes
    validations and saves at their share so far; tokens per second leave them out.
    """

    def __init__(self, config: Config):
        self.monitor, self.mode = config.task.monitor, config.task.monitor_mode
        self.interval = config.trainer.log_every_n_steps
        self.bar: Bar | None = None
        self.shown: TaskID | None = None
        self.first_step = self.reported = 0
        self.started = self.mark = 0.0
        self.tokens, self.paused, self.speed = 0, 0.0, 0.0
        self.pause_began = 0.0
        self.last, self.best, self.best_loss = math.nan, math.nan, math.nan
        self.judged = False

    # ---- the hooks, in the order of a run

    @BAR
    def on_train_start(self, trainer: L.Trainer, pl_module: Task) -> None:
        self.started = self.mark = time.monotonic()
        self.tokens, self.paused = pl_module.tokens_seen, 0.0
        self.first_step = self.reported = -1
        if trainer.is_global_zero:
            self._open("train", trainer.max_steps)

    @BAR
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Task, batch: Any, batch_idx: int) -> None:
        if self.first_step < 0:  # a resumed run has its step only now
            self.first_step = self.reported = trainer.global_step
            self.tokens = pl_module.tokens_seen
        self._report(trainer, pl_module)

    @BAR
    def on_validation_start(self, trainer: L.Trainer, pl_module: Task) -> None:
        if trainer.state.fn != "fit":
            if trainer.is_global_zero:
                self._open("validate", sum(trainer.num_val_batches))
            return
        self._report(trainer, pl_module)
        self.pause_began = time.monotonic()
        self._describe("validating")

    @BAR
    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: Task, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if trainer.state.fn == "fit":
            self._describe(f"validating {batch_idx + 1}/{sum(trainer.num_val_batches)}")
        else:
            self._update(batch_idx + 1)

    @BAR
    def on_validation_end(self, trainer: L.Trainer, pl_module: Task) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self._line(trainer, values, is_best=self._is_best(values))
        if trainer.state.fn == "fit":
            self.paused += time.monotonic() - self.pause_began
            self._describe("train")
            self._update(trainer.global_step, self._fields(trainer))
        else:
            self._close()

    @BAR
    def on_train_end(self, trainer: L.Trainer, pl_module: Task) -> None:
        self._report(trainer, pl_module)
        self._close()

    @BAR
    def on_test_start(self, trainer: L.Trainer, pl_module: Task) -> None:
        if trainer.is_global_zero:
            self._open("test", sum(trainer.num_test_batches))

    @BAR
    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: Task, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self._update(batch_idx + 1)

    @BAR
    def on_test_end(self, trainer: L.Trainer, pl_module: Task) -> None:
        self._close()

    @BAR
    def on_exception(self, trainer: L.Trainer, pl_module: Task, exception: BaseException) -> None:
        self._close()

    def state_dict(self) -> dict[str, float]:
        numbers = {"last": self.last, "best": self.best, "best_loss": self.best_loss}
        return numbers if self.judged else {}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.judged = bool(state_dict)
        self.last, self.best = state_dict.get("last", math.nan), state_dict.get("best", math.nan)
        self.best_loss = state_dict.get("best_loss", math.nan)

    # ---- numbers

    def _report(self, trainer: L.Trainer, module: Task) -> None:
        """Advances the bar, at most once a step. At a log interval, it also writes a line."""
        step = trainer.global_step
        if self.first_step < 0 or step <= self.reported:
            return
        self.reported = step
        if step % self.interval and step < trainer.max_steps:
            self._update(step)
            return
        now = time.monotonic()
        seconds = now - self.mark - self.paused
        if seconds > 0:
            self.speed = (module.tokens_seen - self.tokens) / seconds
        self.mark, self.paused, self.tokens = now, 0.0, module.tokens_seen
        self._update(step, self._fields(trainer))
        loss = trainer.callback_metrics.get("train/loss")
        values = {} if loss is None else {"train/loss": float(loss)}
        self._line(trainer, values, quiet=True)

    def _fields(self, trainer: L.Trainer) -> dict[str, Any]:
        """Returns the bar's numbers as text."""
        loss = trainer.callback_metrics.get("train/loss")
        return {
            "loss": "" if loss is None else f"loss {number(float(loss))}",
            "monitor": "" if math.isnan(self.last) else f"{short(self.monitor)} {number(self.last)}",
            "speed": f"{self.speed:,.0f} tok/s" if self.speed else "",
            "left": duration(self._left(trainer)),
        }

    def _left(self, trainer: L.Trainer) -> float:
        done = trainer.global_step - self.first_step
        spent = time.monotonic() - self.started
        return (trainer.max_steps - trainer.global_step) * spent / done if done > 0 else math.nan

    def _is_best(self, metrics: Mapping[str, float]) -> bool:
        value, loss = metrics.get(self.monitor, math.nan), loss_beside(self.monitor, metrics)
        better = not self.judged or is_better(value, loss, self.best, self.best_loss, self.mode)
        self.last, self.judged = value, True
        if better:
            self.best, self.best_loss = value, loss
        return better

    def _line(
        self, trainer: L.Trainer, values: Mapping[str, float], *, quiet: bool = False, is_best: bool = False
    ) -> None:
        """Writes one plain line. A terminal does not show a quiet line, because the bar has its numbers."""
        if not trainer.is_global_zero or not values:
            return
        split = next(iter(values)).partition("/")[0]
        parts = [f"step {trainer.global_step:>{len(str(trainer.max_steps))}}/{trainer.max_steps}  {split}"]
        of_classes = [name for name in values if "/f1/" in name]
        left_out = set(of_classes) if len(of_classes) > MANY_CLASSES else set()  # metrics.csv has these values
        left_out |= {name for name in values if short(name).rpartition("/")[2] in SELDOM and name != self.monitor}
        shown = (name for name in values if name not in left_out)
        for name in sorted(shown, key=lambda name: name != self.monitor):  # the monitored metric comes first
            best = " (best)" if is_best and name == self.monitor else ""
            parts.append(f"{short(name)} {number(values[name])}{best}")
        if quiet:
            parts += [f"{self.speed:,.0f} tokens/s", f"{duration(self._left(trainer))} left"]
        log.info("%s", "  ".join(parts), extra={"quiet": quiet, "parts": parts})

    # ---- the bar

    def _open(self, what: str, total: float) -> None:
        self._close()
        if _open is None or not _open.console.is_terminal:
            return
        columns = ["{task.description}", "{task.completed}/{task.total}"]
        numbers = ["{task.fields[loss]}", "{task.fields[monitor]}", "{task.fields[speed]}", "{task.fields[left]}"]
        texts = [TextColumn(text, markup=False) for text in columns]
        self.bar = Bar(
            texts[0], BarColumn(bar_width=None), *texts[1:], *(TextColumn(text, markup=False) for text in numbers),
            console=_open.console, transient=True, expand=True, refresh_per_second=4,
        )  # fmt: skip
        self.shown = self.bar.add_task(what, total=total, loss="", monitor="", speed="", left="")
        self.bar.start()

    def _update(self, completed: int, fields: Mapping[str, Any] | None = None) -> None:
        if self.bar is not None and self.shown is not None:
            self.bar.update(self.shown, completed=completed, refresh=bool(fields), **(fields or {}))

    def _describe(self, what: str) -> None:
        if self.bar is not None and self.shown is not None:
            self.bar.update(self.shown, description=what, refresh=True)

    def _close(self) -> None:
        if self.bar is not None:
            self.bar.stop()
            self.bar = None


# ---- the end


def summary(result: Mapping[str, Any], samples: Sequence[Mapping[str, str]], next_commands: Sequence[str]) -> None:
    """Shows the metrics of a finished run, sample outputs, and what to type next.

    Args:
        result: The run's result.
        samples: The texts of each sample by name. An ``output`` that equals the ``reference`` is green.
        next_commands: Commands that the user can paste.
    """
    parts: list[RenderableType] = ["", metrics_table(result)]
    if samples:
        grid = Table.grid(padding=(0, 2), expand=False)
        grid.add_column(style="dim", no_wrap=True)
        grid.add_column(overflow="fold")
        for i, sample in enumerate(samples):
            if i:
                grid.add_row("", "")
            for name, text in sample.items():
                style = "green" if text == sample.get("reference") else "bold"
                grid.add_row(Text(printable(name)), Text(printable(text), style=style if name == "output" else ""))
        parts += ["", Padding(grid, (0, 0, 0, 1), expand=False)]
    log.info("", extra={"renderable": Group(*parts)})
    if next_commands:  # plain text is not cut at the terminal's width and can be copied
        log.info("\nnext:\n%s", "\n".join(f"  {command}" for command in next_commands))


def metrics_table(result: Mapping[str, Any]) -> Table:
    """Returns a table of a result's numbers: test metrics first, then validation, then the others."""
    numbers = {k: v for k, v in result.items() if isinstance(v, int | float) and not isinstance(v, bool)}
    order = {"test": 0, "val": 1, "train": 2}
    names = sorted(numbers, key=lambda name: order.get(name.partition("/")[0] if "/" in name else "", 3))
    table = Table(box=None, show_header=False, padding=(0, 2, 0, 1))
    table.add_column()
    table.add_column(justify="right")
    for name in names:
        value = duration(numbers[name]) if name == "seconds" else number(numbers[name])
        table.add_row(name, Text(value, style="bold" if name.startswith("test/") else ""))
    return table


def plain_table(title: str, rows: Sequence[Sequence[Any]]) -> Table:
    """Returns a table of rows. The first row is the head, and columns of numbers are aligned to the right."""
    head, *body = rows
    table = Table(box=None, padding=(0, 2, 0, 1), title=Text(printable(title), style="dim"), title_justify="left")
    for place, name in enumerate(head):
        numeric = bool(body) and isinstance(body[0][place], int | float)
        table.add_column(Text(printable(str(name))), justify="right" if numeric else "left")
    for row in body:
        table.add_row(*(Text(printable(f"{cell:,}" if isinstance(cell, int) else str(cell))) for cell in row))
    return table


def runs_table(results: Mapping[str, Mapping[str, Any]]) -> Fitted:
    """Returns a table of several runs' metrics with a column for each run."""
    names = {name: None for result in results.values() for name, value in result.items() if isinstance(value, float)}
    rows = [[n, *(number(result[n]) if n in result else "" for result in results.values())] for n in names]
    return Fitted(["metric", *results], rows, fold=list(results))


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


def printable(text: str) -> str:
    """Returns ``text`` in one line, with line breaks and tabs as ``\\n`` and ``\\t``, as `predict` writes them.

    Other control characters are replaced, because they could move a terminal's cursor.
    """
    text = text.replace("\n", "\\n").replace("\r", "\\r").replace("\t", "\\t")
    return "".join(char if char.isprintable() else "�" for char in text)


def short(name: str) -> str:
    """Returns a metric's name without its split."""
    return name.partition("/")[2] or name


def number(value: float) -> str:
    """Formats a number for people: integers with separators, others with two decimals or few digits."""
    if isinstance(value, int) or (abs(value) >= 1000 and math.isfinite(value)):
        return f"{value:,.0f}"
    if value == 0 or not math.isfinite(value):
        return f"{value:g}"
    return f"{value:.2f}" if abs(value) >= 10 else f"{value:.3f}" if abs(value) >= 0.01 else f"{value:.2e}"


def duration(seconds: float) -> str:
    """Formats seconds as ``1:02:03``, or as ``-:--:--`` if they are not known."""
    if not math.isfinite(seconds):
        return "-:--:--"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes // 60}:{minutes % 60:02d}:{rest:02d}"
