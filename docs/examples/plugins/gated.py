"""Gated attention: multihead train task=lm plugin=docs/examples/plugins/gated.py model.attention=gated

What the heads give is multiplied by sigmoid(x W), number by number, before the last linear map, so that a head can give
nothing and needs no token to attend to (Qiu et al. 2025, arXiv:2505.06708, section 2.2).
"""

import torch
from torch import nn

from multihead.model.transformer import MultiHeadAttention
from multihead.plugin import Plugin


class Gated(MultiHeadAttention):
    def __init__(self, config):
        super().__init__(config)
        self.gate = nn.Linear(config.d_model, self.width, bias=False)

    def forward(self, x, scope, memory=None, cache=None):
        heads = self.attended(x, scope, memory, cache)  # [B, T, H * K]
        return self.output(heads * torch.sigmoid(self.gate(x)))


PLUGIN = Plugin(attention={"gated": Gated})
