"""What a run takes: parameters and bytes by part, operations of a step, and the memory there is."""

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
"""Name of a module in a layer to what a table calls it."""
OUTPUT = "output layer and loss"
OPTIMIZER = "optimizer"


def parameters_by_part(model: nn.Module) -> dict[str, int]:
    """Parameters of the embeddings, the layers of each stack, and the heads; what is shared counts once."""
    counts = dict.fromkeys(PARTS, 0)
    for name, parameter in model.named_parameters():
        if any(table in name for table in (".embedding.", ".ngrams.", ".positions.")):
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
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    learning = size * trained
    averages = config.trainer.ema_decay or config.trainer.average_last_steps
    averaged = max(size, 4) * trained if averages else 0  # never below float32
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

    counter = flop_counter()
    with counter, torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = task.training_step(batch, 0)["loss"]
        size = sum(seen.values())
        loss.backward()
    task.zero_grad(set_to_none=True)
    return size, counter.get_total_flops()


def flop_counter() -> FlopCounterMode:
    """torch's counter, with what it leaves out on CPUs: oneDNN, and fused attention (two products, four backwards)."""

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
    """So many products of [rows, inner] and [inner, columns] at once."""

    kind: str
    """The part of the model: a value of `OF_LAYERS`, `OUTPUT` or `OPTIMIZER`."""
    count: int
    rows: int
    inner: int
    columns: int

    @property
    def operations(self) -> int:
        """Multiplications and additions."""
        return 2 * self.count * self.rows * self.inner * self.columns

    def backward(self) -> list[Product]:
        """The products of the gradients of both factors."""
        kind, count, rows, inner, columns = self.kind, self.count, self.rows, self.inner, self.columns
        return [Product(kind, count, rows, columns, inner), Product(kind, count, inner, rows, columns)]


@torch.no_grad()
def products(task: Task, batch: dict[str, Any]) -> tuple[list[Product], list[Product]]:
    """The matrix products of the forward and of the backward pass of one part, from the sizes that its layers meet.

    The output layer over a vocabulary makes its gradients in the forward pass. Scores of attention that a causal mask
    hides count, as kernels that compute them do. A plugin's attention counts with its linear maps only.
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
    """The matrix products of an update: Muon's iterations, three in each (`multihead.model.optim.orthogonalize`)."""
    found = []
    for group in groups:
        for p in group["params"] if group.get("kind") == "muon" else ():
            few, many = sorted(p.shape)
            both = [(many, few), (few, few), (few, many)]  # X X', its square, and that with X
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
        heads, keys = x.size(-1) // module.head_dim, (x if memory is None else memory).size(1)
        count, length = x.size(0) * heads, x.size(1)
        found.append(Product(kind, count, length, module.head_dim, keys))
        found.append(Product(kind, count, length, keys, module.head_dim))

    return note


def bytes_moved(kept: dict[str, int]) -> int:
    """The least that a step reads and writes of what stays from step to step, which is `bytes_by_part`.

    Weights are read by the forward and by the backward pass, and read and written by the update; gradients are
    written, read for their norm and read by the update; moments and averages are read and written.
    """
    state = kept["optimizer"] + kept["averaged weights"]
    return 4 * kept["weights"] + 3 * kept["gradients"] + 2 * state


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
