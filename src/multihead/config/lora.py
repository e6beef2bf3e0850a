"""Low-rank adapters: what is trained beside weights that stay as they are."""

from __future__ import annotations

from dataclasses import dataclass, field

from multihead.config.check import require


@dataclass(kw_only=True, slots=True)
class LoraConfig:
    """Low-rank adapters, LoRA (Hu et al. 2021, arXiv:2106.09685); the names are those of Hugging Face's peft.

    The backbone and heads over the vocabulary keep the weights of init_from. Adapters and heads over classes are
    trained. The finished model has the adapters in its weights, so that nothing else needs to know of them.
    """

    r: int = 0
    """Rank of the adapters; 0 trains the weights themselves."""
    alpha: float = 16.0
    """The output of an adapter is multiplied by alpha / r."""
    dropout: float = 0.0
    """Dropout on the input of an adapter."""
    target_modules: list[str] = field(default_factory=lambda: ["query", "value"])
    """Linear layers that get an adapter, by the end of their names: query, key, value, output (of attention), up, gate,
    down (of the feed-forward). '*' matches anything: '*' alone names all linear layers."""
    also_train: list[str] = field(default_factory=list)
    """Names of parameters of the backbone that are trained too; '*' matches anything (transformer.*norm*)."""

    def __post_init__(self) -> None:
        require(self.r >= 0, "lora.r", "at least 0", self.r)
        require(0 < self.alpha < float("inf"), "lora.alpha", "above 0 and finite", self.alpha)
        require(0 <= self.dropout < 1, "lora.dropout", "in [0, 1)", self.dropout)
        require(
            bool(self.target_modules) and all(self.target_modules),
            "lora.target_modules",
            "a list of names",
            self.target_modules,
            "'lora.target_modules=[query, value]'",
        )
