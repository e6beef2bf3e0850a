"""A feed-forward of your own: TRAIN

This one is x W1 times a sigmoid of 1.702 x W1, the sigmoid form of GELU, instead of ReLU.
"""

from dataclasses import dataclass

import torch
from torch import nn

from multihead.plugin import Plugin


@dataclass(kw_only=True)
class Options:
    slope: float = 1.702  # a key of the configuration: options.my_feed_forward.slope
    """Factor of what the sigmoid gets."""


class MyFeedForward(nn.Module):
    def __init__(self, config, options):
        super().__init__()
        self.up = nn.Linear(config.d_model, config.d_ff, bias=config.bias)
        self.down = nn.Linear(config.d_ff, config.d_model, bias=config.bias)
        self.dropout, self.slope = nn.Dropout(config.ff_dropout), options.slope

    def forward(self, x):  # [B, T, D] to [B, T, D], each position by itself
        y = self.up(x)  # [B, T, d_ff]
        return self.down(self.dropout(y * torch.sigmoid(self.slope * y)))


# A loss of its own, such as one that balances experts, is given to multihead.model.losses.add_loss in forward.
PLUGIN = Plugin(feed_forward={"my_feed_forward": MyFeedForward}, options={"my_feed_forward": Options})
