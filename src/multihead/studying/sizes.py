"""Parameters, operations and time of each variant before the first run, and the sizes that make variants equal."""

from __future__ import annotations

import dataclasses
import importlib
import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from multihead.config.compose import Composition
from multihead.config.study import D_FF
from multihead.errors import ConfigError

if TYPE_CHECKING:
    from multihead.data.prepare import Prepared

TOLERANCE = 0.01
"""Largest relative difference of what is called equal."""
MOST_TRIES = 8


@dataclass(frozen=True)
class Size:
    """What a run needs, counted without training."""

    parameters: int
    flops: float
    """Floating-point operations of one optimizer step: its first one, forward and backward."""


class Counter:
    """Counts the size of the runs of one task. The data are prepared once.

    Args:
        composition: The configuration of any of the task's runs.
    """

    def __init__(self, composition: Composition):
        from multihead.runs.noise import quiet_lightning
        from multihead.training.build import starting

        quiet_lightning()
        self._prepared: Prepared = starting(composition)[0]

    @property
    def fold_ratio(self) -> float:
        """Test rows by training rows, for a study with folds."""
        return self._prepared.rows["test"] / self._prepared.rows["train"]

    def count(self, composition: Composition) -> Size:
        """Counts parameters and operations of a run with the task's data.

        If the variant has another tokenizer, the data are prepared again.
        """
        from multihead.training.build import join
        from multihead.training.cost import kept_for_backward

        task, data = join(composition, self._prepared, 1)
        parameters = sum(p.numel() for p in task.model.parameters())
        task.train()
        flops = 0.0
        for micro_batch in itertools.islice(data.batches_of((0, 0)), 64):
            flops += kept_for_backward(task, micro_batch)[1]
        return Size(parameters, flops)


def equalise(equal: str, wanted: Size, own: int, count: Callable[[int], Size], where: str) -> tuple[int, Size]:
    """Returns the d_ff with which a variant has the parameters or operations of the baseline, and its size.

    Both grow linearly with d_ff, so two counts give the third; more follow if rounding or a plugin's mechanism bends
    the line.

    Args:
        equal: parameters or flops.
        wanted: The size of the baseline.
        own: The variant's d_ff before it is changed.
        count: Counts the size for a d_ff.
        where: The line of the variant, for the error.

    Raises:
        ConfigError: If no d_ff makes them equal within 1 %.
    """

    def of(size: Size) -> float:
        return float(size.parameters if equal == "parameters" else size.flops)

    target, tried = of(wanted), {own: count(own)}
    for _ in range(MOST_TRIES):
        best = min(tried, key=lambda d_ff: abs(of(tried[d_ff]) - target))
        if abs(of(tried[best]) / target - 1) <= TOLERANCE / 10:
            break
        second = max(1, own // 2) if len(tried) == 1 else min(tried.keys() - {best}, key=lambda d_ff: abs(d_ff - best))
        if second not in tried:
            tried[second] = count(second)
        slope = (of(tried[best]) - of(tried[second])) / (best - second) if best != second else 0.0
        if slope <= 0:
            break
        guess = max(1, round(best + (target - of(tried[best])) / slope))
        if guess in tried:
            break
        tried[guess] = count(guess)
    best = min(tried, key=lambda d_ff: abs(of(tried[d_ff]) - target))
    off = of(tried[best]) / target - 1
    if abs(off) > TOLERANCE:
        what = (
            f"no {D_FF} gives {target:,.0f} {equal} within 1 %; {D_FF}={best} gives {of(tried[best]):,.0f} ({off:+.1%})"
        )
        raise ConfigError(where, what, "another model size, or equal: tokens")
    return best, tried[best]


def deepen(equal: str, wanted: Size, count: Callable[[int], Size], shallowest: int) -> int:
    """Returns by how many layers a stack of the variant changes, so that its size is nearest to the baseline's.

    The size grows by the same amount with each layer, so two counts give the number; neighbours make up for rounding.

    Args:
        equal: parameters or flops.
        wanted: The size of the baseline.
        count: Counts the size for a change of the number of layers.
        shallowest: The smallest change that leaves a layer in each stack.
    """

    def of(change: int) -> float:
        if change not in tried:
            found = count(change)
            tried[change] = float(found.parameters if equal == "parameters" else found.flops)
        return tried[change]

    tried: dict[int, float] = {}
    target = float(wanted.parameters if equal == "parameters" else wanted.flops)
    slope = of(1) - of(0)
    guess = max(shallowest, round((target - of(0)) / slope)) if slope > 0 else 0
    near = [change for change in (guess - 1, guess, guess + 1) if change >= shallowest]
    return min(near, key=lambda change: (abs(of(change) - target), abs(change)))


def with_d_ff(composition: Composition, d_ff: int) -> Composition:
    """Returns the configuration with another width of the feed-forward."""
    return _with_model(composition, d_ff=d_ff)


def with_layers(composition: Composition, change: int) -> Composition:
    """Returns the configuration with more or fewer layers in each stack, but at least one."""
    model = composition.config.model
    layers = [max(1, number + change) for number in (model.num_encoder_layers, model.num_decoder_layers)]
    return _with_model(composition, num_encoder_layers=layers[0], num_decoder_layers=layers[1])


def _with_model(composition: Composition, **changes: int) -> Composition:
    model = dataclasses.replace(composition.config.model, **changes)
    return dataclasses.replace(composition, config=dataclasses.replace(composition.config, model=model))


def import_all() -> float:
    """Imports what a run imports, and returns the seconds that it took. Each run is a process that does it again."""
    began = time.monotonic()
    for module in ("torchmetrics", "multihead.training.build", "multihead.training.steps", "multihead.training.job"):
        importlib.import_module(module)
    return time.monotonic() - began


def forecast(composition: Composition) -> dict[str, Any]:
    """Returns what ``plan=true`` says about a run, without showing it."""
    from multihead.training.forecast import measure

    level = logging.getLogger("multihead").level
    logging.getLogger("multihead").setLevel(logging.WARNING)
    try:
        return measure(composition)[0]
    finally:
        logging.getLogger("multihead").setLevel(level)


def minutes_text(seconds: float) -> str:
    """Formats a time for people."""
    return f"{seconds / 3600:.1f} hours" if seconds >= 7200 else f"{max(seconds, 6) / 60:.1f} minutes"
