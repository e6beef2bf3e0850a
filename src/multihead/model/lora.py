"""Low-rank adapters beside linear layers: LoRA (Hu et al. 2021, arXiv:2106.09685).

An adapted layer keeps the names of its weight and bias and adds ``lora_A`` and ``lora_B``. `adapt` puts the adapters in
before training. `merge` adds them to the weights after it, so that the finished model is an ordinary one.

Shapes: I inputs, O outputs of a layer, R rank.
"""

from __future__ import annotations

import fnmatch
import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from multihead.config.lora import LoraConfig
from multihead.model.heads import VocabularyHead
from multihead.model.optim import matching
from multihead.model.transformer import Dropout

ADAPTERS = ("lora_A", "lora_B")
"""Last words of the names of the matrices that adapters add; they are peft's."""


class LoraLinear(nn.Linear):
    """y = W x + b + (alpha / R) B A dropout(x) (section 4.1); B starts at 0, and so does the change.

    Args:
        base: The layer whose weight and bias this one takes over.
        config: Rank, alpha and dropout.
    """

    def __init__(self, base: nn.Linear, config: LoraConfig):
        super().__init__(base.in_features, base.out_features, base.bias is not None, device="meta")
        self.weight, self.bias = base.weight, base.bias
        self.scale, self.dropout = config.alpha / config.r, Dropout(config.dropout)
        self.lora_A = nn.Parameter(self.weight.new_empty(config.r, base.in_features))  # [R, I]
        self.lora_B = nn.Parameter(self.weight.new_zeros(base.out_features, config.r))  # [O, R]
        nn.init.kaiming_uniform_(self.lora_A, a=math.sqrt(5))  # as in the authors' code

    def forward(self, input: Tensor) -> Tensor:
        """Maps [..., I] to [..., O]."""
        change = F.linear(F.linear(self.dropout(input), self.lora_A), self.lora_B)
        return super().forward(input) + self.scale * change

    @torch.no_grad()
    def merged(self) -> nn.Linear:
        """The plain layer that computes the same: W + (alpha / R) B A."""
        plain = nn.Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        plain.weight = nn.Parameter(torch.addmm(self.weight, self.lora_B, self.lora_A, alpha=self.scale))
        plain.bias = self.bias
        return plain


def adapt(model: nn.Module, config: LoraConfig) -> None:
    """Puts adapters beside linear layers of the backbone, in place, and takes the weights there were out of training.

    Heads over classes stay in training; heads over the vocabulary, which are often an embedding, do not.

    Args:
        model: A backbone ``transformer`` and its heads.
        config: The node ``lora``; with rank 0, nothing happens.

    Raises:
        ConfigError: If a name matches nothing.
    """
    if not config.r:
        return
    for module in _left_out(model):
        module.requires_grad_(False)
    linear = {
        f"transformer.{name}": module
        for name, module in model.get_submodule("transformer").named_modules()
        if type(module) is nn.Linear
    }
    patterns = [target if fnmatch.filter(linear, target) else f"*.{target}" for target in config.target_modules]
    for name in matching(linear, patterns, "lora.target_modules", "linear layer"):
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, LoraLinear(linear[name], config))
    named = dict(model.named_parameters(remove_duplicate=False))
    for name in matching(named, config.also_train, "lora.also_train", "parameter"):
        named[name].requires_grad_(True)


def _left_out(model: nn.Module) -> list[nn.Module]:
    return [m for name, m in model.named_modules() if name == "transformer" or isinstance(m, VocabularyHead)]


def untrained(model: nn.Module) -> set[int]:
    """The identities of the parameters that `adapt` took out of training; empty if the model has no adapters.

    A parameter that learns in no run, such as the ratios of a naive Bayes, is not among them.
    """
    parts = _left_out(model) if is_adapted(model) else []
    return {id(p) for part in parts for p in part.parameters() if not p.requires_grad}


def is_adapted(model: nn.Module) -> bool:
    """Whether a model has adapters."""
    return any(isinstance(module, LoraLinear) for module in model.modules())


def merge(model: nn.Module) -> dict[str, Tensor]:
    """Replaces adapted layers by plain ones that compute the same, in place.

    Returns:
        What was trained, by name: the adapters, heads over classes, and ``lora.also_train``. Empty if the model has no
        adapters.
    """
    adapted = {name: module for name, module in model.named_modules() if isinstance(module, LoraLinear)}
    if not adapted:
        return {}
    trained = {name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad}
    for name, module in adapted.items():
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, module.merged())
    return trained
