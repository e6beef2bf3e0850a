"""A callback of your own: TRAIN

This one logs the norm of all weights. A plugin's callbacks always take part; no key chooses them.
"""

import lightning as L
import torch

from multihead.plugin import Plugin


class MyCallback(L.Callback):  # any hook of Lightning's
    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        step = trainer.global_step
        if (
            step % pl_module.task.config.trainer.log_every_n_steps == 0
        ):  # to look at a value makes an accelerator wait, so do it seldom
            weights = [p.detach().float().norm() for p in pl_module.task.parameters()]
            pl_module.record({"train/norm_of_weights": float(torch.stack(weights).norm())}, step)


PLUGIN = Plugin(callbacks={"my_callback": MyCallback})  # a function, or a class, that is called without arguments
