"""How a run is doing, beside its loss: norms of gradient and update, speed, memory, and the share of the device's peak.

Speed, memory and share of the peak differ from run to run; they stand under ``system/``.
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
"""Part of a device's name to its peak in operations per second: 16-bit matrix products without sparsity, and float32,
as NVIDIA's data sheets give them. The first that fits counts."""


def peak_flops(name: str, precision: str) -> float | None:
    """The device's peak for a precision, in operations per second; None where it is not known."""
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
    """What is measured in passing between two logs: costs nothing on the steps between, and waits for no device."""

    def __init__(self) -> None:
        self.gradient_norm: Tensor | None = None
        self.peak: float | None = None
        self.flops_per_token = 0.0
        self._counter: FlopCounterMode | None = None
        self._marked = (0, 0.0)
        self._before: list[tuple[Tensor, Tensor]] = []
        self._update_norm: Tensor | None = None

    def start(self, trainer: L.Trainer) -> None:
        """Looks at the optimizer's updates from here on; where the device's peak is known, counts the first step's
        operations."""
        for optimizer in trainer.optimizers:
            optimizer.register_step_post_hook(self._after_update)
        device = trainer.strategy.root_device
        if device.type == "cuda" and not any(torch_private.is_compiled(m) for m in trainer.lightning_module.modules()):
            self.peak = peak_flops(torch.cuda.get_device_name(device), str(trainer.precision))

    def begin_step(self) -> None:
        """Before a step's first part."""
        if self.peak and not self.flops_per_token and self._counter is None:
            self._counter = flop_counter()
            self._counter.__enter__()

    def on_gradient(self, trainer: L.Trainer, norm: Tensor, every: int) -> None:
        """After the backward pass, before the update; ``norm`` is that of the whole gradient, before clipping."""
        if self._counter is not None:
            self._counter.__exit__(None, None, None)
        self.gradient_norm = norm
        if (trainer.global_step + 1) % every == 0:  # for a moment in which no activations are in memory
            moving = [
                p for optimizer in trainer.optimizers for group in optimizer.param_groups for p in group["params"]
            ]
            self._before = [(p, p.detach().clone()) for p in moving if p.grad is not None]

    def _after_update(self, optimizer: Optimizer, *arguments: Any) -> None:
        if self._before:
            with torch.no_grad():
                moved = [p - before for p, before in self._before]  # nothing, where the step was left out since
                self._update_norm = gathered(torch.nn.utils.get_total_norm(moved))
            self._before = []

    def end_step(self, trainer: L.Trainer, tokens: int) -> None:
        """After the update, with the step's tokens over all ranks."""
        if self._counter is not None and tokens:
            self.flops_per_token = self._counter.get_total_flops() * trainer.world_size / tokens
            self._counter = None

    def row(self, trainer: L.Trainer, tokens: int, seconds: float) -> dict[str, float]:
        """What is logged.

        Args:
            trainer: Of the run.
            tokens: Target tokens that this process has trained on so far, over all ranks.
            seconds: That this took, without validation and saving.
        """
        row: dict[str, float] = {}
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
