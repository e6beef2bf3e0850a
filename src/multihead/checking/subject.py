"""The model that is checked, on the user's configuration, with small built-in data; and the model beside it.

Shapes: B batch, T target time, S source time, D d_model.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import random
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from multihead.checking.look import difference
from multihead.config.compose import Composition, compose
from multihead.config.model import ModelConfig
from multihead.config.slots import SLOTS, added_choices, from_plugin
from multihead.config.task import SINGLE_TASKS
from multihead.config.training import Config
from multihead.data.module import DataModule, MicroBatchDataset, MicroBatchSampler
from multihead.data.prepare import Prepared, prepare
from multihead.data.stream import Stream
from multihead.model.losses import added_losses
from multihead.tasks import build_task
from multihead.training.build import choose_trained, source_of

if TYPE_CHECKING:
    from multihead.plugin import Plugin
    from multihead.tasks.base import Task

BUILT_IN = (*SINGLE_TASKS, "multitask")
"""Tasks for which the built-in grammar has data."""
ROWS = {"train_size": 300, "val_size": 20, "test_size": 20}
"""Sizes of the built-in data's splits."""
STEP_TOKENS = 400
"""Target tokens of a step."""
BLOCK = 48
"""Most tokens of a block of running text."""
LONGEST = 32
"""Tokens that a model must take so that all checks fit."""
MOST_WEIGHTS = 8_000_000
"""If the layers of a stack have more parameters, only `FEW_LAYERS` of them are checked."""
FEW_LAYERS = 2
SHAKE = 0.05
"""Deviation of the noise on parameters, relative to their size, so that zeros and ones of an initialisation hide
nothing; also the deviation of parameters that are all zero."""
DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d, nn.AlphaDropout, nn.FeatureAlphaDropout)
OF_DATA = ("readers", "tokenizers")
"""Slots that are not parts of the model."""
QUIET = ("dropout", "attention_dropout", "ff_dropout", "head_dropout", "token_dropout")
"""Options that draw random numbers in training."""


