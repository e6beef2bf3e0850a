"""A cross-attention of your own: TRAIN

This one adds a gate to what a decoder takes from the encoder. Self-attention stays as it is.
"""

from dataclasses import dataclass

import torch
from torch import nn

from multihead.model.transformer import MultiHeadAttention
from multihead.plugin import Plugin


@dataclass(kw_only=True)
class Options:
    bias: float = 2.0  # a key of the configuration: options.my_cross_attention.bias
    """Bias of the gate when training starts."""


class MyCrossAttention(MultiHeadAttention):
    def __init__(self, config, options):
        super().__init__(config)
        self.gate, self.bias = nn.Linear(config.d_model, self.width), options.bias

    def initialise(self):  # called last, when the stack gives all parameters their first values
        nn.init.constant_(self.gate.bias, self.bias)

    def forward(self, x, scope, memory=None, cache=None):
        # x [B, T, D] asks, memory [N, S, D] is the encoder's output; the result is [B, T, D].
        heads = self.attended(x, scope, memory, cache)  # all heads side by side, [B, T, H * K]
        return self.output(heads * torch.sigmoid(self.gate(x)))


PLUGIN = Plugin(
    attention={"my_cross_attention": lambda config, options: MultiHeadAttention(config)},  # all the others
    cross_attention={"my_cross_attention": MyCrossAttention},
    options={"my_cross_attention": Options},
)
