"""A layer of your own: TRAIN

This one multiplies what each sub-layer adds by a vector that it learns.
"""

from dataclasses import dataclass

import torch
from torch import nn

from multihead.model.transformer import Layer
from multihead.plugin import Plugin


@dataclass(kw_only=True)
class Options:
    start: float = 0.1  # a key of the configuration: options.my_layer.start
    """Value of the scales when training starts."""


class MyLayer(Layer):  # has self_attention, feed_forward, their norms, and in some decoders cross_attention
    def __init__(self, config, blocks, *, causal, cross, options):
        super().__init__(config, blocks, causal=causal, cross=cross)
        self.scales = nn.Parameter(torch.full((3, config.d_model), options.start))

    def forward(self, x, scope, memory=None, memory_scope=None, cache=None):  # [B, T, D] to [B, T, D]
        own, crossed = (None, None) if cache is None else (cache.self_attention, cache.cross_attention)
        y = self.self_attention(self.self_attention_norm(x), scope, cache=own)
        x = x + self.scales[0] * self.dropout(y)
        if memory is not None:
            y = self.cross_attention(self.cross_attention_norm(x), memory_scope, memory, cache=crossed)
            x = x + self.scales[1] * self.dropout(y)
        return x + self.scales[2] * self.dropout(self.feed_forward(self.feed_forward_norm(x)))


PLUGIN = Plugin(layers={"my_layer": MyLayer}, options={"my_layer": Options})
