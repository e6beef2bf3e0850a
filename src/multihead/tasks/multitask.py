"""Several tasks at once: one backbone with many heads. Each training step belongs to one of the tasks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from multihead.config.check import require_choice
from multihead.config.slots import from_plugin
from multihead.config.task import MultitaskConfig
from multihead.config.training import Config
from multihead.errors import ConfigError
from multihead.model.transformer import Transformer
from multihead.plugin import Plugin
from multihead.tasks import task_class
from multihead.tasks.base import EvaluationData, Model, Task, new_transformer
from multihead.text.vocabulary import Vocabulary


class SharedModel(nn.Module):
    """A backbone and one head for each task."""

    def __init__(self, transformer: Transformer, heads: Mapping[str, nn.Module]):
        super().__init__()
        self.transformer = transformer
        self.heads = nn.ModuleDict(heads)


class MultiTask(Task[MultitaskConfig, SharedModel]):
    """The tasks of ``task.parts`` on one backbone, each with its own head, loss and metrics (``val/<task>/<metric>``).

    ``val/loss`` is the mean of the tasks' losses.

    Args:
        config: The whole configuration.
        settings: ``config.task``.
        model: The backbone and the heads.
        vocab: Tokenizers and classes.
        evaluation: Task to its texts for validation and test.
    """

    def __init__(
        self,
        config: Config,
        settings: MultitaskConfig,
        model: SharedModel,
        vocab: Vocabulary,
        evaluation: Mapping[str, EvaluationData],
    ):
        super().__init__(config, settings, model, vocab)
        for name, own in settings.members().items():
            member = task_class(name)(
                config, own, Model(model.transformer, model.heads[name]), vocab, evaluation.get(name)
            )
            setattr(self, f"part_{name}", member)  # a child, so that it trains and evaluates with the others

    @classmethod
    def build(
        cls, config: Config, vocab: Vocabulary, plugin: Plugin | None, evaluation: Mapping[str, EvaluationData]
    ) -> MultiTask:
        settings: Any = config.task
        transformer = new_transformer(config, vocab, plugin)
        heads, data = {}, {}
        for name, own in settings.members().items():
            new_head = from_plugin(config, plugin, "heads", own) or task_class(name).new_head
            heads[name] = new_head(config, own, transformer, vocab)
            data[name] = evaluation.get(name, EvaluationData()).measured_by(plugin, name)
        return cls(config, settings, SharedModel(transformer, heads), vocab, data)

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

    def forget_samples(self) -> None:
        super().forget_samples()
        for member in self.members().values():
            member.forget_samples()

    def evaluate_batch(self, batch: dict[str, Any], split: str) -> None:
        self.members()[batch["task"]].evaluate_batch(batch, split)

    def finish_evaluation(self, split: str) -> dict[str, float]:
        metrics: dict[str, float] = {}
        for name, member in self.members().items():
            metrics |= {f"{name}/{metric}": value for metric, value in member.metrics_of(split).items()}
            self.samples += [{"task": name, **sample} for sample in member.samples]
        losses = [metrics[f"{name}/loss"] for name in self.members()]
        return {"loss": sum(losses) / len(losses), **metrics}

    def merged_samples(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        merged = []
        for name, member in self.members().items():
            own = [{key: value for key, value in s.items() if key != "task"} for s in samples if s["task"] == name]
            merged += [{"task": name, **sample} for sample in member.merged_samples(own)]
        return merged

    def signatures(self) -> dict[str, Any]:
        found = {name: member.signatures() for name, member in self.members().items()}
        return {f"{name}/{key}": text for name, texts in found.items() for key, text in texts.items()}

    def report(self, folder: Path, name: str) -> dict[str, list[list[Any]]]:
        reports = [member.report(folder, name) for member in self.members().values()]
        return {title: rows for tables in reports for title, rows in tables.items()}
