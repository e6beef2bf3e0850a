"""Every private name of PyTorch that Multihead uses, as they are in PyTorch 2.11 to 2.13.

`tests/test_private_names.py` fails first if PyTorch changes one of them.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import LRScheduler


def allow_amx() -> bool:
    """Asks the operating system for the processor's AMX instructions: calls ``torch.cpu._init_amx`` (2.13.0)."""
    return torch.cpu._init_amx()


def has_onednn_linear() -> bool:
    """Whether this build of PyTorch has the operator of `onednn_linear` (2.13.0)."""
    return hasattr(torch.ops.mkldnn, "_linear_pointwise")


def onednn_linear(left: Tensor, right: Tensor) -> Tensor:
    """Computes ``left @ right.T`` by oneDNN: calls the operator ``mkldnn::_linear_pointwise`` (2.13.0)."""
    return torch.ops.mkldnn._linear_pointwise(left, right, None, "none", [], "")


def operators_without_flops(attention: Any, attention_backward: Any, linear: Any) -> dict[Any, Callable[..., int]]:
    """Maps CPU operators that `FlopCounterMode` does not count to the given formulas (2.13.0).

    The operators are ``_scaled_dot_product_flash_attention_for_cpu``, its backward, and that of `onednn_linear`.
    """
    aten = torch.ops.aten
    formulas: dict[Any, Callable[..., int]] = {
        aten._scaled_dot_product_flash_attention_for_cpu: attention,
        aten._scaled_dot_product_flash_attention_for_cpu_backward: attention_backward,
    }
    if has_onednn_linear():
        formulas[torch.ops.mkldnn._linear_pointwise] = linear
    return formulas


def lerp_each_(tensors: Sequence[Tensor], others: Sequence[Tensor], weight: float) -> None:
    """Moves each tensor towards its counterpart, in place: calls ``torch._foreach_lerp_`` (2.13.0)."""
    torch._foreach_lerp_(list(tensors), list(others), weight)  # pyright: ignore[reportPrivateImportUsage]


def lerp_each(tensors: Sequence[Tensor], others: Sequence[Tensor], weight: float) -> Sequence[Tensor]:
    """Returns each tensor moved towards its counterpart: calls ``torch._foreach_lerp`` (2.13.0)."""
    return torch._foreach_lerp(list(tensors), list(others), weight)  # pyright: ignore[reportPrivateImportUsage]


def multiply_each_(tensors: Sequence[Tensor], factor: float) -> None:
    """Multiplies each tensor in place: calls ``torch._foreach_mul_`` (2.13.0)."""
    torch._foreach_mul_(list(tensors), factor)  # pyright: ignore[reportPrivateImportUsage]


def copy_each_(targets: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Copies each source into its target: calls ``torch._foreach_copy_`` (2.13.0)."""
    torch._foreach_copy_(list(targets), list(sources))  # pyright: ignore[reportPrivateImportUsage]


def is_compiled(module: nn.Module) -> bool:
    """Whether ``module.compile()`` was called: reads ``nn.Module._compiled_call_impl`` (2.13.0)."""
    return module._compiled_call_impl is not None


def make_root_of_fsdp(module: nn.Module) -> None:
    """Makes a module that `fully_shard` was given the root: calls ``FSDPState._lazy_init`` (2.13.0).

    Without it, the first module that runs becomes the root. If a run begins with a validation, that is a layer.
    """
    from torch.distributed.fsdp import fully_shard  # takes seconds to import

    fully_shard.state(module)._lazy_init()  # pyright: ignore[reportFunctionMemberAccess]


def set_last_rates(schedule: LRScheduler, rates: Sequence[float | Tensor]) -> None:
    """Sets what ``schedule.get_last_lr()`` returns: writes ``LRScheduler._last_lr`` (2.13.0)."""
    schedule._last_lr = list(rates)


def version_of(tensor: Tensor) -> int:
    """How often the tensor was changed in place: reads ``Tensor._version`` (2.13.0)."""
    return tensor._version


@contextlib.contextmanager
def watching_operations(see: Callable[[str, tuple[Any, ...], Any], None]) -> Iterator[None]:
    """Inside, calls ``see`` with the name, the arguments and the result of each operation; None if it fails.

    It uses ``torch.utils._python_dispatch.TorchDispatchMode`` (2.13.0). The name is without the library, such as
    ``softmax``.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watching(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name, result = func.name().partition("::")[2].partition(".")[0], None
            try:
                result = func(*args, **(kwargs or {}))
            finally:
                see(name, args, result)
            return result

    with Watching():
        yield
