"""What happens between two optimizer steps, in one written order; and how a run begins, resumes and leaves.

Each concern stands in a module of its own. This page says when each has its turn.
"""

from __future__ import annotations

import contextlib
import logging
import signal
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import lightning as L
from torch import Tensor
from torch.optim import Optimizer

from multihead.config.training import Config
from multihead.config.words import typed_as
from multihead.errors import CheckpointError, MachineError, NumericsError, Stopped
from multihead.runs.checkpoint import Start
from multihead.tasks.base import Task
from multihead.tasks.lightning_module import TaskCallback, TaskModule
from multihead.training import lightning_private
from multihead.training.agreement import Agreement
from multihead.training.averaging import averages_of
from multihead.training.counters import Counters
from multihead.training.not_finite import NotFinite
from multihead.training.restore import gathered_from_ranks, load_states, loss_of_rank
from multihead.training.saving import Saving
from multihead.training.signals import Signals
from multihead.training.stopping import Stopping
from multihead.training.streams import Streams
from multihead.training.telemetry import Telemetry
from multihead.training.validation import Validation

if TYPE_CHECKING:
    from multihead.data.lightning_module import TrainingData

log = logging.getLogger("multihead")


class Steps(TaskCallback):
    """Everything that happens between two optimizer steps.

    It must be the last of the callbacks, so that averaged weights are up to date when it validates and saves.

    Args:
        run_dir: The run directory.
        data: The data module. Its position (epoch, step) is part of the checkpoint.
        config: The configuration of the run.
        start: The checkpoint that the run resumes from, if there is one.
        events: Called with an event's name and fields, for events.jsonl.
        record: Stored in every checkpoint; a resume compares it (`multihead.runs.resume`).
        began: When the run began by ``time.monotonic``; None means now.
        on_resumed: Called once the checkpoint is known to fit.
        is_temporary: Whether the run directory is deleted in the end, so that nobody can resume the run.
    """

    def __init__(
        self,
        run_dir: Path,
        data: TrainingData,
        config: Config,
        start: Start | None = None,
        events: Callable[..., None] = lambda name, **fields: None,
        record: Mapping[str, Any] | None = None,
        began: float | None = None,
        on_resumed: Callable[[], None] = lambda: None,
        is_temporary: bool = False,
    ):
        self.run_dir, self.data, self.config, self.events = run_dir, data, config.trainer, events
        self._start, self._record, self._on_resumed = start, record or {}, on_resumed
        self._is_temporary = is_temporary
        self._is_updating = False
        agreement = Agreement()
        self.counters = Counters(data, start, began)
        self.streams = Streams(data.seed)
        self.signals = Signals(agreement)
        self.stopping = Stopping(config.trainer, agreement, events)
        self.saving = Saving(run_dir, config.trainer.keep_checkpoints, events, start)
        self.validation = Validation(config.task, events, start, self.saving.folder)
        self.not_finite = NotFinite(run_dir, data, config.trainer, self.counters, self.streams, events, start)
        self.telemetry = Telemetry()

    # ---- the beginning

    def on_train_start(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        self.signals.take_back()
        lightning_private.leave_validation_to_us(trainer)
        self.telemetry.start(trainer)
        resumed = self._start is not None
        if self._start:
            self._resume(trainer, pl_module.task, self._start)
        else:
            self.streams.start(trainer.global_rank)
        if trainer.is_global_zero:
            self.saving.probe(trainer)
        self.events("started", step=trainer.global_step, tokens=pl_module.task.tokens_seen)
        self._go_on_after_training(trainer, resumed)
        if self.validation.pending:
            self.validation.run(trainer, pl_module.task)
            self.stopping.stop_early(trainer, self.validation)
            self.saving.save(trainer, self.validation.best)
        self._mark_boundary()
        self.counters.begin_step()

    def _resume(self, trainer: L.Trainer, task: Task, start: Start) -> None:
        """Puts the states of the checkpoint back, and releases it.

        Raises:
            CheckpointError: If it does not fit.
        """
        load_states(trainer, task, start, self.saving.folder)
        own, rank = start.own, trainer.global_rank
        task.count_on(own["tokens_seen"], own["recorded"])
        loss = loss_of_rank(own["ranks"], rank, trainer.world_size)
        self.counters.take_loss(None if loss is None else loss.to(task.device))
        self.streams.resume(own["ranks"], rank, own["step"])
        self._start = None
        if trainer.is_global_zero:
            self._on_resumed()
        self.events("resumed", step=own["step"], checkpoint=start.name, epoch=self.counters.epoch)

    def _go_on_after_training(self, trainer: L.Trainer, resumed: bool) -> None:
        """Makes a validation due if no step is left to train and the last one has none.

        The training may have ended already, and been interrupted in its test; or a callback has ended it.
        """
        last = resumed and self.stopping.is_last(trainer, self.counters.seconds)
        if resumed and not self.validation.pending:
            self.stopping.stop_early(trainer, self.validation)
        if last or trainer.should_stop:
            self.validation.require(trainer.global_step)

    # ---- within a step

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: TaskModule, batch: Any, batch_idx: int) -> None:
        self.streams.begin_step()
        if self.counters.micro_batches == 0:
            self.telemetry.begin_step()
            here, there = self.counters.position, (batch["epoch"], batch["step_in_epoch"])
            if here != there:  # a loop that went astray must not train on
                what = f"step {trainer.global_step} needs the batch at {here} of the data, got the one at {there}"
                raise RuntimeError(what)

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: TaskModule, optimizer: Optimizer) -> None:
        self._is_updating = True

    def on_gradient(self, trainer: L.Trainer, pl_module: TaskModule, norm: Tensor) -> None:
        self.telemetry.on_gradient(trainer, norm, self.config.log_every_n_steps)
        self.not_finite.look_at_gradient(trainer, pl_module.task, norm)

    def on_train_batch_end(
        self, trainer: L.Trainer, pl_module: TaskModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.counters.add_micro_batch(outputs["sum"], trainer.accumulate_grad_batches):
            self._is_updating = False
            self._between_steps(trainer, pl_module, batch["tokens_of_step"], batch["targets_of_step"])
            self.counters.begin_step()

    # ---- between two steps

    def _between_steps(self, trainer: L.Trainer, pl_module: TaskModule, tokens: int, targets: int) -> None:
        """Does all that happens between two optimizer steps, in this order; each line may end the run.

        Before it, Lightning has moved the schedule, and the callbacks that stand before this one have had their turn:
        a plugin's and the averages (`multihead.training.build`).
        """
        step, config, task = trainer.global_step, self.config, pl_module.task
        skipped = self.not_finite.end_step()
        self.counters.end_step(tokens, targets, skipped)
        self.telemetry.end_step(trainer, tokens)
        task.count_tokens(tokens)
        leaves = self.signals.reached_any_rank(trainer)
        last = self.stopping.is_last(trainer, self.counters.seconds) or trainer.should_stop
        logs = step % config.log_every_n_steps == 0 or last
        if logs:
            self._log(trainer, pl_module)
        self._mark_boundary()
        validates = step % config.val_every_n_steps == 0 or last
        saves = step % config.checkpoint_every_n_steps == 0 or last
        if validates or saves or leaves:
            self.not_finite.check_loss(trainer, task)
            self.not_finite.check_gradient(trainer, self.telemetry.gradient_norm, skipped)
        self.validation.pending = validates
        if validates and not leaves:
            saves |= self.validation.run(trainer, task)
            leaves = self.signals.reached_any_rank(trainer)
        self.stopping.stop_early(trainer, self.validation)
        if trainer.should_stop and not logs:  # so this was the last step
            self._log(trainer, pl_module)
            self._mark_boundary()
        if saves or leaves or trainer.should_stop:
            self.saving.save(trainer, self.validation.best)
        if leaves:
            self._leave(step)

    def _log(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        """Logs how the run is doing, with the mean loss since the last log, over all ranks."""
        counters, skipped, task = self.counters, self.not_finite.counts["skipped"], pl_module.task
        loss = {"train/loss": self.not_finite.check_loss(trainer, task)} if counters.targets else {}
        row = {**loss, "epoch": counters.epochs, "tokens": task.tokens_seen}
        row |= {"optim/skipped_steps": skipped} if skipped else {}
        row |= self.telemetry.row(trainer, counters.trained_tokens, counters.trained_seconds)
        counters.forget_loss()
        pl_module.record(row, trainer.global_step)

    def _mark_boundary(self) -> None:
        """Remembers the end of a whole step, to which a step goes back that is interrupted."""
        self.streams.mark_boundary()
        self.counters.mark_boundary()

    # ---- leaving

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: TaskModule, *args: Any) -> None:
        if trainer.state.fn == "fit" and self.signals.reached_any_rank(trainer):
            self._save_in_validation(trainer, pl_module.task)
            self._leave(trainer.global_step)

    def on_test_start(self, trainer: L.Trainer, pl_module: TaskModule) -> None:
        self.signals.take_back()
        self.on_test_batch_end(trainer)

    def on_test_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if self.signals.reached_any_rank(trainer):
            self._leave(trainer.global_step)

    def on_exception(self, trainer: L.Trainer, pl_module: TaskModule, exception: BaseException) -> None:
        """Saves the last whole step, if the exception came before the next update changed anything."""
        ours = isinstance(exception, Stopped | NumericsError | CheckpointError | MachineError)
        fitting = trainer.state.fn == "fit" and trainer.world_size == 1 and self.streams.has_boundary
        saved = self.saving.step == trainer.global_step and not self.validation.pending
        if ours or not fitting or self._is_updating or saved or not trainer.global_step or self._is_temporary:
            return
        with contextlib.suppress(MachineError):  # then the earlier checkpoint stands
            self.streams.go_back()
            self.counters.go_back()
            self._save_in_validation(trainer, pl_module.task)
            again = typed_as("resume", str(self.run_dir))
            log.warning("saved step %d before leaving; go on with %s", trainer.global_step, again)

    def _save_in_validation(self, trainer: L.Trainer, task: Task) -> None:
        """Saves the weights that are trained. A validation, which may have been interrupted, uses averaged ones."""
        for averages in averages_of(trainer):
            averages.take_out(task)
        self.saving.save(trainer, self.validation.best)

    def _leave(self, step: int) -> NoReturn:
        """Ends the run because of a signal.

        Raises:
            Stopped: Always.
        """
        name = signal.Signals(self.signals.agreed).name
        self.events("stopped", step=step, signal=name)
        again = f"saved step {step}; go on with {typed_as('resume', str(self.run_dir))}"
        end = "while the plan was measured; it leaves nothing behind"
        message = f"stopped by {name} {end}" if self._is_temporary else f"stopped by {name}, {again}"
        raise Stopped(self.signals.agreed, message, together=True)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: TaskModule, checkpoint: dict[str, Any]) -> None:
        loss = self.counters.loss_sum
        own = {"random": self.streams.state(), "sum": None if loss is None else loss.detach().cpu()}
        recorded = {n: float(value) for n, value in pl_module.task.recorded.items() if not n.startswith("system/")}
        checkpoint["multihead"] = {
            "step": trainer.global_step,
            "tokens_seen": pl_module.task.tokens_seen,
            "recorded": recorded,
            **self.counters.state(),
            **self.validation.state(),
            "not_finite": self.not_finite.counts,
            "ranks": gathered_from_ranks(trainer, own),
            "record": self._record,
        }
