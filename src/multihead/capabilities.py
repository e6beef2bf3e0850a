"""What this machine has, and what it computes fast.

Tests replace functions of this module to force an answer. `multihead.training.precision` decides once for each run what
its numbers depend on, and records it with the run.
"""

from __future__ import annotations

import contextlib
import functools
import importlib.util
import json
import math
import os
import platform
import time
from pathlib import Path

from multihead.errors import ConfigError

GAIN = 1.25
"""Least speed of products in bfloat16, relative to float32, for which bfloat16 is used; casts take time too."""
ISA_LIMITS = ("ONEDNN_MAX_CPU_ISA", "DNNL_MAX_CPU_ISA")
"""Variables that hide instructions from oneDNN, which multiplies bfloat16 on CPUs."""
KEPT_KERNELS = "64"
"""Number of kernels that oneDNN keeps."""
THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS")
"""Variables by which a user sets the number of threads."""


# ---- devices


def device_counts() -> dict[str, int]:
    """The number of devices of each kind that a run can use, by Lightning's names, the best kind first.

    An Apple GPU (mps) is none of them: it has no float64, which metrics, beam search and sampling need.
    """
    import torch

    found = {}
    if importlib.util.find_spec("torch_xla"):
        from lightning.pytorch.accelerators import XLAAccelerator

        found |= {"tpu": 1} if XLAAccelerator.is_available() else {}
    if cuda := torch.cuda.device_count():
        found["cuda"] = cuda
    return found | {"cpu": 1}


def device_of(accelerator: str) -> str:
    """The kind of device that ``accelerator=`` means on this machine: tpu, cuda or cpu.

    Raises:
        ConfigError: If this machine has none.
    """
    if accelerator == "mps":
        what = "an Apple GPU has no float64, which metrics and beam search need"
        raise ConfigError("accelerator", what, "accelerator=cpu")
    found = device_counts()
    kind = {"auto": next(iter(found)), "gpu": "cuda"}.get(accelerator, accelerator)
    if kind in found:
        return kind
    listed = ", ".join(found)
    raise ConfigError("accelerator", f"no {accelerator} on this machine, which has: {listed}", "accelerator=auto")


# ---- processor


def processor_name() -> str:
    """Returns what the system calls the processor."""
    for line in _text(Path("/proc/cpuinfo")).splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()


