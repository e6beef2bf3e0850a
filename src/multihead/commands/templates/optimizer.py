"""An optimizer of your own: TRAIN

This one steps by the sign of the momentum (signum, Bernstein et al. 2018, arXiv:1802.04434).
"""

from dataclasses import dataclass

import torch

from multihead.plugin import Plugin


@dataclass(kw_only=True)
class Options:
    momentum: float = 0.9  # a key of the configuration: options.my_optimizer.momentum
    """Weight of the momentum before a step."""


class MyOptimizer(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:  # Lightning computes loss and gradients in it
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:  # with params, lr, weight_decay, and hidden: is it a hidden matrix?
            for p in filter(lambda p: p.grad is not None, group["params"]):
                if not self.state[p]:  # all state must be tensors, so that a run resumes exactly
                    self.state[p]["momentum"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum"].lerp_(p.grad, 1 - group["momentum"])
                p.mul_(1 - group["lr"] * group["weight_decay"]).add_(momentum.sign(), alpha=-group["lr"])
        return loss


def my_optimizer(groups, config, options):  # config is the node optim: config.lr, config.betas, ...
    return MyOptimizer(groups, {"momentum": options.momentum})


PLUGIN = Plugin(optimizers={"my_optimizer": my_optimizer}, options={"my_optimizer": Options})
