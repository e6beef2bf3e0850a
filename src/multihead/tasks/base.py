"""What all tasks share: the model (backbone and head), the optimizer, how numbers are recorded.

Shapes: N examples, positions or blocks, B batch, T time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeVar

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from multihead.config.check import require_choice
from multihead.config.slots import from_plugin
from multihead.config.task import TaskConfig
from multihead.config.training import Config, DecodingConfig
from multihead.errors import ConfigError
from multihead.model.transformer import Blocks, Transformer
from multihead.text.vocabulary import Vocabulary

if TYPE_CHECKING:
    from multihead.metrics.sums import WeightedMean
    from multihead.plugin import Plugin

IGNORED = -100
"""The label of a position that has none."""

Head = TypeVar("Head", bound=nn.Module)
SettingsT = TypeVar("SettingsT", bound=TaskConfig)
ModelT = TypeVar("ModelT", bound=nn.Module)


def rank_and_size() -> tuple[int, int]:
    """The number of this rank and how many ranks there are; (0, 1) if no ranks were started."""
    return (dist.get_rank(), dist.get_world_size()) if dist.is_available() and dist.is_initialized() else (0, 1)


def labelled(labels: Tensor) -> Tensor | None:
    """Places [N] in [B * T] of the positions that have a label; None if all labels [B, T] are real.

    `Task.collate` finds them on the host: to look for them on an accelerator would wait for all work queued there.
    """
    places = (labels.flatten() != IGNORED).nonzero()[:, 0]
    return None if len(places) == labels.numel() else places


def by_length(rows: Sequence[Sequence[Any]], room: int) -> Iterator[list[int]]:
    """Yields the numbers of rows in batches, the longest rows first. A batch has at most ``room`` places or one row."""
    order = sorted(range(len(rows)), key=lambda i: (-len(rows[i]), i))
    start = 0
    while start < len(order):
        chosen = order[start : start + max(1, room // max(1, len(rows[order[start]])))]
        yield chosen
        start += len(chosen)


def at_places(x: Tensor, places: Tensor | None) -> Tensor:
    """The rows [N, ...] of ``x`` [B, T, ...] at the places [N] that `labelled` found."""
    x = x.flatten(0, 1)
    return x if places is None else x.index_select(0, places)


class Model(nn.Module, Generic[Head]):
    """A backbone and the head of one task. A run directory keeps its state in ``model/model.safetensors``."""

    head: Head

    def __init__(self, transformer: Transformer, head: Head):
        super().__init__()
        self.transformer = transformer
        self.head = head


def blocks_of(config: Config, plugin: Plugin | None) -> Blocks:
    """The classes of the model's parts: ours, or the plugin's if the configuration chooses them."""
    fields = {"norm": "norms", "embedding": "embeddings", "layer": "layers", "stack": "stacks"}
    fields |= {name: name for name in ("attention", "causal_attention", "cross_attention", "feed_forward", "positions")}
    added = {name: from_plugin(config, plugin, field) for name, field in fields.items()}
    return Blocks(**{name: part for name, part in added.items() if part is not None})


def new_transformer(config: Config, vocab: Vocabulary, plugin: Plugin | None = None) -> Transformer:
    """A backbone with the stacks that the task uses. The encoder reads source or text, the decoder target or text."""
    stacks, sizes = config.task.stacks, {role: t.vocab_size for role, t in vocab.tokenizers.items()}
    return Transformer(
        config.model,
        source_vocab_size=sizes.get("source", sizes.get("text")) if "encoder" in stacks else None,
        target_vocab_size=sizes.get("target", sizes.get("text")) if "decoder" in stacks else None,
        blocks=blocks_of(config, plugin),
    )


class RunningText(Protocol):
    """What a language model asks of a split's running text; `multihead.data.stream.Stream` is one."""

    num_bytes: int
    block_size: int
    document_bytes: np.ndarray | None

    def __len__(self) -> int: ...
    def read(self, start: int, stop: int) -> np.ndarray: ...
    def windows(self, starts: np.ndarray) -> tuple[np.ndarray, np.ndarray]: ...
    def random_starts(self, count: int, seed: int) -> np.ndarray: ...
    def document_starts(self) -> np.ndarray: ...


