"""A norm of your own: TRAIN

This one divides by the largest absolute value instead of the deviation.
"""

from dataclasses import dataclass

import torch
from torch import nn

from multihead.plugin import Plugin


@dataclass(kw_only=True)
class Options:
    eps: float = 1e-6  # a key of the configuration: options.my_norm.eps
    """Added to the divisor, so that it is not 0."""


class MyNorm(nn.Module):
    def __init__(self, config, width, options):  # all norms of the model are built so; most have width d_model
        super().__init__()
        self.weight, self.eps = nn.Parameter(torch.ones(width)), options.eps

    def forward(self, x):  # [..., width] to [..., width], in the type of x
        largest = x.float().abs().amax(-1, keepdim=True)
        return (x.float() / (largest + self.eps) * self.weight).to(x.dtype)


PLUGIN = Plugin(norms={"my_norm": MyNorm}, options={"my_norm": Options})
