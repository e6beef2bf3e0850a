"""Windows: multihead train task=lm plugin=docs/examples/plugins/sliding_window.py model.attention=sliding_window

In self-attention, a token sees the tokens at most `window` - 1 places away (Beltagy et al. 2020, arXiv:2004.05150,
section 3.1). After L layers it has seen L * (window - 1) places. Cross-attention sees the whole source.
"""

from dataclasses import dataclass, replace

import torch

from multihead.model.transformer import MultiHeadAttention
from multihead.plugin import Plugin


@dataclass(kw_only=True)
class WindowOptions:
    window: int = 64  # tokens that a token sees on each side, itself included


class SlidingWindow(MultiHeadAttention):
    def __init__(self, config, options):
        super().__init__(config)
        self.window = options.window

    def mix(self, query, key, value, scope):
        length, total = query.size(2), key.size(2)
        place = torch.arange(total, device=key.device)
        distance = place[total - length :, None] - place  # query - key, [T, S]
        seen = distance.abs() < self.window
        seen = seen & (distance >= 0) if scope.causal else seen
        itself = distance == 0  # so that no query, not even a padded one, sees nothing
        if scope.mask is None:
            mask = seen
        elif scope.mask.dtype == torch.bool:
            mask = scope.mask & seen | itself
        else:  # numbers, which are added to the scores
            mask = scope.mask.masked_fill(~seen, -torch.inf)
        return super().mix(query, key, value, replace(scope, mask=mask, causal=False))


PLUGIN = Plugin(
    attention={"sliding_window": SlidingWindow},
    cross_attention={"sliding_window": lambda config, options: MultiHeadAttention(config)},
    options={"sliding_window": WindowOptions},
)
