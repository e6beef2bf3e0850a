"""A decoder's self-attention of your own: TRAIN

This one lets each token see only the last tokens. The encoder's attention and cross-attention stay as they are.
"""

from dataclasses import dataclass, replace

import torch

from multihead.model.transformer import MultiHeadAttention
from multihead.plugin import Plugin


@dataclass(kw_only=True)
class Options:
    window: int = 16  # a key of the configuration: options.my_causal_attention.window
    """Number of the last tokens that a token sees."""


class MyCausalAttention(MultiHeadAttention):
    def __init__(self, config, options):
        super().__init__(config)
        self.window = options.window

    def mix(self, query, key, value, scope):
        length, total = query.size(2), key.size(2)  # T new positions, which are the last ones of S
        place = torch.arange(total, device=key.device)
        back = place[total - length :, None] - place  # how far each key lies back, [T, S]
        seen = (back >= 0) & (back < self.window)
        if scope.mask is None:
            mask = seen
        elif scope.mask.dtype == torch.bool:
            mask = scope.mask & seen
        else:  # numbers, which are added to the scores
            mask = scope.mask.masked_fill(~seen, -torch.inf)
        return super().mix(query, key, value, replace(scope, mask=mask, causal=False))


PLUGIN = Plugin(
    attention={"my_causal_attention": lambda config, options: MultiHeadAttention(config)},  # all the others
    causal_attention={"my_causal_attention": MyCausalAttention},
    options={"my_causal_attention": Options},
)
