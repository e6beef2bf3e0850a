"""What all tasks share: the model (backbone and head), the optimizer, how numbers are recorded."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import lightning as L
import torch
import torch.distributed
from torch import Tensor, nn
from torch.optim import Optimizer

from multihead.config.check import require_choice
from multihead.config.task import TaskConfig
from multihead.config.training import Config, DecodingConfig
from multihead.errors import side_output
from multihead.model.optim import build_optimizer, lr_factor
from multihead.model.sharded import gathered
from multihead.model.transformer import Blocks, Transformer
from multihead.text.vocabulary import Vocabulary

IGNORED = -100


def labelled(labels: Tensor) -> Tensor | None:
    """Places [N] in [B * T] of the positions that have a label; None if all of labels [B, T] have one.

    `Task.collate` finds them on the host: looking for them on an accelerator would wait for all that is queued there.
    """
    places = (labels.flatten() != IGNORED).nonzero()[:, 0]
    return None if len(places) == labels.numel() else places


def at_places(x: Tensor, places: Tensor | None) -> Tensor:
    """What [B, T, ...] holds at ``places`` [N] of `labelled`: [N, ...]."""
    x = x.flatten(0, 1)
    return x if places is None else x.index_select(0, places)


class Model(nn.Module):
    """A backbone and the head of one task; its state is what a capsule's ``model.safetensors`` holds."""

    def __init__(self, transformer: Transformer, head: nn.Module):
        super().__init__()
        self.transformer = transformer
        self.head = head


def new_transformer(config: Config, vocab: Vocabulary, blocks: Blocks) -> Transformer:
    """The backbone with the stacks that the task uses: the encoder reads source or text, the decoder target or text."""
    stacks, sizes = config.task.stacks, {role: t.vocab_size for role, t in vocab.tokenizers.items()}
    return Transformer(
        config.model,
        source_vocab_size=sizes.get("source", sizes.get("text")) if "encoder" in stacks else None,
        target_vocab_size=sizes.get("target", sizes.get("text")) if "decoder" in stacks else None,
        blocks=blocks,
    )


class TaskCallback(L.Callback):
    """A callback that is also called at two moments for which Lightning has no hook.

    A task finds these among its trainer's callbacks and keeps none of them: what belongs to others does not hang on it.
    """

    def on_gradient(self, trainer: L.Trainer, pl_module: Task, norm: Tensor) -> None:
        """Called with the norm [] of a step's gradient before it is clipped and used, on every rank."""

    def on_samples(self, trainer: L.Trainer, pl_module: Task, split: str) -> None:
        """Called when ``pl_module.samples`` holds the samples of a whole split, on every rank."""


