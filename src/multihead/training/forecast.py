"""Forecasts what a run will take before it starts (``plan=true``).

It measures a few steps in a temporary folder and leaves nothing behind.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import itertools
import logging
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from multihead.capabilities import device_of
from multihead.config.compose import Composition
from multihead.config.plugin_notes import notes_on as plugin_notes
from multihead.data.encode import Encoded
from multihead.errors import MachineError
from multihead.training.launch import local_ranks
from multihead.training.precision import cautions, settle

if TYPE_CHECKING:
    from multihead.data.prepare import Prepared
    from multihead.tasks.base import Task

log = logging.getLogger("multihead")

STEPS, WARM_UP = 16, 4
"""Number of steps that are run, and how many of the first ones the measurement leaves out."""
DECODED = 48
"""Largest number of texts that are decoded to measure the time of one."""


def plan(composition: Composition, quiet: bool = False) -> dict[str, Any]:
    """Shows parameters, memory, operations, steps, disk and time of a run; returns them as one flat dict.

    Args:
        composition: The configuration of the run.
        quiet: Shows nothing.

    Raises:
        MachineError: The run does not fit into the free memory.
    """
    from multihead.runs.console import open_log

    found, notes, ranks = measure(composition)
    with contextlib.closing(open_log(None, quiet=quiet)):
        for note in notes:
            log.info("%s", note)
        _show(found, ranks)
    return found


def measure(composition: Composition) -> tuple[dict[str, Any], list[str], int]:
    """Measures a few steps of a run without showing anything.

    Returns:
        What the run will take, notes about it, and its number of ranks on this machine.

    Raises:
        MachineError: The run does not fit into the free memory.
    """
    began = time.monotonic()  # the time of the start includes importing Lightning
    from multihead.runs.noise import quiet_lightning
    from multihead.training.build import starting

    quiet_lightning()
    ranks = max(1, local_ranks(composition.config))
    notes = [*settle(composition), *plugin_notes(composition.config), *cautions(composition.config)]
    prepared, _ = starting(composition)
    found = _counted(composition, prepared, ranks)
    found |= _measured(composition, prepared, ranks, began)
    if _is_sharded(composition.config, ranks):  # one process without sharding was measured
        shared = sum(found.get(f"memory/{name}", 0) for name in ("gradients", "optimizer", "averaged weights"))
        found["memory"] -= (ranks - 1) * shared * (1 if _on_gpu(composition.config) else ranks)
    _require_memory(found, ranks, composition.config)
    return found, notes, ranks


def _counted(composition: Composition, prepared: Prepared, ranks: int) -> dict[str, Any]:
    """Counts what follows from the configuration, without allocating the model.

    Raises:
        MachineError: The weights and what belongs to them do not fit into the free memory.
    """
    import torch

    from multihead.tasks import build_task
    from multihead.training.build import choose_trained
    from multihead.training.cost import available_memory, bytes_by_part, least_activations, parameters_by_part

    config = composition.config
    with torch.device("meta"):
        task = build_task(config, prepared.vocab, composition.plugin)
        choose_trained(task, config)
        groups = task.configure_optimizers(composition.plugin)["optimizer"].param_groups
        parts, kept = parameters_by_part(task.model), bytes_by_part(task.model, config, groups)
    checkpoint = sum(size for name, size in kept.items() if name != "gradients")
    on_gpu, weights, temporary = _on_gpu(config), kept["weights"], least_activations(config)
    if _is_sharded(config, ranks):
        kept = {name: -(-size // ranks) for name, size in kept.items()}
        temporary = max(temporary, weights)
    needed = sum(kept.values()) + temporary
    total, free = needed * (1 if on_gpu else ranks), available_memory(on_gpu)
    if total > free:
        listed = ", ".join(f"{name} {_gigabytes(size)}" for name, size in kept.items())
        what = f"the run needs at least {_gigabytes(total)} ({listed}), but only {_gigabytes(free)} are free"
        fix = "a smaller model or data.part_tokens, or precision=bf16-true"
        raise MachineError("memory", what, fix)
    gathered = {"memory/weights gathered for validation": weights} if _is_sharded(config, ranks) else {}
    return {
        "parameters": sum(parts.values()),
        **{f"parameters/{name}": count for name, count in parts.items() if count},
        **{f"memory/{name}": size for name, size in kept.items() if size},
        **gathered,
        "disk/checkpoint": checkpoint,
        "disk/run": checkpoint * (config.trainer.keep_checkpoints + 1) + weights,
    }


def _require_memory(found: dict[str, Any], ranks: int, config: Any) -> None:
    """Checks that the memory of the measured steps, for all ranks, fits into what is free or held by this process.

    Raises:
        MachineError: It does not fit.
    """
    from multihead.training.cost import available_memory, resident_memory

    if _on_gpu(config):  # each rank has its own device, and the steps ran on one
        return
    free = available_memory(False) + resident_memory()
    if found["memory"] > free:
        named, taken = f"{ranks} rank{'s' * (ranks > 1)}", _gigabytes(found["memory"])
        what = f"{named} would need {taken}, but only {_gigabytes(free)} are free"
        raise MachineError("memory", what, "fewer devices, a smaller data.part_tokens, or a smaller model")


def _measured(composition: Composition, prepared: Prepared, ranks: int, began: float) -> dict[str, Any]:
    """Measures a few steps, one validation and some decoding, and extrapolates to the whole run."""
    from multihead.tasks.lightning_module import TaskModule
    from multihead.training.build import build_trainer, join
    from multihead.training.cost import kept_for_backward, peak_memory, resident_memory
    from multihead.training.steps import Steps

    config, process = composition.config, resident_memory()
    short = dataclasses.replace(composition, config=_short(config, prepared))
    with tempfile.TemporaryDirectory(prefix="multihead-plan-") as folder:
        task, data = join(short, prepared, 1)
        clock = _Clock()
        steps = Steps(Path(folder), data, short.config, events=clock.event, is_temporary=True)
        trainer = build_trainer(short, steps, [], [clock.callback()])
        _reset_peak()
        with steps.signals.caught():
            trainer.fit(TaskModule(task, composition.plugin), datamodule=data)
        peak = _peak_since_reset() or peak_memory(task.device)
        one, texts = _decoding(task)
        task.train()
        with trainer.precision_plugin.train_step_context():
            micro_batch = trainer.strategy.batch_to_device(next(data.batches_of((0, 0))))
            activations, flops = kept_for_backward(task, micro_batch)
    plan, trained = data.plan, config.trainer
    sample = list(itertools.islice(plan.steps(0), 50))
    tokens = sum(step.tokens for step in sample) / len(sample)
    micro_batches = len(list(data.batches_of((0, 0))))
    loss_pass = max(0.0, clock.seconds("validating", "validated") - one * texts["measured"])
    limit = trained.limit_val_examples or texts["val"]
    validation = loss_pass + one * min(limit, texts["val"])
    test = loss_pass * texts["test_to_val"] + one * texts["test"]
    often = -(-trained.max_steps // trained.val_every_n_steps)
    saves = clock.seconds("saving", "saved") * (-(-trained.max_steps // trained.checkpoint_every_n_steps))
    training = clock.step() * trained.max_steps / ranks
    start = clock.events["started"] - began
    return {
        "memory/activations of a micro-batch": activations,
        "memory/process": process,
        "memory": peak * (ranks if task.device.type == "cpu" else 1),
        "flops_per_step": flops * micro_batches,
        "tokens_per_step": tokens,
        "padding": plan.padding(micro_batches),
        "steps": trained.max_steps,
        "epochs": trained.max_steps / plan.num_steps(0),
        "tokens": int(tokens * trained.max_steps),
        "seconds/start": start,
        "seconds/training": training,
        "seconds/validation": validation * often,
        "seconds/test": test,
        "seconds/saving": saves,
        "seconds": start + training + validation * often + test + saves,
        "tokens_per_second": tokens * trained.max_steps / training,
    }


def _short(config: Any, prepared: Prepared) -> Any:
    """Returns the configuration of the measured steps: one device, and one validation at the end with few texts."""
    short = copy.deepcopy(config)
    short.devices, short.num_nodes, short.strategy, short.logger = "1", 1, "auto", "none"
    steps = max(2, min(STEPS, config.trainer.max_steps))  # the time of a step is that between two ends
    short.trainer.max_steps = short.trainer.val_every_n_steps = short.trainer.checkpoint_every_n_steps = steps
    short.trainer.limit_val_examples = min(DECODED, config.trainer.limit_val_examples or DECODED)
    short.trainer.early_stopping_patience, short.trainer.max_time, short.trainer.average_last_steps = 0, "", 0
    short.trainer.ema_decay = min(0.1, config.trainer.ema_decay)  # as long a step; a few steps would average nothing
    short.decoding.max_new_tokens = _usual_length(prepared)
    short.decoding.min_new_tokens = short.decoding.max_new_tokens  # an untrained model does not know when to stop
    return short


def _usual_length(prepared: Prepared) -> int:
    """Returns the length of a long reference in tokens: a batch is decoded until its longest outputs end."""
    import numpy as np

    lengths = [
        encoded["val"].lengths("target")
        for encoded in prepared.encoded.values()
        if isinstance(encoded["val"], Encoded) and "target" in encoded["val"].roles
    ]
    return max(1, int(np.percentile(np.concatenate(lengths), 90))) if lengths else 16


def _decoding(task: Task) -> tuple[float, dict[str, float]]:
    """Measures decoding.

    Returns:
        The seconds that one text takes; and how many texts the measured validation decodes (``measured``), a whole
        validation (``val``) and the test (``test``), with the ratio of the two splits' sizes (``test_to_val``).
    """
    config, measured, seconds = task.config, 0, 0.0
    counts = {"val": 0, "test": 0}
    sizes = {"val": 0, "test": 0}
    for member in task.members().values():
        for split in counts:
            texts = member.evaluation.texts.get(split, {})
            sizes[split] += len(next(iter(texts.values()))) if texts else len(member.evaluation.streams.get(split, ()))
            if "source" in texts:
                counts[split] += len(texts["source"])
        if "source" in member.evaluation.texts.get("val", {}):
            some = list(member.evaluation.texts["val"]["source"][:DECODED])
            began = time.monotonic()
            member.predict(some, config.decoding)
            seconds, measured = seconds + time.monotonic() - began, measured + len(some)
    ratio = sizes["test"] / max(1, sizes["val"])
    return seconds / max(1, measured), {"measured": measured, **counts, "test_to_val": ratio}


class _Clock:
    """Records when steps ended and when events happened."""

    def __init__(self) -> None:
        self.ends: list[float] = []
        self.events: dict[str, float] = {}

    def event(self, name: str, **fields: Any) -> None:
        """Records the time of an event; `Steps` calls it."""
        self.events.setdefault(name, time.monotonic())

    def callback(self) -> Any:
        """Returns a callback that records the end of each step."""
        import lightning as L

        ends = self.ends

        class Ends(L.Callback):
            def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
                if (batch_idx + 1) % trainer.accumulate_grad_batches == 0:
                    ends.append(time.monotonic())

        return Ends()

    def step(self) -> float:
        """Returns the mean seconds of a step, without the first steps."""
        counted = self.ends[min(WARM_UP, (len(self.ends) - 1) // 2) :]
        return (counted[-1] - counted[0]) / max(1, len(counted) - 1)

    def seconds(self, first: str, last: str) -> float:
        """Returns the seconds between two events, or 0 if one of them did not happen."""
        return self.events[last] - self.events[first] if first in self.events and last in self.events else 0.0


def _reset_peak() -> None:
    """Resets the peak of this process's memory, which Linux counts, and that of the GPU, which torch counts."""
    import torch

    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def _peak_since_reset() -> int:
    import torch

    if torch.cuda.is_initialized():
        return torch.cuda.max_memory_allocated()
    with contextlib.suppress(OSError):
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0


