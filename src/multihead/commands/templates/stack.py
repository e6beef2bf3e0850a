"""A stack of your own: TRAIN

This one adds the embeddings to the input of every layer, scaled by numbers that it learns.
"""

from dataclasses import dataclass

import torch
from torch import nn

from multihead.model.transformer import Stack
from multihead.plugin import Plugin


@dataclass(kw_only=True)
class Options:
    start: float = 0.1  # a key of the configuration: options.my_stack.start
    """Share of the embeddings when training starts."""


class MyStack(Stack):  # an encoder or a decoder
    def __init__(self, config, vocab_size, num_layers, blocks, *, causal, cross, options):
        super().__init__(config, vocab_size, num_layers, blocks, causal=causal, cross=cross)
        self.shares = nn.Parameter(torch.full((num_layers,), options.start))

    def run_layers(self, x, scope, memory, memory_scope, cache):  # [B, T, D] to [B, T, D]
        embedded = x
        for index, layer in enumerate(self.layers):
            x = x + self.shares[index] * embedded
            x = layer(x, scope, memory, memory_scope, None if cache is None else cache.layers[index])
        return x


PLUGIN = Plugin(stacks={"my_stack": MyStack}, options={"my_stack": Options})
