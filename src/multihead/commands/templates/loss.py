"""A loss of your own: TRAIN

This one adds the square of the logarithm of the softmax's sum to cross-entropy, so that logits stay small (z-loss,
arXiv:2204.02311, section 5). Validation and test report the task's own loss.
"""

from dataclasses import dataclass

from torch.nn import functional as F

from multihead.plugin import Plugin


@dataclass(kw_only=True)
class Options:
    weight: float = 1e-4  # a key of the configuration: options.my_loss.weight
    """Weight of the squares."""


def my_loss(task, batch, options):
    """The sum over the targets of a batch; our code divides it by the number of targets of the whole step.

    It replaces all of the task's loss. With weight 0 it equals the task's own loss with its label smoothing. It knows
    no weights of classes and no focal loss.
    """
    logits, labels = task.logits_and_labels(batch)  # [N, C] in float32 and [N]
    squares = logits.logsumexp(-1).square().sum()
    smoothing = getattr(task.settings, "label_smoothing", 0.0)
    return F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing) + options.weight * squares


PLUGIN = Plugin(losses={"my_loss": my_loss}, options={"my_loss": Options})
