"""A plugin whose runs come to grief as asked: for `sweep_survives.py`."""

import json
import os
import signal
import time
from dataclasses import dataclass

import lightning as L
import torch

from multihead.plugin import Plugin

TROUBLES = {3: "crash", 8: "crash", 13: "crash", 5: "diverge", 10: "hang", 15: "kill"}
"""Number of the trial to what becomes of it in its second step."""


@dataclass
class Trouble:
    """Which trial this is, and where it writes down what it does."""

    number: int = -1
    record: str = ""
    seconds: float = 0.3
    """Of each step, beside its work."""


class Grief(L.Callback):
    """Writes a line at the beginning, at each step and at the end; and does what `TROUBLES` says."""

    def note(self, task, event, step):
        """Appends a line, whole even where several processes write."""
        options = task.config.options["trouble"]
        line = json.dumps(
            {"number": options.number, "event": event, "step": step, "pid": os.getpid(), "t": time.time()}
        )
        handle = os.open(options.record, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(handle, f"{line}\n".encode())
        os.close(handle)

    def on_train_start(self, trainer, task):
        self.note(task, "begin", trainer.global_step)

    def on_train_batch_end(self, trainer, task, outputs, batch, index):
        options = task.config.options["trouble"]
        self.note(task, "step", trainer.global_step)
        time.sleep(options.seconds)
        trouble = TROUBLES.get(options.number) if trainer.global_step >= 2 else None
        if trouble == "crash":
            raise RuntimeError("the trial's own code has a defect")
        if trouble == "hang":
            time.sleep(3600)
        if trouble == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if trouble == "diverge":
            with torch.no_grad():
                next(task.model.parameters()).fill_(float("nan"))

    def on_test_end(self, trainer, task):
        self.note(task, "end", trainer.global_step)


PLUGIN = Plugin(options={"trouble": Trouble}, callbacks={"grief": Grief})
