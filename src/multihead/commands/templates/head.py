"""A head of your own: TRAIN

This one divides the logits of a language model by a temperature that it learns.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from multihead.model.heads import VocabularyHead
from multihead.plugin import Plugin


@dataclass(kw_only=True)
class Options:
    start: float = 1.0  # a key of the configuration: options.my_head.start
    """Temperature when training starts."""


class MyHead(VocabularyHead):  # of translation, summarization and lm; the others have a PooledClassifier
    def __init__(self, width, vocab_size, tied, options):
        super().__init__(width, vocab_size, tied)
        self.temperature = nn.Parameter(torch.tensor(options.start))

    def forward(self, hidden):  # [..., D] to logits [..., V]
        return super().forward(hidden) / self.temperature

    def loss(self, hidden, labels, label_smoothing=0.0):  # the sum over N positions
        return F.cross_entropy(self(hidden).float(), labels, reduction="sum", label_smoothing=label_smoothing)


def my_head(config, settings, transformer, vocab, options):
    stack = transformer.decoder or transformer.encoder
    tied = stack.embedding.weight if config.model.tie_embeddings in ("target_output", "all") else None
    size = vocab.tokenizers["target" if "target" in vocab.tokenizers else "text"].vocab_size
    return MyHead(config.model.d_model, size, tied, options)


PLUGIN = Plugin(heads={"my_head": my_head}, options={"my_head": Options})
