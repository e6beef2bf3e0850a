"""KERPLE positions: multihead train task=lm plugin=docs/examples/plugins/kerple.py model.position=kerple

Each head h subtracts r_h * log(1 + s_h * |i - j|) from the score of query i and key j, with r_h, s_h > 0 learned: the
logarithmic kernel of KERPLE (Chi et al. 2022, arXiv:2205.09921). A decoder can read longer texts than those of its
training.
"""

from dataclasses import dataclass

import torch
from torch import nn
from torch.nn import functional as F

from multihead.model.positions import Positions
from multihead.plugin import Plugin


@dataclass(kw_only=True)
class KerpleOptions:
    power: float = 1.0  # r of the first step, for all heads
    scale: float = 1.0  # s of the first head; each further head starts with half the scale of the head before


class Kerple(Positions):
    changes_scores = True

    def __init__(self, config, causal, options):
        super().__init__(config, causal)
        self.options = options
        self.power, self.scale = (nn.Parameter(torch.empty(config.num_heads)) for _ in range(2))

    def initialise(self):
        halves = 0.5 ** torch.arange(len(self.scale), dtype=torch.float32)
        for parameter, start in ((self.power, self.options.power), (self.scale, self.options.scale * halves)):
            parameter.data.copy_(torch.expm1(torch.as_tensor(start)).log())  # the inverse of softplus

    def add_to_scores(self, mask, length, total, dtype):
        power, scale = (F.softplus(x.float())[:, None, None] for x in (self.power, self.scale))  # [H, 1, 1]
        place = torch.arange(total, device=power.device)
        distance = (place[total - length :, None] - place).abs()  # [T, S]
        bias = (-power * torch.log1p(scale * distance))[None].to(dtype)  # [1, H, T, S]
        return bias if mask is None else torch.where(mask, bias, -torch.inf)


PLUGIN = Plugin(positions={"kerple": Kerple}, options={"kerple": KerpleOptions})