def _show(found: dict[str, Any], ranks: int) -> None:
    from multihead.runs.tables import duration, plain_table

    def rows(prefix: str, form: Any) -> list[list[str]]:
        listed = [(name.partition("/")[2], v) for name, v in found.items() if name.startswith(f"{prefix}/")]
        return [[name, form(value)] for name, value in listed]

    parameters = [*rows("parameters", lambda count: f"{count:,}"), ["all", f"{found['parameters']:,}"]]
    memory = [*rows("memory", _gigabytes), [f"peak, {ranks} rank{'s' * (ranks > 1)}", _gigabytes(found["memory"])]]
    work = [
        ["target tokens of a step", f"{found['tokens_per_step']:,.0f}"],
        ["operations of a step", f"{found['flops_per_step'] / 1e9:,.1f} GFLOP"],
        ["padding", f"{found['padding']:.1%}"],
        ["steps", f"{found['steps']:,}"],
        ["epochs", f"{found['epochs']:.1f}"],
        ["target tokens", f"{found['tokens']:,}"],
    ]
    seconds = [*rows("seconds", duration), ["all", duration(found["seconds"])]]
    disk = rows("disk", _gigabytes)
    sections = {"parameters": parameters, "memory": memory, "work": work, "disk": disk, "time": seconds}
    body = [
        [title if place == 0 else "", *row] for title, listed in sections.items() for place, row in enumerate(listed)
    ]
    log.info("", extra={"renderable": plain_table("forecast, from a few measured steps", [["", "", ""], *body])})


def _is_sharded(config: Any, ranks: int) -> bool:
    """Whether each rank holds only its share of weights, gradients and moments."""
    return config.strategy == "fsdp" and ranks > 1


def _on_gpu(config: Any) -> bool:
    return device_of(config.accelerator) == "cuda"


def _gigabytes(size: float) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e8 else f"{size / 1e6:.2f} MB"
