"""Differential: multihead train task=lm plugin=docs/examples/plugins/differential.py model.attention=differential

Differential attention: a head is the difference of two softmaxes, the second times a learned lambda, so that what both
attend to cancels out (Ye et al. 2024, arXiv:2410.05258, equations 1 to 3). A head's queries and keys are two of half
the width, so that the parameters are those of plain attention, but for lambda and the norm of each head. lambda starts
at 0.8 - 0.6 exp(-0.3 (l - 1)) in layer l, as in the paper.
"""

import math

import torch
from torch import nn

from multihead.model.kernels import attend
from multihead.model.transformer import MultiHeadAttention, RMSNorm
from multihead.plugin import Plugin


class Differential(MultiHeadAttention):
    def __init__(self, config):
        super().__init__(config)
        self.register_buffer("start", torch.tensor(0.2), persistent=False)  # lambda_init of the first layer
        half = config.head_dim // 2
        self.query_lambda, self.key_lambda = (nn.Parameter(0.1 * torch.randn(2, half)) for _ in range(2))
        self.head_norm = RMSNorm(config.head_dim, 1e-5)

    def at_depth(self, number, total):
        self.start.fill_(0.8 - 0.6 * math.exp(-0.3 * (number - 1)))

    def mix(self, query, key, value, scope):
        dropout = self.dropout if self.training else 0.0
        scale = self.scale or 1 / math.sqrt(query.size(-1) // 2)
        first, second = (
            attend(*halves, value, scope.mask, scope.causal, dropout, scale)
            for halves in zip(query.chunk(2, dim=-1), key.chunk(2, dim=-1), strict=True)
        )  # [N, H, T, K]
        plus, minus = (self.query_lambda * self.key_lambda).sum(-1).exp()
        return self.head_norm(first - (plus - minus + self.start) * second) * (1 - self.start)


PLUGIN = Plugin(attention={"differential": Differential})
