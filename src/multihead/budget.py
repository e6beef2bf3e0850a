"""What a run takes: parameters and bytes by part, operations of a step, and the memory there is."""

from __future__ import annotations

import os
import resource
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from multihead.config.training import Config

if TYPE_CHECKING:
    from multihead.tasks.base import Task

PARTS = ("embeddings", "encoder", "decoder", "heads")
KEPT_KERNELS = "64"


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Parameters of the embeddings, the layers of each stack, and the heads; what is shared counts once."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        if ".embedding." in name or ".positions." in name:
            part = "embeddings"
        else:
            part = next((stack for stack in ("encoder", "decoder") if f"transformer.{stack}." in name), "heads")
        counts[part] += parameter.numel()
    return counts


def bytes_by_part(model: nn.Module, config: Config, groups: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Bytes that stay from step to step.

    Args:
        model: On any device, the meta device too.
        config: Its precision and averaging.
        groups: Of the optimizer.
    """
    size = {"bf16-true": 2, "64-true": 8}.get(config.precision, 4)
    weights = size * sum(p.numel() for p in model.parameters())
    moments = size * sum(
        p.numel() * (1 if group.get("kind") == "muon" else 2) for group in groups for p in group["params"]
    )
    averaged = weights if config.trainer.ema_decay or config.trainer.average_last_steps else 0
    learning = size * sum(p.numel() for p in model.parameters() if p.requires_grad)
    return {"weights": weights, "gradients": learning, "optimizer": moments, "averaged weights": averaged}


def least_activations(config: Config) -> int:
    """A lower bound of what a part keeps for its backward pass: what enters the matrix products of each layer."""
    model, tokens = config.model, config.data.part_tokens
    width = 2 if config.precision in ("bf16-true", "bf16-mixed", "16-mixed") else 4
    if config.trainer.activation_checkpointing:
        per_layer = model.d_model
    else:
        per_layer = 4 * model.d_model + 2 * model.d_ff
    return tokens * per_layer * width * max(model.num_encoder_layers, model.num_decoder_layers)


def kept_for_backward(task: Task, batch: dict[str, Any]) -> tuple[int, int]:
    """Bytes of activations that one part keeps, and the floating-point operations of its forward and backward pass."""
    seen: dict[int, int] = {}
    known = {p.untyped_storage().data_ptr() for p in task.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    counter = FlopCounterMode(display=False)
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = task.training_step(batch, 0)["loss"]
        size = sum(seen.values())
        loss.backward()
    task.zero_grad(set_to_none=True)
    return size, counter.get_total_flops()


def limit_kernel_caches() -> None:
    """On a CPU: lets oneDNN keep kernels for fewer shapes, each with its own memory; to be called before the first.

    It keeps 1,024 by itself. Batches of sentences have hundreds of shapes, and in bf16 memory doubled over 200 steps.
    """
    for name in ("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "LRU_CACHE_CAPACITY"):  # oneDNN's own, and that of its wrapper
        os.environ.setdefault(name, KEPT_KERNELS)


def available_memory(on_gpu: bool) -> int:
    """Bytes that this machine, or its container, can still give."""
    if on_gpu:
        return torch.cuda.mem_get_info()[0]
    found = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable")]
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit():
        found.append(int(limit[0]) - int(used[0]))
    return min(found, default=2**63)


def resident_memory() -> int:
    """Bytes of this process in memory now."""
    found = [int(line.split()[1]) * 1024 for line in _lines("/proc/self/status") if line.startswith("VmRSS")]
    return found[0] if found else peak_memory()


def peak_memory(device: torch.device | None = None) -> int:
    """Largest number of bytes that this process ever had in memory; on a GPU, that torch had there."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