def cores(root: Path = Path("/")) -> int:
    """The number of processor cores that this process may use, also by the limits of its container.

    Args:
        root: The folder of ``proc`` and ``sys``.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(allowed, *(math.ceil(quota) for quota in _quotas(root)), allowed))


def _quotas(root: Path) -> list[float]:
    """The cores that the control groups of this process allow, its own and those above, of both versions."""
    base, found = root / "sys/fs/cgroup", []
    groups = [line.split(":", 2) for line in _text(root / "proc/self/cgroup").splitlines() if line.count(":") >= 2]
    for _, controllers, path in groups or [["0", "", "/"]]:
        in_v1 = "cpu" in controllers.split(",")
        if controllers and not in_v1:
            continue
        own = Path(path.strip().lstrip("/"))
        for folder in dict.fromkeys([own, *own.parents]):
            if in_v1:
                quota, period = (_text(base / "cpu" / folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
            else:
                quota, _, period = _text(base / folder / "cpu.max").partition(" ")
            if quota.strip().isdigit() and period.strip().isdigit() and int(period):
                found.append(int(quota) / int(period))
    return found


def _text(path: Path) -> str:
    try:
        return path.read_text()
    except OSError:
        return ""


def cache_root() -> Path:
    """Returns the folder of what can be computed again: MULTIHEAD_CACHE, or ~/.cache/multihead."""
    folder = os.environ.get("MULTIHEAD_CACHE")
    return Path(folder) if folder else Path.home() / ".cache" / "multihead"


def limit_threads() -> None:
    """Limits PyTorch's threads to the number of `cores`, unless a variable of `THREADS` is set.

    PyTorch counts the cores of the machine. In a container that may use few of them, too many threads would wait for
    each other.
    """
    import torch

    if not any(os.environ.get(name) for name in THREADS) and torch.get_num_threads() > cores():
        torch.set_num_threads(cores())


def threads_per_rank(ranks: int) -> int:
    """The number of threads for each of several ranks on this machine's CPU."""
    import torch

    return max(1, min(torch.get_num_threads(), cores()) // ranks)


# ---- matrix products


@functools.cache
def has_onednn() -> bool:
    """Whether PyTorch can let oneDNN compute products in float32."""
    import torch

    from multihead import torch_private

    return torch.backends.mkldnn.is_available() and torch_private.has_onednn_linear()


def limit_kernel_caches() -> None:
    """Makes oneDNN, which computes on CPUs, keep fewer kernels. It has to be called before the first product.

    By default oneDNN keeps 1,024 kernels, one for each shape, with memory of its own. Batches of sentences have
    hundreds of shapes, so that in bfloat16 the memory of a run doubled over 200 steps.
    """
    for name in (
        "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
        "LRU_CACHE_CAPACITY",
    ):  # read by oneDNN, and by PyTorch's wrapper of it
        os.environ.setdefault(name, KEPT_KERNELS)


@functools.cache
def bf16_instructions() -> str:
    """Returns which instructions oneDNN uses to multiply bfloat16: amx, avx512, arm, or empty if there are none."""
    import torch

    from multihead import torch_private

    if not torch.backends.mkldnn.is_available() or not hasattr(torch.cpu, "get_capabilities"):
        return ""
    has, limit = torch.cpu.get_capabilities(), next((os.environ[v] for v in ISA_LIMITS if os.environ.get(v)), "ALL")
    limit = limit.upper()
    up_to_avx512 = limit in ("ALL", "DEFAULT") or "BF16" in limit or "FP16" in limit or limit.startswith("AVX10")
    if has.get("amx_bf16") and (limit in ("ALL", "DEFAULT") or "AMX" in limit) and torch_private.allow_amx():
        return "amx"
    if has.get("avx512_bf16") and (up_to_avx512 or "AMX" in limit):
        return "avx512"
    return "arm" if has.get("bf16") and has.get("architecture", "").lower() in ("arm64", "aarch64") else ""


def fast_bf16(device: str, *, measure: bool = True) -> bool:
    """Whether matrix products in bfloat16 are faster than in float32 on this device.

    For GPUs, for AMX, and for processors without instructions for bfloat16, the answer is certain. Other processors are
    measured, because AVX512-BF16 is faster than float32 on some and half as fast on others.

    Args:
        device: The type of a PyTorch device, for example cuda or cpu.
        measure: Whether to measure. False if several processes must come to the same answer; without a measurement an
            uncertain answer is no.
    """
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if device != "cpu" or not bf16_instructions():
        return False
    return bf16_instructions() == "amx" or (measure and bf16_gain("cpu") >= GAIN)


@functools.cache
def bf16_gain(device: str) -> float:
    """Returns the speed of products of matrices in bfloat16, relative to float32.

    A machine measures its processor once and keeps the answer in `cache_root`, for this processor and this PyTorch. So
    runs that begin later compute in the same numbers, however busy the machine is when they begin.
    """
    import torch

    if device != "cpu":
        return _measured_gain(device)
    limits = [os.environ.get(name, "") for name in ISA_LIMITS]
    key = "; ".join([processor_name(), f"torch {torch.__version__}", bf16_instructions(), *limits])
    known: dict[str, float] = {}
    with contextlib.suppress(OSError, RuntimeError, TypeError, ValueError):  # no file, a damaged one, or no home folder
        known = dict(json.loads((cache_root() / "bf16_gain.json").read_text()))
    if not isinstance(known.get(key), float):
        known[key] = round(_measured_gain(device), 3)
        with contextlib.suppress(OSError, RuntimeError):  # the machine lets nothing be kept
            path = cache_root() / "bf16_gain.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            written = path.with_name(f"{path.name}.{os.getpid()}")
            written.write_text(json.dumps(known, indent=1))
            written.replace(path)
    return known[key]


def _measured_gain(device: str) -> float:
    """Measures the speed of the three products of a linear layer in bfloat16, relative to float32. It takes some ms.

    A CPU is measured by one thread and its processor time, so that other work on the machine changes little.
    """
    import torch

    limit_kernel_caches()
    threads = torch.get_num_threads()
    clock = time.thread_time if device == "cpu" else time.perf_counter
    best: dict[torch.dtype, float] = {}
    pairs = {}
    for dtype in (torch.float32, torch.bfloat16):
        pairs[dtype] = [torch.ones(rows, 256, device=device, dtype=dtype) for rows in (128, 256)]
    try:
        torch.set_num_threads(1)
        for _ in range(6):  # the least of each counts; the first round creates the kernels
            for dtype, (x, weight) in pairs.items():
                began = clock()
                y = x @ weight.T
                (y @ weight)[0, 0].item()  # waits for the device
                (y.T @ x)[0, 0].item()
                best[dtype] = min(best.get(dtype, math.inf), clock() - began)
    finally:
        torch.set_num_threads(threads)
    return best[torch.float32] / best[torch.bfloat16]
