"""Measures where the time of a training step and of decoding goes, and the floor: the least time of a step.

``debug=profile`` turns it on. At every moment the time counts for exactly one part of the step, so that the parts sum
to the whole. Lightning names what its loop is doing (`lightning.pytorch.profilers.Profiler`). Hooks on modules divide
the forward pass. The instrument only reads clocks, so the run computes the same numbers. On a GPU each reading waits
for the device.
"""

from __future__ import annotations

import contextlib
import dataclasses
import statistics
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from lightning.pytorch.profilers import Profiler
from torch import nn

from multihead.model.cache import Cache
from multihead.model.transformer import Layer, Stack
from multihead.training import lightning_private
from multihead.training.cost import (
    OF_LAYERS,
    OPTIMIZER,
    OUTPUT,
    Product,
    bytes_by_part,
    bytes_moved,
    optimizer_products,
    products,
)

if TYPE_CHECKING:
    import lightning as L

    from multihead.tasks.base import Task
    from multihead.training.steps import Steps

DATA = "waiting for data"
EMBEDDING = "embedding, positions, masks"
NORMS = "norms, dropout, residuals"
BACKWARD = "backward"
CLIPPING = "gradient norm and clipping"
LOOP = "Lightning's loop"
FORWARD = (EMBEDDING, *OF_LAYERS.values(), NORMS, OUTPUT)
INSIDE = (DATA, *FORWARD, BACKWARD, CLIPPING, OPTIMIZER)
"""The parts of a step. `LOOP` and the callbacks run between two steps."""
ACTIONS = {
    "train_dataloader_next": DATA,
    "batch_to_device": DATA,
    "training_step": OUTPUT,  # all of it except the modules that have hooks
    "backward": BACKWARD,
    "configure_gradient_clipping": CLIPPING,
    "optimizer_zero_grad": OPTIMIZER,
}
"""The last word of the action that Lightning names, to the part of a step for which its time counts."""
ENCODE = "encoder"
DECODE = "decoder steps"
LOG_PROBS = "output layer and log-softmax"
REORDER = "reordering caches"
CHOOSE = "choosing tokens"
TEXT = "tokenising and detokenising"
DECODING = (ENCODE, DECODE, LOG_PROBS, CHOOSE, REORDER, TEXT)
TEXTS = 64
"""Number of texts that the profile decodes."""
SECONDS = 0.3
"""Seconds for which each measurement of the machine lasts."""


class Stopwatch:
    """Measures the time of each part. The time of a part inside another does not count for the outer one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = defaultdict(float)
        self.parts = [LOOP]
        self.running = False
        self._mark = 0.0

    def now(self) -> float:
        """Returns the time in seconds, after it has waited for a GPU to finish all its work."""
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return time.perf_counter()

    def start(self, part: str) -> None:
        """From now on, time counts for ``part``, until `stop` is called."""
        self._read()
        self.parts.append(part)

    def stop(self) -> None:
        """From now on, time counts for the part around this one again."""
        self._read()
        self.parts.pop()

    def switch(self, part: str) -> None:
        """From now on, time counts for ``part`` instead of the current one."""
        self._read()
        self.parts[-1] = part

    def reset(self, running: bool) -> dict[str, float]:
        """Returns the seconds of all parts since the last reset, and starts again from zero.

        Args:
            running: Whether time is measured from now on; if not, only the current part is remembered.
        """
        self._read()
        found, self.seconds = dict(self.seconds), defaultdict(float)
        self.running, self._mark = running, self.now()
        return found

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Inside this context, time counts for the part of this name."""
        self.start(name)
        try:
            yield
        finally:
            self.stop()

    def _read(self) -> None:
        if self.running:
            now = self.now()
            self.seconds[self.parts[-1]] += now - self._mark
            self._mark = now


@dataclasses.dataclass
class Measured:
    """The measurement of one step."""

    position: tuple[int, int]
    """The epoch, and the step's number in this epoch."""
    seconds: float
    """Seconds from the step's first batch to the first batch of the next step."""
    tokens: int
    """Number of the step's real target tokens."""
    parts: dict[str, float]
    """Seconds of each part; it is empty if the instrument was off."""