class Subject:
    """One configuration, and the models that are built from it.

    Args:
        config: The configuration, already with small data.
        plugin: What the user's own code adds.
        prepared: The data, tokenizers and classes.
    """

    def __init__(self, config: Config, plugin: Plugin | None, prepared: Prepared):
        self.config, self.plugin, self.prepared = config, plugin, prepared
        self.steady = True
        """Whether two equal passes in evaluation mode agree, which other checks need."""
        self.finite = True
        """Whether the first pass gives finite numbers, which all other checks need."""

    def build(self, *, quiet: bool = False, seed: int | None = None, model: ModelConfig | None = None) -> Task:
        """A freshly initialised task, as a training builds it.

        Args:
            quiet: Whether dropout is turned off.
            seed: Seed of the initialisation; by default that of the configuration.
            model: Sizes instead of those of the configuration.
        """
        config = self.config
        if model is not None:
            config = copy.copy(config)  # not `replace`, which would miss init_from beside the adapters of lora.r
            config.model = model
        config = without_dropout(config) if quiet else config
        seed_all(config.seed if seed is None else seed)
        task = build_task(config, self.prepared.vocab, self.plugin)
        for name, member in task.members().items():
            member.start_from(self.prepared.encoded[name]["train"])
        choose_trained(task, config)
        if quiet:
            for module in task.modules():
                if isinstance(module, DROPOUTS):
                    module.p = 0.0
        return task

    def shaken(self, dtype: torch.dtype = torch.float32, *, quiet: bool = True) -> Task:
        """A task whose parameters have some noise, in evaluation mode."""
        return shake(self.build(quiet=quiet)).to(dtype).eval()

    @functools.cached_property
    def plain(self) -> Task:
        """The task as a training starts with it, with dropout, in float32."""
        return self.build()

    @functools.cached_property
    def exact(self) -> Task:
        """A shaken task without dropout, in float64 if the model computes in it, else in float32."""
        task = self.shaken(torch.float64)
        try:
            right = all(self.hidden(task, stack).dtype == torch.float64 for stack in self.stacks)
        except (RuntimeError, TypeError, ValueError):
            right = False
        return task if right else self.shaken()

    @functools.cached_property
    def training(self) -> Task | None:
        """As `exact`, but in training mode; None if two equal passes differ then, because something is drawn."""
        dtype = next(self.exact.parameters()).dtype
        task = self.shaken(dtype).train()
        with torch.no_grad():
            same = all(torch.equal(self.hidden(task, stack), self.hidden(task, stack)) for stack in self.stacks)
        return task if same else None

    @property
    def is_double(self) -> bool:
        """Whether `exact` computes in float64."""
        return next(self.exact.parameters()).dtype == torch.float64

    @property
    def transformer(self) -> nn.Module:
        """The backbone of `exact`."""
        return self.exact.model.transformer

    @functools.cached_property
    def stacks(self) -> tuple[str, ...]:
        """The stacks of the model: encoder, decoder or both."""
        transformer = self.plain.model.transformer
        return tuple(name for name in ("encoder", "decoder") if getattr(transformer, name, None) is not None)

    @property
    def crosses(self) -> bool:
        """Whether the decoder attends to a memory."""
        return len(self.stacks) == 2

    # ---- inputs

    def ids(self, stack: str, batch: int, length: int, seed: int = 0) -> Tensor:
        """Random ids [B, T] that are no special tokens."""
        tokenizers = self.prepared.vocab.tokenizers
        tokenizer = tokenizers.get("source" if stack == "encoder" else "target") or tokenizers["text"]
        plain = torch.tensor([i for i in range(tokenizer.vocab_size) if i not in tokenizer.special_ids] or [0])
        generator = torch.Generator().manual_seed(1000 + seed)
        return plain[torch.randint(len(plain), (batch, length), generator=generator)]

    def memory(self, task: Task, rows: int, length: int = 5, seed: int = 0) -> Tensor | None:
        """A random memory [B, S, D] for the decoder; None if it has no cross-attention."""
        if not self.crosses:
            return None
        generator = torch.Generator().manual_seed(2000 + seed)
        dtype = next(task.parameters()).dtype
        return torch.randn(rows, length, self.width(task), generator=generator).to(dtype)

    @staticmethod
    def width(task: Task) -> int:
        """D of a task's backbone."""
        return task.model.transformer.config.d_model

    def hidden(self, task: Task, stack: str, batch: int = 2, length: int = 7, seed: int = 0) -> Tensor:
        """Hidden states [B, T, D] of random ids."""
        ids = self.ids(stack, batch, length, seed)
        if stack == "encoder":
            return task.model.transformer.encode(ids)
        return task.model.transformer.decode(ids, memory=self.memory(task, batch))

    # ---- steps

    @functools.cached_property
    def _data(self) -> DataModule:
        task = self.plain
        sources = {name: source_of(self.config, task.member(name), self.prepared) for name in self.prepared.texts}
        return DataModule(sources, self.config.data, seed=self.config.seed)

    def micro_batches(self, step: int, parts: int = 1, rank: int = 0, ranks: int = 1) -> list[dict[str, Any]]:
        """The micro-batches of one rank for an optimizer step, as the batch plan cuts it."""
        data = self._data
        sampler = MicroBatchSampler(data.plan, rank, ranks, parts)
        sampler.position = (0, step % data.plan.num_steps(0))
        dataset, batches = MicroBatchDataset(data.sources, "train"), iter(sampler)
        return [dataset[next(batches)] for _ in range(parts)]

    def loss(self, task: Task, batch: dict[str, Any], number: int = 0, *, of_parts: bool = True) -> Tensor:
        """The loss of a micro-batch to differentiate: the task's own or a plugin's, with what parts of the model add.

        Args:
            task: The task.
            batch: The micro-batch.
            number: Number of the micro-batch.
            of_parts: Whether the losses count that parts of the model add.
        """
        member = task.members()[batch["task"]]
        own = from_plugin(task.config, self.plugin, "losses", member.settings)
        with added_losses() as added:
            step = task.training_step(batch, number) if own is None else member.step_loss(own(member, batch), batch)
        return step["loss"] + torch.stack(added).sum() if added and of_parts else step["loss"]

    def steps_of_all(self) -> list[int]:
        """The number of a step for each task of the run."""
        firsts: dict[str, int] = {}
        for number, step in enumerate(self._data.plan.steps(0)):
            firsts.setdefault(step.task, number)
        return list(firsts.values())

    # ---- how exact

    @functools.cached_property
    def tolerance(self) -> float:
        """Differences up to this are rounding: many times what noise in the last digits of the weights changes."""
        noise = 1e-7 if self.is_double else 1e-6
        task, largest = self.exact, 0.0
        before = [p.detach().clone() for p in task.parameters()]
        with torch.no_grad():
            for stack in self.stacks:
                expected = self.hidden(task, stack)
                generator = torch.Generator().manual_seed(3)
                for p in task.parameters():
                    p.mul_(1 + noise * torch.randn(p.shape, generator=generator).to(p.dtype))
                largest = max(largest, difference(expected, self.hidden(task, stack)))
                for p, old in zip(task.parameters(), before, strict=True):
                    p.copy_(old)
        return min(0.02, max(1e-5 if self.is_double else 2e-4, 30 * largest))


