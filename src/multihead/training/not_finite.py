"""Gradients and losses that are not finite: what a run does about them, and where they come from."""

from __future__ import annotations

import contextlib
import json
import logging
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import lightning as L
import torch
import torch.distributed
from torch import Tensor, nn

from multihead.config.training import TrainerConfig
from multihead.errors import CheckpointError, NumericsError
from multihead.model.sharded import gathered, whole
from multihead.runs.checkpoint import FolderCheckpointIO, Start, checkpoints, newest_valid
from multihead.runs.files import replace_synced
from multihead.training.counters import Counters
from multihead.training.restore import load_weights
from multihead.training.streams import Streams

if TYPE_CHECKING:
    from multihead.data.module import DataModule
    from multihead.tasks.base import Task

log = logging.getLogger("multihead")

MOST_IN_A_ROW = 20
"""Number of steps in a row without a finite gradient that ends a run, whatever trainer.on_nan says."""
MOST_REWINDS = 3
"""Number of times that a run rewinds to the same checkpoint."""
MOST_NAMED = 8
"""Number of examples that a message names; nan.json names all of them."""


class NotFinite:
    """Stops a run, skips a step or rewinds to a checkpoint, as trainer.on_nan says, if a gradient is not finite.

    Args:
        run_dir: The run directory.
        data: The data module, from which the step's examples are made again.
        config: The node ``trainer``.
        counters: Where the run is in its data.
        streams: The random streams that the step began with.
        events: Called with an event's name and fields, for events.jsonl.
        start: The checkpoint that the run resumes from, if there is one.

    Attributes:
        counts: Skipped steps, steps in a row without a finite gradient, rewinds, and the checkpoint of the last rewind.
    """

    def __init__(
        self,
        run_dir: Path,
        data: DataModule,
        config: TrainerConfig,
        counters: Counters,
        streams: Streams,
        events: Callable[..., None],
        start: Start | None,
    ):
        self._run_dir, self._data, self._config = run_dir, data, config
        self._counters, self._streams, self._events = counters, streams, events
        none_yet = {"skipped": 0, "in_a_row": 0, "rewinds": 0, "rewound_to": ""}
        self.counts: dict[str, Any] = dict(start.own["not_finite"]) if start else none_yet
        self._skips_step = False

    def look_at_gradient(self, trainer: L.Trainer, task: Task, norm: Tensor) -> None:
        """Acts on a gradient that is not finite, before the optimizer uses it; ``norm`` is the same on every rank.

        Raises:
            NumericsError: If the run has to end.
        """
        if self._config.on_nan == "stop" and norm.device.type != "cpu":
            return  # the host would wait for the device at every step; `check_gradient` and `check_loss` find it later
        if bool(torch.isfinite(norm)):
            self.counts["in_a_row"] = 0
            return
        self.counts["in_a_row"] += 1
        scaled = getattr(trainer.precision_plugin, "scaler", None) is not None  # it looks for its scale this way
        if (self._config.on_nan == "stop" and not scaled) or self.counts["in_a_row"] >= MOST_IN_A_ROW:
            self._fail(trainer, task, "the gradient is not finite")
        if scaled:
            return
        self.counts["skipped"] += 1
        if self._config.on_nan == "rewind":
            self._rewind(trainer, task)
        for parameter in task.parameters():
            parameter.grad = None
        self._skips_step = True
        self._events("skipped", step=trainer.global_step + 1, position=list(self._counters.position))
        log.warning("step %d was skipped, because its gradient is not finite", trainer.global_step + 1)

    def end_step(self) -> bool:
        """Whether the step that has just ended was skipped; the next one is not."""
        skipped, self._skips_step = self._skips_step, False
        return skipped

    def check_loss(self, trainer: L.Trainer, task: Task) -> float:
        """Returns the mean loss since the last log.

        Raises:
            NumericsError: If it is not finite; so it never reaches a checkpoint.
        """
        loss = self._counters.mean_loss(trainer, task.device)
        if not math.isfinite(loss):
            what = f"the training loss is {loss} within the last {self._config.log_every_n_steps} steps"
            fix = "lower optim.lr or raise optim.warmup_steps, then resume"
            raise NumericsError(f"step {trainer.global_step}", what, fix)
        return loss

    def check_gradient(self, trainer: L.Trainer, norm: Tensor | None, skipped: bool) -> None:
        """Checks the gradient of a step whose weights are about to be validated or saved.

        The loss of the step does not show it, because it is that of the weights before the update.

        Args:
            trainer: The trainer.
            norm: The norm of the step's gradient, the same on every rank; None if it is not known.
            skipped: Whether the step did not use it.

        Raises:
            NumericsError: If it is not finite; so such weights never reach a checkpoint.
        """
        if norm is None or skipped or bool(torch.isfinite(norm)):
            return
        if getattr(trainer.precision_plugin, "scaler", None) is None:  # a scaler leaves such a step out by itself
            fix = "lower optim.lr or raise optim.warmup_steps, then resume"
            raise NumericsError(f"step {trainer.global_step}", f"the norm of the gradient is {float(norm)}", fix)

    def _rewind(self, trainer: L.Trainer, task: Task) -> None:
        """Loads weights, moments and averages of the newest checkpoint; the data go on after this step."""
        try:
            path, _ = newest_valid(self._run_dir)
        except CheckpointError:
            self._fail(trainer, task, "there is no checkpoint to rewind to")
        self.counts["rewinds"] = self.counts["rewinds"] + 1 if self.counts["rewound_to"] == path.name else 1
        self.counts["rewound_to"] = path.name
        if self.counts["rewinds"] > MOST_REWINDS:
            self._fail(trainer, task, f"rewound to {path.name} {MOST_REWINDS} times")
        load_weights(trainer, task, FolderCheckpointIO().load_checkpoint(path))
        self._events("rewound", step=trainer.global_step + 1, checkpoint=path.name)
        log.warning("rewound to the weights of %s", path.name)

    def _fail(self, trainer: L.Trainer, task: Task, what: str) -> NoReturn:
        """Ends the run; the error and nan.json say which examples and which module it was.

        Raises:
            NumericsError: Always.
        """
        self._streams.go_back()
        epoch, step_in_epoch = self._counters.position
        sentence, found = diagnose(trainer, task, self._data, (epoch, step_in_epoch))
        if trainer.is_global_zero:
            row = {"step": trainer.global_step + 1, "epoch": epoch, "step_in_epoch": step_in_epoch, "message": sentence}
            replace_synced(self._run_dir / "nan.json", (json.dumps(row | found, indent=1) + "\n").encode())
        kept = next((path.name for path in checkpoints(self._run_dir)), "none")
        fix = "lower optim.lr or raise optim.warmup_steps and resume, or trainer.on_nan=skip"
        raise NumericsError(f"step {trainer.global_step + 1}", f"{what}; {sentence}; newest checkpoint: {kept}", fix)


