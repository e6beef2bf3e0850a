"""What a training shows while it goes: a bar in a terminal or notebook, plain lines elsewhere and in `train.log`."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import lightning as L
from rich.progress import BarColumn, TaskID, TextColumn
from rich.progress import Progress as Bar

from multihead.config.training import Config
from multihead.errors import side_output
from multihead.metrics.selection import is_better, loss_beside
from multihead.runs.console import open_notebook, open_terminal
from multihead.runs.notebook import NotebookBar
from multihead.runs.tables import duration, number, short

if TYPE_CHECKING:
    from multihead.tasks.lightning_module import TaskModule

log = logging.getLogger("multihead")

SELDOM = ("exact_match", "cer", "edit_similarity", "cut_outputs", "unknown_tokens", "rougeLsum")
"""Metrics that a validation's line leaves out, unless they are monitored."""
MANY_CLASSES = 8
"""If there are more classes, a validation's line leaves out the F1 of each class."""
BAR = side_output("the progress bar")


class Progress(L.Callback):
    """Shows steps done, loss, the monitored metric, tokens per second and time left.

    In a terminal or notebook this is a bar, with a line beside it for each validation. Elsewhere, and in
    ``train.log``, there is a line for each log interval and each validation. Metrics are read only when they are
    shown. The time left includes validations and saves at their share so far; tokens per second leave validations out.
    """

    def __init__(self, config: Config):
        self.monitor, self.mode = config.task.monitor, config.task.monitor_mode
        self.interval = config.trainer.log_every_n_steps
        self.bar: Bar | NotebookBar | None = None
        self.shown: TaskID | None = None
        self.first_step = self.reported = 0
        self.started = self.mark = 0.0
        self.tokens, self.paused, self.speed = 0, 0.0, 0.0
        self.pause_began = 0.0
        self.last, self.best, self.best_loss = math.nan, math.nan, math.nan
        self.judged = False

    # ---- the hooks, in the order of a run

    @BAR
    def on_train_start(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        self.started = self.mark = time.monotonic()
        self.tokens, self.paused = pl_module.task.tokens_seen, 0.0
        self.first_step = self.reported = -1
        if trainer.is_global_zero:
            self._open("train", trainer.max_steps)

    @BAR
    def on_train_batch_start(self, trainer: L.Trainer, pl_module: TaskModule, batch: Any, batch_idx: int) -> None:
        if self.first_step < 0:  # a resumed run has its step only now
            self.first_step = self.reported = trainer.global_step
            self.tokens = pl_module.task.tokens_seen
        self._report(trainer, pl_module)

    @BAR
    def on_validation_start(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        if trainer.state.fn != "fit":
            if trainer.is_global_zero:
                self._open("validate", sum(trainer.num_val_batches))
            return
        self._report(trainer, pl_module)
        self.pause_began = time.monotonic()
        self._describe("validating")

    @BAR
    def on_validation_batch_end(
        self, trainer: L.Trainer, pl_module: TaskModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        if trainer.state.fn == "fit":
            self._describe(f"validating {batch_idx + 1}/{sum(trainer.num_val_batches)}")
        else:
            self._update(batch_idx + 1)

    @BAR
    def on_validation_end(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        values = {name: float(value) for name, value in trainer.callback_metrics.items() if name.startswith("val/")}
        self._line(trainer, values, is_best=self._is_best(values))
        if trainer.state.fn == "fit":
            self.paused += time.monotonic() - self.pause_began
            self._describe("train")
            self._update(trainer.global_step, self._fields(trainer))
        else:
            self._close()

    @BAR
    def on_train_end(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        self._report(trainer, pl_module)
        self._close()

    @BAR
    def on_test_start(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        if trainer.is_global_zero:
            self._open("test", sum(trainer.num_test_batches))

    @BAR
    def on_test_batch_end(
        self, trainer: L.Trainer, pl_module: TaskModule, outputs: Any, batch: Any, batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:  # fmt: skip
        self._update(batch_idx + 1)

    @BAR
    def on_test_end(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        self._close()

    @BAR
    def on_exception(self, trainer: L.Trainer, pl_module: TaskModule, exception: BaseException) -> None:
        self._close()

    def state_dict(self) -> dict[str, float]:
        numbers = {"last": self.last, "best": self.best, "best_loss": self.best_loss}
        return numbers if self.judged else {}

    def load_state_dict(self, state_dict: dict[str, float]) -> None:
        self.judged = bool(state_dict)
        self.last, self.best = state_dict.get("last", math.nan), state_dict.get("best", math.nan)
        self.best_loss = state_dict.get("best_loss", math.nan)

    # ---- numbers

    def _report(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
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
            self.speed = (pl_module.task.tokens_seen - self.tokens) / seconds
        self.mark, self.paused, self.tokens = now, 0.0, pl_module.task.tokens_seen
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
        """Writes one plain line. Where there is a bar, a quiet line is not shown, because the bar has its numbers."""
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
        self.bar = NotebookBar() if open_notebook() else self._in_terminal()
        if self.bar is not None:
            self.shown = self.bar.add_task(what, total=total, loss="", monitor="", speed="", left="")
            self.bar.start()

    def _in_terminal(self) -> Bar | None:
        console = open_terminal()
        if console is None:
            return None
        columns = ["{task.description}", "{task.completed}/{task.total}"]
        numbers = ["{task.fields[loss]}", "{task.fields[monitor]}", "{task.fields[speed]}", "{task.fields[left]}"]
        texts = [TextColumn(text, markup=False) for text in columns]
        return Bar(
            texts[0], BarColumn(bar_width=None), *texts[1:], *(TextColumn(text, markup=False) for text in numbers),
            console=console, transient=True, expand=True, refresh_per_second=4,
        )  # fmt: skip

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
