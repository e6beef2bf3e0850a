"""What happens between two optimizer steps, in one callback and one order; and how a run goes on after a break.

A resume never meets Lightning's restart logic: it starts a fresh loop over what is left of the epoch, puts every state
back by hand, and sets the loop's counters. This is the only module that touches them.
"""

from __future__ import annotations

import contextlib
import json
import logging
import math
import shutil
import signal
import time
from collections.abc import Callable, Mapping
from typing import Any

import lightning as L
import torch
import torch.distributed
from torch import Tensor

from multihead import torch_private
from multihead.config.words import typed_as
from multihead.errors import CheckpointError, MachineError, NumericsError, Stopped
from multihead.metrics.selection import judge, say_unmoved
from multihead.model.sharded import whole
from multihead.runs.checkpoint import (
    Boundary,
    FolderCheckpointIO,
    Start,
    checkpoints,
    damage,
    free_space,
    megabytes,
    newest_valid,
    own_stream,
    probe,
    random_state,
    set_random_state,
)
from multihead.runs.files import replace_synced
from multihead.tasks.base import Task, TaskCallback
from multihead.training import lightning_private
from multihead.training.averaging import Averaging
from multihead.training.sharding import scattered_state
from multihead.training.signals import Signals
from multihead.training.telemetry import Telemetry

log = logging.getLogger("multihead")

MOST_IN_A_ROW = 20
"""Steps without a finite gradient, one after another, that end a run whatever trainer.on_nan says."""
MOST_REWINDS = 3
"""To the same checkpoint."""


