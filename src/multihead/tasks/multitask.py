"""Several tasks at once: one body with many heads. Each step of training belongs to one of them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from multihead.config.check import require_choice
from multihead.config.training import Config
from multihead.errors import ConfigError
from multihead.model.transformer import Blocks, Transformer
from multihead.tasks import task_class
from multihead.tasks.base import Model, Task, new_transformer
from multihead.text.vocabulary import Vocabulary


class SharedModel(nn.Module):
    """A backbone and one head for each task."""

    def __init__(self, transformer: Transformer, heads: Mapping[str, nn.Module]):
        super().__init__()
        self.transformer = transformer
        self.heads = nn.ModuleDict(heads)


class MultiTask(Task):
    """The tasks of ``task.parts``, each with its own head, loss and metrics (``val/<task>/<metric>``), on one backbone.

    ``val/loss`` is the mean of the tasks' losses, each per target of its own.
    """

    def __init__(self, config: Config, model: SharedModel, vocab: Vocabulary):
        super().__init__(config, config.task, model, vocab)
        for name, settings in config.task.members().items():
            part = task_class(name)(config, settings, Model(model.transformer, model.heads[name]), vocab)
            setattr(self, f"part_{name}", part)  # a direct child, so that it shares the trainer

    @classmethod
    def build(cls, config: Config, vocab: Vocabulary, blocks: Blocks) -> MultiTask:
        transformer = new_transformer(config, vocab, blocks)
        heads = {
            name: task_class(name).new_head(config, settings, transformer, vocab)
            for name, settings in config.task.members().items()
        }
        return cls(config, SharedModel(transformer, heads), vocab)

    def members(self) -> dict[str, Task]:
        return {name: getattr(self, f"part_{name}") for name in self.settings.parts}

    def member(self, name: str = "") -> Task:
        if not name:
            parts = self.settings.parts
            raise ConfigError("part", f"is missing: this run has {', '.join(parts)}", f"part={parts[0]}")
        require_choice("part", name, self.settings.parts)
        return self.members()[name]

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        return self.members()[batch["task"]].training_step(batch, batch_idx)

    def on_validation_epoch_start(self) -> None:
        self._start()

    def on_test_epoch_start(self) -> None:
        self._start()

    def _start(self) -> None:
        self.samples = []
        for part in self.members().values():
            part.samples = []

    def evaluate_batch(self, batch: dict[str, Any], split: str) -> None:
        self.members()[batch["task"]].evaluate_batch(batch, split)

    def finish_evaluation(self, split: str) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for name, part in self.members().items():
            metrics |= {f"{name}/{metric}": value for metric, value in part.finish_evaluation(split).items()}
            self.samples += [{"task": name, **sample} for sample in part.samples]
        losses = [metrics[f"{name}/loss"] for name in self.members()]
        return {"loss": sum(losses) / len(losses), **metrics}

    def merged_samples(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        merged = []
        for name, part in self.members().items():
            own = [{key: value for key, value in s.items() if key != "task"} for s in samples if s["task"] == name]
            merged += [{"task": name, **sample} for sample in part.merged_samples(own)]
        return merged

    def signatures(self) -> dict[str, str]:
        found = {name: part.signatures() for name, part in self.members().items()}
        return {f"{name}/{key}": text for name, texts in found.items() for key, text in texts.items()}

    def report(self, folder: Path, name: str) -> dict[str, list[list[Any]]]:
        parts = [part.report(folder, name) for part in self.members().values()]
        return {title: rows for tables in parts for title, rows in tables.items()}