def seed_all(seed: int) -> None:
    """Seeds Python, NumPy and PyTorch, as a training does."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


@torch.no_grad()
def shake(task: Task) -> Task:
    """Puts noise on all parameters, so that zeros and ones of an initialisation hide nothing."""
    generator = torch.Generator().manual_seed(7)
    for name, p in task.named_parameters():
        size = float(p.detach().float().pow(2).mean().sqrt()) if p.numel() else 0.0
        noise = torch.randn(p.shape, generator=generator).to(p.dtype)
        if ".ngrams." in name:  # row 0 stands for no n-gram
            noise[0] = 0
        p.add_(noise, alpha=SHAKE * (size or 1.0))
    return task


def without_dropout(config: Config) -> Config:
    """The same configuration without what draws random numbers in training."""
    config = copy.deepcopy(config)
    for node in (config.model, config.lora, config.task, *config.task.members().values(), *config.options.values()):
        for name in QUIET:
            if isinstance(getattr(node, name, None), float):
                setattr(node, name, 0.0)
    return config


def subjects(composition: Composition) -> tuple[Subject, Subject | None, list[str]]:
    """The model of a configuration, the model without the plugin's parts (None if that is the same), and notes."""
    config, notes = copy.deepcopy(composition.config), []
    config.init_from, config.precision, config.compile = "", "32-true", False
    config.trainer.overfit_examples = config.data.train_examples = 0
    if config.optim.muon_dtype == "auto":
        config.optim.muon_dtype = "float32"
    if config.task.name in BUILT_IN:
        config.data = dataclasses.replace(compose([f"task={config.task.name}", "data=grammar"]).config.data)
        for name, size in ROWS.items():
            setattr(config.data.grammar, name, size)
        notes.append("built-in data")
    else:
        notes.append(f"data={config.data.name}")
    config.data.batch_tokens = config.data.part_tokens = STEP_TOKENS
    config.data.cache, config.data.num_workers, config.data.overlong = False, 0, "cut"
    notes += _shallower(config.model)
    if config.model.max_len < LONGEST:
        notes.append(f"model.max_len={LONGEST} instead of {config.model.max_len}, for the lengths of the checks")
        config.model.max_len = LONGEST
    prepared = prepare(dataclasses.replace(composition, config=config, notes=[]), ("train",))
    for splits in prepared.encoded.values():
        for split, encoded in splits.items():
            if isinstance(encoded, Stream):
                size = min(BLOCK, encoded.block_size)
                splits[split] = encoded.blocked(size, size)
    subject = Subject(config, composition.plugin, prepared)
    theirs = without_parts(config)
    return subject, None if theirs is None else Subject(theirs, composition.plugin, prepared), notes


def parts_of(config: Config) -> dict[str, str]:
    """The keys whose value is a part of the plugin, and these values; without those of data and tokenizers."""
    of_data = {key for field in OF_DATA for key in SLOTS[field].keys(config)}
    return {key: name for key, name in added_choices(config).items() if key not in of_data}


def without_parts(config: Config) -> Config | None:
    """The same configuration with our own parts instead of the plugin's; None if it has none of the plugin's."""
    parts = parts_of(config)
    if not parts:
        return None
    changed: Any = copy.deepcopy(config)
    for slot in SLOTS.values():
        for key in slot.keys(config):
            if key in parts:
                *nodes, name = key.split(".")
                setattr(functools.reduce(getattr, nodes, changed), name, slot.own[0])
    changed.model.__post_init__()
    return changed


def _shallower(model: ModelConfig) -> Sequence[str]:
    """Takes layers out of a model that is too large for a minute; says so."""
    layer = model.d_model * (8 * model.num_heads * model.head_dim + 3 * model.d_ff)
    notes = []
    for name in ("num_encoder_layers", "num_decoder_layers"):
        layers = getattr(model, name)
        if layers > FEW_LAYERS and layer * layers > MOST_WEIGHTS:
            setattr(model, name, FEW_LAYERS)
            notes.append(f"model.{name}={FEW_LAYERS} instead of {layers}, to stay within a minute")
    return notes
