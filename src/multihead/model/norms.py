"""Norms: LayerNorm (Ba et al. 2016, arXiv:1607.06450), as in the paper, and RMSNorm. ``model.norm`` chooses one."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multihead.config.check import require_choice
from multihead.config.model import NORMS, ModelConfig


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2)) * weight (Zhang and Sennrich 2019, arXiv:1910.07467), computed in float32."""

    def __init__(self, width: int, eps: float = 1e-6):
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        """Normalises the last dimension; the result has the shape and dtype of ``x``."""
        return F.rms_norm(x.float(), self.weight.shape, self.weight.float(), eps=self.eps).to(x.dtype)


def new_norm(config: ModelConfig, width: int) -> nn.Module:
    """The norm of ours that ``config.norm`` names: LayerNorm (the paper) or RMSNorm, over the last dimension.

    Raises:
        ConfigError: There is no such norm.
    """
    require_choice("model.norm", config.norm, NORMS)
    eps = norm_eps(config, config.norm)
    return RMSNorm(width, eps) if config.norm == "rms_norm" else nn.LayerNorm(width, eps, bias=config.bias)


def norm_eps(config: ModelConfig, norm: str) -> float:
    """What a norm of this kind adds to a variance; of a plugin's norm it is not known, and 0 stands for that."""
    return config.norm_eps or {"layer_norm": 1e-5, "rms_norm": 1e-6}.get(norm, 0.0)
