"""Linear attention: python train.py task=translation plugin=docs/examples/linear_attention.py model.attention=linear"""

from dataclasses import dataclass

from torch.nn import functional as F

from multihead.model.transformer import MultiHeadAttention
from multihead.plugin import Plugin


@dataclass(kw_only=True)
class LinearOptions:
    floor: float = 1e-6  # least normaliser; keeps what sees nothing finite


class LinearAttention(MultiHeadAttention):
    """phi(Q) (phi(K)^T V) with phi(x) = elu(x) + 1: time and memory grow with the length, not with its square."""

    def __init__(self, config, options):
        super().__init__(config)
        self.floor = options.floor

    def forward(self, x, scope, memory=None, cache=None):
        query = F.elu(self._heads(self.query(x))) + 1
        if memory is not None and cache is not None and cache.length:
            key, value = cache.read()
        else:
            memory = x if memory is None else memory
            key, value = F.elu(self._heads(self.key(memory))) + 1, self._heads(self.value(memory))  # [N, S, H, K]
            key, value = (key, value) if cache is None else cache.append(key, value)
        key = key if scope.mask is None else key * scope.mask[:, 0, -1, :, None, None]  # the last query sees all real
        query = query.reshape(key.size(0), -1, *query.shape[2:])  # beams of one source are further queries to it
        causal = scope.causal or (scope.mask is not None and scope.mask.size(2) > 1)
        add = (lambda y: y.cumsum(1)[:, -query.size(1) :]) if causal else (lambda y: y.sum(1, keepdim=True))
        y = (query[..., None] * add(key[..., None] * value[..., None, :])).sum(-2)  # [N, T, H, K]
        weights = (query * add(key)).sum(-1, keepdim=True).clamp(min=self.floor)  # [N, T, H, 1]
        return self.output((y / weights).reshape(x.shape))


PLUGIN = Plugin(attention={"linear": LinearAttention}, options={"linear": LinearOptions})
