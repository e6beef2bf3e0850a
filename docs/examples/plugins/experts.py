"""Mixture of experts: multihead train task=lm plugin=docs/examples/plugins/experts.py model.feed_forward=experts

Each token goes through the k of E feed-forwards that a router scores highest, weighted by a softmax over these k
(Shazeer et al. 2017, arXiv:1701.06538; Mixtral, arXiv:2401.04088, section 2.1). A loss balances the experts: E times
the sum over experts of (share of tokens that it gets) * (its mean probability), as in the Switch Transformer
(arXiv:2101.03961, equations 4 to 6). No token is dropped.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from multihead.model.losses import add_loss
from multihead.model.transformer import FeedForward
from multihead.plugin import Plugin


@dataclass(kw_only=True)
class ExpertsOptions:
    num: int = 4
    used: int = 2  # experts of a token
    balance: float = 0.01  # weight of the balancing loss


class Experts(nn.Module):
    def __init__(self, config, options):
        super().__init__()
        self.used, self.balance = options.used, options.balance
        self.router = nn.Linear(config.d_model, options.num, bias=False)
        self.experts = nn.ModuleList(FeedForward(config) for _ in range(options.num))

    def forward(self, x):  # padding is routed and balanced too; batches have little of it
        rows = x.flatten(0, -2)  # [N, D]
        logits = self.router(rows).float()  # [N, E]
        best, chosen = logits.topk(self.used, dim=-1)  # [N, k]
        weights = torch.zeros_like(logits).scatter(1, chosen, best.softmax(-1)).to(x.dtype)  # [N, E], 0 if not used
        y = torch.zeros_like(rows)
        for number, expert in enumerate(self.experts):
            token = (chosen == number).any(1).nonzero()[:, 0]  # on an accelerator the host waits for it
            y = y.index_add(0, token, (expert(rows[token]) * weights[token, number, None]).to(y.dtype))
        if self.training:
            add_loss(self.balance * balancing_loss(logits.softmax(-1), chosen))
        return y.view_as(x)


def balancing_loss(probabilities, chosen):
    """E * sum over experts of (share of the choices) * (mean probability): 1 if both are even."""
    share = F.one_hot(chosen, probabilities.size(1)).float().mean((0, 1))  # [E]
    return probabilities.size(1) * (share * probabilities.mean(0)).sum()


PLUGIN = Plugin(feed_forward={"experts": Experts}, options={"experts": ExpertsOptions})