class Task(L.LightningModule):
    """A `Model` with its objective. One subclass per task.

    A subclass gives `new_head`, the pure functions `limits`, `lengths`, `targets` and `collate`, the loss in
    ``training_step``, its evaluation, and what it predicts. A ``training_step`` returns ``sum * parts /
    targets_of_step``: Lightning and DDP divide by the number of parts again, so that the gradient of a step is the
    same however it is cut.

    Args:
        config: The whole configuration.
        settings: The task's own node: ``config.task``, or one of its members where several tasks share a run.
        model: Backbone and head.
        vocab: Tokenizers and classes.
    """

    def __init__(self, config: Config, settings: TaskConfig, model: Model, vocab: Vocabulary):
        super().__init__()
        self.config = config
        self.settings = settings
        self.model = model
        self.vocab = vocab
        self.tokenizers = vocab.tokenizers
        self.labels = vocab.labels
        self.texts: dict[str, Mapping[str, Sequence[str]]] = {}
        """Split to role to the texts as they stand in the corpus, for validation and test."""
        self.unknown: dict[str, dict[str, float]] = {}
        """Split to role to the share of its tokens that are unknown, where a tokenizer has unknown tokens."""
        self.streams: dict[str, Any] = {}
        """Split to running text, for validation and test of language models."""
        self.tokens_seen = 0
        self.samples: list[dict[str, Any]] = []
        self.recorded: dict[str, float] = {}

    # ---- what a subclass gives

    @classmethod
    def new_head(cls, config: Config, settings: TaskConfig, transformer: Transformer, vocab: Vocabulary) -> nn.Module:
        """What stands on the backbone, freshly initialised."""
        raise NotImplementedError

    def limits(self) -> dict[str, int]:
        """Most tokens of a text of each role, so that it fits model.max_len with its marks."""
        raise NotImplementedError

    def lengths(self, encoded: Any) -> tuple[Any, Any]:
        """Real target tokens of each example [N], and the widths it is padded in [N, k]."""
        raise NotImplementedError

    def start_from(self, encoded: Any) -> None:
        """Sets weights that start from what the training split holds; by default none do."""

    def targets(self, encoded: Any) -> Any:
        """Terms of the loss of each example [N]; by default its target tokens."""
        return self.lengths(encoded)[0]

    def collate(self, encoded: Any, indices: Any, epoch: int = 0) -> dict[str, Any]:
        """The examples ``indices`` as one padded batch; a well-formed batch without targets for no indices.

        It runs on the host and gives what a training step needs to know of the values: which positions are real
        (`labelled`), lengths, counts. A step that asks an accelerator for a value (``int``, ``bool``, ``tolist``, an
        index by a mask) waits for all that is queued there.
        """
        raise NotImplementedError

    def evaluate_batch(self, batch: dict[str, Any], split: str) -> None:
        """Adds a batch of val or test to the metrics, and its examples to the samples."""
        raise NotImplementedError

    def finish_evaluation(self, split: str) -> dict[str, float]:
        """The metrics of the split by their plain names; they start anew."""
        raise NotImplementedError

    def predict(self, texts: Sequence[str], decoding: DecodingConfig, first: int = 0) -> list[list[dict[str, Any]]]:
        """For each text its outputs, best first, as plain data.

        Args:
            texts: Inputs.
            decoding: How sequences are searched for or drawn.
            first: Number of the first input, which with the seed decides what is drawn for it.
        """
        raise NotImplementedError

    def prompts_of(self, split: str) -> Sequence[str]:
        """Texts of the split that `predict` generates from; none where the task generates nothing."""
        return ()

    def flaw(self, text: str) -> tuple[str, str] | None:
        """Why ``text`` cannot be an input of `predict`, and what to do about it; None where it can."""
        return None

    def too_long(self, texts: Sequence[str]) -> list[bool]:
        """Which inputs of `predict` are longer than the model reads, so that they are cut."""
        return [False] * len(texts)

    def line(self, outputs: Sequence[Mapping[str, Any]]) -> str:
        """The outputs for one text as one line."""
        return str(outputs[0]["text"]).replace("\n", " ")

    def signatures(self) -> dict[str, str]:
        """What makes published scores reproducible, such as sacreBLEU's signature."""
        return {}

    def report(self, folder: Path, name: str) -> dict[str, list[list[Any]]]:
        """What the last evaluation gave beside numbers: writes files, returns tables by title, each with its head.

        Args:
            folder: Where the files go.
            name: Stands in their names.
        """
        return {}

    # ---- what all have

    def comparable(self, split: str, role: str, bits: dict[str, float]) -> dict[str, float]:
        """Bits per byte where they compare; where tokens of the split are unknown, their share instead.

        The model pays for an unknown token and not for the word that it stands for, so that its bits per byte would be
        too few, the fewer the smaller the vocabulary.
        """
        share = self.unknown.get(split, {}).get(role, 0.0)
        return {"unknown_tokens": share} if share else bits

    @classmethod
    def build(cls, config: Config, vocab: Vocabulary, blocks: Blocks) -> Task:
        """The task with a freshly initialised backbone and head."""
        transformer = new_transformer(config, vocab, blocks)
        head = cls.new_head(config, config.task, transformer, vocab)
        return cls(config, config.task, Model(transformer, head), vocab)

    def member(self, name: str = "") -> Task:
        """The single task of this name; a run of one task has that one alone.

        Raises:
            ConfigError: There is no such task in this run.
        """
        require_choice("part", name or self.settings.name, (self.settings.name,))
        return self

    def members(self) -> dict[str, Task]:
        """The single tasks of the run by name."""
        return {self.settings.name: self}

    def configure_optimizers(self) -> dict[str, Any]:
        config = self.config
        clips_scaled = config.trainer.gradient_clip_val > 0 and config.precision in ("16-mixed", "bf16-mixed")
        optimizer = build_optimizer(self.model.named_parameters(), config.optim, fused=not clips_scaled)
        max_steps = config.trainer.max_steps
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: lr_factor(config.optim, max_steps, step))
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, "interval": "step"}}

    def configure_gradient_clipping(
        self, optimizer: Optimizer, gradient_clip_val: float | None = None, gradient_clip_algorithm: str | None = None
    ) -> None:
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = gathered(torch.nn.utils.get_total_norm([p.grad for p in parameters]))
        for callback in self._listeners():
            callback.on_gradient(self.trainer, self, norm)
        if gradient_clip_val:
            torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)

    def step_loss(self, loss_sum: Tensor, batch: Mapping[str, Any]) -> dict[str, Tensor]:
        """The loss to differentiate, scaled as the class says, and the plain sum for the record."""
        share = batch["parts"] / max(1, batch["targets_of_step"])  # a block of few tokens may hide none of them
        return {"loss": loss_sum * share, "sum": loss_sum.detach()}

    def count_tokens(self, tokens: int) -> None:
        """Counts the real target tokens of a step, over all ranks."""
        self.tokens_seen += tokens

    def count_on(self, tokens_seen: int, recorded: Mapping[str, float]) -> None:
        """Goes on from a checkpoint: with its number of tokens and the newest value of each metric."""
        self.tokens_seen = tokens_seen
        self.recorded.update(recorded)

    def validation_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluate_batch(batch, "val")

    def test_step(self, batch: dict[str, Any], batch_idx: int) -> None:
        self.evaluate_batch(batch, "test")

    def on_validation_epoch_start(self) -> None:
        self.samples = []

    def on_test_epoch_start(self) -> None:
        self.samples = []

    def on_validation_epoch_end(self) -> None:
        self._record("val")

    def on_test_epoch_end(self) -> None:
        self._record("test")

    def _record(self, split: str) -> None:
        metrics = {f"{split}/{name}": value for name, value in self.finish_evaluation(split).items()}
        self.record({**metrics, "tokens": self.tokens_seen}, self.trainer.global_step)
        self.finish_samples(split)

    def record(self, metrics: Mapping[str, float], step: int) -> None:
        """Logs plain numbers against optimizer steps, to every logger and to ``trainer.callback_metrics``."""
        self.recorded.update(metrics)
        self.trainer.callback_metrics.update({k: torch.tensor(float(v)) for k, v in metrics.items()})
        for logger in self.trainer.loggers:
            logger.log_metrics(dict(metrics), step)

    def finish_samples(self, split: str) -> None:
        """Gathers the collected samples of all ranks, in order, and tells the callbacks that want them."""
        if self.trainer.world_size > 1:
            gathered: list[Any] = [None] * self.trainer.world_size
            torch.distributed.all_gather_object(gathered, self.samples)
            self.samples = [sample for samples in gathered for sample in samples]
        with side_output("the order of the samples"):
            self.samples = self.merged_samples(self.samples)
        for callback in self._listeners():
            callback.on_samples(self.trainer, self, split)

    def _listeners(self) -> Iterator[TaskCallback]:
        return (callback for callback in self.trainer.callbacks if isinstance(callback, TaskCallback))

    def merged_samples(self, samples: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """The samples of all batches and ranks as they are written, in the order of the split."""
        return sorted(samples, key=lambda sample: sample.get("index", 0))
