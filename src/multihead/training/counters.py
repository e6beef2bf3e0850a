"""How far a run is: its place in the data, its loss since the last log, its tokens and its seconds."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import lightning as L
import torch
import torch.distributed
from torch import Tensor

from multihead.runs.checkpoint import Start

if TYPE_CHECKING:
    from multihead.data.module import DataModule


class Counters:
    """Counts steps, tokens, seconds and the loss; after a resume it counts on.

    Args:
        data: The data module. Its position becomes that of the checkpoint.
        start: The checkpoint that the run resumes from, if there is one.
        began: When the run began by ``time.monotonic``; None means now.

    Attributes:
        epoch: The current epoch.
        step_in_epoch: Number of steps of this epoch that are done.
        first_step: Number of steps that were done when this process began.
        loss_sum: This rank's sum of losses since the last log, or None if there was none.
        targets: Number of loss terms since the last log, over all ranks.
        micro_batches: Number of micro-batches of the current step that are done.
        trained_tokens: Real target tokens of this process's steps, over all ranks.
        trained_seconds: Seconds that these steps took, without validation and saving.
    """

    def __init__(self, data: DataModule, start: Start | None = None, began: float | None = None):
        self._plan = data.plan
        if start:
            epoch, step = start.own["position"]
            data.set_position(epoch, min(step, data.plan.num_steps(epoch)))  # other data, by force, may have fewer
        self.epoch, self.step_in_epoch = data.position
        self.first_step: int = start.own["step"] if start else 0
        self.loss_sum: Tensor | None = None
        self.targets: int = start.own["targets"] if start else 0
        self.trained_seconds, self.trained_tokens = 0.0, 0
        self._loss_at_boundary: Tensor | None = None
        self._trained_before: tuple[int, float] = (0, 0.0)
        if start:  # an older checkpoint does not have them
            self._trained_before = start.own.get("trained_tokens", 0), start.own.get("trained_seconds", 0.0)
        self._seconds_before: float = start.own["seconds"] if start else 0.0
        self._began = time.monotonic() if began is None else began
        self._step_began = self._began
        self.micro_batches = 0

    @property
    def position(self) -> tuple[int, int]:
        """The epoch, and the number of its steps that are done."""
        return self.epoch, self.step_in_epoch

    @property
    def epochs(self) -> float:
        """The number of epochs that are done, with their fraction."""
        return self.epoch + self.step_in_epoch / self._plan.num_steps(self.epoch)

    @property
    def seconds(self) -> float:
        """Seconds that the run has taken in all its processes; what a kill lost is not known."""
        return self._seconds_before + time.monotonic() - self._began

    @property
    def tokens_per_second(self) -> float:
        """Real target tokens per second of training in all processes of the run, without validation and saving."""
        tokens, seconds = self._trained
        return tokens / seconds if seconds else 0.0

    @property
    def _trained(self) -> tuple[int, float]:
        tokens, seconds = self._trained_before
        return tokens + self.trained_tokens, seconds + self.trained_seconds

    def add_micro_batch(self, loss_sum: Tensor, of: int) -> bool:
        """Counts a micro-batch; returns whether it is the last one of a step that has ``of`` of them."""
        self.loss_sum = loss_sum if self.loss_sum is None else self.loss_sum + loss_sum
        self.micro_batches = (self.micro_batches + 1) % of
        return self.micro_batches == 0

    def end_step(self, tokens: int, targets: int, skipped: bool) -> None:
        """Counts a whole step.

        Args:
            tokens: Real target tokens of the step, over all ranks.
            targets: Its terms of the loss, over all ranks.
            skipped: Whether the step was left out, so that its loss does not count.
        """
        self.trained_seconds += time.monotonic() - self._step_began
        self.trained_tokens += tokens
        if skipped:
            self.go_back()
        else:
            self.targets += targets
        self.step_in_epoch += 1
        if self.step_in_epoch >= self._plan.num_steps(self.epoch):
            self.epoch, self.step_in_epoch = self.epoch + 1, 0

    def begin_step(self) -> None:
        """Starts the clock of the next step; what came before it was no training."""
        self._step_began = time.monotonic()

    def mark_boundary(self) -> None:
        """Remembers the loss so far, to which `go_back` returns."""
        self._loss_at_boundary = self.loss_sum

    def go_back(self) -> None:
        """Forgets the loss of a step that was skipped or did not end."""
        self.loss_sum = self._loss_at_boundary

    def mean_loss(self, trainer: L.Trainer, device: torch.device) -> float:
        """Mean loss per target since the last log, over all ranks; 0 if all steps were skipped."""
        if not self.targets:
            return 0.0
        total = torch.zeros((), device=device) if self.loss_sum is None else self.loss_sum.detach()
        total = total.double()
        if trainer.world_size > 1:
            torch.distributed.all_reduce(total)
        return total.item() / self.targets

    def forget_loss(self) -> None:
        """Begins a new interval of logging."""
        self.loss_sum, self.targets = None, 0

    def take_loss(self, loss_sum: Tensor | None) -> None:
        """Goes on with this rank's sum of losses from a checkpoint."""
        self.loss_sum = loss_sum

    def state(self) -> dict[str, Any]:
        """What a checkpoint holds of the counters that all ranks share."""
        tokens, seconds = self._trained
        own = {"position": list(self.position), "seconds": self.seconds, "targets": self.targets}
        return own | {"trained_tokens": tokens, "trained_seconds": seconds}
