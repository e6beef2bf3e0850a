"""Measurements of a run beside its loss: norms of gradient and update, speed, memory, share of the device's peak.

Speed, memory and the share of the peak differ from run to run; their names begin with ``system/``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim import Optimizer
from torch.utils.flop_counter import FlopCounterMode

from multihead import torch_private
from multihead.model.sharded import gathered
from multihead.training.cost import flop_counter, peak_memory

if TYPE_CHECKING:
    import lightning as L

PEAKS = {
    "H200": (989.4e12, 67e12),
    "H100 PCIe": (756e12, 51e12),
    "H100": (989.4e12, 67e12),
    "A100": (312e12, 19.5e12),
    "L40S": (362e12, 91.6e12),
    "L4": (121e12, 30.3e12),
    "A10G": (70e12, 35e12),
    "V100": (125e12, 15.7e12),
}
"""Peak operations per second of devices, by a part of their names; the first part that occurs in a name counts.

The numbers are those of NVIDIA's data sheets for 16-bit matrix products without sparsity, and for float32. Lightning
2.6.6 has such a table too, but none of its entries matches the name "NVIDIA H200", and "NVIDIA L40S" gets an L4's.
"""


def peak_flops(name: str, precision: str) -> float | None:
    """The device's peak for a precision, in operations per second; None if it is not known."""
    for part, (half, single) in PEAKS.items():
        if part in name:
            return half if "16" in precision else single
    return None


def learning_rates(optimizer: Optimizer) -> dict[str, float]:
    """The learning rate of each kind of parameter group; with layer-wise rates, the highest of each kind."""
    rates: dict[str, float] = {}
    for group in optimizer.param_groups:
        name = f"optim/lr_{group.get('kind', 'adamw')}"
        rates[name] = max(group["lr"], rates.get(name, 0.0))
    return rates


class Telemetry:
    """Measures between two logs. It costs nothing on the steps between them and never waits for the device."""

    def __init__(self) -> None:
        self.gradient_norm: Tensor | None = None
        self.learning_rates: dict[str, float] = {}
        """Those of the newest step. After a step, the schedule has already set those of the next one."""
        self.peak: float | None = None
        self.flops_per_token = 0.0
        self._counter: FlopCounterMode | None = None
        self._marked = (0, 0.0)
        self._before: list[tuple[Tensor, Tensor]] = []
        self._update_norm: Tensor | None = None

    def start(self, trainer: L.Trainer) -> None:
        """Watches the optimizer's updates from here on. If the device's peak is known, the operations of the first step
        are counted."""
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self._after_update)
        device = trainer.strategy.root_device
        if device.type == "cuda" and not any(torch_private.is_compiled(m) for m in trainer.lightning_module.modules()):
            self.peak = peak_flops(torch.cuda.get_device_name(device), str(trainer.precision))

    def begin_step(self) -> None:
        """Is called before the first micro-batch of a step."""
        if self.peak and not self.flops_per_token and self._counter is None:
            self._counter = flop_counter()
            self._counter.__enter__()

    def on_gradient(self, trainer: L.Trainer, norm: Tensor, every: int) -> None:
        """Is called between backward pass and update; ``norm`` is that of the whole gradient, before clipping."""
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
        self.gradient_norm, self.learning_rates = norm, learning_rates(trainer.optimizers[0])
        if (trainer.global_step + 1) % every == 0:  # the copies are short-lived, and no activations are in memory
            moving = [
                p for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]
            ]
            self._before = [(p, p.detach().clone()) for p in moving if p.grad is not None]

    def _after_update(self, optimizer: Optimizer, *arguments: Any) -> None:
        if self._before:
            with torch.no_grad():
                moved = [p - before for p, before in self._before]  # zero if the step was skipped meanwhile
                self._update_norm = gathered(torch.nn.utils.get_total_norm(moved))
            self._before = []

    def end_step(self, trainer: L.Trainer, tokens: int) -> None:
        """Is called after the update; ``tokens`` are those of the step, over all ranks."""
        if self._counter is not None and tokens:
            self.flops_per_token = self._counter.get_total_flops() * trainer.world_size / tokens
            self._counter = None

    def row(self, trainer: L.Trainer, tokens: int, seconds: float) -> dict[str, float]:
        """The measurements by their logged names.

        Args:
            trainer: The trainer of the run.
            tokens: Target tokens of the steps of this process so far, over all ranks.
            seconds: Seconds that these steps took, without validation and saving.
        """
        row: dict[str, float] = dict(self.learning_rates)
        if self.gradient_norm is not None:
            row["optim/gradient_norm"] = float(self.gradient_norm)
        if self._update_norm is not None:
            row["optim/update_norm"] = float(self._update_norm)
            self._update_norm = None
        (before, since), self._marked = self._marked, (tokens, seconds)
        if seconds > since:
            speed = (tokens - before) / (seconds - since)
            row["system/tokens_per_second"] = speed
            if self.peak and self.flops_per_token:
                row["system/mfu"] = speed * self.flops_per_token / (self.peak * trainer.world_size)
        row["system/peak_memory_mb"] = peak_memory(trainer.strategy.root_device) / 1e6
        return row
