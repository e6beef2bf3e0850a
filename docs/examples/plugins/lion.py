"""Lion: multihead train task=lm plugin=docs/examples/plugins/lion.py optim.name=lion optim.lr=1e-4

An optimizer that steps by the sign of an interpolation between momentum and gradient (Chen et al. 2023,
arXiv:2302.06675, algorithm 2). Its state is half of AdamW's. Rates are 3 to 10 times smaller than AdamW's, and weight
decay as many times larger (section 5). It takes optim.lr, optim.weight_decay and optim.betas; the
paper has betas of 0.9 and 0.99.
"""

import torch

from multihead.plugin import Plugin


class Lion(torch.optim.Optimizer):
    @torch.no_grad()
    def step(self, closure=None):
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            first, second = group["betas"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                if not self.state[p]:
                    self.state[p]["momentum"] = torch.zeros_like(p)
                momentum = self.state[p]["momentum"]
                p.mul_(1 - group["lr"] * group["weight_decay"])
                p.add_(torch.lerp(p.grad, momentum, first).sign_(), alpha=-group["lr"])
                momentum.lerp_(p.grad, 1 - second)
        return loss


def lion(groups, config):
    return Lion(groups, {"betas": (config.betas[0], config.betas[1])})


PLUGIN = Plugin(optimizers={"lion": lion})
