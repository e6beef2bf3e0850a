"""A plugin that counts where the host waits for a GPU within training steps: ``plugin=benchmarks/waits.py``.

It leaves out the first two steps, in which kernels are chosen, and the last two, of which the last one logs. Set
``trainer.log_every_n_steps`` above ``trainer.max_steps``, because a log waits by design. The counts, by file and line,
go to the JSON file that the variable WAITS names.
"""

import json
import os
import warnings
from collections import Counter
from pathlib import Path
from typing import Any

import lightning as L
import torch

from multihead.plugin import Plugin

EDGE = 2
"""Number of steps at each end that are left out."""


class Waits(L.Callback):
    """Counts torch's warnings of operations that wait, from the first batch of a step to that of the next step."""

    def __init__(self) -> None:
        self.places: Counter[str] = Counter()
        self.steps = 0
        self._show = warnings.showwarning

    def on_train_batch_start(self, trainer: L.Trainer, module: L.LightningModule, batch: Any, batch_idx: int) -> None:
        inside = EDGE <= trainer.global_step < trainer.max_steps - EDGE
        self.steps += inside
        if trainer.strategy.root_device.type == "cuda":
            warnings.showwarning = self._count if inside else self._show
            warnings.simplefilter("always" if inside else "default")
            torch.cuda.set_sync_debug_mode("warn" if inside else "default")

    def on_train_end(self, trainer: L.Trainer, module: L.LightningModule) -> None:
        warnings.showwarning = self._show
        Path(os.environ["WAITS"]).write_text(json.dumps({"batches": self.steps, "waits": dict(self.places)}))

    def _count(self, message: Any, category: Any, filename: str, lineno: int, *rest: Any) -> None:
        if "synchronizing CUDA operation" in str(message):
            self.places[f"{filename}:{lineno}"] += 1
        else:
            self._show(message, category, filename, lineno, *rest)


PLUGIN = Plugin(callbacks={"waits": Waits})
