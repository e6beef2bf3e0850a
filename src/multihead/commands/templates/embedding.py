"""An embedding of your own: TRAIN

This one scales each vector to one length, which it learns.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from multihead.plugin import Plugin


@dataclass(kw_only=True)
class Options:
    length: float = 1.0  # a key of the configuration: options.my_embedding.length
    """Length of the vectors when training starts."""


class MyEmbedding(nn.Module):
    def __init__(self, config, vocab_size, options):
        super().__init__()
        self.start = options.length
        # The stack gives `weight` its first values. The output layer shares it if model.tie_embeddings says so.
        self.weight = nn.Parameter(torch.empty(vocab_size, config.width_of_embeddings))
        self.length = nn.Parameter(torch.empty(()))

    def initialise(self):  # called last, when the stack gives all parameters their first values
        nn.init.constant_(self.length, self.start)

    def forward(self, ids):  # [B, T] to [B, T, E]
        return self.length * F.normalize(F.embedding(ids, self.weight), dim=-1)


PLUGIN = Plugin(embeddings={"my_embedding": MyEmbedding}, options={"my_embedding": Options})
