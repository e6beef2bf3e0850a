"""Counts what a run needs: parameters and bytes of each part of the model, and operations of a step.

It also reads how much memory this machine has free, and how much this process uses.
"""

from __future__ import annotations

import math
import resource
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from multihead import torch_private
from multihead.config.training import Config
from multihead.model.heads import CopyHead, VocabularyHead
from multihead.model.transformer import MultiHeadAttention

if TYPE_CHECKING:
    from multihead.tasks.base import Task

PARTS: tuple[str, ...] = ("embeddings", "encoder", "decoder", "heads")
OF_LAYERS = {
    "self_attention": "self-attention",
    "cross_attention": "cross-attention",
    "feed_forward": "feed-forward",
}
"""Name of a module in a layer to its name in tables."""
OUTPUT = "output layer and loss"
OPTIMIZER = "optimizer"


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Counts the parameters of the embeddings, of each stack's layers and of the heads; shared ones count once."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        if any(table in name for table in (".embedding.", ".ngrams.", ".positions.")):
            part = "embeddings"
        else:
            part = next((stack for stack in ("encoder", "decoder") if f"transformer.{stack}." in name), "heads")
        counts[part] += parameter.numel()
    return counts


def bytes_by_part(model: nn.Module, config: Config, groups: Sequence[dict[str, Any]]) -> dict[str, int]:
    """Counts the bytes that stay in memory from one step to the next.

    Args:
        model: The model, on any device, even the meta device.
        config: The configuration; its precision and its averages of weights count.
        groups: The optimizer's groups of parameters.
    """
    size = {"bf16-true": 2, "64-true": 8}.get(config.precision, 4)
    weights = size * sum(p.numel() for p in model.parameters())
    moments = size * sum(
        p.numel() * (1 if group.get("kind") == "muon" else 2) for group in groups for p in group["params"]
    )
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    learning = size * trained
    averages = config.trainer.ema_decay or config.trainer.average_last_steps
    averaged = max(size, 4) * trained if averages else 0  # never below float32
    return {"weights": weights, "gradients": learning, "optimizer": moments, "averaged weights": averaged}


def least_activations(config: Config) -> int:
    """Returns a lower bound of the bytes that a micro-batch keeps for its backward pass.

    The bound counts the inputs of the matrix products of one stack's layers.
    """
    model, tokens = config.model, config.data.part_tokens
    width = 2 if config.precision in ("bf16-true", "bf16-mixed", "16-mixed") else 4
    if config.trainer.activation_checkpointing:
        per_layer = model.d_model
    else:
        per_layer = 4 * model.d_model + 2 * model.d_ff
    return tokens * per_layer * width * max(model.num_encoder_layers, model.num_decoder_layers)


def kept_for_backward(task: Task, batch: dict[str, Any]) -> tuple[int, int]:
    """Measures one micro-batch.

    Returns:
        The bytes of activations that it keeps, and the floating-point operations of its forward and backward pass.
    """
    seen: dict[int, int] = {}
    known = {p.untyped_storage().data_ptr() for p in task.parameters()}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    counter = flop_counter()
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = task.training_step(batch, 0)["loss"]
        size = sum(seen.values())
        loss.backward()
    task.zero_grad(set_to_none=True)
    return size, counter.get_total_flops()


