"""R-Drop: multihead train task=classification plugin=docs/examples/plugins/r_drop.py task.loss=r_drop

Each batch passes twice with different dropout, and the two distributions must agree: half the sum of both
cross-entropies plus alpha / 4 times the sum of both Kullback-Leibler divergences (Wu et al. 2021, arXiv:2106.14448,
equations 3 and 4). This is half of the paper's loss, so that its size is that of the plain one.
"""

from dataclasses import dataclass

from torch.nn import functional as F

from multihead.plugin import Plugin


@dataclass(kw_only=True)
class RDropOptions:
    alpha: float = 1.0
    """Weight of the divergence: 0.5 to 5 in the paper."""


def r_drop(task, batch, options):
    passes = [task.logits_and_labels(batch) for _ in range(2)]
    smoothing = getattr(task.settings, "label_smoothing", 0.0)
    nats = sum(F.cross_entropy(*each, reduction="sum", label_smoothing=smoothing) for each in passes)
    p, q = (logits.log_softmax(-1) for logits, _ in passes)
    divergence = sum(F.kl_div(a, b, reduction="sum", log_target=True) for a, b in ((p, q), (q, p)))
    return nats / 2 + options.alpha * divergence / 4


PLUGIN = Plugin(losses={"r_drop": r_drop}, options={"r_drop": RDropOptions})
