"""On an accelerator no training step asks for a value, which would make the host wait for all that is queued.

No accelerator is needed: tensors are on torch's ``meta`` device, with shapes and types but no values. They refuse
whatever needs a value (``bool``, ``int``, ``tolist``, an index by a mask). `NoWait` refuses copies that are waited for.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import lightning as L
import numpy as np
import pytest
import torch
from allpairspy import AllPairs
from lightning.fabric.utilities.apply_func import move_data_to_device
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from multihead.config.compose import compose
from multihead.config.model import ACTIVATIONS, INITS, NORM_PLACEMENTS, NORMS, POSITIONS, TIES
from multihead.data.encode import encode_corpus
from multihead.data.module import DataModule, TaskData
from multihead.data.stream import Stream
from multihead.data.tokenizer import train_tokenizer
from multihead.tasks import build_task
from multihead.tasks.base import Task
from multihead.tasks.lightning_module import TaskModule
from multihead.text.vocabulary import Vocabulary
from multihead.training.averaging import averaging
from multihead.training.steps import Steps

SOURCES = 4 * [
    "the film is good", "bad", "a very very good day , and a long one", "no good at all", "not bad", "the day"
]  # fmt: skip
TARGETS = ["good", "it was bad and long", "day", "not", "the film is a film", "a"] * 4
NAMES = ["bad", "good", "so-so"]
DEVICE = torch.device("meta")
SMALL = ["model.d_model=32", "model.num_heads=4", "model.d_ff=48", "model.num_encoder_layers=1", "model.max_len=64",
         "model.num_decoder_layers=1", "tokenizer.kind=word", "tokenizer.min_frequency=1", "data.batch_tokens=32",
         "data.part_tokens=32", "trainer.gradient_clip_val=1.0", "trainer.ema_decay=0.99"]  # fmt: skip


class NoWait(TorchDispatchMode):
    """Refuses what brings values from the device to the host, or makes the host wait for a copy to the device."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        tensors = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        places = {x.device.type for x in tensors if x.ndim}
        if func in (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default):
            source, target = args[-1 if func is torch.ops.aten._to_copy.default else 1].device, args[0].device
            target = torch.device(kwargs.get("device") or target)
            waits = target.type == "cpu" or not (kwargs.get("non_blocking") or (len(args) > 2 and args[2]))
            assert source.type == target.type or not waits, f"the host waits for a copy from {source} to {target}"
        else:
            assert len(places) < 2, f"{func} of tensors on {' and '.join(sorted(places))}"
        return func(*args, **kwargs)


@contextlib.contextmanager
def accelerator():
    """Inside, tensors have no values, and no copy is waited for."""

    def tensor(*args, device=None, **kwargs):  # torch's own copies without telling a mode
        assert torch.device(device or "cpu").type == "cpu", "the host waits for a copy of its numbers"
        return make(*args, **kwargs)

    make = torch.tensor
    with NoWait(), pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch, "tensor", tensor)
        patch.setattr(torch, "is_autocast_enabled", lambda device="cpu": False)  # which knows no such device
        patch.setattr(sys.modules["torch.optim.optimizer"], "_get_fused_kernels_supported_devices", lambda: ["meta"])
        patch.setattr(torch, "autocast", lambda *args, **kwargs: contextlib.nullcontext())
        yield


def to_device(module: nn.Module) -> None:
    """Puts a module on the device in place; shared weights stay shared."""
    moved: dict[int, torch.Tensor] = {}
    for child in module.modules():
        for held in (child._parameters, child._buffers):
            for name, tensor in held.items():
                if tensor is not None and id(tensor) not in moved:
                    fake = torch.empty_like(tensor.detach(), device=DEVICE)
                    is_parameter = isinstance(tensor, nn.Parameter)
                    moved[id(tensor)] = nn.Parameter(fake, tensor.requires_grad) if is_parameter else fake
                held[name] = None if tensor is None else moved[id(tensor)]


def vocabulary(config) -> Vocabulary:
    tokenizer = train_tokenizer(config.tokenizer, SOURCES + TARGETS)
    return Vocabulary(dict.fromkeys(("text", "source", "target"), tokenizer), NAMES)


