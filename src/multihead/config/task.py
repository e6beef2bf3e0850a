"""What is learned: one dataclass per task. `TASKS` names them."""

from __future__ import annotations

from dataclasses import dataclass

from multihead.config.check import require, require_choice

TRANSLATION_METRICS = {
    "val/bleu": "max",
    "val/chrf": "max",
    "val/token_accuracy": "max",
    "val/loss": "min",
    "val/perplexity": "min",
}
"""What can be monitored, and which way is better."""
TOPOLOGIES = ("encoder_decoder", "decoder")


@dataclass(kw_only=True, slots=True)
class TaskConfig:
    """What every task has."""

    name: str = "???"
    """The task's name; set by the choice task=NAME."""
    monitor: str = "val/loss"
    """The metric that chooses the best checkpoint and stops early."""
    monitor_mode: str = "min"
    """min or max."""

    def __post_init__(self) -> None:
        require_choice("task.monitor_mode", self.monitor_mode, ("min", "max"))
        require(self.monitor.startswith("val/"), "task.monitor", "a validation metric (val/...)", self.monitor)

    @property
    def roles(self) -> tuple[str, ...]:
        """Data roles the task needs."""
        return ()


@dataclass(kw_only=True, slots=True)
class TranslationConfig(TaskConfig):
    """Sequence to sequence with teacher forcing, decoded and scored by BLEU and chrF at each validation."""

    name: str = "translation"
    monitor: str = "val/bleu"
    monitor_mode: str = "max"
    topology: str = "encoder_decoder"
    """encoder_decoder (the paper), or decoder: one causal stack over source, separator, target."""
    label_smoothing: float = 0.1
    """Share of the target distribution spread over the vocabulary (section 5.4 of the paper)."""
    num_samples: int = 5
    """Sentences of the validation split whose outputs go to samples.jsonl and the screen."""

    def __post_init__(self) -> None:
        TaskConfig.__post_init__(self)
        require_choice("task.monitor", self.monitor, TRANSLATION_METRICS)
        better = TRANSLATION_METRICS[self.monitor]
        what, fix = f"{better} where task.monitor={self.monitor}", f"task.monitor_mode={better}"
        require(self.monitor_mode == better, "task.monitor_mode", what, self.monitor_mode, fix)
        require_choice("task.topology", self.topology, TOPOLOGIES)
        require(0 <= self.label_smoothing < 1, "task.label_smoothing", "in [0, 1)", self.label_smoothing)
        require(self.num_samples >= 0, "task.num_samples", "at least 0", self.num_samples)

    @property
    def roles(self) -> tuple[str, ...]:
        return ("source", "target")


TASKS: dict[str, type[TaskConfig]] = {"translation": TranslationConfig}
