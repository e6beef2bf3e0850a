"""Saving and resuming: typed folders on disk, and the one callback that decides when.

A checkpoint is a folder ``step_N`` of ``tensors.safetensors`` (every tensor), ``state.json`` (everything else, with
references to the tensors) and ``manifest.json`` (sha256 of both). It is written beside its target, synced, renamed and
read back; nothing in it is code.

A resume never meets Lightning's restart logic: it starts a fresh loop over what is left of the epoch, puts every state
back by hand, and sets the loop's counters. This is the only module that touches them.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import math
import os
import random
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import lightning as L
import numpy as np
import torch
import torch.distributed
from lightning.pytorch.plugins.io import CheckpointIO
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from multihead.errors import CheckpointError, MachineError, NumericsError, Stopped

if TYPE_CHECKING:
    from multihead.tasks.base import Task

FORMAT = 1
TENSORS, STATE, MANIFEST = "tensors.safetensors", "state.json", "manifest.json"
REPLACED = ".old"  # of a checkpoint that is being written again; valid until the new one stands in its place
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def sha256(path: Path) -> str:
    """Checksum of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_synced(path: Path, content: bytes) -> None:
    """Writes ``content`` so that it is on the disk when this returns."""
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def replace_synced(path: Path, content: bytes) -> None:
    """Replaces a small file at once: readers see the old content or the new one, never a part."""
    beside = path.with_name(path.name + ".tmp")
    write_synced(beside, content)
    os.replace(beside, path)
    sync_folder(path.parent)