def rows_of(name: str, settings, vocab: Vocabulary):
    """Examples of one task."""
    tokenizer = vocab.tokenizers["text"]
    if name == "lm":
        ids = [i for text in SOURCES * 2 for i in [*tokenizer.encode_batch([text])[0], tokenizer.eos_id]]
        return Stream(np.array(ids), tokenizer.eos_id, 100, block_size=settings.block_size or 32)
    if name == "classification":
        labels = [[0, 2], [1], [0], [], [1], [2]] if settings.multi_label else [[1], [0], [1], [0], [1], [2]]
        return encode_corpus({"text": SOURCES}, vocab.tokenizers).with_role("label", labels * 4)
    return encode_corpus({"source": SOURCES, "target": TARGETS}, vocab.tokenizers)


@pytest.mark.parametrize(
    "wait",
    [
        lambda x: bool((x > 0).all()),
        lambda x: x.sum().item(),
        lambda x: int(x.max()),
        lambda x: x.tolist(),
        lambda x: x.cpu(),
        lambda x: x[x > 0],
        lambda x: (x > 0).nonzero(),
        lambda x: x.masked_select(x > 0),
        lambda x: x.unique(),
        lambda x: x.repeat_interleave(x.long()),
        lambda x: x[torch.tensor([1])],
        lambda x: x + torch.ones(3),
        lambda x: torch.tensor([1.0], device=x.device),
        lambda x: torch.ones(3).to(x.device),
        lambda x: x.copy_(torch.ones(3)),
    ],
)
def test_what_waits_is_refused(wait):
    with accelerator(), pytest.raises((AssertionError, RuntimeError, NotImplementedError)):
        wait(torch.empty(3, device=DEVICE))


class Loop:
    """What Lightning's trainer is to a task and its callbacks, where one process trains on the device."""

    world_size, global_rank, is_global_zero, accumulate_grad_batches = 1, 0, True, 2
    should_stop, loggers, precision = False, (), "32-true"

    def __init__(self, task: Task, callbacks: list[L.Callback]):
        self.lightning_module, self.callbacks = TaskModule(task), callbacks
        self.lightning_module.trainer = self
        self.optimizers = [task.configure_optimizers()["optimizer"]]
        self.precision_plugin = SimpleNamespace()
        self.strategy = SimpleNamespace(root_device=DEVICE)
        self.global_step = 0

    def step(self, batches: Iterable[dict[str, Any]]) -> None:
        """One optimizer step, as Lightning takes it."""
        module, [optimizer] = self.lightning_module, self.optimizers
        for number, batch in enumerate(batches, 1):
            batch = move_data_to_device(batch, DEVICE)
            self.tell("on_train_batch_start", batch, 0)
            outputs = module.training_step(batch, 0)
            (outputs["loss"] / self.accumulate_grad_batches).backward()
            if number == self.accumulate_grad_batches:
                self.tell("on_before_optimizer_step", optimizer)
                module.configure_gradient_clipping(optimizer, module.task.config.trainer.gradient_clip_val)
                optimizer.step()
                optimizer.zero_grad()
                self.global_step += 1
            self.tell("on_train_batch_end", outputs, batch, 0)

    def tell(self, event: str, *arguments: Any) -> None:
        for callback in self.callbacks:
            getattr(callback, event)(self, self.lightning_module, *arguments)


def train(words: list[str], tmp_path: Path, num_steps: int) -> Loop:
    """Trains on the device, with all that happens in a step and between two."""
    config = compose([*SMALL, *words]).config
    vocab = vocabulary(config)
    task = build_task(config, vocab)
    members = task.members()
    sources = {}
    for name, member in members.items():
        rows = rows_of(name, member.settings, vocab)
        member.start_from(rows)
        sources[name] = TaskData({"train": rows}, member.lengths, member.targets, member.collate)
    if config.trainer.activation_checkpointing:
        task.model.transformer.recompute_layers()
    data = DataModule(sources, config.data, seed=1, accumulate=Loop.accumulate_grad_batches)
    steps = Steps(tmp_path, data, config)
    plan = [list(data.batches_of((0, step))) for step in range(num_steps)]
    to_device(task.train())
    with accelerator():
        loop = Loop(task, [*averaging(config.trainer), steps])
        loop.callbacks[0].on_fit_start(loop, loop.lightning_module)
        steps.telemetry.start(loop)
        steps.telemetry.peak = 1e12  # of a known device: the first step's operations are counted
        for batches in plan:
            loop.step(batches)
    return loop