def flop_counter() -> FlopCounterMode:
    """Returns torch's counter of operations, which here also counts two kinds that it leaves out on CPUs.

    These are oneDNN's linear maps, and fused attention, which has two products forwards and four backwards.
    """

    def forward(query: Any, key: Any, value: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
        return 4 * math.prod(query) * key[2]

    def backward(grad: Any, query: Any, key: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
        return 8 * math.prod(query) * key[2]

    def linear(left: Any, right: Any, *rest: Any, out_shape: Any = None, **options: Any) -> int:
        return 2 * math.prod(left) * right[0]

    formulas = torch_private.operators_without_flops(forward, backward, linear)
    return FlopCounterMode(display=False, custom_mapping=formulas)


@dataclass(frozen=True)
class Product:
    """``count`` matrix products of [rows, inner] and [inner, columns], which are computed at once."""

    kind: str
    """The part of the step that computes them: a value of `OF_LAYERS`, `OUTPUT` or `OPTIMIZER`."""
    count: int
    rows: int
    inner: int
    columns: int

    @property
    def operations(self) -> int:
        """The number of multiplications and additions."""
        return 2 * self.count * self.rows * self.inner * self.columns

    def backward(self) -> list[Product]:
        """Returns the products that compute the gradients of both factors."""
        kind, count, rows, inner, columns = self.kind, self.count, self.rows, self.inner, self.columns
        return [Product(kind, count, rows, columns, inner), Product(kind, count, inner, rows, columns)]


@torch.no_grad()
def products(task: Task, batch: dict[str, Any]) -> tuple[list[Product], list[Product]]:
    """Returns the matrix products of the forward pass and of the backward pass of one micro-batch.

    Their sizes are those of the inputs that the layers receive. The output layer over a vocabulary computes its
    gradients in the forward pass. Attention scores that a causal mask hides count too, because some kernels compute
    them. If a plugin brings its own attention, only the linear maps of that count.
    """
    found: list[Product] = []
    hooks = []
    for name, module in task.named_modules():
        kind = next((OF_LAYERS[part] for part in name.split(".") if part in OF_LAYERS), OUTPUT)
        if isinstance(module, nn.Linear):
            hooks.append(module.register_forward_pre_hook(_note_linear(kind, found)))
        elif isinstance(module, MultiHeadAttention):
            hooks.append(module.register_forward_pre_hook(_note_attention(kind, found)))
    try:
        task.training_step(batch, 0)
    finally:
        for hook in hooks:
            hook.remove()
    backward = [gradient for product in found for gradient in product.backward()]
    head = task.members()[batch["task"]].model.head
    if isinstance(head, VocabularyHead):
        vocab_size, width = head.weight.shape
        logits = Product(OUTPUT, 1, int((batch["labels"] != -100).sum()), width, vocab_size)
        found += [logits, *logits.backward()]
    if isinstance(head, CopyHead):
        (count, keys), length = batch["source"].shape, batch["target"].size(1)
        pointing = [Product(OUTPUT, count, length, width, keys), Product(OUTPUT, count, length, keys, width)]
        found += pointing
        backward += [gradient for product in pointing for gradient in product.backward()]
    return found, backward


def optimizer_products(groups: Sequence[dict[str, Any]]) -> list[Product]:
    """Returns the matrix products of an update.

    Only Muon has some: three in each of its iterations (`multihead.model.optim.orthogonalize`).
    """
    found = []
    for group in groups:
        for p in group["params"] if group.get("kind") == "muon" else ():
            few, many = sorted(p.shape)
            both = [(many, few), (few, few), (few, many)]  # X X', its square, and the square times X
            found += [Product(OPTIMIZER, 1, few, a, b) for a, b in both] * group["num_iterations"]
    return found


def _note_linear(kind: str, found: list[Product]) -> Any:
    def note(module: nn.Linear, inputs: tuple[Any, ...]) -> None:
        rows = inputs[0].numel() // module.in_features
        found.append(Product(kind, 1, rows, module.in_features, module.out_features))

    return note


def _note_attention(kind: str, found: list[Product]) -> Any:
    def note(module: MultiHeadAttention, inputs: tuple[Any, ...]) -> None:
        x, memory = inputs[0], inputs[2] if len(inputs) > 2 else None
        heads, keys = module.width // module.head_dim, (x if memory is None else memory).size(1)
        count, length = x.size(0) * heads, x.size(1)
        found.append(Product(kind, count, length, module.head_dim, keys))
        found.append(Product(kind, count, length, keys, module.head_dim))

    return note


def bytes_moved(kept: dict[str, int]) -> int:
    """Returns the least number of bytes that a step reads and writes of what `bytes_by_part` counts.

    The forward pass and the backward pass read the weights; the update reads and writes them. Gradients are written
    once, read for their norm, and read by the update. Moments and averages are read and written once.
    """
    state = kept["optimizer"] + kept["averaged weights"]
    return 4 * kept["weights"] + 3 * kept["gradients"] + 2 * state


def available_memory(on_gpu: bool) -> int:
    """Returns the number of bytes that are free on this machine, or in its container."""
    if on_gpu:
        return torch.cuda.mem_get_info()[0]
    found = [int(line.split()[1]) * 1024 for line in _lines("/proc/meminfo") if line.startswith("MemAvailable")]
    limit, used = _lines("/sys/fs/cgroup/memory.max"), _lines("/sys/fs/cgroup/memory.current")
    if limit and used and limit[0].isdigit():
        found.append(int(limit[0]) - int(used[0]))
    return min(found, default=2**63)


def resident_memory() -> int:
    """Returns the number of bytes that this process has in memory now."""
    found = [int(line.split()[1]) * 1024 for line in _lines("/proc/self/status") if line.startswith("VmRSS")]
    return found[0] if found else peak_memory()


def peak_memory(device: torch.device | None = None) -> int:
    """Returns the largest number of bytes that this process has had in memory, or that torch has had on a GPU."""
    if device is not None and device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _lines(path: str) -> list[str]:
    try:
        return Path(path).read_text().splitlines()
    except OSError:
        return []