def sync_folder(path: Path) -> None:
    """Makes renames inside a folder last."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def pack(state: Any, tensors: dict[str, torch.Tensor], path: str = "") -> Any:
    """Splits nested state into JSON (returned) and ``tensors``; tensors that share storage are stored once."""
    if isinstance(state, torch.Tensor):
        for name, stored in tensors.items():
            same = stored.data_ptr() == state.data_ptr() and stored.shape == state.shape and stored.dtype == state.dtype
            if same and state.numel():
                return {"$tensor": name}
        tensors[path] = state.detach().contiguous()
        return {"$tensor": path}
    if isinstance(state, Mapping):
        pairs = [[key, pack(value, tensors, f"{path}/{key}")] for key, value in state.items()]
        if all(isinstance(key, str) and not key.startswith("$") for key, _ in pairs):
            return dict(pairs)
        if all(isinstance(key, (str, int)) for key, _ in pairs):
            return {"$pairs": pairs}
    if isinstance(state, (list, tuple)):
        return [pack(value, tensors, f"{path}/{number}") for number, value in enumerate(state)]
    if isinstance(state, np.generic):
        return state.item()
    if state is None or isinstance(state, (bool, int, float, str)):
        return state
    raise TypeError(
        f"checkpoint state {path} is a {type(state).__name__}; tensors, numbers, strings, lists, dicts only"
    )


def unpack(state: Any, tensors: Mapping[str, torch.Tensor]) -> Any:
    """Inverse of `pack`."""
    if isinstance(state, dict):
        if "$tensor" in state:
            return tensors[state["$tensor"]]
        if "$pairs" in state:
            return {key: unpack(value, tensors) for key, value in state["$pairs"]}
        return {key: unpack(value, tensors) for key, value in state.items()}
    if isinstance(state, list):
        return [unpack(value, tensors) for value in state]
    return state


class FolderCheckpointIO(CheckpointIO):
    """Lightning's `CheckpointIO` over the folders described above."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes beside, syncs, renames.

        Raises:
            MachineError: If the disk is full or the folder not writable; earlier checkpoints stay as they were.
        """
        path = Path(path)
        beside = path.with_name(path.name + ".tmp")
        tensors: dict[str, torch.Tensor] = {}
        state = pack({key: value for key, value in checkpoint.items() if key != "loops"}, tensors)
        try:
            shutil.rmtree(beside, ignore_errors=True)
            beside.mkdir(parents=True)
            save_file(tensors, beside / TENSORS)
            with open(beside / TENSORS, "rb") as file:
                os.fsync(file.fileno())
            write_synced(beside / STATE, json.dumps(state).encode())
            manifest = {
                "format": FORMAT,
                "step": checkpoint["global_step"],
                "sha256": {name: sha256(beside / name) for name in (TENSORS, STATE)},
            }
            write_synced(beside / MANIFEST, json.dumps(manifest, indent=1).encode())
            sync_folder(beside)
            replaced = path.with_name(path.name + REPLACED)
            if path.exists():
                shutil.rmtree(replaced, ignore_errors=True)
                os.rename(path, replaced)
            os.rename(beside, path)
            sync_folder(path.parent)
            shutil.rmtree(replaced, ignore_errors=True)
        except (OSError, SafetensorError) as error:  # the latter is how safetensors tells a full disk
            shutil.rmtree(beside, ignore_errors=True)
            reason = getattr(error, "strerror", None) or str(error)
            raise MachineError(str(path), f"could not be saved ({reason})", "free space or mend permissions") from error

    def load_checkpoint(self, path: Any, map_location: Any = None, weights_only: bool | None = None) -> dict[str, Any]:
        """Reads a folder back after checking its hashes.

        Raises:
            CheckpointError: If a file is missing, damaged, or written by a newer version.
        """
        path = Path(path)
        problem = damage(path)
        if problem:
            raise CheckpointError(str(path), problem, "resume from another checkpoint")
        return unpack(json.loads((path / STATE).read_text()), load_file(path / TENSORS))

    def remove_checkpoint(self, path: Any) -> None:
        """Deletes a checkpoint."""
        shutil.rmtree(path)


def damage(path: Path) -> str:
    """Why a checkpoint folder cannot be used; empty if it can."""
    try:
        manifest = json.loads((path / MANIFEST).read_text())
        if manifest["format"] > FORMAT:
            return f"was written in format {manifest['format']}; this version reads up to {FORMAT}"
        for name, expected in manifest["sha256"].items():
            if sha256(path / name) != expected:
                return f"is damaged ({name}: sha256 differs)"
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"is damaged ({type(error).__name__}: {error})"
    return ""


def checkpoints(run_dir: Path) -> list[Path]:
    """Checkpoint folders of a run, newest first; one that was being replaced stands behind what replaces it."""
    steps = {path: path.name[5:].removesuffix(REPLACED) for path in (run_dir / "checkpoints").glob("step_*")}
    found = [path for path, step in steps.items() if step.isdigit()]
    return sorted(found, key=lambda path: (-int(steps[path]), path.name))


def newest_valid(run_dir: Path) -> tuple[Path, list[str]]:
    """The newest checkpoint whose hashes match, and a line for each that was passed over.

    Raises:
        CheckpointError: If there is none.
    """
    passed = []
    for path in checkpoints(run_dir):
        problem = damage(path)
        if not problem:
            return path, passed
        passed.append(f"{path.name} {problem}")
    what = "; ".join(passed) or "has no checkpoint"
    raise CheckpointError(str(run_dir / "checkpoints"), what, "start a new run without resume=")


def random_state() -> dict[str, Any]:
    """Every global random stream of this process, as tensors and plain lists."""
    version, internal, gauss = random.getstate()
    name, keys, position, has_gauss, cached = np.random.get_state()
    return {
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
        "python": [version, list(internal), gauss],
        "numpy": [name, torch.from_numpy(np.asarray(keys, dtype=np.int64)), position, has_gauss, cached],
    }


def set_random_state(state: Mapping[str, Any]) -> None:
    """Inverse of `random_state`."""
    torch.set_rng_state(state["torch"])
    if state["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state_all(state["cuda"])
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    name, keys, *rest = state["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), *rest))


class Steps(L.Callback):
    """Everything that happens between two optimizer steps, in one place and one order.

    Counters and training metrics, validation, early stopping, the checkpoint, signals. Must be the last of the
    callbacks, so that averaged weights are up to date when it validates and saves.

    Args:
        run_dir: The capsule.
        data: The data module; its position (epoch, step) is part of the checkpoint.
        config: `multihead.config.training.TrainerConfig`.
        monitor: Name of the metric that decides which checkpoint is best, and ``min`` or ``max``.
        resume: The checkpoint folder to start from.
        events: Called with an event's name and fields, for events.jsonl.
        extra: What else the manifest of a checkpoint must agree on when resuming (data and tokenizer fingerprints).
    """

    def __init__(self, run_dir, data, config, monitor, resume=None, events=None, extra=None):
        self.run_dir, self.data, self.config = run_dir, data, config
        self.monitor, self.mode = monitor
        self.resume = resume
        self.events = events or (lambda name, **fields: None)
        self.extra = extra or {}
        self.on_resumed: Callable[[], None] = lambda: None  # called once the checkpoint is known to fit
        self.best: dict[str, Any] = {}
        self.epoch, self.step_in_epoch = 0, 0
        self.signum = 0
        self.taken: list[signal.Signals] = []
        self.pending_validation = False
        self.bad_validations = 0
        self.validated = -1
        self.sum: torch.Tensor | None = None
        self.targets = 0
        self.mark, self.trained_seconds, self.trained_tokens = 0.0, 0.0, 0
        self.restore_random: Mapping[str, Any] | None = None
        self.saved = self._read(resume) if resume else None
        self.first_step = self.saved["multihead"]["step"] if self.saved else 0
        self.micro_batches = 0

    # ---- start and resume

    def _read(self, path: Path) -> dict[str, Any]:
        """The checkpoint to go on from, if it fits; sets the data's position before its loaders start."""
        saved = FolderCheckpointIO().load_checkpoint(path)
        own = saved["multihead"]
        for name, value in self.extra.items():
            if own["extra"].get(name) != value:
                what = f"{name} changed since this checkpoint ({own['extra'].get(name)} then, {value} now)"
                raise CheckpointError(str(path), what, f"restore {name} or start a new run")
        self.data.set_position(*own["position"])
        return saved

    @contextlib.contextmanager
    def signals(self) -> Iterator[None]:
        """Inside, SIGINT, SIGTERM and SIGHUP end the run at the next step's end; those ignored stay so (nohup)."""
        taken = [signum for signum in SIGNALS if signal.getsignal(signum) is not signal.SIG_IGN]
        if threading.current_thread() is not threading.main_thread():
            taken = []
        before = {signum: signal.signal(signum, self._receive) for signum in taken}
        self.taken = taken
        try:
            yield
        finally:
            for signum, handler in before.items():
                signal.signal(signum, handler or signal.SIG_DFL)

    def _take_signals(self) -> None:
        """Takes back the signals that Lightning has put its own handlers on; it restores ours when it ends."""
        for signum in self.taken:
            signal.signal(signum, self._receive)

    def on_train_start(self, trainer: L.Trainer, pl_module: Task) -> None:
        self._take_signals()
        if self.saved:
            self._restore(trainer, pl_module)
        self.events("started", step=trainer.global_step, tokens=pl_module.tokens_seen)
        if self.pending_validation:
            self._validate(trainer, pl_module)
            self._stop_early(trainer)
            self._save(trainer)
        self.mark = time.monotonic()

    def on_test_start(self, trainer: L.Trainer, pl_module: Task) -> None:
        self._take_signals()
        if self.signum:
            self._leave(trainer, trainer.global_step)

    def _receive(self, signum: int, frame: Any) -> None:
        if self.signum:  # the second signal does not wait
            os._exit(128 + signum)
        self.signum = signum

    def _restore(self, trainer: L.Trainer, module: Task) -> None:
        """Puts back every state of `_save`, and Lightning's counters.

        Raises:
            CheckpointError: If model or optimizer have another shape than those saved.
        """
        state, self.saved = self.saved, None
        try:
            self._load_states(trainer, module, state)
        except (RuntimeError, ValueError, KeyError) as error:
            what = f"does not fit the configuration ({' '.join(str(error).split())[:200]})"
            fix = "leave out what changes the model or the optimizer"
            raise CheckpointError(str(self.resume), what, fix) from error
        own = state["multihead"]
        module.tokens_seen, self.best = own["tokens_seen"], own["best"]
        module.recorded.update(own["recorded"])
        self.bad_validations = own["bad_validations"]
        self._set_counters(trainer, own["step"])
        self.epoch, self.step_in_epoch = own["position"]
        self.pending_validation = own["pending_validation"]
        self.targets = own["targets"]
        ranks = own["ranks"]
        if trainer.world_size == len(ranks):
            self.restore_random, self.sum = ranks[trainer.global_rank]["random"], ranks[trainer.global_rank]["sum"]
        elif trainer.is_global_zero and ranks[0]["sum"] is not None:
            self.sum = sum(rank["sum"] for rank in ranks)
        self.sum = None if self.sum is None else self.sum.to(module.device)
        if trainer.is_global_zero:
            self.on_resumed()
        self.events("resumed", step=own["step"], checkpoint=self.resume.name, epoch=self.epoch)

    def _load_states(self, trainer: L.Trainer, module: Task, state: Mapping[str, Any]) -> None:
        """Model, optimizer, schedule, precision, callbacks."""
        module.load_state_dict(state.get("current_model_state", state["state_dict"]))
        for optimizer, saved in zip(trainer.optimizers, state["optimizer_states"], strict=True):
            optimizer.load_state_dict(saved)
        for scheduler, saved in zip(trainer.lr_scheduler_configs, state["lr_schedulers"], strict=True):
            scheduler.scheduler.load_state_dict(saved)
        precision = trainer.precision_plugin
        if type(precision).__qualname__ in state:
            precision.load_state_dict(state[type(precision).__qualname__])
        for callback in trainer.callbacks:
            if callback is not self and callback.state_key in state["callbacks"]:
                callback.on_load_checkpoint(trainer, module, state)
                callback.load_state_dict(state["callbacks"][callback.state_key])

    def _set_counters(self, trainer: L.Trainer, step: int) -> None:
        """Lightning's own counters, as if it had run ``step`` optimizer steps without a break."""
        loop = trainer.fit_loop.epoch_loop
        progress = loop.automatic_optimization.optim_progress.optimizer.step.total
        progress.ready = progress.completed = step
        loop._batches_that_stepped = step
        total = loop.batch_progress.total
        total.ready = total.started = total.processed = total.completed = step * trainer.accumulate_grad_batches

    def on_train_batch_start(self, trainer: L.Trainer, pl_module: Task, batch: Any, batch_idx: int) -> None:
        if self.restore_random is not None:
            set_random_state(self.restore_random)
            self.restore_random = None

    # ---- between two steps

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Task, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.sum = outputs["sum"] if self.sum is None else self.sum + outputs["sum"]
        self.micro_batches += 1
        if self.micro_batches < trainer.accumulate_grad_batches:
            return
        self.micro_batches = 0
        self._between_steps(trainer, pl_module, batch["tokens_of_step"], batch["targets_of_step"])
        self.mark = time.monotonic()

    def _between_steps(self, trainer: L.Trainer, pl_module: Task, tokens_of_step: int, targets_of_step: int) -> None:
        step, config = trainer.global_step, self.config
        self.trained_seconds += time.monotonic() - self.mark
        self.trained_tokens += tokens_of_step
        self.targets += targets_of_step
        pl_module.tokens_seen += tokens_of_step
        self._advance_position()
        last = step >= config.max_steps
        if step % config.log_every_n_steps == 0 or last:
            self._log_training(trainer, pl_module, step)
        stop = self._signal(trainer)
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

    def _stop_early(self, trainer: L.Trainer) -> None:
        patience = self.config.early_stopping_patience
        if patience and self.bad_validations >= patience and not trainer.should_stop:
            trainer.should_stop = True
            self.events("early_stop", step=trainer.global_step, best=self.best)

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
        loss = self._require_finite(trainer, module)
        self.sum, self.targets = None, 0
        epoch = self.epoch + self.step_in_epoch / self.data.plan.num_steps(self.epoch)
        rates: dict[str, float] = {}
        for group in trainer.optimizers[0].param_groups:  # with layer-wise rates the highest of each kind
            name = f"optim/lr_{group.get('kind', 'adamw')}"
            rates[name] = max(group["lr"], rates.get(name, 0.0))
        module.record({"train/loss": loss, "epoch": epoch, "tokens": module.tokens_seen, **rates}, step)

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
        loop = trainer.fit_loop.epoch_loop
        self.events("validating", step=trainer.global_step)
        self.pending_validation = True
        first_batch = trainer._logger_connector._first_loop_iter
        trainer.validating = True
        loop.val_loop.run()
        trainer.training = True
        trainer._logger_connector._first_loop_iter = first_batch
        self.pending_validation = False
        set_random_state(before)
        value = float(trainer.callback_metrics[self.monitor])
        better = not self.best or (value > self.best["value"] if self.mode == "max" else value < self.best["value"])
        self.bad_validations = 0 if better else self.bad_validations + 1
        self.events("validated", step=trainer.global_step, **{self.monitor: value}, best=better)
        if better:
            metrics = {name: number for name, number in module.recorded.items() if name.startswith("val/")}
            self.best = {"step": trainer.global_step, "monitor": self.monitor, "value": value, "metrics": metrics}
        self.validated = trainer.global_step
        return better

    def on_validation_batch_end(self, trainer: L.Trainer, pl_module: Task, *args: Any) -> None:
        if trainer.state.fn == "fit" and trainer.world_size == 1 and self.signum:
            averaging = [c for c in trainer.callbacks if hasattr(c, "_swap_models")]
            for callback in averaging:  # validation runs on averaged weights: put the current ones back first
                callback._swap_models(pl_module)
            self._save(trainer)
            self._leave(trainer, trainer.global_step)

    def on_test_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        if self.signum:
            self._leave(trainer, trainer.global_step)

    def _signal(self, trainer: L.Trainer) -> bool:
        """Whether any rank was told to stop; all ranks get the same answer."""
        if trainer.world_size == 1:
            return bool(self.signum)
        flag = torch.tensor([self.signum], device=trainer.strategy.root_device)
        torch.distributed.all_reduce(flag, op=torch.distributed.ReduceOp.MAX)
        self.signum = int(flag.item())
        return bool(self.signum)

    def _leave(self, trainer: L.Trainer, step: int) -> None:
        name = signal.Signals(self.signum).name
        self.events("stopped", step=step, signal=name)
        raise Stopped(self.signum, f"stopped by {name}, saved step {step}; go on with resume={self.run_dir}")

    # ---- saving

    def _save(self, trainer: L.Trainer) -> None:
        """Saves step N unless it was saved already, then forgets old checkpoints."""
        folder = self.run_dir / "checkpoints"
        path = folder / f"step_{trainer.global_step}"
        if trainer.is_global_zero:
            folder.mkdir(parents=True, exist_ok=True)
        trainer.save_checkpoint(path)
        if not trainer.is_global_zero:
            return
        problem = damage(path)
        if problem:
            raise MachineError(str(path), f"{problem} right after it was written", "check the disk")
        replace_synced(folder / "latest.json", json.dumps({"step": trainer.global_step, "name": path.name}).encode())
        if self.best.get("step") == trainer.global_step:
            replace_synced(folder / "best.json", json.dumps(self.best).encode())
        self.events("saved", step=trainer.global_step)
        for old in checkpoints(self.run_dir)[self.config.keep_checkpoints :]:
            if old.name != f"step_{self.best.get('step')}":
                shutil.rmtree(old, ignore_errors=True)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: Task, checkpoint: dict[str, Any]) -> None:
        own = {"random": random_state(), "sum": None if self.sum is None else self.sum.detach().cpu()}
        ranks: list[Any] = [own]
        if trainer.world_size > 1:
            ranks = [None] * trainer.world_size
            torch.distributed.all_gather_object(ranks, own)
        checkpoint["multihead"] = {
            "step": trainer.global_step,
            "position": [self.epoch, self.step_in_epoch],
            "tokens_seen": pl_module.tokens_seen,
            "best": self.best,
            "bad_validations": self.bad_validations,
            "pending_validation": self.pending_validation,
            "recorded": {name: float(value) for name, value in pl_module.recorded.items()},
            "targets": self.targets,
            "ranks": ranks,
            "extra": self.extra,
        }