TASKS = [
    "task=lm",
    "task=lm task.document_mask=true",
    "task=lm task.objective=masked",
    "task=lm task.objective=masked task.document_mask=true",
    "task=lm task.objective=both task.masked_blocks=0.5",
    "task=lm task.objective=both task.masked_blocks=0.5 task.document_mask=true",
    "task=lm task.random_windows=3 task.block_size=16",
    "task=translation",
    "task=translation task.label_smoothing=0",
    "task=translation task.copy=true",
    "task=translation task.topology=decoder",
    "task=summarization",
    "task=summarization task.copy=true",
    *(f"task=classification task.pooling={pooling}" for pooling in ("first", "last", "mean", "max", "attention")),
    *(f"task=classification task.stack=decoder task.pooling={pooling}" for pooling in ("last", "mean", "max")),
    "task=classification task.ngram_buckets=64",
    "task=classification task.multi_label=true",
    "task=classification task.multi_label=true task.focal_gamma=2 task.class_weights=balanced",
    "task=classification task.focal_gamma=2 task.class_weights=balanced",
    "task=classification task.class_weights=balanced task.label_smoothing=0.1",
    "task=classification task.token_dropout=0.2",
    "task=multitask task.parts=[lm,translation,summarization,classification]",
]


@pytest.mark.unhurried
@pytest.mark.parametrize("words", TASKS)
def test_no_step_of_any_task_waits_for_the_device(words, tmp_path):
    assert train(words.split(), tmp_path, num_steps=1).global_step == 1


def test_no_later_step_waits_for_the_device(tmp_path):
    """There are moments and averages now."""
    assert train(["task=translation"], tmp_path, num_steps=3).global_step == 3


BACKBONE = {
    "task": [
        "task=lm task.document_mask=true",
        "task=lm task.objective=masked task.document_mask=true",
        "task=translation task.copy=true",
        "task=translation task.topology=decoder",
        "task=classification task.stack=decoder task.pooling=last",
    ],
    "model.position": POSITIONS,
    "model.tie_embeddings": TIES,
    "model.activation": ACTIVATIONS,
    "model.norm": NORMS,
    "model.norm_placement": NORM_PLACEMENTS,
    "model.init": INITS,
    "model.qk_norm": ["false", "true"],
    "model.bias": ["false", "true"],
    "model.num_kv_heads": ["0", "1", "2"],
    "model.ngram_buckets": ["0", "64"],
    "model.dropout": ["0", "0.1 model.attention_dropout=0.1 model.ff_dropout=0.1"],
    "trainer.activation_checkpointing": ["false", "true"],
    "optim": ["adamw", "muon"],
    "trainer.gradient_clip_val": ["0", "1"],
    "trainer.ema_decay": ["0.9", "0 trainer.average_last_steps=2 trainer.max_steps=2 trainer.average_every_n_steps=1"],
}


def pairs() -> list[str]:
    """Every pair of values of two options is in one of these at least."""
    names = [f"{name}=" for name in BACKBONE]
    names[0] = ""  # words already
    return [" ".join(map("".join, zip(names, values, strict=True))) for values in AllPairs(list(BACKBONE.values()))]


@pytest.mark.unhurried
@pytest.mark.parametrize("words", pairs())
def test_no_step_of_any_backbone_waits_for_the_device(words, tmp_path):
    assert train(words.split(), tmp_path, num_steps=1).global_step == 1


def test_ranks_agree_without_their_devices(tmp_path, monkeypatch):
    """In each step all ranks have to know whether one got a signal to stop, or is out of time."""
    agreed = []
    monkeypatch.setattr(torch.distributed, "new_group", lambda backend: backend)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda x, op, group: agreed.append((x.device.type, group)))
    monkeypatch.setattr(Loop, "world_size", 2)
    train(["task=lm", "trainer.max_time=01:00:00:00"], tmp_path, num_steps=1)
    assert agreed == [("cpu", "gloo")] * 2


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_batches_for_a_gpu_are_in_memory_that_it_reads_by_itself(device):
    """From other memory a copy is waited for, whatever ``non_blocking`` says."""
    config = compose([*SMALL, "task=translation"]).config
    vocab = vocabulary(config)
    task = build_task(config, vocab)
    rows = rows_of("translation", config.task, vocab)
    source = TaskData({"train": rows, "val": rows}, task.lengths, task.targets, task.collate)
    data = DataModule({"translation": source}, config.data, seed=1)
    strategy = SimpleNamespace(root_device=torch.device(device))
    data.trainer = SimpleNamespace(global_rank=0, world_size=1, strategy=strategy)
    assert data.train_dataloader().pin_memory == data.val_dataloader().pin_memory == (device == "cuda")
