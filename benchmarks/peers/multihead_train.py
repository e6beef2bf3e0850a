"""Multihead itself, as ``python train.py`` runs it: Lightning's loop, metrics.csv, progress lines and all.

As a script it trains by the words of the settings; as the plugin that it names there it paces the loop.
"""

import sys
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent))

import lightning as L
import pace

from multihead.plugin import Plugin


class Paced(L.Callback):
    """Pauses the training between two steps whenever the benchmark turns to another contestant."""

    def __init__(self) -> None:
        self.pace = pace.current
        self.last_step = 0

    def on_train_start(self, trainer: L.Trainer, pl_module: Any) -> None:
        import torch

        parameters = sum(p.numel() for p in pl_module.task.model.parameters())
        self.pace.say(parameters=parameters, threads=torch.get_num_threads())
        self.pace.say(batch=f"{pl_module.task.config.data.batch_tokens} target tokens a step")
        self.pace.ready()

    def on_train_batch_end(self, trainer: L.Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step > self.last_step:
            self.last_step = trainer.global_step
            self.pace.step(batch["tokens_of_step"])


PLUGIN = Plugin(callbacks={"paced": Paced})

if __name__ == "__main__":
    import multihead

    asked, folder = pace.settings()
    pace.current = pace.Pace(version="this checkout")
    words = [*asked["words"], f"plugin={__file__}", f"run_dir={folder}/run_{asked['name']}", "logger=none"]
    never = [
        "trainer.max_steps=1000000",
        "trainer.val_every_n_steps=1000000",
        "trainer.checkpoint_every_n_steps=1000000",
    ]
    multihead.train([*words, *never])