@dataclass(frozen=True)
class EvaluationData:
    """What a task needs besides batches in validation and test. Keys are splits: ``val`` and ``test``."""

    texts: Mapping[str, Mapping[str, Sequence[str]]] = field(default_factory=dict)
    """Split to role to the texts as they stand in the corpus."""
    streams: Mapping[str, RunningText] = field(default_factory=dict)
    """Split to the running text of a language model."""
    unknown: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Split to role to the share of its tokens that are unknown, if its tokenizer has unknown tokens."""
    metrics: Mapping[str, Callable[[Any], Any]] = field(default_factory=dict)
    """Name to a function from the task to a metric that a plugin adds to it."""

    def measured_by(self, plugin: Plugin | None, task: str) -> EvaluationData:
        """The same with the plugin's metrics for a task."""
        added = {name: metric.new for name, metric in plugin.metrics.items() if task in metric.tasks} if plugin else {}
        return replace(self, metrics=added)


class Task(nn.Module, Generic[SettingsT, ModelT]):
    """A `Model` with its objective. Each task is one subclass.

    It knows nothing of Lightning: `multihead.tasks.lightning_module.TaskModule` trains it, and prediction and
    ``evaluate`` use it as it is.

    A subclass defines `new_head`, the pure functions `limits`, `lengths`, `targets` and `collate`, the loss
    (`training_step`), the evaluation, and the predictions. If it chooses among classes at each target, it may define
    `logits_and_labels` instead of loss and evaluation.

    Args:
        config: The whole configuration.
        settings: The task's own node: ``config.task``, or one of its members if several tasks share a run.
        model: Backbone and head.
        vocab: Tokenizers and classes.
        evaluation: Texts for validation and test; a task that only trains or predicts needs none.
    """

    def __init__(
        self,
        config: Config,
        settings: SettingsT,
        model: ModelT,
        vocab: Vocabulary,
        evaluation: EvaluationData | None = None,
    ):
        super().__init__()
        self.config = config
        self.settings = settings
        self.model = model
        self.vocab = vocab
        self.tokenizers = vocab.tokenizers
        self.labels = vocab.labels
        self.evaluation = evaluation or EvaluationData()
        self.tokens_seen = 0
        self.samples: list[dict[str, Any]] = []
        self.recorded: dict[str, float] = {}

    # ---- what a subclass defines

    @classmethod
    def new_head(cls, config: Config, settings: SettingsT, transformer: Transformer, vocab: Vocabulary) -> nn.Module:
        """The module that maps the backbone's hidden states to outputs, freshly initialised."""
        raise NotImplementedError

    def limits(self) -> dict[str, int]:
        """Role to the most tokens of a text, so that it fits model.max_len with its marks; by default model.max_len."""
        return dict.fromkeys(self.tokenizers, self.config.model.max_len)

    def lengths(self, encoded: Any) -> tuple[Any, Any]:
        """Number of real target tokens of each example [N], and the widths [N, k] of the k tensors that it fills."""
        raise NotImplementedError

    def start_from(self, encoded: Any) -> None:
        """Sets weights that start from the training split; by default there are none."""

    def targets(self, encoded: Any) -> Any:
        """Number of terms of the loss of each example [N]; by default its target tokens."""
        return self.lengths(encoded)[0]

    def collate(self, encoded: Any, indices: Any, epoch: int = 0) -> dict[str, Any]:
        """The examples ``indices`` as one padded batch. Without indices, it is a well-formed batch without targets.

        In training, ``epoch`` is the number of the epoch; in evaluation, it has its default.
        It runs on the host. It also finds whatever a training step must know of the values: which positions are real
        (`labelled`), lengths, counts. A step that asks an accelerator for a value (``int``, ``bool``, ``tolist``, an
        index by a mask) waits for all work queued there.
        """
        raise NotImplementedError

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> dict[str, Tensor]:
        """The loss of one micro-batch, as `step_loss` returns it; by default the cross-entropy of the targets."""
        return self.step_loss(F.cross_entropy(*self.logits_and_labels(batch), reduction="sum"), batch)

    def forward(self, batch: Any) -> Any:
        """One pass over a batch, whose result only the task itself uses; by default `logits_and_labels`."""
        return self.logits_and_labels(batch)

    def logits_and_labels(self, batch: dict[str, Any]) -> tuple[Tensor, Tensor]:
        """What a plugin's loss compares: logits [N, C] in float32 of the targets of a batch, and their labels [N].

        For a regression, C is 1 and the labels are standardised. With several classes for a text, labels are [N, C].
        """
        raise NotImplementedError

    def evaluate_batch(self, batch: dict[str, Any], split: str) -> None:
        """Adds a batch of val or test to the metrics, and its examples to the samples.

        By default the metrics are the loss and the accuracy of `logits_and_labels`, and there are no samples.
        """
        logits, labels = self.logits_and_labels(batch)
        self.of_targets["loss"].update(F.cross_entropy(logits, labels, reduction="sum"), len(labels))
        self.of_targets["accuracy"].update((logits.argmax(-1) == labels).sum(), len(labels))
        self.measure(logits, labels)

    def finish_evaluation(self, split: str) -> dict[str, float]:
        """The metrics of the split by their plain names; resets them."""
        metrics = {name: float(mean.compute()) for name, mean in self.of_targets.items()}
        for mean in self.of_targets.values():
            mean.reset()
        return metrics

    @functools.cached_property
    def of_targets(self) -> dict[str, WeightedMean]:
        """Means over the targets of the split that is evaluated, if a task has no metrics of its own."""
        return self.new_means("loss", "accuracy")

    def predict(self, texts: Sequence[str], decoding: DecodingConfig, first: int = 0) -> list[list[dict[str, Any]]]:
        """The outputs for each text, best first, as plain data.

        Args:
            texts: Inputs.
            decoding: How sequences are searched for or drawn.
            first: Number of the first input; the seed and the number of an input decide what is drawn for it.
        """
        raise NotImplementedError

    def read(self, text: str, target: str = "") -> None:
        """Runs the model once over an input of `predict`, for `multihead.tasks.attention`.

        Args:
            text: The input.
            target: What a task that writes shall have written.
        """
        raise NotImplementedError

    def written(self, text: str) -> str:
        """The output of `predict` that `read` needs as its target; empty if it needs none."""
        return ""

    def embed(self, texts: Sequence[str]) -> Tensor:
        """One vector [N, D] for each input of `predict`, from the hidden states of its tokens, on the host."""
        raise NotImplementedError

    def prompts_of(self, split: str) -> Sequence[str]:
        """Texts of the split that `predict` generates from; none if the task generates nothing."""
        return ()

    def flaw(self, text: str) -> tuple[str, str] | None:
        """Why ``text`` cannot be an input of `predict`, and what to do about it; None if it can."""
        return None

    def join(self, others: Sequence[Task]) -> None:
        """From here on answers with the mean of its probabilities and those of other runs' tasks, as an ensemble.

        Raises:
            ConfigError: This task has no ensembles, or the others have another vocabulary.
        """
        what = f"is for runs of translation or summarization; this run has task={self.settings.name}"
        raise ConfigError("ensemble", what, "leave ensemble out")

    def too_long(self, texts: Sequence[str]) -> list[bool]:
        """Whether each input of `predict` is longer than the model reads, so that it is cut."""
        return [False] * len(texts)

    def line(self, outputs: Sequence[Mapping[str, Any]]) -> str:
        """The outputs for one text as one line."""
        return str(outputs[0]["text"]).replace("\n", " ")

    def signatures(self) -> dict[str, Any]:
        """Facts that make published scores reproducible, such as sacreBLEU's signature."""
        return {}

    def report(self, folder: Path, name: str) -> dict[str, list[list[Any]]]:
        """Writes files about the last evaluation; returns tables by title, each with its head.

        Args:
            folder: Folder of the files.
            name: Part of the files' names.
        """
        return {}

    # ---- what all have

    def comparable(self, split: str, role: str, bits: dict[str, float]) -> dict[str, float]:
        """``bits`` per byte, or the share of unknown tokens instead if the split has any.

        An unknown token costs the model less than the word that it stands for. Bits per byte would be too low, and
        lower for a smaller vocabulary.
        """
        share = self.evaluation.unknown.get(split, {}).get(role, 0.0)
        return {"unknown_tokens": share} if share else bits

    @classmethod
    def build(
        cls, config: Config, vocab: Vocabulary, plugin: Plugin | None, evaluation: Mapping[str, EvaluationData]
    ) -> Task:
        """The task with a freshly initialised backbone and head; ``evaluation`` is by task."""
        settings: Any = config.task  # the schema of the configuration has chosen its class
        transformer = new_transformer(config, vocab, plugin)
        new_head = from_plugin(config, plugin, "heads") or cls.new_head
        model: Any = Model(transformer, new_head(config, settings, transformer, vocab))
        data = evaluation.get(settings.name, EvaluationData()).measured_by(plugin, settings.name)
        return cls(config, settings, model, vocab, data)

    def member(self, name: str = "") -> Task:
        """The task of this name; a run of one task has only that one.

        Raises:
            ConfigError: There is no such task in this run.
        """
        require_choice("part", name or self.settings.name, (self.settings.name,))
        return self

    def members(self) -> dict[str, Task]:
        """The tasks of the run by name."""
        return {self.settings.name: self}

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device

    def configure_optimizers(self, plugin: Plugin | None = None) -> dict[str, Any]:
        """The optimizer and the schedule of its rates, as Lightning takes them.

        Args:
            plugin: The user's plugin, which may bring its own of both.
        """
        from multihead.model.optim import build_optimizer, lr_factor  # FSDP2 comes with it, which takes seconds

        config = self.config
        clips_scaled = config.trainer.gradient_clip_val > 0 and config.precision in ("16-mixed", "bf16-mixed")
        added = from_plugin(config, plugin, "optimizers")
        optimizer = build_optimizer(self.model.named_parameters(), config.optim, fused=not clips_scaled, added=added)
        factor, max_steps = from_plugin(config, plugin, "schedules") or lr_factor, config.trainer.max_steps
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: factor(config.optim, max_steps, step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def step_by(self, loss: Callable[[Task, Any], Tensor], member: Task, batch: dict[str, Any]) -> dict[str, Tensor]:
        """As `training_step`, with a plugin's loss for the task of the batch."""
        return member.step_loss(loss(member, batch), batch)

    def step_loss(self, loss_sum: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The loss of a micro-batch: ``loss`` to differentiate, and the plain ``sum`` for the record.

        ``loss`` is ``sum * parts / targets_of_step``. Lightning and DDP divide by ``parts``, the number of
        micro-batches of the step, so that the gradient does not depend on how the step is cut.
        """
        share = batch["parts"] / max(1, batch["targets_of_step"])  # a masked block of few tokens may have no target
        return {"loss": loss_sum * share, "sum": loss_sum.detach()}

    def count_tokens(self, tokens: int) -> None:
        """Counts the real target tokens of a step, over all ranks."""
        self.tokens_seen += tokens

    def count_on(self, tokens_seen: int, recorded: Mapping[str, float]) -> None:
        """Goes on from a checkpoint: with its number of tokens and the newest value of each metric."""
        self.tokens_seen = tokens_seen
        self.recorded.update(recorded)

    def new_means(self, *names: str) -> dict[str, WeightedMean]:
        """A mean for each name, on the device of the weights."""
        from multihead.metrics.sums import WeightedMean  # torchmetrics comes with it, which takes seconds

        return {name: WeightedMean().to(self.device) for name in names}

    @functools.cached_property
    def added_metrics(self) -> dict[str, Any]:
        """A plugin's metrics by name. Prediction does without them."""
        return {name: new(self).to(self.device) for name, new in self.evaluation.metrics.items()}

    def measure(self, outputs: Any, references: Any) -> None:
        """Adds a batch of validation or test to a plugin's metrics; `multihead.plugin.AddedMetric` says what it is."""
        for metric in self.added_metrics.values() if len(references) else ():
            metric.update(outputs, references)

    def metrics_of(self, split: str) -> dict[str, float]:
        """All metrics of the split, a plugin's included, by their plain names; resets them."""
        found = self.finish_evaluation(split)
        for name, metric in self.added_metrics.items():
            found[name] = float(metric.compute())
            metric.reset()
        return found

    def forget_samples(self) -> None:
        """Drops the samples of the last evaluation."""
        self.samples = []

    def merged_samples(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The samples of all batches and ranks in the order of the split, as they are written."""
        return sorted(samples, key=lambda sample: sample.get("index", 0))
