"""A learning-rate schedule of your own: TRAIN

This one warms up linearly, and then falls with the square of what is left.
"""

from dataclasses import dataclass

from multihead.plugin import Plugin


@dataclass(kw_only=True)
class Options:
    power: float = 2.0  # a key of the configuration: options.my_schedule.power
    """Exponent of the share of steps that is left."""


def my_schedule(config, max_steps, step, options):
    """The factor of the peak rate optim.lr at optimizer step `step`, which counts from 0; config is the node optim."""
    warmup = max(1, config.warmup_steps)
    if step + 1 < warmup:
        return (step + 1) / warmup
    left = (max_steps - step) / max(1, max_steps - config.warmup_steps)
    return min(1.0, max(0.0, left)) ** options.power


PLUGIN = Plugin(schedules={"my_schedule": my_schedule}, options={"my_schedule": Options})
