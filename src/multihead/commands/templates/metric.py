"""A metric of your own: TRAIN

This one is Cohen's kappa, a class of torchmetrics. task.monitor=val/my_metric chooses the best checkpoint by it.
"""

from torchmetrics.classification import MulticlassCohenKappa

from multihead.plugin import AddedMetric, Plugin


def my_metric(task):
    """A fresh metric for a task: any class of torchmetrics whose value is one number.

    In classification its `update` gets probabilities [N, C] and labels [N]; in regression, numbers [N] and labels [N];
    in translation and summarization, outputs and references, two lists of texts; in lm, logits [N, V] and labels [N].
    """
    return MulticlassCohenKappa(num_classes=len(task.labels))


PLUGIN = Plugin(metrics={"my_metric": AddedMetric(new=my_metric, tasks=("classification",), better="max")})
