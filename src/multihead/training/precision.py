"""Decides in which precision a run computes, once, before the run directory is written.

``precision=auto`` and ``optim.muon_dtype=auto`` are replaced by the precision that this device multiplies fast. The
configuration then holds that value, so config.yaml, checkpoints, ranks and profiles all see the same one. A resumed run
keeps it, even on another machine.
"""

from __future__ import annotations

import logging

from multihead import capabilities
from multihead.config.merge import Composition
from multihead.config.training import Config
from multihead.ranks import by_others, local_size

log = logging.getLogger("multihead")

INSTRUCTIONS = {"amx": "AMX", "avx512": "AVX512-BF16", "arm": "Arm's bfloat16 instructions"}
"""Name of a processor's bfloat16 instructions in `capabilities` to their name in messages."""


def settle(composition: Composition) -> list[str]:
    """Replaces ``auto`` in the configuration by the value that suits the device.

    Returns:
        The lines that the log should show about these values.

    Raises:
        ConfigError: This machine has no device of the configured kind.
    """
    config, notes = composition.config, []
    device = capabilities.device_of(config.accelerator)
    measure = not by_others()  # ranks that another program started cannot agree on a measurement
    if config.precision == "auto":
        fast = capabilities.fast_bf16(device, measure=measure)
        composition.put("precision", "bf16-mixed" if fast else "32-true")
        notes.append(f"precision auto is {config.precision} here: {_reason(device, fast, measure)}")
    if config.precision == "16-mixed" and device == "cpu":  # PyTorch's loss scaling is for GPUs
        fast = capabilities.fast_bf16(device, measure=measure)
        composition.put("precision", "bf16-mixed" if fast else "32-true")
        notes.append(f"precision 16-mixed is for GPUs; a CPU computes in {config.precision} instead")
    if config.optim.name == "muon" and config.optim.muon_dtype == "auto":
        fast = capabilities.fast_bf16(device, measure=measure)
        composition.put("optim.muon_dtype", "bfloat16" if fast else "float32")
    return notes


def _reason(device: str, fast: bool, measured: bool) -> str:
    if device == "cuda":
        return f"the GPU {'multiplies' if fast else 'does not multiply'} bfloat16 natively"
    if device != "cpu":
        return f"bfloat16 was not tried on {device}"
    known = capabilities.bf16_instructions()
    if not known:
        return "the processor has no instructions that multiply bfloat16, or oneDNN may not use them"
    if known == "amx":
        return "the processor multiplies bfloat16 natively (AMX)"
    if not measured:
        return f"the processor has {INSTRUCTIONS[known]}, but ranks that torchrun or srun started do not measure it"
    gain = capabilities.bf16_gain(device)
    return f"with {INSTRUCTIONS[known]}, matrix products in bfloat16 are {gain:.1f} times as fast as in float32"


def cautions(config: Config) -> list[str]:
    """Returns warnings about settings that make the run slower on this machine than other settings would."""
    return [line for line in (_slow_bf16(config), _many_threads(config)) if line]


def _slow_bf16(config: Config) -> str:
    """Returns a warning if bfloat16 is slower than float32 on the run's device, which is measured if it is unknown."""
    device = capabilities.device_of(config.accelerator)
    if not config.precision.startswith("bf16") or capabilities.fast_bf16(device, measure=not by_others()):
        return ""
    gain = capabilities.bf16_gain("xla" if device == "tpu" else device)
    if gain >= 1:
        return ""
    what = f"matrix products in bfloat16 take {1 / gain:.1f} times as long as in float32 on this {device.upper()}"
    return f"precision {config.precision}: {what}; precision=32-true is faster"


def _many_threads(config: Config) -> str:
    import torch

    threads, ranks, cores = torch.get_num_threads(), max(1, local_size()), capabilities.cores()
    if threads * ranks <= cores or capabilities.device_of(config.accelerator) != "cpu":
        return ""
    of = f"{ranks} processes of {threads} threads each" if ranks > 1 else f"{threads} threads"
    many = f"{cores} processor core{'s' * (cores > 1)}"
    if threads == 1:
        return f"{of.removesuffix(' of 1 threads each')} share {many}; devices={cores} is as fast"
    return f"{of} share {many}; the environment variable OMP_NUM_THREADS={max(1, cores // ranks)} is faster"