class StepProfiler(Profiler):
    """Measures the steps of a run before its last one, alternately with the instrument on and off.

    In the second half the alternation is reversed. So what happens every few steps happens under both.

    Args:
        steps: The callback that runs between the steps of the run.
    """

    def __init__(self, steps: Steps):
        super().__init__()
        self.steps = steps
        self.stopwatch = Stopwatch()
        self.measured: list[Measured] = []
        self._hooks: list[Any] = []
        self._begun: tuple[int, float, tuple[int, int], int] | None = None

    def start(self, action_name: str) -> None:
        if action_name == "[_TrainingEpochLoop].train_dataloader_next":
            self._between_steps(lightning_private.trainer_of(self))
        self.stopwatch.start(self._part(action_name))

    def stop(self, action_name: str) -> None:
        self.stopwatch.stop()
        if self._hooks and action_name.endswith(".configure_gradient_clipping"):
            self.stopwatch.switch(OPTIMIZER)  # its closure has returned, and it updates the weights

    def _part(self, action: str) -> str:
        kind, _, hook = action.rpartition(".")
        if kind.startswith("[Callback]"):
            return f"callback {kind.removeprefix('[Callback]').partition('{')[0]}"
        return ACTIONS.get(hook, self.stopwatch.parts[-1])

    def _between_steps(self, trainer: L.Trainer) -> None:
        """At the first batch of a step, records the previous step and prepares the instrument for this one."""
        step = trainer.global_step
        if self._begun is not None and self._begun[0] == step:
            return  # a further batch of the same step
        module, count = trainer.lightning_module, self.steps.config.profile_steps
        now = self.stopwatch.now()
        parts = self.stopwatch.reset(False)
        for hook in self._hooks:
            hook.remove()
        if self._begun is not None:
            _, began, position, tokens = self._begun
            trained = self.steps.counters.trained_tokens - tokens
            self.measured.append(Measured(position, now - began, trained, parts if self._hooks else {}))
        self._hooks, self._begun = [], None
        place = step - (self.steps.config.max_steps - 1 - 2 * count)
        if not 0 <= place < 2 * count:
            return
        if (place % count % 2 == 0) == (place < count):
            self._hooks = [*watch(self.stopwatch, module), self._watch_optimizer(trainer.optimizers[0])]
            self.stopwatch.reset(True)
        position = self.steps.counters.position
        self._begun = (step, self.stopwatch.now(), position, self.steps.counters.trained_tokens)

    def _watch_optimizer(self, optimizer: torch.optim.Optimizer) -> Any:
        return optimizer.register_step_post_hook(lambda *arguments: self.stopwatch.switch(LOOP))


def watch(stopwatch: Stopwatch, task: nn.Module) -> list[Any]:
    """Adds hooks that time the parts of the forward pass in training, and returns them; the caller removes them."""
    hooks = []
    for name, module in task.named_modules():
        last = name.rpartition(".")[2]
        if isinstance(module, Stack):
            part = EMBEDDING
        elif isinstance(module, Layer):
            part = NORMS
        elif last in OF_LAYERS:
            part = OF_LAYERS[last]
        elif last == "norm" and ".layers." not in name:
            part = NORMS
        else:
            continue
        hooks += timed_module(stopwatch, module, part)
    return hooks


def timed_module(stopwatch: Stopwatch, module: nn.Module, part: str) -> list[Any]:
    """Adds hooks so that the module's forward pass counts for ``part``, and returns them.

    If a backward pass computes the forward pass again, the time counts for the backward pass.
    """

    def before(module: nn.Module, inputs: Any) -> None:
        stopwatch.start(BACKWARD if BACKWARD in stopwatch.parts else part)

    def after(module: nn.Module, inputs: Any, output: Any) -> None:
        stopwatch.stop()

    return [module.register_forward_pre_hook(before), module.register_forward_hook(after)]


# ---- the report


