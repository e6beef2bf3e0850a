"""A plugin whose callback makes the gradient of the third step infinite."""

import lightning as L
import torch

from multihead.plugin import Plugin


class Poison(L.Callback):
    done = False

    def on_after_backward(self, trainer, pl_module):
        if trainer.global_step == 2 and not self.done:
            self.done = True
            for parameter in pl_module.parameters():
                if parameter.grad is not None:
                    parameter.grad.mul_(torch.inf)


PLUGIN = Plugin(callbacks={"poison": Poison})
