"""Measures a task on a whole split, as Lightning's ``Trainer.test`` would, without importing Lightning."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any

import torch

from multihead.tasks.base import Task

TYPES = {"bf16-true": torch.bfloat16, "64-true": torch.float64}
"""Precision to the type of weights and activations; the weights of every other precision are float32."""


@torch.inference_mode()
def test(task: Task, batches: Iterable[dict[str, Any]], device: torch.device, precision: str) -> None:
    """Evaluates a task on the batches of the split ``test``; the metrics are then in ``task.recorded``.

    Args:
        task: The task, which is moved to the device and converted to the precision.
        batches: Batches on the host.
        device: Where the task computes.
        precision: One of Lightning's words: 32-true, bf16-mixed, 16-mixed, bf16-true or 64-true.
    """
    dtype = TYPES.get(precision)
    task.to(device, dtype).eval()
    task.forget_samples()
    with _computing(device, precision, dtype):
        for batch in batches:
            moved = {name: x.to(device) if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
            task.evaluate_batch(moved, "test")
    task.recorded.update({f"test/{name}": value for name, value in task.metrics_of("test").items()})
    task.samples = task.merged_samples(task.samples)


@contextlib.contextmanager
def _computing(device: torch.device, precision: str, dtype: torch.dtype | None) -> Iterator[None]:
    """Inside, products are computed in a precision ``*-mixed``, or new tensors have the type of a ``*-true`` one."""
    if precision.endswith("-mixed"):
        low = torch.bfloat16 if precision == "bf16-mixed" else torch.float16
        with torch.autocast(device.type, dtype=low, cache_enabled=False):
            yield
        return
    before = torch.get_default_dtype()
    torch.set_default_dtype(dtype or before)
    try:
        yield
    finally:
        torch.set_default_dtype(before)
