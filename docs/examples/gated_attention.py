"""Gated attention: multihead study file=sweeps/studies/gated.yaml plugin=docs/examples/gated_attention.py

The output of attention is multiplied by sigmoid(x W), element by element, before the output projection
(Qiu et al. 2025, arXiv:2505.06708).
"""

import torch
from torch import nn

from multihead.model.transformer import MultiHeadAttention
from multihead.plugin import Plugin


class GatedAttention(MultiHeadAttention):
    """Attention(x) * sigmoid(x W): the gate lets a head give nothing, so that it needs no token to attend to."""

    def __init__(self, config):
        super().__init__(config)
        self.gate = nn.Linear(config.d_model, self.width, bias=False)
        self.project, self.output = self.output, nn.Identity()

    def forward(self, x, scope, memory=None, cache=None):
        y = super().forward(x, scope, memory, cache)  # [B, T, H * K]
        return self.project(y * torch.sigmoid(self.gate(x)))


PLUGIN = Plugin(attention={"gated": GatedAttention})
