"""SimCut: multihead train task=translation plugin=docs/examples/plugins/simcut.py task.loss=simcut

A second pass reads the batch with some embeddings of both sides set to zero, and its distributions must agree with
those of the first pass: cross-entropy plus alpha times the Kullback-Leibler divergence, with gradients through both
passes (Gao et al. 2022, arXiv:2206.02368, section 3). A step takes twice the time. Every task can use this file;
translation and summarization also have the loss built in.
"""

from dataclasses import dataclass

from torch.nn import functional as F

from multihead.plugin import Plugin
from multihead.tasks.simcut import cut_tokens


@dataclass(kw_only=True)
class SimCutOptions:
    alpha: float = 3.0
    """Weight of the divergence."""
    cut: float = 0.05
    """Probability that the embedding of a token is set to zero."""


def simcut(task, batch, options):
    logits, labels = task.logits_and_labels(batch)
    smoothing = getattr(task.settings, "label_smoothing", 0.0)
    nats = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=smoothing)
    if not task.training:
        return nats
    with cut_tokens(task.model.transformer, options.cut):
        cut, _ = task.logits_and_labels(batch)
    p, q = logits.log_softmax(-1), cut.log_softmax(-1)
    return nats + options.alpha * F.kl_div(q, p, reduction="sum", log_target=True)


PLUGIN = Plugin(losses={"simcut": simcut}, options={"simcut": SimCutOptions})
