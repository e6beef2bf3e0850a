"""A position scheme of your own: TRAIN

This one lets each head learn how fast attention falls with the distance.
"""

from dataclasses import dataclass

import torch
from torch import nn

from multihead.model.positions import Positions
from multihead.plugin import Plugin


@dataclass(kw_only=True)
class Options:
    start: float = 0.1  # a key of the configuration: options.my_position.start
    """Slope of each head when training starts."""


class MyPosition(Positions):  # overrides add_to_embeddings, add_to_scores or rotation
    changes_scores = True

    def __init__(self, config, causal, options):
        super().__init__(config, causal)
        self.start, self.slopes = options.start, nn.Parameter(torch.empty(config.num_heads, 1, 1))

    def initialise(self):  # called last, when the stack gives all parameters their first values
        nn.init.constant_(self.slopes, self.start)

    def add_to_scores(self, mask, length, total, dtype):
        # The last `length` of `total` positions ask. The result is added to the scores [B, H, T, S]; -inf hides.
        place = torch.arange(total, device=self.slopes.device)
        distance = (place[total - length :, None] - place).abs()  # [T, S]
        bias = (-self.slopes * distance)[None].to(dtype)  # [1, H, T, S]
        return bias if mask is None else torch.where(mask, bias, -torch.inf)


PLUGIN = Plugin(positions={"my_position": MyPosition}, options={"my_position": Options})
