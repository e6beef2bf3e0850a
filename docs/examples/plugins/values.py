"""Values: multihead train task=lm plugin=docs/examples/plugins/values.py model.attention=values model.stack=values

Value residuals: in each layer, the values of self-attention are s * V_1 + (1 - s) * V_n, those of the first layer and
its own (Zhou et al. 2024, arXiv:2410.17897), with a share s that each layer learns. The stack computes V_1 and
hands it to all layers, beside what they may attend to. A cache keeps the mixed values.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from multihead.model.transformer import MultiHeadAttention, Scope, Stack
from multihead.plugin import Plugin


@dataclass(kw_only=True)
class ValueOptions:
    share: float = 0.5  # s of the first step


@dataclass
class ScopeWithValues(Scope):
    first: Tensor | None = None  # V_1, [B, T, G, K]


class ValueStack(Stack):
    def __init__(self, config, *arguments, options, **named):
        super().__init__(config, *arguments, **named)
        if not config.share_layers:
            self.layers[0].self_attention.share = None  # its own values are V_1

    def run_layers(self, x, scope, memory, memory_scope, cache):
        first = self.layers[0]
        y = first.self_attention_norm(x) if first.pre else x
        values = first.self_attention.keys_and_values(y.to(scope.dtype), scope)[1]
        return super().run_layers(x, ScopeWithValues(**vars(scope), first=values), memory, memory_scope, cache)


class ValueAttention(MultiHeadAttention):
    def __init__(self, config, options):
        super().__init__(config)
        self.share = nn.Parameter(torch.tensor(options.share))

    def keys_and_values(self, context, scope):
        key, value = super().keys_and_values(context, scope)
        first = None if self.share is None else getattr(scope, "first", None)
        return key, value if first is None else torch.lerp(value, first, self.share.to(value.dtype))


PLUGIN = Plugin(
    attention={"values": ValueAttention},
    cross_attention={"values": lambda config, options: MultiHeadAttention(config)},
    stacks={"values": ValueStack},
    options={"values": ValueOptions},
)