# ---- where it comes from


def diagnose(trainer: L.Trainer, task: Task, data: DataModule, position: tuple[int, int]) -> tuple[str, dict[str, Any]]:
    """Computes the step at ``position`` again, before its update, and looks at everything on the way.

    The weights and the random streams must be those that the step began with.

    Returns:
        A sentence, and ``rank``, ``task``, ``examples`` (rows of the train split), ``loss`` (their sum) and ``module``;
        the same on every rank.
    """
    own: dict[str, Any] = {}
    gradients = _gradients(task)
    with whole(task):
        for batch in data.batches_of(position):
            loss, module = _first_not_finite(trainer, task, trainer.strategy.batch_to_device(batch))
            if module and not own:
                own = {"task": batch["task"], "examples": batch["index"].tolist(), "loss": loss, "module": module}
    own = own or gradients
    found = [{"rank": trainer.global_rank, **own}]
    if trainer.world_size > 1:
        found = [{} for _ in range(trainer.world_size)]
        torch.distributed.all_gather_object(found, {"rank": trainer.global_rank, **own})
    first = next((each for each in found if each.get("examples")), found[0])
    return _in_words(first, trainer.world_size), first


def _in_words(found: Mapping[str, Any], ranks: int) -> str:
    """The finding in words."""
    if "examples" not in found:
        return f"first not finite: {found['module']}"
    listed = ", ".join(str(row) for row in found["examples"][:MOST_NAMED])
    more = f" and {len(found['examples']) - MOST_NAMED} more" if len(found["examples"]) > MOST_NAMED else ""
    where = f" on rank {found['rank']}" if ranks > 1 else ""
    return f"loss {found['loss']} for rows {listed}{more} of train{where}; first not finite: {found['module']}"


def _first_not_finite(trainer: L.Trainer, task: Task, batch: dict[str, Any]) -> tuple[float, str]:
    """The loss of a batch, and the first module in the order of computation whose output is not finite, or nothing."""
    for name, parameter in task.model.named_parameters():
        if not bool(torch.isfinite(parameter).all()):
            return float("nan"), f"the weights {name}"
    with _watched(task.model) as seen, torch.no_grad(), trainer.precision_plugin.train_step_context():
        loss = float(task.training_step(batch, 0)["sum"])
    if seen:
        return loss, seen[0]
    return loss, "" if torch.isfinite(torch.tensor(loss)) else "the loss"


@contextlib.contextmanager
def _watched(model: nn.Module) -> Iterator[list[str]]:
    """Inside, the modules whose output is not finite are listed as they are met."""
    seen: list[str] = []

    def look(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            tensors = output if isinstance(output, tuple) else (output,)
            for tensor in tensors:
                if isinstance(tensor, torch.Tensor) and not bool(torch.isfinite(tensor).all()):
                    seen.append(name)

        return hook

    handles = [module.register_forward_hook(look(name)) for name, module in model.named_modules() if name]
    try:
        yield seen
    finally:
        for handle in handles:
            handle.remove()


def _gradients(task: Task) -> dict[str, Any]:
    """Finds where the backward pass, which goes from the last parameter to the first, met the first such number."""
    bad = [
        name
        for name, parameter in task.model.named_parameters()
        if parameter.grad is not None and not bool(torch.isfinite(gathered(parameter.grad)).all())
    ]
    return {"module": f"the gradient of {bad[-1]}" if bad else "the norm of the gradient, by overflow"}