def report(trainer: L.Trainer, task: Task) -> dict[str, Any]:
    """Returns the measurements as plain data: ``step``, ``floor``, and ``decoding`` of each task that generates."""
    config, profiler = task.config, _profiler_of(trainer)
    data = profiler.steps.data
    on = [step for step in profiler.measured if step.parts]
    off = [step for step in profiler.measured if not step.parts]
    whole = statistics.fmean(step.seconds for step in on)
    names = dict.fromkeys([*INSIDE, LOOP, *(name for step in on for name in step.parts)])
    parts = {name: statistics.fmean(step.parts.get(name, 0.0) for step in on) for name in names}
    parts = {name: seconds for name, seconds in parts.items() if seconds}
    padding = data.plan.padding(data.accumulation(1))
    floor, operations = _floor(trainer, task, [step.position for step in on])
    rows = {
        name: {
            "ms": 1e3 * seconds,
            "share": seconds / sum(parts.values()),
            "operations": operations.get(name, 0),
            "operations_per_second": operations.get(name, 0) / seconds,
        }
        for name, seconds in parts.items()
    }
    plain = statistics.fmean(step.seconds for step in off)
    floor |= {"measured_over_floor": plain / (floor["ms"] / 1e3)}
    pace = statistics.median(step.seconds for step in on) / statistics.median(step.seconds for step in off)
    return {
        "task": config.task.name,
        "device": str(task.device),
        "threads": torch.get_num_threads(),
        "precision": config.precision,
        "parameters": sum(p.numel() for p in task.parameters()),
        "step": {
            "measured": len(on),
            "ms": 1e3 * whole,
            "ms_without_instrument": 1e3 * plain,
            "instrument": pace - 1,
            "parts": rows,
            "tokens": statistics.fmean(step.tokens for step in off),
            "tokens_per_second": sum(step.tokens for step in off) / sum(step.seconds for step in off),
            "padding": padding,
        },
        "floor": floor,
        "decoding": {name: found for name, member in task.members().items() if (found := decoding(member))},
    }


def _profiler_of(trainer: L.Trainer) -> StepProfiler:
    profiler = lightning_private.profiler_of(trainer)
    assert isinstance(profiler, StepProfiler)
    return profiler