class Steps(TaskCallback):
    """Everything that happens between two optimizer steps.

    Counters and training metrics, validation, early stopping, the checkpoint, signals. Must be the last of the
    callbacks, so that averaged weights are up to date when it validates and saves.

    Args:
        run_dir: The capsule.
        data: The data module; its position (epoch, step) is part of the checkpoint.
        config: `multihead.config.training.TrainerConfig`.
        monitor: Name of the metric that decides which checkpoint is best, and ``min`` or ``max``.
        start: The checkpoint to go on from.
        events: Called with an event's name and fields, for events.jsonl.
        record: Stored in every checkpoint; what a resume compares (`multihead.runs.resume`).
        began: When the run began by ``time.monotonic``; None means now.
        on_resumed: Called once the checkpoint is known to fit.
    """

    def __init__(
        self, run_dir, data, config, monitor, start=None, events=None, record=None, began=None, on_resumed=None
    ):
        self.run_dir, self.data, self.config = run_dir, data, config
        self.monitor, self.mode = monitor
        self.start: Start | None = start
        self.events = events or (lambda name, **fields: None)
        self.record = record or {}
        self.on_resumed: Callable[[], None] = on_resumed or (lambda: None)
        self.best: dict[str, Any] = {}
        self.epoch, self.step_in_epoch = 0, 0
        self.signals = Signals()
        self.signum = 0  # what all ranks agree on
        self.hosts: torch.distributed.ProcessGroup | None = None  # all ranks, by way of their hosts
        self.pending_validation = False
        self.bad_validations = 0
        self.monitored: list[list[float]] = []
        """Step of each validation, and the monitored metric's value."""
        self.validated, self.saved = -1, -1
        self.sum: Tensor | None = None
        self.targets = 0
        self.mark, self.trained_seconds, self.trained_tokens = 0.0, 0.0, 0
        self.restore_random: Mapping[str, Any] | None = None
        self.first_step = start.own["step"] if start else 0
        self.began = time.monotonic() if began is None else began
        self.seconds_before = start.own["seconds"] if start else 0.0
        self.micro_batches = 0
        self.updating = False
        self.boundary = Boundary()
        self.skipping = False
        self.telemetry = Telemetry()
        self.not_finite = {"skipped": 0, "in_a_row": 0, "rewinds": 0, "rewound_to": ""}
        if start:
            epoch, step = start.own["position"]
            data.set_position(epoch, min(step, data.plan.num_steps(epoch)))  # other data, by force, may have fewer
            self.epoch, self.step_in_epoch = data.position

    # ---- start and resume

    def on_train_start(self, trainer: L.Trainer, pl_module: Task) -> None:
        self.signals.take_back()
        lightning_private.leave_validation_to_us(trainer)
        self.telemetry.start(trainer)
        if self.start:
            self._restore(trainer, pl_module)
            self.saved = self.first_step
        elif trainer.global_rank:  # all ranks have drawn the same weights; from here on dropout differs
            own_stream(self.data.seed, trainer.global_rank, 0)
        if trainer.is_global_zero:
            self._probe(trainer)
        self.events("started", step=trainer.global_step, tokens=pl_module.tokens_seen)
        if self.pending_validation:
            self._validate(trainer, pl_module)
            self._stop_early(trainer)
            self._save(trainer)
        self._set_boundary()
        self.mark = time.monotonic()

    def on_test_start(self, trainer: L.Trainer, pl_module: Task) -> None:
        self.signals.take_back()
        if self._signal(trainer):
            self._leave(trainer, trainer.global_step)

    def _probe(self, trainer: L.Trainer) -> None:
        """Refuses a disk that holds no checkpoint, and warns where it does not hold as many as are kept."""
        groups = trainer.optimizers[0].param_groups
        states = sum(p.nbytes * (1 if group.get("kind") == "muon" else 2) for group in groups for p in group["params"])
        weights = sum(p.nbytes for p in trainer.lightning_module.parameters())
        averages = sum(tensor.nbytes for c in trainer.callbacks if isinstance(c, Averaging) for tensor in c.averages)
        size = weights + averages + states
        folder = self.run_dir / "checkpoints"
        probe(folder, size)
        needed = size * (self.config.keep_checkpoints + 2 - len(checkpoints(self.run_dir)))  # beside the best, one more
        if free_space(folder) < needed:
            have, want = megabytes(free_space(folder)), megabytes(needed)
            log.warning("the disk has %s for checkpoints and %s may be needed: trainer.keep_checkpoints=1", have, want)

    def _restore(self, trainer: L.Trainer, module: Task) -> None:
        """Puts back every state of `_save`, and Lightning's counters.

        Raises:
            CheckpointError: If model or optimizer have another shape than those saved.
        """
        start, self.start = self.start, None
        own = start.own
        try:
            self._load_states(trainer, module, start.state)
        except (RuntimeError, ValueError, KeyError) as error:
            what = f"does not fit the configuration ({' '.join(str(error).split())[:200]})"
            fix = "leave out what changes the model or the optimizer"
            raise CheckpointError(str(self.run_dir / "checkpoints" / start.name), what, fix) from error
        module.tokens_seen, self.best = own["tokens_seen"], self._still_best(own["best"])
        module.recorded.update(own["recorded"])
        self.bad_validations = own["bad_validations"]
        self.monitored = [list(pair) for pair in own.get("monitored", ())]
        lightning_private.set_counters(trainer, own["step"])
        done = own["step"] >= self.config.max_steps
        self.pending_validation = own["pending_validation"] or (done and not self.best)
        self.targets = own["targets"]
        self.not_finite = dict(own["not_finite"])
        self._restore_rank(trainer, own["ranks"])
        self.sum = None if self.sum is None else self.sum.to(module.device)
        if trainer.is_global_zero:
            self.on_resumed()
        self.events("resumed", step=own["step"], checkpoint=start.name, epoch=self.epoch)

    def _restore_rank(self, trainer: L.Trainer, ranks: list[Mapping[str, Any]]) -> None:
        """This rank's random streams and share of the loss; a rank that was not there draws from new streams."""
        rank = trainer.global_rank
        if rank < len(ranks):
            self.restore_random = ranks[rank]["random"]
        else:
            own_stream(self.data.seed, rank, self.first_step)
        if trainer.world_size == len(ranks):
            self.sum = ranks[rank]["sum"]
        elif trainer.is_global_zero and ranks[0]["sum"] is not None:
            self.sum = sum(other["sum"] for other in ranks)

    def _still_best(self, best: Mapping[str, Any]) -> dict[str, Any]:
        """The best checkpoint so far, if it can still be read at the end."""
        folder = self.run_dir / "checkpoints" / f"step_{best.get('step')}"
        if best and (problem := damage(folder)):
            log.warning("resume: the best checkpoint so far, %s, %s; a later one will have to do", folder.name, problem)
            return {}
        return dict(best)

    def _load_states(self, trainer: L.Trainer, module: Task, state: Mapping[str, Any]) -> None:
        """Model, optimizer, schedule, precision, callbacks; rates and decays are those of the configuration."""
        self._load_weights(trainer, module, state)
        for scheduler, saved in zip(trainer.lr_scheduler_configs, state["lr_schedulers"], strict=True):
            configured = scheduler.scheduler.base_lrs
            scheduler.scheduler.load_state_dict(saved)
            scheduler.scheduler.base_lrs = configured
            factors = [factor(scheduler.scheduler.last_epoch) for factor in scheduler.scheduler.lr_lambdas]
            rates = [rate * factor for rate, factor in zip(configured, factors, strict=True)]
            for group, rate in zip(scheduler.scheduler.optimizer.param_groups, rates, strict=True):
                group["lr"] = rate
            torch_private.set_last_rates(scheduler.scheduler, rates)
        precision = trainer.precision_plugin
        if type(precision).__qualname__ in state:
            precision.load_state_dict(state[type(precision).__qualname__])

    def _load_weights(self, trainer: L.Trainer, module: Task, state: Mapping[str, Any]) -> None:
        """Weights, what the optimizer knows of them, and what other callbacks keep, such as averages."""
        state = scattered_state(state, module, trainer.optimizers)
        module.load_state_dict(state.get("current_model_state", state["state_dict"]))
        for optimizer, saved in zip(trainer.optimizers, state["optimizer_states"], strict=True):
            configured = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(saved)
            for group, values in zip(optimizer.param_groups, configured, strict=True):
                group.update(values)
        for callback in trainer.callbacks:
            if callback is not self and callback.state_key in state["callbacks"]:
                callback.on_load_checkpoint(trainer, module, state)
                callback.load_state_dict(state["callbacks"][callback.state_key])

    # ---- within a step

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Task, batch: Any, batch_idx: int) -> None:
        if self.restore_random is not None:
            set_random_state(self.restore_random)
            self.restore_random = None
        if self.micro_batches == 0:
            self.telemetry.begin_step()
            here, there = (self.epoch, self.step_in_epoch), (batch["epoch"], batch["step_in_epoch"])
            if here != there:  # a loop that went astray must not train on
                raise RuntimeError(f"step {trainer.global_step} is at {here} of the data, and its batch is of {there}")

    def on_before_optimizer_step(self, trainer: L.Trainer, pl_module: Task, optimizer: Any) -> None:
        self.updating = True

    def on_gradient(self, trainer: L.Trainer, pl_module: Task, norm: Tensor) -> None:
        """Stops, or leaves out an update, whose gradient is not finite; ``norm`` is the same on every rank."""
        self.telemetry.on_gradient(trainer, norm, self.config.log_every_n_steps)
        if self.config.on_nan == "stop" and norm.device.type != "cpu":
            return  # looking would make the host wait for the device at every step; `_require_finite` sees it later
        counts = self.not_finite
        if bool(torch.isfinite(norm)):
            counts["in_a_row"] = 0
            return
        counts["in_a_row"] += 1
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None  # it looks for its scale this way
        if (self.config.on_nan == "stop" and not scaled) or counts["in_a_row"] >= MOST_IN_A_ROW:
            self._fail(trainer, pl_module, "the gradient is not finite")
        if scaled:
            return
        counts["skipped"] += 1
        if self.config.on_nan == "rewind":
            self._rewind(trainer, pl_module)
        for parameter in pl_module.parameters():
            parameter.grad = None
        self.skipping = True
        self.events("skipped", step=trainer.global_step + 1, position=[self.epoch, self.step_in_epoch])
        log.warning("step %d has no finite gradient and changes nothing", trainer.global_step + 1)

    def _rewind(self, trainer: L.Trainer, module: Task) -> None:
        """The weights, moments and averages of the newest checkpoint; the data go on behind this step."""
        try:
            path, _ = newest_valid(self.run_dir)
        except CheckpointError:
            self._fail(trainer, module, "there is no checkpoint to rewind to")
        counts = self.not_finite
        counts["rewinds"] = counts["rewinds"] + 1 if counts["rewound_to"] == path.name else 1
        counts["rewound_to"] = path.name
        if counts["rewinds"] > MOST_REWINDS:
            self._fail(trainer, module, f"rewound to {path.name} {MOST_REWINDS} times")
        self._load_weights(trainer, module, FolderCheckpointIO().load_checkpoint(path))
        self.events("rewound", step=trainer.global_step + 1, checkpoint=path.name)
        log.warning("rewound to the weights of %s", path.name)

    def _fail(self, trainer: L.Trainer, module: Task, what: str) -> None:
        """Says which examples and which module it was, in the error and in nan.json.

        Raises:
            NumericsError: Always.
        """
        from multihead.training.not_finite import diagnose

        set_random_state(self.boundary.random or random_state())
        found = diagnose(trainer, module, self.data, (self.epoch, self.step_in_epoch))
        if trainer.is_global_zero:
            told = {"step": trainer.global_step + 1, "epoch": self.epoch, "step_in_epoch": self.step_in_epoch, **found}
            replace_synced(self.run_dir / "nan.json", (json.dumps(told, indent=1) + "\n").encode())
        kept = next((path.name for path in checkpoints(self.run_dir)), "none")
        told = f"{what}; {found['told']}; newest checkpoint: {kept}"
        fix = "lower optim.lr or raise optim.warmup_steps and resume, or trainer.on_nan=skip"
        raise NumericsError(f"step {trainer.global_step + 1}", told, fix)

    # ---- between two steps

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.sum = outputs["sum"] if self.sum is None else self.sum + outputs["sum"]
        self.micro_batches += 1
        if self.micro_batches < trainer.accumulate_grad_batches:
            return
        self.micro_batches = 0
        self.updating = False
        if self.skipping:
            self.sum = self.boundary.sum
        targets = 0 if self.skipping else batch["targets_of_step"]
        self.skipping = False
        self._between_steps(trainer, pl_module, batch["tokens_of_step"], targets)
        self.mark = time.monotonic()

    def _set_boundary(self) -> None:
        self.boundary = Boundary(self.restore_random or random_state(), self.sum)

    def _between_steps(self, trainer: L.Trainer, pl_module: Task, tokens_of_step: int, targets_of_step: int) -> None:
        step, config = trainer.global_step, self.config
        self.trained_seconds += time.monotonic() - self.mark
        self.trained_tokens += tokens_of_step
        self.telemetry.end_step(trainer, tokens_of_step)
        self.targets += targets_of_step
        pl_module.tokens_seen += tokens_of_step
        self._advance_position()
        stop = self._signal(trainer)
        last = step >= config.max_steps or self._out_of_time(trainer)
        if step % config.log_every_n_steps == 0 or last:
            self._log_training(trainer, pl_module, step)
        self._set_boundary()
        validate = step % config.val_every_n_steps == 0 or last
        save = step % config.checkpoint_every_n_steps == 0 or last
        if validate or save or stop:
            self._require_finite(trainer, pl_module)
        if validate and not stop:
            save |= self._validate(trainer, pl_module)
            stop = self._signal(trainer)
        self.pending_validation |= validate and stop and self.validated != step
        self._stop_early(trainer)
        if save or stop or trainer.should_stop:
            self._save(trainer)
        if stop:
            self._leave(trainer, step)

    def _out_of_time(self, trainer: L.Trainer) -> bool:
        """Whether trainer.max_time is over, counted over all parts of the run; then this step is the last."""
        if not self.config.max_time:
            return False
        days, hours, minutes, seconds = map(int, self.config.max_time.split(":"))
        over = self.seconds >= ((days * 24 + hours) * 60 + minutes) * 60 + seconds
        over = bool(self._largest(trainer, int(over)))
        if over and not trainer.should_stop:
            trainer.should_stop = True
            self.events("out_of_time", step=trainer.global_step)
            log.info("trainer.max_time=%s is over: step %d is the last", self.config.max_time, trainer.global_step)
        return over

    def _stop_early(self, trainer: L.Trainer) -> None:
        patience = self.config.early_stopping_patience
        if patience and self.bad_validations >= patience and not trainer.should_stop:
            trainer.should_stop = True
            self.events("early_stop", step=trainer.global_step, best=self.best)

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken, over all processes that took part; what was lost to a kill is not known."""
        return self.seconds_before + time.monotonic() - self.began

    @property
    def tokens_per_second(self) -> float:
        """Real target tokens per second of training in this process, without validation and saving."""
        return self.trained_tokens / self.trained_seconds if self.trained_seconds else 0.0

    def _advance_position(self) -> None:
        self.step_in_epoch += 1
        if self.step_in_epoch >= self.data.plan.num_steps(self.epoch):
            self.epoch, self.step_in_epoch = self.epoch + 1, 0

    def _log_training(self, trainer: L.Trainer, module: Task, step: int) -> None:
        """Mean loss per target since the last log, over all ranks."""
        loss = {"train/loss": self._require_finite(trainer, module)} if self.targets else {}  # none: all were skipped
        self.sum, self.targets = None, 0
        epoch = self.epoch + self.step_in_epoch / self.data.plan.num_steps(self.epoch)
        rates: dict[str, float] = {}
        for group in trainer.optimizers[0].param_groups:  # with layer-wise rates the highest of each kind
            name = f"optim/lr_{group.get('kind', 'adamw')}"
            rates[name] = max(group["lr"], rates.get(name, 0.0))
        skipped = {"optim/skipped_steps": self.not_finite["skipped"]} if self.not_finite["skipped"] else {}
        measured = self.telemetry.row(trainer, self.trained_tokens, self.trained_seconds)
        module.record({**loss, "epoch": epoch, "tokens": module.tokens_seen, **rates, **skipped, **measured}, step)

    def _require_finite(self, trainer: L.Trainer, module: Task) -> float:
        """Mean loss since the last log; a loss that is not finite ends the run before it reaches a checkpoint."""
        if not self.targets:
            return 0.0
        total = torch.zeros((), device=module.device) if self.sum is None else self.sum.detach()
        total = total.double()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(total)
        loss = total.item() / self.targets
        if not math.isfinite(loss):
            where = f"step {trainer.global_step}"
            what = f"the training loss is {loss} within the last {self.config.log_every_n_steps} steps"
            raise NumericsError(where, what, "lower optim.lr or raise optim.warmup_steps, then resume")
        return loss

    def _validate(self, trainer: L.Trainer, module: Task) -> bool:
        """One validation, which leaves the random streams as they were; whether it is the best so far."""
        before = random_state()
        self.events("validating", step=trainer.global_step)
        self.pending_validation = True
        with whole(module):
            lightning_private.run_validation(trainer)
        self.pending_validation = False
        set_random_state(before)
        metrics = {name: number for name, number in module.recorded.items() if name.startswith("val/")}
        value, better = judge(self.monitor, self.mode, metrics, self.best)
        self.monitored.append([trainer.global_step, value])
        say_unmoved(self.monitor, [value for _, value in self.monitored])
        self.bad_validations = 0 if better else self.bad_validations + 1
        self.events("validated", step=trainer.global_step, **{self.monitor: value}, best=better)
        if better:
            self.best = {"step": trainer.global_step, "monitor": self.monitor, "value": value, "metrics": metrics}
        self.validated = trainer.global_step
        return better

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Task, *args: Any) -> None:
        if trainer.state.fn == "fit" and self._signal(trainer):
            self._swap_back(trainer, pl_module)
            self._save(trainer)
            self._leave(trainer, trainer.global_step)

    def _swap_back(self, trainer: L.Trainer, module: Task) -> None:
        """In the midst of a validation, which runs on averaged weights: puts the current ones back."""
        for callback in trainer.callbacks:
            if isinstance(callback, Averaging):
                callback.take_out(module)

    def on_test_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if self._signal(trainer):
            self._leave(trainer, trainer.global_step)

    def _signal(self, trainer: L.Trainer) -> bool:
        """Whether any rank was told to stop; all ranks get the same answer."""
        self.signum = self._largest(trainer, self.signals.received)
        return bool(self.signum)

    def _largest(self, trainer: L.Trainer, value: int) -> int:
        """The largest value of all ranks, from host to host: one on a device would be waited for at every step."""
        if trainer.world_size == 1:
            return value
        if self.hosts is None:
            self.hosts = torch.distributed.new_group(backend="gloo")
        largest = torch.tensor([value])
        torch.distributed.all_reduce(largest, op=torch.distributed.ReduceOp.MAX, group=self.hosts)
        return int(largest)

    def _leave(self, trainer: L.Trainer, step: int) -> None:
        name = signal.Signals(self.signum).name
        self.events("stopped", step=step, signal=name)
        again = typed_as("resume", str(self.run_dir))
        raise Stopped(self.signum, f"stopped by {name}, saved step {step}; go on with {again}")

    def on_exception(self, trainer: L.Trainer, pl_module: Task, exception: BaseException) -> None:
        """Saves the last whole step, if the exception came before the next update touched anything."""
        ours = isinstance(exception, Stopped | NumericsError | CheckpointError | MachineError)
        fitting = trainer.state.fn == "fit" and trainer.world_size == 1 and self.boundary.random
        saved = self.saved == trainer.global_step and not self.pending_validation
        if ours or not fitting or self.updating or saved or not trainer.global_step:
            return
        with contextlib.suppress(MachineError):  # then the earlier checkpoint stands
            self._swap_back(trainer, pl_module)
            set_random_state(self.boundary.random)
            self.sum = self.boundary.sum
            self._save(trainer)
            again = typed_as("resume", str(self.run_dir))
            log.warning("saved step %d before leaving; go on with %s", trainer.global_step, again)

    # ---- saving

    def _save(self, trainer: L.Trainer) -> None:
        """Saves step N, then forgets old checkpoints."""
        folder = self.run_dir / "checkpoints"
        path = folder / f"step_{trainer.global_step}"
        if trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
        self.events("saving", step=trainer.global_step)
        trainer.save_checkpoint(path)
        self.saved = trainer.global_step
        if not trainer.is_global_zero:
            return
        problem = damage(path)
        if problem:
            raise MachineError(str(path), f"{problem} right after it was written", "check the disk")
        replace_synced(folder / "latest.json", json.dumps({"step": trainer.global_step, "name": path.name}).encode())
        if self.best.get("step") == trainer.global_step:
            replace_synced(folder / "best.json", json.dumps(self.best).encode())
        self.events("saved", step=trainer.global_step)
        self._forget()

    def _forget(self) -> None:
        """Deletes what is older than the checkpoints to keep; where that fails, training goes on."""
        for old in checkpoints(self.run_dir)[self.config.keep_checkpoints :]:
            if old.name == f"step_{self.best.get('step')}":
                continue
            try:
                shutil.rmtree(old)
            except OSError as error:
                if not getattr(self, "_told", False):
                    log.warning("old checkpoints cannot be deleted: %s (%s)", old, error.strerror)
                self._told = True

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Task, checkpoint: dict[str, Any]) -> None:
        random = self.restore_random or random_state()  # the first: a resumed run that has not begun its first step
        own = {"random": random, "sum": None if self.sum is None else self.sum.detach().cpu()}
        ranks: list[Any] = [own]
        if trainer.world_size > 1:
            ranks = [None] * trainer.world_size
            torch.distributed.all_gather_object(ranks, own)
        checkpoint["multihead"] = {
            "step": trainer.global_step,
            "position": [self.epoch, self.step_in_epoch],
            "tokens_seen": pl_module.tokens_seen,
            "seconds": self.seconds,
            "best": self.best,
            "bad_validations": self.bad_validations,
            "monitored": self.monitored,
            "pending_validation": self.pending_validation,
            "recorded": {
                name: float(value) for name, value in pl_module.recorded.items() if not name.startswith("system/")
            },
            "targets": self.targets,
            "not_finite": self.not_finite,
            "ranks": ranks,
            "record": self.record,
        }
