"""What hidden states go through before a map to the vocabulary.

Shapes: D d_model.
"""

from __future__ import annotations

from torch import Tensor, nn

from multihead.config.model import ModelConfig
from multihead.model.transformer import Blocks, activation


class OutputTransform(nn.Sequential):
    """Dense layer, activation and norm before a map to the vocabulary, as in BERT (arXiv:1810.04805)."""

    def __init__(self, config: ModelConfig, blocks: Blocks | None = None):
        norm = (blocks or Blocks()).norm
        width = config.width_of_embeddings
        super().__init__(nn.Linear(config.d_model, width), Activation(config), norm(config, width))


class OutputScale(nn.Module):
    """Division by sqrt(D) before a map to the vocabulary, as in T5 (arXiv:1910.10683) if it shares the embedding."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.factor = config.d_model**-0.5

    def forward(self, x: Tensor) -> Tensor:
        """Scales [..., D]."""
        return x * self.factor


def new_output_transform(config: ModelConfig, blocks: Blocks | None = None) -> nn.Module | None:
    """What hidden states go through before a map to the vocabulary; None if nothing."""
    if config.output_transform:
        return OutputTransform(config, blocks)
    return OutputScale(config) if config.output_scale else None


class Activation(nn.Module):
    """`activation` as a module."""

    def __init__(self, config: ModelConfig):
        super().__init__()
        self.function = activation(config)

    def forward(self, x: Tensor) -> Tensor:
        """Maps each element."""
        return self.function(x)