def _floor(
    trainer: L.Trainer, task: Task, positions: Sequence[tuple[int, int]]
) -> tuple[dict[str, Any], dict[str, float]]:
    """Returns the least time of a step on this machine, and the operations of each part of the step."""
    data = _profiler_of(trainer).steps.data
    groups = trainer.optimizers[0].param_groups
    update = optimizer_products(groups)
    task.train()
    steps = []
    for position in positions:
        forward, backward = [], []
        for micro_batch in data.batches_of(position):
            with trainer.precision_plugin.train_step_context():
                found = products(task, trainer.strategy.batch_to_device(micro_batch))
            forward += found[0]
            backward += found[1]
        steps.append((forward, backward))
    operations = dict.fromkeys((*FORWARD, BACKWARD), 0.0) | {OPTIMIZER: _operations(update)}
    for forward, backward in steps:
        for product in forward:
            operations[product.kind] += product.operations / len(steps)
        operations[BACKWARD] += sum(product.operations for product in backward) / len(steps)
    total = sum(operations.values())
    usual = sorted((forward + backward for forward, backward in steps), key=_operations)[len(steps) // 2] + update
    dtype = dtype_of(str(trainer.precision))
    best = matmul_rate(task.device, dtype)
    own = own_rate(usual, task.device, dtype)
    moved, bandwidth = bytes_moved(bytes_by_part(task.model, task.config, groups)), copy_bandwidth(task.device)
    floor = {
        "operations": total,
        "bytes": moved,
        "best_operations_per_second": best,
        "own_shapes_operations_per_second": own,
        "bytes_per_second": bandwidth,
        "ms": 1e3 * (total / best + moved / bandwidth),
        "ms_own_shapes": 1e3 * (total / own + moved / bandwidth),
    }
    return floor, operations


def _operations(found: Sequence[Product]) -> int:
    return sum(product.operations for product in found)


def dtype_of(precision: str) -> torch.dtype:
    """Returns the dtype in which matrices are multiplied."""
    halves = {"bf16": torch.bfloat16, "16": torch.float16, "64": torch.float64}
    return halves.get(precision.partition("-")[0], torch.float32)


def matmul_rate(device: torch.device, dtype: torch.dtype) -> float:
    """Returns the operations per second of a product of square matrices that are large enough to be fastest."""
    size = 8192 if device.type == "cuda" else 1024
    product = Product("", 1, size, size, size)
    return product.operations / seconds_of(product, device, dtype, SECONDS)


def own_rate(found: Sequence[Product], device: torch.device, dtype: torch.dtype) -> float:
    """Returns the operations per second of these products one after the other, each as often as it occurs."""
    often = Counter(dataclasses.replace(product, kind="") for product in found)
    return _operations(found) / sum(count * seconds_of(one, device, dtype, 0.01) for one, count in often.items())


def seconds_of(product: Product, device: torch.device, dtype: torch.dtype, seconds: float) -> float:
    """Returns the least time of a product, which is repeated for ``seconds``, and at least three times."""
    shape = (product.count,) if product.count > 1 else ()
    first = torch.ones(*shape, product.rows, product.inner, device=device, dtype=dtype)
    second = torch.ones(*shape, product.inner, product.columns, device=device, dtype=dtype)
    out = first @ second
    return _least(lambda: torch.matmul(first, second, out=out), seconds)


def copy_bandwidth(device: torch.device) -> float:
    """Returns the bytes per second, read and written, of a copy that is too large for the caches."""
    count = 2**28 if device.type == "cuda" else 2**25
    source = torch.ones(count, device=device)
    target = torch.empty_like(source)
    return 2 * source.nbytes / _least(lambda: target.copy_(source), SECONDS)


def _least(work: Callable[[], Any], seconds: float) -> float:
    stopwatch, times = Stopwatch(), []
    work()
    began = stopwatch.now()
    while len(times) < 3 or stopwatch.now() - began < seconds:
        start = stopwatch.now()
        work()
        times.append(stopwatch.now() - start)
    return min(times)


# ---- decoding


def decoding(task: Task) -> dict[str, Any]:
    """Measures the parts of decoding on texts of the validation split; empty if the task generates nothing.

    All outputs get about the length of their references, because the model has hardly learned when to stop.
    """
    texts = list(task.prompts_of("val"))[:TEXTS]
    if not texts:
        return {}
    length = _usual_length(task, len(texts))
    config = dataclasses.replace(task.config.decoding, min_new_tokens=0, max_new_tokens=length)
    config = dataclasses.replace(config, min_new_tokens=length)
    task.eval()
    task.predict(texts, config)
    stopwatch, rows = Stopwatch(), []
    began = time.perf_counter()
    with _watching(stopwatch, task, rows):
        stopwatch.parts = [CHOOSE]
        stopwatch.reset(True)
        task.predict(texts, config)
        parts = stopwatch.reset(False)
    whole = time.perf_counter() - began
    seconds = sum(parts.values())
    return {
        "texts": len(texts),
        "beams": config.num_beams,
        "new_tokens": length,
        "seconds": whole,
        "texts_per_second": len(texts) / whole,
        "tokens_per_second": sum(rows) / config.num_beams / whole,
        "mean_rows": statistics.fmean(rows),
        "parts": {
            name: {"ms": 1e3 * parts[name], "share": parts[name] / seconds} for name in DECODING if name in parts
        },
    }


def _usual_length(task: Task, count: int) -> int:
    references = task.evaluation.texts.get("val", {}).get("target")
    if references is None:
        return task.config.decoding.max_new_tokens or 64
    rows = task.tokenizers["target"].encode_batch(list(references[:count]))
    return round(statistics.fmean(len(row) + 1 for row in rows))


@contextlib.contextmanager
def _watching(stopwatch: Stopwatch, task: Task, rows: list[int]) -> Iterator[None]:
    """Inside this context the parts of decoding are timed; ``rows`` gets the batch size of each decoder call."""
    transformer, tokenizer = task.model.transformer, type(next(iter(task.tokenizers.values())))
    assert transformer.decoder is not None
    hooks = timed_module(stopwatch, task.model.head, LOG_PROBS)
    hooks += timed_module(stopwatch, transformer.decoder, DECODE)
    hooks.append(transformer.decoder.register_forward_pre_hook(lambda module, inputs: rows.append(len(inputs[0]))))
    if transformer.encoder is not None:
        hooks += timed_module(stopwatch, transformer.encoder, ENCODE)
    with contextlib.ExitStack() as stack:
        for hook in hooks:
            stack.callback(hook.remove)
        stack.enter_context(_timed(stopwatch, torch, "log_softmax", LOG_PROBS))
        stack.enter_context(_timed(stopwatch, Cache, "select", REORDER))
        stack.enter_context(_timed(stopwatch, tokenizer, "encode_batch", TEXT))
        stack.enter_context(_timed(stopwatch, tokenizer, "decode_batch", TEXT))
        yield


@contextlib.contextmanager
def _timed(stopwatch: Stopwatch, owner: Any, name: str, part: str) -> Iterator[None]:
    """Inside this context, calls of the function ``name`` of ``owner`` count for ``part``."""
    function = getattr(owner, name)

    def timed(*arguments: Any, **options: Any) -> Any:
        with stopwatch.part(part):
            return function(*arguments, **options)

    setattr(owner, name, timed)
    try:
        yield
    finally:
        setattr(owner, name, function)


# ---- for people


def tables(found: Mapping[str, Any]) -> dict[str, list[list[str]]]:
    """Returns the report as tables by title; the first row of each table is its head."""
    step, floor = found["step"], found["floor"]
    head = ["part of a step", "ms", "share", "GFLOP", "GFLOP/s"]
    rows = []
    for name, part in step["parts"].items():
        counted = [f"{part['operations'] / 1e9:.2f}", f"{part['operations_per_second'] / 1e9:,.0f}"]
        rows.append([name, f"{part['ms']:.2f}", f"{part['share']:.1%}", *(counted if part["operations"] else ["", ""])])
    total = floor["operations"]
    whole = ["all", f"{step['ms']:.2f}", "100.0%", f"{total / 1e9:.2f}", f"{total / step['ms'] / 1e6:,.0f}"]
    title = f"where a step's time goes: {step['measured']} steps, {found['precision']}, {found['device']}"
    shown = {title: [head, *rows, whole], "a step and its floor": _floor_rows(step, floor)}
    for name, part in found["decoding"].items():
        shown[f"decoding: {part['texts']} texts, {part['beams']} beams, {name}"] = _decoding_rows(part)
    return shown


def _floor_rows(step: Mapping[str, Any], floor: Mapping[str, Any]) -> list[list[str]]:
    best, own = (floor[f"{name}_operations_per_second"] / 1e9 for name in ("best", "own_shapes"))
    return [
        ["", ""],
        ["operations of the matrix products", f"{floor['operations'] / 1e9:.2f} GFLOP"],
        ["bytes of weights, gradients, optimizer", f"{floor['bytes'] / 1e6:,.1f} MB"],
        ["this machine: large matrices", f"{best:,.0f} GFLOP/s"],
        ["this machine: matrices of these shapes", f"{own:,.0f} GFLOP/s"],
        ["this machine: copying", f"{floor['bytes_per_second'] / 1e9:,.1f} GB/s"],
        ["floor: products at the best rate, and bytes", f"{floor['ms']:.2f} ms"],
        ["floor with matrices of these shapes", f"{floor['ms_own_shapes']:.2f} ms"],
        ["a step without the instrument", f"{step['ms_without_instrument']:.2f} ms"],
        ["measured time / floor", f"{floor['measured_over_floor']:.2f}"],
        ["cost of the instrument", f"{step['instrument']:+.1%}"],
        ["real target tokens per step", f"{step['tokens']:,.0f}"],
        ["real target tokens per second", f"{step['tokens_per_second']:,.0f}"],
        ["padding", f"{step['padding']:.1%}"],
    ]


def _decoding_rows(part: Mapping[str, Any]) -> list[list[str]]:
    rows = [[name, f"{row['ms']:.1f}", f"{row['share']:.1%}"] for name, row in part["parts"].items()]
    return [
        ["part of decoding", "ms", "share"],
        *rows,
        ["texts per second", f"{part['texts_per_second']:,.1f}", ""],
        ["tokens per second", f"{part['tokens_per_second']:,.0f}", ""],
        ["mean rows of the batch", f"{part['mean_rows']:.1f}", ""],
    ]
