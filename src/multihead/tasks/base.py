"""What all tasks share: the model (backbone and head), the optimizer, how numbers are recorded, averaged weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import lightning as L
import torch
import torch.distributed
from lightning.pytorch.callbacks import EMAWeightAveraging, WeightAveraging
from torch import Tensor, nn

from multihead.config.training import Config, TrainerConfig
from multihead.optim import build_optimizer, lr_factor
from multihead.transformer import Transformer


class Model(nn.Module):
    """A backbone and the head of one task; its state is what a capsule's ``model.safetensors`` holds."""

    def __init__(self, transformer: Transformer, head: nn.Module):
        super().__init__()
        self.transformer = transformer
        self.head = head


class Task(L.LightningModule):
    """A `Model` with its objective. One subclass per task.

    A subclass gives the pure functions `lengths` and `collate`, the loss in `training_step`, and its metrics. A
    ``training_step`` returns ``sum * parts / tokens_of_step``: Lightning and DDP divide by the number of parts again,
    so that the gradient of a step is the same however it is cut.

    Args:
        config: The whole configuration.
        model: Backbone and head.
        tokenizers: Role to tokenizer.
        texts: Split to role to the texts as they stand in the corpus (references), for validation and test.
    """

    def __init__(self, config: Config, model: Model, tokenizers: Mapping[str, Any]):
        super().__init__()
        self.config = config
        self.model = model
        self.tokenizers = tokenizers
        self.texts: Mapping[str, Mapping[str, Sequence[str]]] = {}
        self.tokens_seen = 0
        self.samples: list[dict[str, Any]] = []
        self.recorded: dict[str, float] = {}
        self.on_samples: Callable[[str, int, list[dict[str, Any]]], None] | None = None

    def limits(self) -> dict[str, int]:
        """Most tokens of a text of each role, so that it fits model.max_len with its marks."""
        raise NotImplementedError

    def lengths(self, encoded: Any) -> tuple[Any, Any]:
        """Real target tokens of each example [N], and the widths it is padded in [N, k]."""
        raise NotImplementedError

    def collate(self, encoded: Any, indices: Any) -> dict[str, Any]:
        """The examples ``indices`` as one padded batch; a well-formed batch without targets for no indices."""
        raise NotImplementedError

    def configure_optimizers(self) -> dict[str, Any]:
        config = self.config
        clips_scaled = config.trainer.gradient_clip_val > 0 and config.precision in ("16-mixed", "bf16-mixed")
        named = [(name, p) for name, p in self.model.named_parameters() if p.requires_grad]
        optimizer = build_optimizer(named, config.optim, fused=not clips_scaled)
        max_steps = config.trainer.max_steps
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(config.optim, max_steps, step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def step_loss(self, loss_sum: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The loss to differentiate, scaled as the class says, and the plain sum for the record."""
        return {"loss": loss_sum * (batch["parts"] / batch["tokens_of_step"]), "sum": loss_sum.detach()}

    def record(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs plain numbers against optimizer steps, to every logger and to ``trainer.callback_metrics``."""
        self.recorded.update(metrics)
        self.trainer.callback_metrics.update({k: torch.tensor(float(v)) for k, v in metrics.items()})
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(metrics), step)

    def signatures(self) -> dict[str, str]:
        """What makes published scores reproducible, such as sacreBLEU's signature."""
        return {}

    def finish_samples(self, split: str) -> None:
        """Gathers the collected samples of all ranks, in order, and hands them to ``on_samples``."""
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, self.samples)
            self.samples = [sample for samples in gathered for sample in samples]
        self.samples.sort(key=lambda sample: sample["index"])
        if self.on_samples and self.trainer.is_global_zero:
            self.on_samples(split, self.trainer.global_step, self.samples)


class LastAverage(WeightAveraging):
    """Equal average of the weights of the last steps (checkpoint averaging, section 6.1 of the Transformer paper).

    Validation, the saved model and the end of training use it from its first sample on, the current weights before.
    """

    def __init__(self, first_step: int, every: int):
        super().__init__(use_buffers=False)
        self.first_step, self.every = first_step, every

    def should_update(self, step_idx: int | None = None, epoch_idx: int | None = None) -> bool:
        return step_idx is not None and step_idx + 1 >= self.first_step and (step_idx + 1) % self.every == 0

    @property
    def _empty(self) -> bool:
        return self._average_model is None or int(self._average_model.n_averaged) == 0

    def _swap_models(self, pl_module: L.LightningModule) -> None:
        if not self._empty:
            super()._swap_models(pl_module)

    def _copy_average_to_current(self, pl_module: L.LightningModule) -> None:
        if not self._empty:
            super()._copy_average_to_current(pl_module)

    def on_save_checkpoint(self, trainer: L.Trainer, pl_module: L.LightningModule, checkpoint: dict[str, Any]) -> None:
        current = checkpoint["state_dict"]
        super().on_save_checkpoint(trainer, pl_module, checkpoint)
        if self._empty:
            checkpoint["state_dict"] = current


def averaging(config: TrainerConfig) -> list[L.Callback]:
    """The callback that averages weights, if the configuration asks for one."""
    if config.ema_decay:
        return [EMAWeightAveraging(decay=config.ema_decay, use_buffers=False)]
    if config.average_last_steps:
        return [LastAverage(config.max_steps - config.average_last_steps + 1, config.average_every_n_steps)]
    return []
