"""DyT: multihead train task=lm plugin=docs/examples/plugins/dyt.py model.norm=dyt

A model without norms: each norm is tanh(alpha * x) * weight + bias, with a scalar alpha that it learns, so that nothing
is computed over the width (Zhu et al. 2025, arXiv:2503.10622, equation 1).
"""

from dataclasses import dataclass

import torch
from torch import nn

from multihead.plugin import Plugin


@dataclass(kw_only=True)
class DyTOptions:
    alpha: float = 0.5  # alpha of the first step


class DyT(nn.Module):
    def __init__(self, config, width, options):
        super().__init__()
        self.alpha = nn.Parameter(torch.tensor(options.alpha))
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x):
        return (torch.tanh(self.alpha * x) * self.weight + self.bias).to(x.dtype)


PLUGIN = Plugin(norms={"dyt": DyT}, options={"dyt": DyTOptions})
