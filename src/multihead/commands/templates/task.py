"""A task of your own: TRAIN

This one is classification by a hinge loss: the right class must win by a margin (arXiv:1306.0239, section 2.3).
"""

from dataclasses import dataclass

from multihead.config.task import ClassificationConfig
from multihead.plugin import Plugin


@dataclass(kw_only=True, slots=True)
class MyTaskConfig(ClassificationConfig):  # or TaskConfig, with the properties roles and stacks
    name: str = "my_task"
    margin: float = 1.0
    """By how much the right class must win (task.margin)."""


def my_task():  # torch is imported only when a run needs the class
    from torch.nn import functional as F

    from multihead.tasks.classification import ClassificationTask

    class MyTask(ClassificationTask):  # or multihead.tasks.base.Task, which lists what a task defines
        def training_step(self, batch, batch_idx):
            logits, labels = self(batch)  # [N, C] and [N]
            loss = F.multi_margin_loss(logits, labels, margin=self.settings.margin, reduction="sum")
            return self.step_loss(loss, batch)  # takes the sum over the examples of the batch

    return MyTask


PLUGIN = Plugin(tasks={"my_task": (MyTaskConfig, my_task)})
