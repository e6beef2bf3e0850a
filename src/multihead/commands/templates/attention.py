"""An attention of your own: TRAIN

This one gives each head a temperature that it learns. It is the plain attention until training changes that.
"""

from dataclasses import dataclass

import torch
from torch import nn

from multihead.model.transformer import MultiHeadAttention
from multihead.plugin import Plugin


@dataclass(kw_only=True)
class Options:
    start: float = 1.0  # a key of the configuration: options.my_attention.start
    """Temperature of each head when training starts."""


class MyAttention(MultiHeadAttention):  # overrides one step of it: mix, keys_and_values or forward
    def __init__(self, config, options):
        super().__init__(config)
        self.temperature = nn.Parameter(torch.full((config.num_heads, 1, 1), options.start))

    def mix(self, query, key, value, scope):
        # query [N, H, T, K], key and value [N, G, S, K]; the result is [N, H, T, K].
        # `scope` says what may be attended to. Store nothing in self: several batches may be decoded at once.
        temperature = self.temperature.to(query.dtype)  # a parameter stays in float32 if precision is bf16-mixed
        return super().mix(query / temperature, key, value, scope)


PLUGIN = Plugin(attention={"my_attention": MyAttention}, options={"my_attention": Options})
