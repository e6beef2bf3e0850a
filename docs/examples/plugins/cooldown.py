"""A schedule: multihead train task=lm plugin=docs/examples/plugins/cooldown.py optim.schedule=one_minus_sqrt

The rate warms up linearly, stays at its peak, and falls as 1 - sqrt(progress) over the last optim.decay_share of the
steps, down to optim.min_lr_ratio. This was better than a linear fall (Hägele et al. 2024, arXiv:2405.18392, section 3).
"""

import math

from multihead.plugin import Plugin


def one_minus_sqrt(config, max_steps, step):
    warmup = max(1, config.warmup_steps)
    if step + 1 < warmup:
        return (step + 1) / warmup
    start = max(config.warmup_steps, max_steps - round(config.decay_share * max_steps))
    progress = min(1.0, max(0, step - start) / max(1, max_steps - start))
    return config.min_lr_ratio + (1 - config.min_lr_ratio) * (1 - math.sqrt(progress))


PLUGIN = Plugin(schedules={"one_minus_sqrt": one_minus_sqrt})
